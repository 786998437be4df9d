"""The viewer's addresses: exact pixels of both images, patient data for those who may see it, plain words otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from config.settings import RoleName
from dicom_node.console import images
from dicom_node.console.byte_budget import ByteBudget
from dicom_node.console.pages import viewer
from dicom_node.console.permissions import Permission
from dicom_node.ledger.schema import instance
from dicom_node.part10 import open_part10
from dicom_node.pixels import iter_frames, read_spec
from tests.support.console import Client, Console, console_over, console_settings
from tests.support.enhancing import StandInDenoiser
from tests.support.grey_images import write_as
from tests.support.objects import dx_dataset, enhanced_xa_dataset, xa_dataset
from tests.support.viewer import enhance, receive

RNG = np.random.default_rng(5)
PATIENT = {
    "PatientName": "Zebra^Quagga",
    "PatientID": "PID-771",
    "PatientBirthDate": "19410203",
    "AccessionNumber": "ACC-772",
    "StudyDescription": "Okapi study",
    "SeriesDescription": "Okapi series",
    "ReferringPhysicianName": "Tapir^Doctor",
    "PatientComments": "Capybara",
}


def radiograph(**attributes: Any) -> Dataset:
    stored = RNG.integers(0, 1 << 14, (48, 40), dtype=np.uint16)
    patient = {k: v for k, v in PATIENT.items() if k != "PatientName"}
    return dx_dataset(stored, patient_name=PATIENT["PatientName"], **patient, **attributes)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with console_over(console_settings(tmp_path)) as found:
        yield found


def stored_values(console: Console, key: str) -> list[np.ndarray[Any, Any]]:
    with open_part10(console.state.store.path(key)) as part10:
        return [frame.values for frame in iter_frames(part10, read_spec(part10.header))]


def values_of(answer: Any, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return the values of an answer as a browser puts them together."""
    assert answer.status_code == 200, answer.text
    data = answer.content
    kind = np.dtype(answer.headers["x-values"]).newbyteorder("<")
    if answer.headers.get("x-layout") == "planes":
        data = np.frombuffer(data, np.uint8).reshape(2, -1).T.tobytes()
    return np.frombuffer(data, kind).reshape(shape)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless])
@pytest.mark.parametrize(("bits", "signed"), [(14, False), (16, False), (12, True), (16, True), (8, False)])
def test_every_frame_has_exactly_the_stored_values(
    console: Console, tmp_path: Path, syntax: UID, planes: bool, bits: int, signed: bool
) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    values = RNG.integers(low, low + (1 << bits), (3, 7, 6))
    cells = (values & ((1 << bits) - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    ds = xa_dataset(cells, bits_stored=bits, PixelRepresentation=int(signed))
    write_as(ds, syntax, tmp_path / "image.dcm")
    (number,) = receive(console.state, ds)
    derived = enhance(console.state, number, StandInDenoiser(step=2.0))
    assert derived is not None
    client = console.signed_in(RoleName.VIEWER)
    after = stored_values(console, derived.key)
    for index in (2, 0, 1):
        path = f"/viewer/{number}/{{}}/frames/{index + 1}?planes={str(planes).lower()}"
        assert np.array_equal(values_of(client.get(path.format("before")), (7, 6)), values[index])
        assert np.array_equal(values_of(client.get(path.format("after")), (7, 6)), after[index])
        assert not np.array_equal(after[index], values[index])


def test_what_goes_over_the_network_is_compressed_where_the_browser_knows_how(console: Console) -> None:
    smooth = np.add.outer(np.arange(200), np.arange(200)).astype(np.uint16)
    (number,) = receive(console.state, dx_dataset(smooth))
    client = console.signed_in(RoleName.VIEWER)
    path = f"/viewer/{number}/before/frames/1?planes=true"
    plain = client.get(path, headers={"Accept-Encoding": "gzip, zstd;q=0"})
    assert "content-encoding" not in plain.headers
    packed = client.http.stream("GET", path, headers={"Accept-Encoding": "gzip, zstd"})
    with packed as answer:
        assert answer.headers["content-encoding"] == "zstd"
        data = b"".join(answer.iter_raw())
    assert len(data) < len(plain.content) / 4
    assert imagecodecs.zstd_decode(data) == plain.content


def test_a_frame_is_asked_for_again_and_not_sent_again(console: Console) -> None:
    first, second = receive(console.state, radiograph(), radiograph(instance_number=2))
    client = console.signed_in(RoleName.VIEWER)
    path = f"/viewer/{first}/before/frames/1"
    answer = client.get(path)
    assert answer.headers["cache-control"] == "private, no-cache"
    tag = answer.headers["etag"]
    again = client.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    for other in (f"/viewer/{second}/before/frames/1", f"{path}?planes=true"):
        assert client.get(other, headers={"If-None-Match": tag}).status_code == 200
    # What the browser kept is of no use to whoever comes after.
    assert console.client().get(path, headers={"If-None-Match": tag}).status_code == 303


def everything(client: Client, number: int) -> dict[str, str]:
    """Return what every address of the viewer answers, as text, with the headers."""
    paths = [
        f"/viewer/{number}",
        f"/viewer/{number}/pair.json",
        f"/viewer/{number}/before/frames/1",
        f"/viewer/{number}/after/frames/1",
        f"/viewer/{number}/measurements/1",
    ]
    answers = {path: client.get(path) for path in paths}
    assert {a.status_code for a in answers.values()} == {200}
    return {path: f"{dict(a.headers)} {a.content.decode('latin-1')}" for path, a in answers.items()}


def test_only_who_may_see_patient_data_is_shown_any(console: Console) -> None:
    (number,) = receive(console.state, radiograph())
    enhance(console.state, number, StandInDenoiser())
    secrets = [word for value in PATIENT.values() for word in value.split("^")] + ["1941-02-03"]
    for path, text in everything(console.signed_in(RoleName.VIEWER), number).items():
        assert not [secret for secret in secrets if secret in text], path
    for role in (RoleName.OPERATOR, RoleName.ADMIN):
        page = console.signed_in(role).get(f"/viewer/{number}").text
        assert not [secret for secret in secrets if secret in page], role
    page = console.signed_in(RoleName.VIEWER, sees_patients=True).get(f"/viewer/{number}").text
    for keyword, _label in images.PATIENT_ATTRIBUTES:
        if keyword in PATIENT:
            assert PATIENT[keyword].split("^")[0] in page
    assert "Tapir" not in page
    assert "Not for diagnosis" in page


def test_every_address_asks_who_is_there(console: Console) -> None:
    (number,) = receive(console.state, radiograph())
    for route in viewer.router.routes:
        path = route.path.format(instance_id=number, side="before", number=1)  # type: ignore[attr-defined]
        answer = console.client().get(path)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/login"), path
        needed = [d.dependency.permission for d in route.dependencies]  # type: ignore[attr-defined]
        assert needed == [Permission.VIEW_IMAGES]


@pytest.mark.parametrize(("burned_in", "is_shown"), [("YES", False), ("NO", True), (None, True)])
def test_text_burned_into_pixels_counts_as_patient_data(
    console: Console, burned_in: str | None, is_shown: bool
) -> None:
    (number,) = receive(console.state, radiograph(BurnedInAnnotation=burned_in))
    client = console.signed_in(RoleName.ADMIN)
    for path in ("before/frames/1", "measurements/1"):
        answer = client.get(f"/viewer/{number}/{path}")
        assert answer.status_code == (200 if is_shown else 404)
        assert is_shown or "Burned In Annotation" in answer.json()["problem"]
    pair = client.get(f"/viewer/{number}/pair.json").json()
    assert ("problem" in pair["before"]) is not is_shown
    allowed = console.signed_in(RoleName.VIEWER, sees_patients=True)
    assert allowed.get(f"/viewer/{number}/before/frames/1").status_code == 200


def test_an_image_that_was_deleted_is_said_to_be(console: Console) -> None:
    (number,) = receive(console.state, radiograph())
    derived = enhance(console.state, number, StandInDenoiser())
    assert derived is not None
    with console.state.database.write() as connection:
        connection.execute(instance.update().where(instance.c.id == number).values(state="purged"))
    client = console.signed_in(RoleName.VIEWER)
    pair = client.get(f"/viewer/{number}/pair.json").json()
    assert "after every destination had it" in pair["before"]["problem"]
    assert pair["after"]["rows"] == 48
    answer = client.get(f"/viewer/{number}/before/frames/1")
    assert (answer.status_code, answer.json()["problem"]) == (404, pair["before"]["problem"])
    assert client.get(f"/viewer/{number}/after/frames/1").status_code == 200
    assert client.get(f"/viewer/{number}").status_code == 200


def test_an_object_that_is_missing_in_the_store_is_said_to_be(console: Console) -> None:
    (number,) = receive(console.state, radiograph())
    with console.state.database.read() as connection:
        key = connection.exec_driver_sql("SELECT key FROM instance").scalar_one()
    console.state.store.path(key).unlink()
    client = console.signed_in(RoleName.VIEWER, sees_patients=True)
    problem = client.get(f"/viewer/{number}/before/frames/1").json()["problem"]
    assert "missing in the instance store" in problem
    assert "dicom-node verify --deep" in problem
    assert client.get(f"/viewer/{number}").status_code == 200


def test_what_is_no_image_of_grey_values_is_refused_with_the_reason(console: Console) -> None:
    colour = radiograph(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    (number,) = receive(console.state, colour)
    answer = console.signed_in(RoleName.VIEWER).get(f"/viewer/{number}/before/frames/1")
    assert answer.status_code == 404
    assert "pixels are not grey values" in answer.json()["problem"]


@pytest.mark.parametrize("path", ["0", "999", "-1", str(1 << 63), "1/before/frames/2", "1/before/frames/0"])
def test_what_is_not_there_is_not_found(console: Console, path: str) -> None:
    receive(console.state, radiograph())
    assert console.signed_in(RoleName.VIEWER).get(f"/viewer/{path}").status_code == 404


def test_the_page_of_a_derived_image_is_that_of_its_source(console: Console) -> None:
    (number,) = receive(console.state, radiograph())
    enhance(console.state, number, StandInDenoiser())
    with console.state.database.read() as connection:
        derived = connection.exec_driver_sql("SELECT id FROM instance WHERE origin = 'derived'").scalar_one()
    answer = console.signed_in(RoleName.VIEWER).get(f"/viewer/{derived}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/viewer/{number}")


def test_looking_at_an_image_is_in_the_audit(console: Console) -> None:
    (number,) = receive(console.state, radiograph())
    console.signed_in(RoleName.VIEWER).get(f"/viewer/{number}")
    console.signed_in(RoleName.VIEWER, sees_patients=True).get(f"/viewer/{number}")
    with console.state.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM console_audit").mappings().all()
    seen = [(row["user_name"], row["action"], row["subject"]) for row in rows if "view image" in row["action"]]
    assert seen == [
        ("viewer", "view image", f"image {number}"),
        ("viewer-p", "view image with patient data", f"image {number}"),
    ]


def test_memory_that_frames_take_is_given_back(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    (number,) = receive(console.state, radiograph())
    client = console.signed_in(RoleName.VIEWER)
    path = f"/viewer/{number}/before/frames/1"
    client.get(path)
    memory: ByteBudget = console.app.state.viewer_limits.memory
    assert memory.used == 0

    def fail(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(viewer, "read_values", fail)
    assert client.get(path).status_code == 500
    assert memory.used == 0


def test_measuring_again_finds_the_noise_that_was_put_in(console: Console) -> None:
    flat = np.clip(np.rint(RNG.normal(4000.0, 40.0, (256, 256))), 0, 16383).astype(np.uint16)
    (number,) = receive(console.state, dx_dataset(flat))
    enhance(console.state, number, StandInDenoiser(step=3.0))
    found = console.signed_in(RoleName.VIEWER).get(f"/viewer/{number}/measurements/1").json()
    assert found["noise_before"] == pytest.approx(40.0, rel=0.05)
    # A constant was taken off: the noise stays, and the guard's number says that none of it was found.
    assert found["noise_after"] == pytest.approx(found["noise_before"], rel=1e-3)
    assert found["removed"]["mean"] == pytest.approx(3.0)
    assert found["removed"]["deviation"] == pytest.approx(0.0, abs=1e-4)
    power = next(n for n in found["numbers"] if n["name"].startswith("Noise power"))
    assert power["verdict"] == "refused"


def test_presentations_that_differ_by_frame_are_sent_frame_by_frame(console: Console) -> None:
    ds = enhanced_xa_dataset(RNG.integers(0, 1024, (2, 8, 8), dtype=np.uint16))
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.WindowCenter, item.WindowWidth = 100 + index, 50
        group.FrameVOILUTSequence = [item]
    (number,) = receive(console.state, ds)
    frames = console.signed_in(RoleName.VIEWER).get(f"/viewer/{number}/pair.json").json()["before"]["frames"]
    assert [frame["windows"][0]["center"] for frame in frames] == [100, 101]


def test_pytorch_is_not_loaded_to_show_images() -> None:
    program = "import sys, json, dicom_node.console.application; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=120)
    assert "torch" not in json.loads(done.stdout)
