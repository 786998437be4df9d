"""A modality that keeps an object until it is acknowledged, and remembers for which objects it was told so."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.network import EXPLICIT, LOOPBACK, RawPeer, associate_rq, pdu, pdv, store_rq
from tests.support.node import CALLING
from tests.support.peers import ReceivedObject, read_part10
from tests.support.radiographs import CR, CT, DX

_FRAGMENT = 200_000
_CONTEXTS = {sop_class: 2 * number + 1 for number, sop_class in enumerate((CR, DX, CT))}


class ModalityAssociation(RawPeer):
    """An association of a modality for CR, DX and CT in Explicit VR Little Endian."""

    def __init__(self, port: int, *, timeout_s: float = 30.0, host: str = LOOPBACK) -> None:
        super().__init__(port, timeout_s=timeout_s, host=host)
        contexts = [(number, sop_class, (EXPLICIT,)) for sop_class, number in _CONTEXTS.items()]
        kind, body = self.associate(associate_rq(contexts, calling=CALLING))
        if kind != 2:
            self.sock.close()
            raise ConnectionError(f"not accepted: PDU type {kind}, {body!r}")

    def send_object(self, obj: ReceivedObject, *, share: float = 1.0) -> None:
        """Send one C-STORE request, or the first part of it."""
        context = _CONTEXTS[obj.sop_class_uid]
        self.send(pdu(4, pdv(context, 3, store_rq(obj.sop_instance_uid, sop_class=obj.sop_class_uid))))
        end = int(len(obj.data) * share)
        for begin in range(0, end, _FRAGMENT):
            fragment = obj.data[begin : min(begin + _FRAGMENT, end)]
            is_last = begin + len(fragment) == len(obj.data)
            self.send(pdu(4, pdv(context, 2 if is_last else 0, fragment)))

    def store_object(self, obj: ReceivedObject) -> int:
        """Send one C-STORE request and return the status of its response."""
        self.send_object(obj)
        return self.response().status


class PersistentModality:
    """Sends files one after another on a thread, each again and again until it is acknowledged.

    Parameters
    ----------
    per_association
        Objects that it sends before it releases an association and opens another.
    pause_s
        Time that it takes for the next exposure.
    timeout_s
        Longest wait for an answer.
    host
        Address of the receiver.
    """

    def __init__(
        self,
        port: int,
        paths: Sequence[Path],
        *,
        per_association: int = 4,
        pause_s: float = 0.0,
        timeout_s: float = 30.0,
        host: str = LOOPBACK,
    ) -> None:
        self._host = host
        self.acknowledged: list[str] = []
        self.failures: list[str] = []
        self._port = port
        self._objects = [read_part10(path) for path in paths]
        self._per_association = per_association
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    def wait(self, timeout_s: float = 120.0) -> None:
        """Wait until everything is acknowledged."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"{len(self.acknowledged)} of {len(self._objects)} acknowledged"

    def _run(self) -> None:
        waiting = list(self._objects)
        while waiting and not self._stop.is_set():
            try:
                with ModalityAssociation(self._port, timeout_s=self._timeout_s, host=self._host) as association:
                    for obj in waiting[: self._per_association]:
                        status = association.store_object(obj)
                        if status != 0:
                            raise ConnectionError(f"status {status:04X}")
                        self.acknowledged.append(obj.sop_instance_uid)
                        waiting.remove(obj)
                        time.sleep(self._pause_s)
                    association.release()
            except (OSError, EOFError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.1)
