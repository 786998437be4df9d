"""The names of pynetdicom that the negotiation stands on; a new version of it is looked at before it is let in."""

from __future__ import annotations

import inspect
import re
import socket
import threading
from importlib.metadata import requires, version

import pynetdicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

from dicom_node.negotiation import NegotiatedAssociation, SynchronousProvider
from tests.support.network import associate_rq, pdu


def test_pynetdicom_is_of_the_series_that_the_extension_was_written_for() -> None:
    assert re.fullmatch(r"3\.0\.\d+", pynetdicom.__version__)


def test_the_package_requires_that_series() -> None:
    try:
        requirements = requires("lowdose-node") or []
    except ModuleNotFoundError:
        pytest.skip("lowdose-node is not installed as a package")
    assert version("pynetdicom").startswith("3.0.")
    assert any(r.startswith("pynetdicom") and "<3.1" in r and "3.0" in r for r in requirements)


def test_names_of_pynetdicom_that_are_overridden_or_used_exist() -> None:
    assert {"send_pdu", "receive_pdu"} <= vars(DULServiceProvider).keys()
    assert list(inspect.signature(DULServiceProvider.receive_pdu).parameters) == ["self", "wait", "timeout"]
    assert {"_bind_defaults", "set_socket", "accepted_contexts"} <= vars(Association).keys()
    assert {"negotiate_association", "send_reject", "send_ap_abort"} <= vars(ACSE).keys()
    assert list(inspect.signature(AssociationSocket.__init__).parameters)[:3] == ["self", "assoc", "client_socket"]
    assert evt._INTERVENTION_EVENTS
    assert callable(evt.get_default_handler(evt.EVT_C_ECHO))
    source = inspect.getsource(ACSE)
    # What the ACSE asks of the DUL service provider besides the two methods that are overridden.
    assert set(re.findall(r"self\.dul\.(\w+)", source)) == {"receive_pdu", "peek_next_pdu", "send_pdu", "kill_dul"}


def negotiation_over(sent: bytes) -> tuple[object, bytes]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        sock, _ = server.accept()
        with sock:
            association = NegotiatedAssociation(AE("TEST"), "acceptor", sock)
            peer.sendall(sent)
            received = association.provider.receive_pdu(timeout=0.3)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := peer.recv(1000):
                answer += piece
            return received, answer


def test_no_thread_is_started_for_a_negotiation() -> None:
    before = threading.active_count()
    received, _ = negotiation_over(associate_rq())
    assert getattr(received, "calling_ae_title", None) == "SENDER"
    assert threading.active_count() == before
    assert isinstance(SynchronousProvider.send_pdu, object)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (pdu(0x47, b"abc"), pdu(7, bytes((0, 0, 2, 1)))),
        (pdu(4, bytes(20)), pdu(7, bytes((0, 0, 2, 2)))),
        (pdu(1, bytes(10)), pdu(7, bytes((0, 0, 2, 6)))),
        (b"\1\0\xff\xff\xff\xff", pdu(7, bytes((0, 0, 2, 1)))),
        (associate_rq(version=2), pdu(3, bytes((0, 1, 2, 2)))),
        (associate_rq()[:100], b""),
    ],
    ids=["unknown type", "P-DATA", "malformed", "4 GiB", "protocol version", "incomplete"],
)
def test_what_is_no_request_is_answered_by_the_standard(sent: bytes, answer: bytes) -> None:
    assert negotiation_over(sent)[1] == answer


def test_bytes_behind_the_request_stay_for_the_data_phase() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        sock, _ = server.accept()
        with sock:
            peer.sendall(associate_rq() + b"next")
            NegotiatedAssociation(AE("TEST"), "acceptor", sock).provider.receive_pdu(timeout=1)
            assert sock.recv(100) == b"next"
