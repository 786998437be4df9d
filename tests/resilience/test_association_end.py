"""The end of an association is recorded whatever goes wrong first: its series wait for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dicom_node.ledger.reception import ReceptionLedger
from tests.support.network import RawPeer, running_receiver
from tests.support.peers import wait_until


class FailingOnce(ReceptionLedger):
    """A ledger whose first attempt to close an association fails as nobody foresees."""

    has_failed = False

    def close_association(self, *arguments: Any, **options: Any) -> None:
        """Fail once, then close it."""
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError("nobody foresees this")
        super().close_association(*arguments, **options)


def test_an_unforeseen_error_does_not_leave_an_association_open_for_ever(tmp_path: Path) -> None:
    with running_receiver(tmp_path, ledger_type=FailingOnce) as running:
        with RawPeer(running.port) as peer:
            peer.associate()
            assert peer.store().status == 0
            peer.release()
        wait_until(
            lambda: running.rows("SELECT outcome, acknowledged FROM association") == [("released", 1)],
            what="the end of the association in the ledger",
        )
        wait_until(lambda: running.receiver.associations == 0, what="its place")
