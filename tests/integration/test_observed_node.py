"""One node from outside: what metrics, health, the log, the audit, alerts and traces tell of the same study."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.observation.correlation import trace_id_of
from tests.support.audit import SyslogSink, valid
from tests.support.certificates import Authority
from tests.support.commitment import MockCommitmentPacs
from tests.support.modality import ModalityAssociation
from tests.support.network import EXPLICIT, RawPeer, associate_rq
from tests.support.node import REPOSITORY, RunningNode, default_routes, destination
from tests.support.peers import LOOPBACK, closed_port, find_free_port, read_part10, wait_until
from tests.support.radiographs import CT, DX, ROOT, write_radiographs
from tests.support.sinks import HttpSink

STUDY, OTHER_STUDY = f"{ROOT}.1.1", f"{ROOT}.1.2"


@dataclass
class Outside:
    """A node, and everybody that it tells something."""

    node: RunningNode
    port: int
    alerts: HttpSink
    traces: HttpSink
    syslog: SyslogSink

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a page; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def sum_of(self, metric: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1].decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )

    def records(self, trace_id: str) -> list[dict[str, Any]]:
        """Return what the log says of a study, found by its id alone."""
        lines = [json.loads(line) for line in self.node.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("trace_id") == trace_id]

    def audited(self) -> list[tuple[str, list[str], list[str]]]:
        """Return event, participants and objects of each message that came to the syslog server."""
        found = []
        for message in self.syslog.messages:
            root = valid(message.split(b"?>", 1)[1].decode())
            people = [one.get("UserID") for one in root.findall("ActiveParticipant")]
            objects = [one.get("ParticipantObjectID") for one in root.findall("ParticipantObjectIdentification")]
            found.append((root.find("EventIdentification/EventID").get("originalText"), people, objects))
        return found

    def spans(self) -> dict[str, set[str]]:
        """Return the names of the spans by trace."""
        found: dict[str, set[str]] = {}
        for body in self.traces.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found.setdefault(span.trace_id.hex(), set()).add(span.name)
        return found


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A node that has enhanced and delivered one study, has passed through another, and has rejected a stranger."""
    folder = tmp_path_factory.mktemp("observed")
    authority, port = Authority(folder / "ca"), find_free_port()
    with (
        MockCommitmentPacs(on_same=True) as pacs,
        closed_port() as nobody,
        HttpSink() as alerts,
        HttpSink() as traces,
        SyslogSink(authority.sign("syslog")) as syslog,
    ):
        commitment = {"delay_s": 0, "wait_s": 60}
        alert = {"name": "pager", "kind": "webhook", "url": alerts.url, "alarms": ["destination_down", "process_down"]}
        with RunningNode(
            folder / "node",
            destinations=[
                destination("pacs", pacs.port, commitment=commitment),
                destination("dead", nobody, breaker={"failures": 1, "probe_every_s": 60}),
            ],
            routes=default_routes("pacs", "dead"),
            logging={"format": "json", "level": "debug"},
            metrics={"port": port, "bind": LOOPBACK},
            alarms={"destination_down_s": 0},
            alerts=[alert],
            tracing={"endpoint": traces.url},
            audit={
                "enabled": True,
                "patients": True,
                "host": LOOPBACK,
                "port": syslog.port,
                "ca_file": str(authority.file),
            },
        ) as node:
            found = Outside(node, port, alerts, traces, syslog)
            modality = ModalityAssociation(node.port)
            for path in write_radiographs(folder / "in", 2):
                assert modality.store_object(read_part10(path)) == 0
            for path in write_radiographs(folder / "other", 1, series=2, sop_class=CT):
                assert modality.store_object(read_part10(path)) == 0
            modality.release()
            stranger = RawPeer(node.port)
            assert stranger.associate(associate_rq([(1, DX, (EXPLICIT,))], calling="STRANGER"))[0] == 3
            done = "SELECT count(*) FROM delivery WHERE state = 'committed'"
            wait_until(lambda: node.rows(done) == [(2,)], timeout_s=90, what="both commitments")
            node.wait_for_rows("SELECT 1 FROM destination WHERE name = 'dead' AND state = 'open'")
            yield found


def test_a_study_can_be_followed_through_the_log_by_its_id_alone(outside: Outside) -> None:
    wait_until(lambda: any(r["message"] == "Commitment report" for r in outside.records(trace_id_of(STUDY))))
    records = outside.records(trace_id_of(STUDY))
    said = [record["message"] for record in records]
    way = [
        "Stored instance",
        "Series complete",
        "Series concluded",
        "Delivered",
        "Commitment requested",
        "Commitment report",
    ]
    assert [said.index(sentence) for sentence in way] == sorted(said.index(sentence) for sentence in way), said
    assert said.count("Stored instance") == 2
    assert {record["role"] for record in records} == {"receiver", "worker-0"}
    # Nothing of the other study is among it.
    uids = {record["sop_instance_uid"] for record in records if "sop_instance_uid" in record}
    assert uids == {f"{ROOT}.3.1.{number}" for number in (1, 2)} or len(uids) == 2
    other = [record["message"] for record in outside.records(trace_id_of(OTHER_STUDY))]
    assert (other.count("Stored instance"), other.count("Delivered")) == (1, 1)


def test_every_key_of_the_log_is_in_the_documents(outside: Outside) -> None:
    documented = set(re.findall(r"`(\w+)`", (REPOSITORY / "docs" / "logs.md").read_text()))
    for uid in (STUDY, OTHER_STUDY):
        for record in outside.records(trace_id_of(uid)):
            assert set(record) <= documented, set(record) - documented


def test_metrics_tell_what_happened(outside: Outside) -> None:
    total = outside.sum_of
    assert total("lowdose_received_objects_total", source="xray", status="0000", process="receiver") == 3
    assert total("lowdose_received_bytes_total", source="xray") > 3 * 192 * 192 * 2
    assert total("lowdose_receive_seconds_count", source="xray") == 3
    assert total("lowdose_associations_total", source="xray", outcome="released") == 1
    assert total("lowdose_associations_open") == 0
    assert total("lowdose_association_rejections_total", cause="calling_ae_title") == 1
    assert total("lowdose_images_total", decision="enhanced") == 2
    assert total("lowdose_images_total", decision="passed_through", cause="route") == 1
    assert total("lowdose_noise_ratio_count") == 2
    assert (
        0
        < total("lowdose_noise_stored_values_sum", when="after")
        < total("lowdose_noise_stored_values_sum", when="before")
    )
    for stage in ("complete", "enhance", "deliver", "commit"):
        assert total("lowdose_stage_seconds_count", stage=stage) == 2, stage
    assert total("lowdose_sent_objects_total", destination="pacs", outcome="sent") == 3
    assert total("lowdose_delivery_attempts_total", destination="pacs", state="sent") == 2
    assert total("lowdose_queue_deliveries", destination="dead", state="pending") == 2
    assert total("lowdose_queue_objects", destination="dead") == 3
    assert total("lowdose_queue_oldest_seconds", destination="dead") > 0
    assert total("lowdose_alarm", alarm="destination_down", subject="dead") == 1
    assert total("lowdose_model_loaded", process="worker-0") == 1
    assert total("lowdose_ledger_up") == 1
    assert total("lowdose_disk_free_bytes") > 0
    assert total("lowdose_source_last_association_timestamp_seconds", source="xray") > 1.6e9
    page = outside.get("/metrics")[1].decode()
    assert "STRANGER" not in page
    assert ROOT not in page


def test_health_names_every_process_and_strangers_get_404(outside: Outside) -> None:
    wait_until(lambda: outside.get("/readyz")[0] == 200)
    status, body = outside.get("/healthz")
    assert (status, sorted(json.loads(body)["processes"])) == (200, ["receiver", "worker-0"])
    assert json.loads(outside.get("/readyz/worker-0")[1])["checks"] == {
        "scheduler": "ok",
        "model": "ok",
        "ledger": "ok",
    }
    assert outside.get("/healthz/worker-7")[0] == 404
    assert outside.get("/etc/passwd")[0] == 404


def test_the_audit_has_the_way_of_the_study_and_its_chain_holds(outside: Outside) -> None:
    def events() -> list[str]:
        return [event for event, _, _ in outside.audited()]

    wait_until(lambda: events().count("DICOM Instances Transferred") >= 4, timeout_s=60)
    audited = outside.audited()
    assert events().count("Application Activity") == 2
    assert ("Security Alert", ["LOWDOSE", "STRANGER"], ["STRANGER"]) in audited
    assert ("DICOM Instances Transferred", ["XRAY1", "LOWDOSE"], [STUDY, "T1"]) in audited
    assert ("Begin Transferring DICOM Instances", ["LOWDOSE", "PACS"], [STUDY, "T1"]) in audited
    assert ("DICOM Instances Transferred", ["LOWDOSE", "PACS"], [STUDY, "T1"]) in audited
    assert outside.node.command("audit", "verify")["ok"]
    assert '"T1"' not in outside.node.log()
    assert "Phantom" not in outside.node.log()


def test_an_alert_tells_of_the_dead_destination(outside: Outside) -> None:
    wait_until(lambda: bool(outside.alerts.objects), timeout_s=60)
    told = outside.alerts.objects[0]
    assert (told["event"], told["alarm"], told["subject"]) == ("raised", "destination_down", "dead")
    assert [one["alarm"] for one in outside.node.command("status")["alarms"]] == ["destination_down"]


def test_the_trace_of_the_study_comes_from_both_processes(outside: Outside) -> None:
    wanted = {"association", "store", "complete", "enhance", "deliver", "confirm"}
    wait_until(lambda: wanted <= outside.spans().get(trace_id_of(STUDY), set()), timeout_s=60)
    assert set(outside.spans()) == {trace_id_of(STUDY), trace_id_of(OTHER_STUDY)}


def test_a_worker_that_dies_is_seen_and_seen_to_be_back(outside: Outside) -> None:
    node = outside.node
    before = node.processes()["worker-0"].pid
    node.kill("worker-0")
    node.wait_for_restart("worker-0", than=before)
    wait_until(lambda: outside.sum_of("lowdose_process_restarts_total", process="worker-0") == 1, timeout_s=60)
    wait_until(lambda: outside.get("/readyz")[0] == 200, timeout_s=90)
    # Its counters began anew, and the other process's did not.
    assert outside.sum_of("lowdose_images_total") == 0
    assert outside.sum_of("lowdose_received_objects_total") == 3


def test_an_orderly_stop_leaves_no_socket_and_ends_the_audit(outside: Outside) -> None:
    assert outside.node.stop() == 0
    assert list((outside.node.data_dir / "run").iterdir()) == []
    assert outside.get("/healthz")[0] == 0
    assert outside.node.command("audit", "verify")["ok"]
