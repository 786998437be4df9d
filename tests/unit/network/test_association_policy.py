"""Who is let in, what it is told otherwise, and which contexts it gets."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from pynetdicom import AllStoragePresentationContexts, sop_class

from config.settings import SourceSettings
from dicom_node.association_policy import (
    TRANSFER_SYNTAXES,
    ReceiverLoad,
    choose_transfer_syntax,
    host_names,
    is_accepted_abstract_syntax,
    judge_association,
    source_lines,
)
from dicom_node.upper_layer import AssociationRequest, ProposedContext
from tests.support.network import CT, EXPLICIT, IMPLICIT, VERIFICATION

REQUEST = AssociationRequest(
    calling_ae_title="XRAY1",
    called_ae_title="LOWDOSE",
    host="10.1.2.3",
    port=50_000,
    application_context_name="1.2.840.10008.3.1.1.1",
    contexts=(),
)
IDLE = ReceiverLoad(associations=0, max_associations=2, no_room=None, is_stopping=False)
SOURCE = SourceSettings(name="x", ae_titles=("XRAY1", "XRAY2"), hosts=("10.1.0.0/16",))


def judged(
    request: AssociationRequest = REQUEST, load: ReceiverLoad = IDLE, source: SourceSettings = SOURCE, **names: str
) -> tuple[int, int, int] | None:
    rejection = judge_association(
        request,
        ae_title="LOWDOSE",
        sources=[source],
        addresses={name: frozenset([address]) for name, address in names.items()},
        load=load,
    )
    return None if rejection is None else (rejection.result, rejection.source, rejection.reason)


@pytest.mark.parametrize(
    ("request_changes", "load_changes", "expected"),
    [
        ({}, {}, None),
        ({"calling_ae_title": "XRAY2"}, {}, None),
        ({"calling_ae_title": "XRAY3"}, {}, (1, 1, 3)),
        ({"calling_ae_title": "xray1"}, {}, (1, 1, 3)),
        ({"host": "10.2.0.1"}, {}, (1, 1, 3)),
        ({"called_ae_title": "OTHER"}, {}, (1, 1, 7)),
        ({"application_context_name": "1.2.3"}, {}, (1, 1, 2)),
        ({}, {"associations": 1}, None),
        ({}, {"associations": 2}, (2, 3, 2)),
        ({}, {"is_stopping": True}, (2, 3, 1)),
        ({}, {"no_room": "/data: 1 MB free"}, (2, 3, 1)),
        ({"calling_ae_title": "XRAY3"}, {"is_stopping": True, "associations": 9}, (1, 1, 3)),
    ],
)
def test_association_is_judged_by_who_asks_and_how_we_are(
    request_changes: dict[str, str], load_changes: dict[str, int], expected: tuple[int, int, int] | None
) -> None:
    assert judged(replace(REQUEST, **request_changes), replace(IDLE, **load_changes)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hosts", "host", "is_in"),
    [
        (("*",), "203.0.113.9", True),
        (("10.1.2.3",), "10.1.2.3", True),
        (("10.1.2.4",), "10.1.2.3", False),
        (("192.0.2.0/24", "10.1.2.0/24"), "10.1.2.3", True),
        (("fd00::/8",), "fd00::17", True),
        (("fd00::/8",), "10.1.2.3", False),
        (("10.1.0.0/16",), "::ffff:10.1.2.3", True),
        (("modality",), "10.9.9.9", True),
        (("modality",), "10.9.9.8", False),
        (("elsewhere",), "10.9.9.9", False),
    ],
)
def test_host_rules_are_addresses_networks_and_names(hosts: tuple[str, ...], host: str, is_in: bool) -> None:
    source = SourceSettings(name="x", ae_titles=("XRAY1",), hosts=hosts)
    answer = judged(replace(REQUEST, host=host), source=source, modality="10.9.9.9")
    assert answer == (None if is_in else (1, 1, 3))


def test_only_names_are_left_to_resolve() -> None:
    source = SourceSettings(
        name="x", ae_titles=("A",), hosts=("*", "10.0.0.1", "10.0.0.0/8", "fd00::1", "room-3.local")
    )
    assert host_names([source]) == {"room-3.local"}


def test_nobody_is_a_source_by_default() -> None:
    rejection = judge_association(REQUEST, ae_title="LOWDOSE", sources=[], addresses={}, load=IDLE)
    assert rejection is not None
    assert (rejection.result, rejection.source, rejection.reason) == (1, 1, 3)


@pytest.mark.parametrize("title", ["XRAY1", 'A"B', "[x] = 1", "-", "ÄÖ"])
def test_the_lines_shown_with_a_rejection_admit_the_peer(title: str) -> None:
    request = replace(REQUEST, calling_ae_title=title)
    table = tomllib.loads(source_lines(request))
    if title.isascii():
        assert judged(request, source=SourceSettings(**table["sources"][0])) is None
    rejection = judge_association(request, ae_title="LOWDOSE", sources=[SOURCE], addresses={}, load=IDLE)
    if title != "XRAY1":
        assert rejection is not None
        assert source_lines(request) in rejection.explanation


def test_a_known_title_from_a_new_address_is_told_which_source_to_extend() -> None:
    rejection = judge_association(
        replace(REQUEST, host="10.2.0.1"), ae_title="LOWDOSE", sources=[SOURCE], addresses={}, load=IDLE
    )
    assert rejection is not None
    assert "'10.2.0.1'" in rejection.explanation
    assert "source 'x'" in rejection.explanation


def test_every_storage_class_and_unknown_and_private_ones_are_accepted() -> None:
    assert all(is_accepted_abstract_syntax(str(c.abstract_syntax)) for c in AllStoragePresentationContexts)
    for uid in ("1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.9999", "1.2.840.10008.5.1.1.29", VERIFICATION):
        assert is_accepted_abstract_syntax(uid), uid


@pytest.mark.parametrize(
    "keyword",
    [
        "StorageCommitmentPushModel",
        "StorageCommitmentPullModel",
        "MediaStorageDirectoryStorage",
        "PatientRootQueryRetrieveInformationModelFind",
        "ModalityWorklistInformationFind",
        "ModalityPerformedProcedureStep",
        "HangingProtocolStorage",
        "ColorPaletteStorage",
        "BasicGrayscalePrintManagementMeta",
    ],
)
def test_other_services_are_refused(keyword: str) -> None:
    uid = (
        getattr(sop_class, keyword, None)
        or {
            "BasicGrayscalePrintManagementMeta": "1.2.840.10008.5.1.1.9",
            "StorageCommitmentPullModel": "1.2.840.10008.1.20.2",
            "MediaStorageDirectoryStorage": "1.2.840.10008.1.3.10",
        }[keyword]
    )
    assert not is_accepted_abstract_syntax(str(uid))


def test_transfer_syntaxes_and_services_are_no_abstract_syntaxes() -> None:
    assert not is_accepted_abstract_syntax(EXPLICIT)
    assert not is_accepted_abstract_syntax("1.2.840.10008.4.2")


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ((EXPLICIT, IMPLICIT), EXPLICIT),
        ((IMPLICIT, EXPLICIT), IMPLICIT),
        (("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.90"), "1.2.840.10008.1.2.4.90"),
        (("1.2.3.4",), ""),
    ],
)
def test_the_requestors_order_decides_the_transfer_syntax(proposed: tuple[str, ...], chosen: str) -> None:
    assert choose_transfer_syntax(ProposedContext(abstract_syntax=CT, transfer_syntaxes=proposed)) == chosen
    other = ProposedContext(abstract_syntax="1.2.840.10008.5.1.4.31", transfer_syntaxes=proposed)
    assert choose_transfer_syntax(other) is None


def test_transfer_syntaxes_are_those_that_the_node_declares() -> None:
    from pydicom.uid import UID

    assert len(TRANSFER_SYNTAXES) == 16
    for uid, name in TRANSFER_SYNTAXES.items():
        assert UID(uid).is_transfer_syntax
        assert UID(uid).name.startswith(name.split(" (")[0].split(",")[0].split(" with")[0])


@pytest.mark.parametrize("uid", ["", "1.2\x1b[2J", "1.2\x00.3", "1.2\\1.3", "1.é", "1." * 33], ids=repr)
def test_what_is_no_uid_is_no_storage_class(uid: str) -> None:
    assert not is_accepted_abstract_syntax(uid)
