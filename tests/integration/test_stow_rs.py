"""The STOW-RS destination against a mock origin server: every status, malformed responses, lost connections, TLS."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.destinations.base import DeliveryItem, ItemOutcome, Outcome, StepState, StopSending
from dicom_node.destinations.multipart import FileTrouble, _read
from dicom_node.destinations.stow_rs import StowRs
from tests.support.items import Outcomes, items_of, write_image, write_series
from tests.support.memory import peak_growth
from tests.support.peers import LOOPBACK, ReceivedObject, closed_port, read_part10
from tests.support.web_certificates import WebAuthority
from tests.support.web_peers import Canned, MockStow, as_json, web_destination

SENT, REFUSED, RETRY = Outcome.SENT, Outcome.REFUSED, Outcome.RETRY


def stow(port: int, **changes: object) -> StowRs:
    return StowRs(web_destination(port, **changes), node_ae_title="LOWDOSE")


def deliver(peer: MockStow, items: list[DeliveryItem], **changes: object) -> Outcomes:
    outcomes = Outcomes()
    stow(peer.port, **changes).deliver(items, on_outcome=outcomes.append)
    assert sorted(outcomes.states()) == sorted(item.instance_id for item in items)
    return outcomes


def doubtful(item: DeliveryItem) -> DeliveryItem:
    return DeliveryItem(**{**vars(item), "in_doubt": True})


@pytest.fixture
def series(tmp_path: Path) -> list[DeliveryItem]:
    return items_of(write_series(tmp_path / "series", 8))


# -- what arrives -----------------------------------------------------------------------------------


def test_a_series_goes_in_one_request_and_arrives_byte_for_byte(series: list[DeliveryItem]) -> None:
    with MockStow() as peer:
        outcomes = deliver(peer, series)
    assert set(outcomes.states().values()) == {SENT}
    assert peer.request_counts == [8]
    assert [entry.data for entry in peer.objects] == [read_part10(item.path).data for item in series]
    (request,) = peer.requests
    assert int(request["content-length"]) == peer.request_sizes[0]
    assert "transfer-encoding" not in request
    assert request["accept"].startswith("application/dicom+json")


@pytest.mark.parametrize(("limit", "counts"), [({"max_objects": 3}, [3, 3, 2]), ({"max_request_mb": 1}, [3, 3, 2])])
def test_requests_keep_to_their_limits(tmp_path: Path, limit: dict[str, int], counts: list[int]) -> None:
    # 0.3 MB each
    items = items_of([write_image(tmp_path, number, size=390) for number in range(8)])
    with MockStow() as peer:
        deliver(peer, items, **limit)
    assert peer.request_counts == counts
    assert max(peer.request_sizes) < 1_000_000


def test_two_objects_of_one_uid_do_not_share_an_answer(tmp_path: Path) -> None:
    items = items_of([write_image(tmp_path / "a", 1), write_image(tmp_path / "b", 1)])
    with MockStow(statuses={0: 0xA900}) as peer:
        assert deliver(peer, items).states() == {0: REFUSED, 1: SENT}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_syntaxes_that_web_services_exclude_go_as_explicit_little_endian(tmp_path: Path, syntax: str) -> None:
    item = items_of([write_image(tmp_path / "a", 1, syntax=syntax)])
    with MockStow() as peer:
        deliver(peer, item)
    (entry,) = peer.objects
    expected = ExplicitVRLittleEndian if syntax == ImplicitVRLittleEndian else syntax
    assert entry.transfer_syntax_uid == expected
    if syntax == ImplicitVRLittleEndian:
        # Of what is private, implicit VR does not tell the VR.
        sent, original = entry.dataset(), read_part10(write_image(tmp_path / "b", 1)).dataset()
        assert sent.PixelData == original.PixelData
        assert [e.tag for e in sent] == [e.tag for e in original]


@pytest.mark.parametrize("answer", [0xC122, 0xC000, 400, 409, 415, 500])
def test_a_refused_transfer_syntax_goes_again_uncompressed_with_the_same_pixels(tmp_path: Path, answer: int) -> None:
    paths = [write_image(tmp_path, 0), write_image(tmp_path, 1, syntax=RLELossless), write_image(tmp_path, 2)]
    plain = read_part10(write_image(tmp_path / "plain", 1)).dataset()

    def refuse(objects: list[ReceivedObject]) -> Canned | None:
        packed = {o.sop_instance_uid for o in objects if o.transfer_syntax_uid == RLELossless}
        if not packed:
            return None
        if answer < 1000:
            return Canned(answer)
        kept = [entry for entry in objects if entry.sop_instance_uid not in packed]
        peer.objects += kept
        return Canned(202, as_json({o.sop_instance_uid: 0 for o in kept}, dict.fromkeys(packed, answer)))

    with MockStow(refuse=refuse) as peer:
        assert set(deliver(peer, items_of(paths)).states().values()) == {SENT}
    again = next(entry for entry in peer.objects if entry.sop_instance_uid.endswith(".1"))
    assert again.transfer_syntax_uid == ExplicitVRLittleEndian
    assert again.dataset().PixelData == plain.PixelData
    assert len(peer.uids()) == len(peer.objects) == 3


def test_what_destinations_settings_compress_goes_compressed(tmp_path: Path) -> None:
    items = items_of([write_image(tmp_path, 1)])
    with MockStow() as peer:
        deliver(peer, items, compress="jpeg-ls", compress_originals=True)
    assert [entry.transfer_syntax_uid for entry in peer.objects] == [JPEGLSLossless]


def test_a_large_study_never_lies_in_memory(tmp_path: Path) -> None:
    first = write_image(tmp_path, 0, size=3880)  # 30 MB
    paths = [first]
    for number in range(1, 10):
        path = tmp_path / f"{number}.dcm"
        # Another UID of the same length; the pixels lie on the disk once each.
        old, new = b"10.1.3.0", b"10.1.3.%d" % number
        path.write_bytes(first.read_bytes().replace(old, new))
        paths.append(path)
    items = items_of(paths)
    with _Swallowing() as peer:
        outcomes = Outcomes()
        with peak_growth() as growth:
            stow(peer.port).deliver(items, on_outcome=outcomes.append)
    assert peer.received > 300_000_000
    assert growth.bytes < 60_000_000
    assert set(outcomes.states().values()) == {RETRY}


class _Swallowing(MockStow):
    """Reads bodies in small pieces, keeps nothing, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0

    def read_body(self, read: Callable[[int], bytes], length: int) -> bytes | None:
        while self.received < length:
            piece = read(min(65_536, length - self.received))
            if not piece:
                break
            self.received += len(piece)
        return None


# -- what the response says -------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_stored_and_told(series: list[DeliveryItem], reason: int) -> None:
    with MockStow(statuses={3: reason}) as peer:
        outcomes = deliver(peer, series)
    assert set(outcomes.states().values()) == {SENT}
    assert f"{reason:04X}" in outcomes.reason(3)
    assert outcomes.reason(2) == ""
    assert next(o.status for o in outcomes if o.instance_id == 3) == reason


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        *((reason, RETRY) for reason in (0xA700, 0x0110, 0x0213)),
        *((reason, REFUSED) for reason in (0xA900, 0x0122, 0x0124, 0xC000, 0xC122, 0x0111, 0x0112)),
    ],
)
def test_partial_failures_are_read_for_each_instance(series: list[DeliveryItem], reason: int, outcome: Outcome) -> None:
    with MockStow(statuses={2: reason}) as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: outcome if number == 2 else SENT for number in range(8)}
    assert f"{reason:04X}" in outcomes.reason(2)


@pytest.mark.parametrize(("in_doubt", "outcome"), [(True, SENT), (False, REFUSED)])
def test_a_duplicate_is_ours_only_after_an_attempt_in_doubt(
    series: list[DeliveryItem], in_doubt: bool, outcome: Outcome
) -> None:
    item = doubtful(series[0]) if in_doubt else series[0]
    with MockStow(statuses={0: 0x0111}) as peer:
        assert deliver(peer, [item]).states() == {0: outcome}


def test_an_instance_that_is_not_named_is_not_stored(series: list[DeliveryItem]) -> None:
    with MockStow(respond=lambda objects, _: Canned(200, as_json({objects[0].sop_instance_uid: 0}))) as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: RETRY if number else SENT for number in range(8)}


def test_an_instance_that_is_stored_and_failed_is_in_doubt(series: list[DeliveryItem]) -> None:
    def both(objects: list[ReceivedObject], _: object) -> Canned:
        uids = [entry.sop_instance_uid for entry in objects]
        return Canned(202, as_json(dict.fromkeys(uids, 0), {uids[1]: 0xA700}))

    with MockStow(respond=both) as peer:
        outcomes = deliver(peer, series)
    assert [o.instance_id for o in outcomes if o.outcome is RETRY and o.in_doubt] == [1]


def test_a_failure_of_no_name_is_found_by_sending_each_alone(series: list[DeliveryItem]) -> None:
    bad = series[5].sop_instance_uid

    def respond(objects: list[ReceivedObject], _: object) -> Canned:
        good = {o.sop_instance_uid: 0 for o in objects if o.sop_instance_uid != bad}
        return Canned(202 if good else 409, as_json(good, others=(0xA900,) if len(good) < len(objects) else ()))

    with MockStow(respond=respond) as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: REFUSED if number == 5 else SENT for number in range(8)}


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[[[[", b"\xff"])
@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_that_names_nobody_is_asked_about(series: list[DeliveryItem], status: int, body: bytes) -> None:
    body = b"" if status == 204 else body
    with MockStow(respond=lambda *_: Canned(status, body)) as peer:
        kept = deliver(peer, series[:2])
    assert set(kept.states().values()) == {SENT}
    with MockStow(respond=lambda *_: Canned(status, body), keeps=False) as peer:
        lost = deliver(peer, series[:2])
    assert [(o.outcome, o.in_doubt) for o in lost] == [(RETRY, True)] * 2
    assert "QIDO-RS" in lost.reason(0)


@pytest.mark.parametrize("query", [Canned(404), Canned(200, b"{"), Canned(200, b'[{"00080018": {"Value": ["1.2"]}}]')])
def test_a_query_that_does_not_show_the_object_leaves_it_in_doubt(series: list[DeliveryItem], query: Canned) -> None:
    with MockStow(respond=lambda *_: Canned(200), query=query) as peer:
        outcomes = deliver(peer, series[:1])
    assert [(o.outcome, o.in_doubt) for o in outcomes] == [(RETRY, True)]


def test_a_stop_comes_after_the_answers_of_the_request_and_before_the_next(series: list[DeliveryItem]) -> None:
    told: list[ItemOutcome] = []

    def stop(outcome: ItemOutcome) -> None:
        told.append(outcome)
        raise StopSending("held")

    with MockStow() as peer:
        with pytest.raises(StopSending):
            stow(peer.port, max_objects=4).deliver(series, on_outcome=stop)
        assert peer.request_counts == [4]
    assert [(o.instance_id, o.outcome) for o in told] == [(number, SENT) for number in range(4)]


# -- whole requests that fail -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome"), [(400, REFUSED), (413, REFUSED), (415, REFUSED), (422, REFUSED), (409, RETRY), (500, RETRY)]
)
@pytest.mark.parametrize("place", [0, 5, 7])
def test_one_poison_object_fails_no_other(
    series: list[DeliveryItem], status: int, outcome: Outcome, place: int
) -> None:
    poison = series[place].sop_instance_uid

    def refuse(objects: list[ReceivedObject]) -> Canned | None:
        return Canned(status, b"no") if poison in {entry.sop_instance_uid for entry in objects} else None

    with MockStow(refuse=refuse) as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: outcome if number == place else SENT for number in range(8)}
    assert f"HTTP {status}" in outcomes.reason(place)
    assert len(peer.objects) == 7
    assert next(o.in_doubt for o in outcomes if o.instance_id == place) is (status == 500)


def test_a_request_that_is_too_large_is_halved_until_it_fits(series: list[DeliveryItem]) -> None:
    with MockStow(refuse=lambda objects: Canned(413) if len(objects) > 2 else None) as peer:
        outcomes = deliver(peer, series)
    assert set(outcomes.states().values()) == {SENT}
    assert peer.request_counts == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 401, 403, 404, 405, 406, 407, 408, 411, 418, 429, 501, 502, 503, 504, 507, 599]
)
def test_a_server_that_is_not_ready_for_us_gets_one_request_and_keeps_everything_waiting(
    series: list[DeliveryItem], status: int
) -> None:
    with MockStow(refuse=lambda _: Canned(status, b"<p>Phantom^Test</p>")) as peer:
        outcomes = deliver(peer, series, max_objects=4)
    assert set(outcomes.states().values()) == {RETRY}
    assert len(peer.requests) == 1
    assert f"HTTP {status}" in outcomes.reason(0)
    assert "Phantom" not in outcomes.reason(0)
    assert {o.in_doubt for o in outcomes if o.instance_id < 4} == {status in (502, 504)}
    assert not any(o.in_doubt for o in outcomes if o.instance_id >= 4)


def test_a_server_that_always_fails_inside_is_left_alone_soon(tmp_path: Path) -> None:
    items = items_of(write_series(tmp_path, 32))
    with MockStow(refuse=lambda _: Canned(500)) as peer:
        outcomes = deliver(peer, items)
    assert set(outcomes.states().values()) == {RETRY}
    assert peer.request_counts == [32, 16, 8, 4, 2, 1, 1]


def test_no_redirect_is_followed(series: list[DeliveryItem]) -> None:
    with MockStow() as other:
        place = {"Location": f"http://localhost:{other.port}/dicom-web/studies"}
        with MockStow(refuse=lambda _: Canned(307, headers=place)) as peer:
            outcomes = deliver(peer, series)
    assert other.requests == []
    assert "localhost" in outcomes.reason(0)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept_to(series: list[DeliveryItem], status: int) -> None:
    now = [1000.0]
    with MockStow(refuse=lambda _: Canned(status, headers={"Retry-After": "90"})) as peer:
        scu = StowRs(web_destination(peer.port), node_ae_title="LOWDOSE", clock=lambda: now[0])
        outcomes = Outcomes()
        scu.deliver(series, on_outcome=outcomes.append)
        assert "90 s" in outcomes.reason(0)
        peer.refuse = None
        now[0] += 89
        early = Outcomes()
        scu.deliver(series, on_outcome=early.append)
        assert set(early.states().values()) == {RETRY}
        assert len(peer.requests) == 1
        now[0] += 2
        late = Outcomes()
        scu.deliver(series, on_outcome=late.append)
    assert set(late.states().values()) == {SENT}


def test_an_answer_before_the_end_of_the_request_is_read(tmp_path: Path) -> None:
    # More than the buffers of both sockets hold.
    items = items_of([write_image(tmp_path, 0, size=3000)])
    with MockStow(refuse=lambda _: Canned(401, early=True)) as peer:
        outcomes = deliver(peer, items)
    # The server resets the connection; whether its answer is seen before that is the kernel's affair.
    assert outcomes.states() == {0: RETRY}


# -- lost connections -------------------------------------------------------------------------------


def test_a_connection_lost_on_the_way_leaves_the_objects_in_doubt_and_sends_them_alone(
    series: list[DeliveryItem],
) -> None:
    poison = series[3].sop_instance_uid

    def refuse(objects: list[ReceivedObject]) -> Canned | None:
        return Canned(0, close=True) if poison in {entry.sop_instance_uid for entry in objects} else None

    with MockStow(refuse=refuse) as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: RETRY if number == 3 else SENT for number in range(8)}
    assert [o.instance_id for o in outcomes if o.in_doubt] == [3]
    assert peer.request_counts == [8] + [1] * 8


def test_two_losses_in_a_row_end_the_attempt(series: list[DeliveryItem]) -> None:
    with MockStow(refuse=lambda _: Canned(0, close=True)) as peer:
        outcomes = deliver(peer, series, max_objects=2)
    assert set(outcomes.states().values()) == {RETRY}
    assert peer.request_counts == [2, 2]
    assert sorted(o.instance_id for o in outcomes if o.in_doubt) == [0, 1, 2, 3]


def test_a_server_that_never_answers_is_in_doubt(series: list[DeliveryItem]) -> None:
    free = threading.Event()

    def stall(_: list[ReceivedObject]) -> Canned | None:
        free.wait(30)
        return None

    with MockStow(refuse=stall) as peer:
        outcomes = deliver(peer, series[:1], response_timeout_s=0.3)
        free.set()
    assert [(o.outcome, o.in_doubt) for o in outcomes] == [(RETRY, True)]
    assert "no response in time" in outcomes.reason(0)


def test_what_is_in_doubt_goes_last_and_alone(series: list[DeliveryItem]) -> None:
    items = [doubtful(item) if item.instance_id < 2 else item for item in series]
    with MockStow() as peer:
        deliver(peer, items)
    assert peer.request_counts == [6, 1, 1]


def test_a_missing_file_is_its_own_affair(series: list[DeliveryItem]) -> None:
    series[4].path.unlink()
    with MockStow() as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: REFUSED if number == 4 else SENT for number in range(8)}
    assert "missing" in outcomes.reason(4)


def test_a_file_that_breaks_off_is_its_own_affair(series: list[DeliveryItem], monkeypatch: pytest.MonkeyPatch) -> None:
    bad = series[4].path

    def read(part: object) -> object:
        if part.path == bad:  # type: ignore[attr-defined]
            raise FileTrouble(part, OSError(5, "Input/output error"))  # type: ignore[arg-type]
        return _read(part)  # type: ignore[arg-type]

    monkeypatch.setattr("dicom_node.destinations.multipart._read", read)
    with MockStow() as peer:
        outcomes = deliver(peer, series)
    assert outcomes.states() == {number: RETRY if number == 4 else SENT for number in range(8)}
    assert "Input/output error" in outcomes.reason(4)


# -- who we are -------------------------------------------------------------------------------------


def test_a_token_is_read_anew_for_every_attempt_and_never_told(series: list[DeliveryItem], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-secret\n")
    with MockStow() as peer:
        scu = stow(peer.port, token_file=file)
        scu.deliver(series[:1], on_outcome=Outcomes().append)
        file.write_text("second-secret")
        scu.deliver(series[1:2], on_outcome=Outcomes().append)
        assert [r["authorization"] for r in peer.requests] == ["Bearer first-secret", "Bearer second-secret"]
        file.write_text("two\nlines-of-secret")
        outcomes = Outcomes()
        scu.deliver(series[2:], on_outcome=outcomes.append)
        assert len(peer.requests) == 2
    assert set(outcomes.states().values()) == {RETRY}
    assert not any(o.in_doubt or "secret" in o.reason.replace("oauth_secret", "") for o in outcomes)


def test_user_and_password_and_headers(series: list[DeliveryItem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "p:w")
    with MockStow() as peer:
        deliver(peer, series, username="node", password_variable="PACS_PASSWORD", headers={"X-Tenant": "r"})
    assert peer.requests[0]["authorization"] == "Basic bm9kZTpwOnc="
    assert peer.requests[0]["x-tenant"] == "r"


def test_an_oauth_token_is_kept_and_renewed_once_after_401(series: list[DeliveryItem], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    valid = ["token-1"]
    with MockStow(token=lambda: valid[0]) as peer:
        peer.refuse = lambda _: None if peer.requests[-1].get("authorization") == f"Bearer {valid[0]}" else Canned(401)
        url = f"http://{LOOPBACK}:{peer.port}/token"
        scu = stow(peer.port, oauth_url=url, oauth_client_id="node", oauth_secret_file=secret, headers={"X-Key": "k"})
        for item in series[:2]:
            scu.deliver([item], on_outcome=(outcomes := Outcomes()).append)
            assert set(outcomes.states().values()) == {SENT}
        assert len(peer.token_requests) == 1
        assert peer.requests[0]["x-key"] == "k"
        assert "x-key" not in peer.token_requests[0]
        valid[0] = "token-2"
        scu.deliver(series[2:4], on_outcome=(outcomes := Outcomes()).append)
        assert set(outcomes.states().values()) == {SENT}
        assert len(peer.token_requests) == 2
        peer.refuse = lambda _: Canned(401)
        scu.deliver(series[4:], on_outcome=(outcomes := Outcomes()).append)
        assert set(outcomes.states().values()) == {RETRY}
        assert len(peer.token_requests) == 3


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> WebAuthority:
    return WebAuthority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("expired", "has expired"),
        ("name", "is for another"),
        ("unknown", "ca_file"),
        ("no client certificate", "client_certificate"),
        ("plain", "does not speak TLS"),
    ],
)
def test_tls_that_fails_is_explained_and_nothing_is_in_doubt(
    series: list[DeliveryItem], authority: WebAuthority, fault: str, words: str
) -> None:
    days = -1 if fault == "expired" else 90
    names = ("elsewhere.local",) if fault == "name" else (LOOPBACK,)
    context = None if fault == "plain" else authority.server(names=names, days=days)
    if fault == "no client certificate" and context is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)
    with MockStow(tls=context) as peer:
        ca = None if fault == "unknown" else authority.file
        changes = {"url": f"https://{LOOPBACK}:{peer.port}/dicom-web", "ca_file": ca}
        outcomes = deliver(peer, series, **changes)
        steps = {step.name: step for step in stow(peer.port, **changes).probe()}
        assert peer.stores == 0
    assert [(o.outcome, o.in_doubt) for o in outcomes] == [(RETRY, False)] * 8
    assert words in outcomes.reason(0)
    failed = [step for step in steps.values() if step.state is StepState.FAILED]
    assert len(failed) == 1
    assert words in failed[0].sentence


def test_tls_with_a_client_certificate(series: list[DeliveryItem], authority: WebAuthority) -> None:
    context = authority.server(names=(LOOPBACK,), days=20)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    certificate, key = authority.sign("node", names=("node.local",))
    with MockStow(tls=context) as peer:
        changes = {
            "url": f"https://{LOOPBACK}:{peer.port}/dicom-web",
            "ca_file": authority.file,
            "client_certificate": certificate,
            "client_key": key,
        }
        assert set(deliver(peer, series, **changes).states().values()) == {SENT}
        steps = {step.name: step for step in stow(peer.port, **changes).probe()}
    assert list(steps) == ["name", "tcp", "tls", "login", "service"]
    assert steps["tls"].state is StepState.WARNING
    assert "19 days" in steps["tls"].sentence
    assert {step.state for name, step in steps.items() if name != "tls"} == {StepState.OK}


def test_a_certificate_file_that_is_none_is_named(series: list[DeliveryItem], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with MockStow() as peer:
        outcomes = deliver(peer, series, ca_file=tmp_path / "ca.pem")
        assert peer.requests == []
    assert "ca_file" in outcomes.reason(0)
    assert set(outcomes.states().values()) == {RETRY}


# -- probe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "state", "words"),
    [
        (Canned(200, b"[]"), StepState.OK, "answers a query"),
        (Canned(204), StepState.OK, "answers a query"),
        (Canned(200, b"<html>", "text/html"), StepState.WARNING, "not in JSON"),
        (Canned(501), StepState.WARNING, "no queries"),
        (Canned(503), StepState.WARNING, "not available"),
        (Canned(401), StepState.FAILED, "token"),
        (Canned(404), StepState.FAILED, "url"),
    ],
    ids=range(7),
)
def test_the_probe_tells_what_a_query_brings(query: Canned, state: StepState, words: str) -> None:
    with MockStow(query=query) as peer:
        last = stow(peer.port).probe()[-1]
        assert peer.stores == 0
    assert (last.name, last.state) == ("service", state)
    assert words in last.sentence


def test_the_probe_warns_of_a_password_in_the_clear_and_skips_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("t")
    with MockStow() as peer:
        steps = {step.name: step for step in stow(peer.port, token_file=tmp_path / "t").probe()}
    assert steps["login"].state is StepState.WARNING
    with closed_port() as port:
        steps = {step.name: step for step in stow(port).probe()}
    assert [step.state for step in steps.values()] == [StepState.OK, StepState.FAILED] + [StepState.SKIPPED] * 2


def test_the_surroundings_have_no_say(series: list[DeliveryItem], monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_port() as port:
        monkeypatch.setitem(os.environ, "HTTP_PROXY", f"http://{LOOPBACK}:{port}")
        with MockStow() as peer:
            assert set(deliver(peer, series).states().values()) == {SENT}
