"""A whole node over TLS: from a modality of DCMTK in, to a PACS of DCMTK out, and what its log says of certificates."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.network import LOOPBACK
from tests.support.node import CALLING, RunningNode, destination
from tests.support.peers import DcmtkStorescp, find_free_port, find_program, requires_dcmtk, wait_until
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
