"""A whole node over TLS: from a modality of DCMTK in, to a PACS of DCMTK out, and what its log says of certificates."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.test_commitment_tls import called, calling, listening
from tests.support.certificates import Authority
from tests.support.commitment import MockCommitmentPacs, MockModality, bring_report, report_dataset
from tests.support.network import LOOPBACK
from tests.support.node import CALLING, RunningNode, destination
from tests.support.peers import (
    DcmtkStorescp,
    find_free_port,
    find_program,
    read_part10,
    requires_dcmtk,
    wait_until,
)
from tests.support.radiographs import write_radiographs


@requires_dcmtk
def test_a_radiograph_goes_through_a_node_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    modality, pacs = authority.sign("modality"), authority.sign("pacs")
    node_pair = authority.sign("node", days=10)
    (image,) = write_radiographs(tmp_path / "in", 1)
    port, pacs_port = find_free_port(), find_free_port()
    options = ["+tls", str(pacs.key), str(pacs.certificate), "+cf", str(authority.file)]
    tls = {
        "certificate": str(node_pair.certificate),
        "key": str(node_pair.key),
        "ca": str(authority.file),
        "port": port,
    }
    peer = destination("pacs", pacs_port, "STORESCP", tls={"ca": str(authority.file)})
    program = find_program("storescu")
    assert program is not None
    with (
        DcmtkStorescp(tmp_path / "pacs", *options, port=pacs_port) as scp,
        RunningNode(tmp_path / "node", destinations=[peer], tls=tls) as node,
    ):
        files = ["+tls", str(modality.key), str(modality.certificate), "+cf", str(authority.file)]
        done = subprocess.run(
            [program, *files, "-aet", CALLING, "-aec", "LOWDOSE", LOOPBACK, str(port), str(image)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        node.wait_balanced(1)
        assert len(scp.objects()) == 1
        wait_until(lambda: "Certificate expires soon" in node.log(), what="the warning")
        certificates = {one["setting"]: one["days_left"] for one in node.command("status")["certificates"]}
        assert certificates["tls.certificate"] == 9
        log = node.log()
    assert log.count("Receiver listens") == 2
    assert "rejected" not in log


@requires_dcmtk
def test_a_node_asks_reports_and_revokes_over_tls_while_it_runs(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pairs = {name: authority.sign(name) for name in ("node", "pacs", "xray1")}
    (image,) = write_radiographs(tmp_path / "in", 1)
    sent = read_part10(image)
    uid, sop_class = sent.sop_instance_uid, sent.sop_class_uid
    crl, port = authority.write_list(tmp_path / "lists.pem"), find_free_port()
    peer = called(authority, None, crl=str(crl))
    tls = {**called(authority, pairs["node"]), "port": port, "crl": str(crl)}
    with (
        MockCommitmentPacs(context=listening(authority, pairs["pacs"])) as pacs,
        MockModality(context=listening(authority, pairs["xray1"])) as modality,
    ):
        commitment = {"delay_s": 0, "wait_s": 0, "report_certificates": ["pacs"]}
        reports = {"host": LOOPBACK, "port": modality.port, "originals": "replaced", "tls": peer}
        with RunningNode(
            tmp_path / "node",
            destinations=[destination("pacs", pacs.port, tls=peer, commitment=commitment)],
            sources=[{"name": "xray", "ae_titles": [CALLING], "hosts": ["127.0.0.0/8"], "commitment": reports}],
            tls=tls,
        ) as node:
            assert node.send(image).returncode == 0
            ours = calling(authority, pairs["xray1"])
            assert modality.ask(port, "2.25.1", uid, sop_class=sop_class, context=ours) == 0x0000
            asked = pacs.wait_for(0)
            report = report_dataset(asked.transaction_uid, asked.instances)
            assert bring_report(port, report, context=calling(authority, pairs["pacs"])) == 0x0000
            wait_until(lambda: bool(modality.reports), timeout_s=60, what="the report to the modality")
            assert modality.reports[0].committed == (uid,)
            authority.write_list(crl, "xray1")
            assert modality.ask(port, "2.25.2", uid, sop_class=sop_class, context=ours) is None
            reasons = [one["reason"] for one in node.command("status")["rejections"]]
            assert any("its certificate was revoked" in reason for reason in reasons), reasons
            lists = [one for one in node.command("status")["certificates"] if one["what"] == "crl"]
            assert [one["problem"] for one in lists] == [""]
