from __future__ import annotations

import errno
import socket

import pytest

from dicom_node.destinations.explanations import (
    REJECTIONS,
    Peer,
    explain_connection,
    explain_context,
    explain_failure,
    explain_rejection,
    explain_status,
)
from dicom_node.errors import (
    AssociationAborted,
    AssociationRejectedPermanent,
    AssociationRejectedTransient,
    ConnectionFailed,
    ContextRejected,
    NetworkTimeout,
)

PACS = Peer(name="pacs", ae_title="ARCHIVE", host="10.0.0.9", port=104, calling_ae_title="LOWDOSE")


def test_an_unknown_calling_title_tells_what_the_other_side_must_enter() -> None:
    sentence = explain_rejection(PACS, result=1, source=1, reason=3)
    assert sentence == (
        "'pacs' (ARCHIVE at 10.0.0.9:104) refused the association: calling AE title LOWDOSE not recognised there; ask "
        "its administrator to add AE title LOWDOSE with the address of this machine (result 1, source 1, reason 3)"
    )


def test_an_unknown_called_title_tells_what_to_correct() -> None:
    sentence = explain_rejection(PACS, result=1, source=1, reason=7)
    assert "called AE title ARCHIVE not recognised there; correct the AE title" in sentence


def test_every_reason_of_the_standard_has_its_own_words() -> None:
    """PS3.8 Table 9-21; reserved values are left out."""
    standard = {(1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2)}
    assert set(REJECTIONS) == standard
    assert "does not name" in explain_rejection(PACS, result=1, source=1, reason=9)


def test_a_transient_rejection_says_that_it_will_pass() -> None:
    error = AssociationRejectedTransient("no", result=2, source=3, reason=2)
    assert "for now: it has as many associations open as it allows" in explain_failure(PACS, error)


def test_a_permanent_rejection_is_explained_from_its_numbers() -> None:
    error = AssociationRejectedPermanent("no", result=1, source=1, reason=3)
    assert explain_failure(PACS, error) == explain_rejection(PACS, result=1, source=1, reason=3)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "host name 10.0.0.9 is not known"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "nothing listens on port 104"),
        (TimeoutError(), "does not answer on port 104"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to 10.0.0.9"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route to 10.0.0.9"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (None, "no TCP connection"),
    ],
)
def test_a_connection_that_fails_is_told_by_its_cause(cause: OSError | None, words: str) -> None:
    assert words in explain_connection(PACS, cause)
    error = ConnectionFailed("no connection")
    error.__cause__ = cause
    assert words in explain_failure(PACS, error)


def test_the_peer_is_named_once() -> None:
    for error in (
        AssociationAborted("ARCHIVE at 10.0.0.9:104: A-ABORT from the peer"),
        NetworkTimeout("ARCHIVE at 10.0.0.9:104 did not answer the association request"),
        ContextRejected("ARCHIVE at 10.0.0.9:104 accepted none of the proposed presentation contexts"),
    ):
        assert explain_failure(PACS, error).count("ARCHIVE at 10.0.0.9:104") == 1


def test_a_status_is_told_with_its_number_its_meaning_and_the_peers_comment() -> None:
    assert explain_status(PACS, 0xA700, " disk full ") == (
        "'pacs' (ARCHIVE at 10.0.0.9:104) answered A700 (out of resources): disk full"
    )
    assert explain_status(PACS, 0x0000, "thanks") == ""


def test_a_refused_class_and_a_refused_syntax_are_told_apart() -> None:
    dx, j2k = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.4.90"
    refused_class = explain_context(PACS, dx, j2k, class_accepted=False)
    assert "does not take Digital X-Ray Image Storage - For Presentation (1.2.840.10008.5.1.4.1.1.1.1)" in refused_class
    refused_syntax = explain_context(PACS, dx, j2k, class_accepted=True)
    assert "neither in JPEG 2000 Image Compression (Lossless Only) (1.2.840.10008.1.2.4.90)" in refused_syntax
    assert "does not take 1.2.3.4;" in explain_context(PACS, "1.2.3.4", j2k, class_accepted=False)


def test_an_ipv6_address_is_bracketed_and_a_peer_without_a_name_is_its_title() -> None:
    peer = Peer(ae_title="A", host="::1", port=104, calling_ae_title="B")
    assert str(peer) == "A at [::1]:104"
