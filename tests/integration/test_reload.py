"""A node takes changed settings while it runs: no association is dropped, no series and no delivery is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from config.settings import SourceSettings
from tests.support.modality import ModalityAssociation
from tests.support.network import RawPeer, associate_rq, receiver_settings, running_receiver
from tests.support.node import REPOSITORY, RunningNode, destination, running_node
from tests.support.peers import MockScp, find_free_port, read_part10
from tests.support.radiographs import CT, write_radiographs


def test_an_open_association_goes_on_and_the_next_one_is_judged_anew(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store().status == 0
        other = (SourceSettings(name="other", ae_titles=("OTHER",), hosts=("127.0.0.0/8",)),)
        running.receiver.change_settings(receiver_settings(tmp_path, sources=other))
        # Its own source is gone; what it was admitted for it may still do.
        assert peer.store("1.2.3.5").status == 0
        with RawPeer(running.port) as refused:
            assert refused.associate()[0] == 3
        with RawPeer(running.port) as admitted:
            assert admitted.associate(associate_rq(calling="OTHER"))[0] == 2


def _reload(node: RunningNode, tables: dict[str, Any], *, exit_code: int = 0) -> dict[str, Any]:
    node.write_settings(tables)
    return node.command("reload", exit_codes=(exit_code,))


def _route(*destinations: str) -> list[dict[str, Any]]:
    return [
        {
            "name": "all",
            "enhance": False,
            "send": ["original"],
            "quiet_period_s": 0.2,
            "destinations": list(destinations),
        }
    ]


def _history(node: RunningNode) -> list[dict[str, Any]]:
    return list(node.command("reload", "--history")["changes"])


def test_a_node_takes_other_settings_while_it_works(tmp_path: Path) -> None:
    objects = [read_part10(path) for path in write_radiographs(tmp_path / "in", 100, sop_class=CT, size=16)]
    archive_port = find_free_port()
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, routes=_route("pacs")) as node:
        first = dict(node.tables)
        source = first["sources"][0]
        second = {
            **first,
            "node": {**first["node"], "port": find_free_port()},
            "sources": [source, {**source, "name": "second", "ae_titles": ["XRAY2"]}],
            "destinations": [*first["destinations"], destination("archive", archive_port)],
            "routes": _route("pacs", "archive"),
            "logging": {"level": "debug"},
        }

        # An open association, in the middle of a series: a source and a destination come to it.
        modality = ModalityAssociation(node.port)
        assert {modality.store_object(obj) for obj in objects[:50]} == {0}
        found = _reload(node, second)
        assert (found["outcome"], found["behind"]) == ("applied", [])
        assert set(found["processes"]) == {"test:receiver", "test:worker-0"}
        effects = {change["path"]: change["takes_effect"] for change in found["changes"]}
        assert effects.pop("node.port") == "at the next start"
        assert set(effects.values()) == {"now"}
        assert {"sources[second].ae_titles", "destinations[archive].port", "routes[all].destinations"} <= set(effects)
        assert {modality.store_object(obj) for obj in objects[50:]} == {0}
        modality.release()
        with MockScp(port=archive_port) as archive:
            node.wait_balanced(100)
            for peer in (pacs, archive):
                assert sorted(o.sop_instance_uid for o in peer.objects) == sorted(o.sop_instance_uid for o in objects)
            late = write_radiographs(tmp_path / "late", 3, series=2, size=16)
            assert node.send(late[0], calling="XRAY2").returncode == 0
            node.wait_balanced(101)

        # A file with faults is refused, by the command and by a signal, and nothing changes.
        node.write_settings({**second, "routes": _route("nowhere"), "receiver": {"max_associations": 0}})
        refused = subprocess.run(
            [sys.executable, "-m", "dicom_node", "reload", "-c", str(node.file)],
            capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=60,
        )  # fmt: skip
        assert refused.returncode == 2
        assert "routes[0].destinations" in refused.stderr
        assert "receiver.max_associations" in refused.stderr
        node.interrupt(signal.SIGHUP)
        node.wait_for_rows("SELECT 1 FROM settings_change WHERE outcome = 'refused'")

        # A process that dies comes back with what the others work with, not with that file.
        before = node.processes()["worker-0"].pid
        node.kill("worker-0")
        node.wait_for_restart("worker-0", before)

        # A destination is removed while a delivery waits for it.
        assert node.send(late[1]).returncode == 0
        node.wait_for_rows("SELECT 1 FROM delivery WHERE destination = 'archive' AND state IN ('pending', 'sending') "
                           "AND attempts > 0")  # fmt: skip
        found = _reload(node, {**second, "destinations": first["destinations"], "routes": _route("pacs")})
        assert found["waiting"] == {"archive": 1}
        node.wait_for_rows(
            "SELECT 1 FROM delivery WHERE state = 'refused' AND reason LIKE 'no destination ''archive''%'"
        )
        alarms = node.command("status")["alarms"]
        assert any("archive" in json.dumps(alarm) for alarm in alarms), alarms
        total = node.verify().balance.total
        assert (total.received, total.in_work, total.dead_letters) == (102, 1, 1)
        # It comes back into the settings, and what waited goes on.
        with MockScp(port=archive_port) as archive:
            assert _reload(node, second)["outcome"] == "applied"
            node.wait_balanced(102)
            assert len(archive.objects) == 1

        outcomes = [(change["outcome"], change["who"].split(" ")[0]) for change in _history(node)]
        user = psutil.Process().username()
        assert outcomes == [("applied", user), ("applied", user), ("refused", "SIGHUP"), ("applied", user)]
        assert _history(node)[0]["who"].startswith(f"{user} (uid {os.getuid()}")
        assert node.rows("SELECT count(*) FROM association WHERE outcome <> 'released'") == [(0,)]


def test_a_node_that_does_not_run_is_not_reloaded(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "node", destinations=[destination("pacs", 104)])
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node", "reload", "-c", str(node.file)],
        capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "take effect at the next start" in done.stderr
    assert not node.data_dir.exists()
