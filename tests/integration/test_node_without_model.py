"""A running node whose PyTorch is broken: nothing is enhanced, and every original goes on at once."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.node import REPOSITORY, running_node
from tests.support.peers import MockScp, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import write_radiographs

pytestmark = requires_dcmtk


def broken_torch(folder: Path) -> dict[str, str]:
    """Return the environment of processes whose `import torch` fails as with a library that is missing."""
    folder.mkdir()
    (folder / "torch.py").write_text('raise OSError("libtorch_cpu.so: cannot open shared object file")\n')
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}


def test_originals_go_on_where_pytorch_cant_be_imported(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 2)
    environment = broken_torch(tmp_path / "site")
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, environment=environment) as node:
        node.send(*paths)
        wait_until(lambda: len(pacs.objects) >= 2, timeout_s=60, what="the originals")
        assert sorted(obj.data for obj in pacs.objects) == sorted(read_part10(path).data for path in paths)
        node.wait_balanced(2)
        reasons = [row.reason for row in node.rows("SELECT reason FROM enhancement")]
        assert len(reasons) == 2
        assert all("PyTorch can't be imported" in reason for reason in reasons)
