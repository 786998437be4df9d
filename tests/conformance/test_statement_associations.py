"""What the conformance statement says of associations, against a running receiver and a sender of objects."""

from __future__ import annotations

import re
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext

from config.settings import DicomDestinationSettings, Settings, SourceCommitmentSettings, SourceSettings
from dicom_node.conformance import render_statement
from dicom_node.destinations.base import DeliveryItem, Outcome
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.reception import ReceptionLedger
from tests.support.items import CR, Outcomes, destination, items_of, small_image, write_image
from tests.support.network import (
    CT,
    EXPLICIT,
    IMPLICIT,
    LOOPBACK,
    RawPeer,
    RunningReceiver,
    associate_rq,
    data_set,
    receiver_settings,
    running_receiver,
)
from tests.support.peers import MockScp, RejectingPeer, SilentPeer, closed_port
from tests.support.statement import plain, tables

VERIFICATION = "1.2.840.10008.1.1"
FOUND = tables(render_statement(Settings()))
STORAGE = [plain(row["UID"]) for row in FOUND["Storage SOP classes that DICOM defines"]]
SYNTAXES = {
    row["Transfer syntax"]: plain(row["UID"])
    for row in FOUND["Accepted presentation contexts, for each of these abstract syntaxes"]
}
CONTEXTS_PER_ASSOCIATION = 128


@contextmanager
def associated(running: RunningReceiver, contexts: list[PresentationContext], **options: Any) -> Iterator[Association]:
    """Associate stock pynetdicom with a receiver; it gives up by itself where no context at all is accepted."""
    association = AE("PYNETDICOM").associate(LOOPBACK, running.port, contexts, ae_title="LOWDOSE", **options)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def negotiate(
    running: RunningReceiver, proposed: list[tuple[str, str]]
) -> tuple[set[tuple[str, str]], dict[tuple[str, str], int]]:
    """Return which of (abstract syntax, transfer syntax) were accepted, and the result for each that was not."""
    accepted, rejected = set(), {}
    for begin in range(0, len(proposed), CONTEXTS_PER_ASSOCIATION - 1):
        some = proposed[begin : begin + CONTEXTS_PER_ASSOCIATION - 1]
        contexts = [build_context(*pair) for pair in some]
        with associated(running, [*contexts, build_context(VERIFICATION, IMPLICIT)]) as association:
            # Contexts are numbered 1, 3, 5 ... in the order of the proposal.
            for context in association.accepted_contexts:
                number = (context.context_id or 0) // 2
                if number < len(some):
                    assert context.transfer_syntax == [some[number][1]]
                    accepted.add(some[number])
            for context in association.rejected_contexts:
                rejected[some[(context.context_id or 0) // 2]] = context.result or 0
    return accepted, rejected


# ---------------------------------------------------------------------- accepted and refused contexts


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_every_listed_class_is_accepted_in_every_listed_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    assert len(STORAGE) > 190
    proposed = [(uid, syntax) for uid in (VERIFICATION, *STORAGE)]
    with running_receiver(tmp_path) as running:
        accepted, rejected = negotiate(running, proposed)
    assert rejected == {}
    assert accepted == set(proposed)


def test_there_are_sixteen_transfer_syntaxes_with_the_names_that_dicom_gives() -> None:
    assert len(SYNTAXES) == 16
    for name, uid in SYNTAXES.items():
        assert UID_dictionary[uid][0].startswith(name.split(" (")[0].split(",")[0]), name


def test_what_is_not_listed_is_refused(tmp_path: Path) -> None:
    others = [uid for uid, (_, kind, *_) in UID_dictionary.items() if "SOP Class" in kind and uid not in STORAGE]
    others.remove(VERIFICATION)
    assert {"1.2.840.10008.5.1.4.31", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.1.2.2.1"} <= set(others)
    assert len(others) > 100
    with running_receiver(tmp_path) as running:
        accepted, rejected = negotiate(running, [(uid, EXPLICIT) for uid in others])
    assert accepted == set()
    # 3: abstract syntax not supported (PS3.8 9.3.3.2).
    assert rejected == {(uid, EXPLICIT): 3 for uid in others}


def test_transfer_syntaxes_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    known = [uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"]
    others = [uid for uid in known if uid not in SYNTAXES.values()]
    assert {"1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.53"} <= set(others)
    with running_receiver(tmp_path) as running:
        accepted, rejected = negotiate(running, [(CT, uid) for uid in others])
    assert accepted == set()
    # 4: transfer syntaxes not supported.
    assert rejected == {(CT, uid): 4 for uid in others}


@pytest.mark.parametrize("uid", ["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.9999", "2.25.1234567890"])
def test_classes_that_dicom_does_not_define_are_accepted(tmp_path: Path, uid: str) -> None:
    proposed = [(uid, syntax) for syntax in SYNTAXES.values()]
    with running_receiver(tmp_path) as running:
        assert negotiate(running, proposed) == (set(proposed), {})


def test_services_are_provided_as_listed(tmp_path: Path) -> None:
    rows = [row for row in FOUND["DIMSE services"] if row["Abstract syntax"].startswith("`")]
    assert len(rows) == 11
    source = receiver_settings(tmp_path).sources[0].model_copy(update={"commitment": SourceCommitmentSettings()})
    with running_receiver(tmp_path, sources=[source]) as running:
        accepted, _ = negotiate(running, [(plain(row["Abstract syntax"]), IMPLICIT) for row in rows])
    assert {uid for uid, _ in accepted} == {plain(row["Abstract syntax"]) for row in rows if row["SCP"] == "yes"}
    assert {row["Service"] for row in FOUND["DIMSE services"] if row["SCP"] == "yes"} == {
        "Verification",
        "Storage",
        "Storage Commitment Push Model",
    }


def test_the_first_transfer_syntax_of_the_requestor_that_is_listed_is_chosen(tmp_path: Path) -> None:
    names = list(SYNTAXES.values())
    contexts = [build_context(CT, ["1.2.840.10008.1.2.4.100", first, EXPLICIT]) for first in names]
    with running_receiver(tmp_path) as running, associated(running, contexts) as association:
        assert [context.transfer_syntax for context in association.accepted_contexts] == [[name] for name in names]


def test_an_association_without_an_accepted_context_stays_open(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        assert peer.associate(associate_rq([(1, "1.2.840.10008.5.1.4.31", (IMPLICIT,))]))[0] == 2
        peer.release()


# ---------------------------------------------------------------------- rejected associations


class _Closed(ReceptionLedger):
    """A ledger whose database is out of reach."""

    def open_association(self, **facts: Any) -> int:
        raise LedgerUnavailable("the database is locked")


def _rejection(running: RunningReceiver, request: bytes | None = None) -> tuple[int, int, int] | None:
    with RawPeer(running.port) as peer:
        kind, body = peer.associate(request)
        return (body[1], body[2], body[3]) if kind == 3 else None


def _shut_down(folder: Path) -> tuple[int, int, int] | None:
    with running_receiver(folder) as running, RawPeer(running.port) as first:
        assert first.associate()[0] == 2
        stopping = threading.Thread(target=running.receiver.stop, args=(5.0,))
        stopping.start()
        try:
            return _rejection(running)
        finally:
            first.release()
            stopping.join()


def _too_many(folder: Path) -> tuple[int, int, int] | None:
    with running_receiver(folder, max_associations=1) as running, RawPeer(running.port) as first:
        assert first.associate()[0] == 2
        return _rejection(running)


def _too_many_of_one(folder: Path) -> tuple[int, int, int] | None:
    source = SourceSettings(name="x", ae_titles=("SENDER",), max_associations=1)
    with running_receiver(folder, sources=[source]) as running, RawPeer(running.port) as first:
        assert first.associate()[0] == 2
        return _rejection(running)


def _with(folder: Path, request: bytes | None = None, **changes: Any) -> tuple[int, int, int] | None:
    with running_receiver(folder, **changes) as running:
        return _rejection(running, request)


CAUSES = {
    "the request is of another version of the upper layer protocol than 1": lambda folder: _with(
        folder, associate_rq(version=2)
    ),
    "the application context name is not that of DICOM": lambda folder: _with(
        folder, associate_rq(application_context="1.2.3")
    ),
    "the called AE title is not node.ae_title": lambda folder: _with(folder, associate_rq(called="OTHER")),
    "no entry of [[sources]] has both the calling AE title and the address of the sender": lambda folder: _with(
        folder, associate_rq(calling="STRANGER")
    ),
    "the receiver is shutting down": _shut_down,
    "a disk of the node is above its high watermark ([storage])": lambda folder: _with(folder, min_free_mb=1 << 30),
    "receiver.max_associations are open already": _too_many,
    "the source asks for TLS, or for one of its certificates, and the sender came without": lambda folder: _with(
        folder, sources=[SourceSettings(name="x", ae_titles=("SENDER",), tls="required")]
    ),
    "max_associations of the source are open already": _too_many_of_one,
    "the ledger's database can't be reached": lambda folder: _with(folder, ledger_type=_Closed),
}
REJECTIONS = {plain(row["When"]): row for row in FOUND["Rejected associations"]}


@pytest.mark.parametrize("cause", REJECTIONS)
def test_each_listed_rejection_is_sent_with_its_numbers(tmp_path: Path, cause: str) -> None:
    row = REJECTIONS[cause]
    assert CAUSES[cause](tmp_path) == (int(row["Result"]), int(row["Source"]), int(row["Reason"]))


def test_no_provoked_rejection_is_missing_from_the_list(tmp_path: Path) -> None:
    assert set(CAUSES) == set(REJECTIONS)
    assert _with(tmp_path) is None


# ---------------------------------------------------------------------- parameters of associations

GENERAL = {row["Parameter"]: plain(row["Value"]) for row in FOUND["Parameters of every association"]}


def test_the_receiver_identifies_itself_as_listed_and_answers_no_negotiation_item(tmp_path: Path) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\x02\x00\x03\x00\x01\x00"
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"user", b"wrong"
    identity.positive_response_requested = True
    contexts = [build_context(CT, EXPLICIT)]
    with (
        running_receiver(tmp_path) as running,
        associated(running, contexts, ext_neg=[window, role, extended, identity]) as association,
    ):
        answer = association.acceptor.primitive
        assert answer is not None
        assert str(answer.application_context_name) == GENERAL["Application Context Name"]
        assert str(association.acceptor.implementation_class_uid) == GENERAL["Implementation Class UID"]
        assert association.acceptor.implementation_version_name == GENERAL["Implementation Version Name"]
        items = [type(item) for item in answer.user_information]
        assert sorted(items, key=str) == [
            ImplementationClassUIDNotification,
            ImplementationVersionNameNotification,
            MaximumLengthNotification,
        ]
        # The default roles hold: the association can be used as if nothing had been proposed.
        assert association.send_c_store(small_image(1, sop_class=CT)).Status == 0
    for parameter in ("Asynchronous operations", "SCP/SCU role selection", "SOP class extended negotiation"):
        assert GENERAL[parameter].startswith("none"), parameter
    assert "neither checked nor answered" in GENERAL["User identity negotiation"]


def test_the_receiver_announces_the_listed_pdu_length(tmp_path: Path) -> None:
    limits = {row["Parameter"]: row["Value"] for row in FOUND["Association parameters of the Receiver AE"]}
    with running_receiver(tmp_path) as running, associated(running, [build_context(CT, EXPLICIT)]) as association:
        assert f"{association.acceptor.maximum_length} bytes" == limits["Largest P-DATA PDU that is announced"]


def _proposal(folder: Path, *, syntax: str = EXPLICIT, compress: str = "no") -> dict[str, Any]:
    """Return what the sender proposes for an object in a transfer syntax, as a peer sees it."""
    seen: dict[str, Any] = {}

    def note(event: Any) -> None:
        requestor = event.assoc.requestor
        seen["implementation"] = str(requestor.implementation_class_uid)
        seen["version"] = requestor.implementation_version_name
        seen["pdu"] = requestor.maximum_length
        seen["items"] = {type(item).__name__ for item in requestor.primitive.user_information}
        proposed = requestor.primitive.presentation_context_definition_list
        seen["contexts"] = [(str(c.abstract_syntax), [str(s) for s in c.transfer_syntax]) for c in proposed]

    ae = AE("MOCKPACS")
    ae.add_supported_context(CR, list(SYNTAXES.values()))
    server: Any = ae.start_server(
        (LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_REQUESTED, note), (evt.EVT_C_STORE, lambda event: 0x0000)]
    )
    try:
        file = folder / "dataset"
        file.write_bytes(data_set())
        item = DeliveryItem(
            instance_id=0,
            sop_class_uid=CR,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=syntax,
            path=file,
            dataset_offset=0,
            is_derived=True,
        )
        outcomes = Outcomes()
        scu = StorageScu(destination(server.socket.getsockname()[1], compress=compress), node_ae_title="LOWDOSE")
        scu.deliver([item], on_outcome=outcomes.append)
        assert set(outcomes.states().values()) == {Outcome.SENT}
    finally:
        ae.shutdown()
    return seen


def test_the_sender_identifies_itself_as_listed_and_proposes_no_negotiation_item(tmp_path: Path) -> None:
    seen = _proposal(tmp_path)
    assert seen["implementation"] == GENERAL["Implementation Class UID"]
    assert seen["version"] == GENERAL["Implementation Version Name"]
    assert seen["items"] == {
        "ImplementationClassUIDNotification",
        "ImplementationVersionNameNotification",
        "MaximumLengthNotification",
    }
    limits = {row["Parameter"]: row["Value"] for row in FOUND["Association parameters of the Sender AE"]}
    assert limits["Largest P-DATA PDU that is announced"].startswith(f"{seen['pdu']} bytes")


PROPOSED = {row["Objects are in"]: row for row in FOUND["Proposed presentation contexts, for each SOP class"]}


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_sender_proposes_the_listed_contexts(tmp_path: Path, name: str) -> None:
    row = PROPOSED[name]
    expected = [
        (CR, [SYNTAXES[syntax] for syntax in re.split(r", (?=Explicit|Implicit|Deflated)", row[column])])
        for column in ("First context", "Second context")
        if row[column] != "-"
    ]
    assert _proposal(tmp_path, syntax=SYNTAXES[name])["contexts"] == expected


COMPRESSED = {
    plain(row["`compress`"]): row["Transfer syntax"]
    for row in FOUND["The context before these, where an object is to be compressed"]
}


@pytest.mark.parametrize("compress", COMPRESSED)
def test_the_listed_compression_is_proposed_before_them(tmp_path: Path, compress: str) -> None:
    contexts = _proposal(tmp_path, compress=compress)["contexts"]
    assert contexts == [(CR, [SYNTAXES[COMPRESSED[compress]]]), *_proposal(tmp_path)["contexts"]]


def test_no_compression_of_the_settings_is_missing() -> None:
    assert {"no", *COMPRESSED} == set(get_args(DicomDestinationSettings.model_fields["compress"].annotation))


# ---------------------------------------------------------------------- failures of associations as initiator

TRIED_AGAIN, REFUSED = "Tried again", "Refused"


def _deliver(folder: Path, port: int, **changes: Any) -> Outcome:
    outcomes = Outcomes()
    items = items_of([write_image(folder, 0)])
    StorageScu(destination(port, **changes), node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    return outcomes.states()[0]


def _no_connection(folder: Path) -> Outcome:
    with closed_port() as port:
        return _deliver(folder, port)


def _rejected(folder: Path, *numbers: int) -> Outcome:
    with RejectingPeer(*numbers) as peer:
        return _deliver(folder, peer.port)


def _no_context(folder: Path) -> Outcome:
    with MockScp(contexts={}) as peer:
        return _deliver(folder, peer.port)


def _aborted(folder: Path) -> Outcome:
    with MockScp(abort_at=frozenset({0})) as peer:
        return _deliver(folder, peer.port)


def _silence(folder: Path) -> Outcome:
    with SilentPeer() as peer:
        return _deliver(folder, peer.port, acse_timeout_s=0.3)


FAILURES = {
    "No TCP connection to the destination.": _no_connection,
    "The peer takes no association now.": lambda folder: _rejected(folder, 2, 3, 1),
    "The peer does not take associations from us as we are set up.": lambda folder: _rejected(folder, 1, 1, 3),
    "The peer accepts the SOP class in no transfer syntax that we can send.": _no_context,
    "The peer or the transport ended the association.": _aborted,
    "The peer did not answer in time.": _silence,
}
BEHAVIOURS = {row["Event"]: row["Behaviour"] for row in FOUND["Associations that are not opened, or are lost"]}


@pytest.mark.parametrize("event", BEHAVIOURS)
def test_each_listed_failure_has_the_listed_consequence(tmp_path: Path, event: str) -> None:
    word = {Outcome.RETRY: TRIED_AGAIN, Outcome.REFUSED: REFUSED, Outcome.SENT: "Stored"}[FAILURES[event](tmp_path)]
    assert BEHAVIOURS[event].startswith(f"{word}:")


# ---------------------------------------------------------------------- security


def test_the_port_without_tls_speaks_none(tmp_path: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        running_receiver(tmp_path) as running,
        socket.create_connection((LOOPBACK, running.port), timeout=10) as connection,
        pytest.raises((ssl.SSLError, ConnectionError, EOFError)),
    ):
        context.wrap_socket(connection)


def test_files_and_folders_are_open_to_their_owner_alone(tmp_path: Path) -> None:
    with running_receiver(tmp_path / "data") as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store().status == 0
        (key,) = running.store.keys()
        path = running.store.path(key)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
