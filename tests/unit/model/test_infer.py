"""Inference over a folder: the same kind of file comes out, one bad file does not stop the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from model.domain import Domain, declared_domain
from model.infer import main
from model.noise import NoiseLaw
from model.pictures import read_picture
from training.lowdose import Detector, low_dose_stored
from training.phantom import phantom


def low_dose_pair() -> tuple[np.ndarray, np.ndarray]:
    law = NoiseLaw(structure=0.005, quantum=6.0, electronic=18.0)
    return low_dose_stored(
        phantom(200, 180, 41, anatomy="chest"),
        dose=0.25,
        detector=Detector(law=law),
        open_field=12000.0,
        rng=np.random.default_rng(1),
    )


def dx(pixels: np.ndarray) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1.1"
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "2.25.1", "2.25.2", "2.25.3"
    ds.PatientName, ds.Modality, ds.ImageType = "Phantom^One", "DX", ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType, ds.PixelIntensityRelationship = "FOR PROCESSING", "LIN"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 14, 13, 0
    ds.PixelPaddingValue = 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noisy, truth = low_dose_pair()
    source, reference = tmp_path / "in", tmp_path / "reference"
    (source / "deep").mkdir(parents=True)
    (reference / "deep").mkdir(parents=True)
    padded = noisy.copy()
    padded[:, :20] = 0
    dx(padded).save_as(source / "a.dcm", enforce_file_format=True)
    for name in ("b.png", "deep/c.tif"):
        sitk.WriteImage(sitk.GetImageFromArray(noisy), str(source / name))
        sitk.WriteImage(sitk.GetImageFromArray(truth.astype(np.uint16)), str(reference / name))
    (source / "broken.png").write_bytes(b"not a picture")
    (source / "notes.txt").write_text("no image")
    return tmp_path


def test_every_image_comes_back_as_its_own_kind_and_a_corrupt_one_is_reported(folder: Path) -> None:
    code = main(
        [
            "--input",
            str(folder / "in"),
            "--output",
            str(folder / "out"),
            "--reference",
            str(folder / "reference"),
            "--domain",
            "linear",
            "--device",
            "cpu",
        ]
    )
    assert code == 1
    outcomes = {Path(o["file"]).name: o for o in json.loads((folder / "out" / "results.json").read_text())}
    assert set(outcomes) == {"a.dcm", "b.png", "c.tif", "broken.png"}
    assert "cannot be read" in outcomes["broken.png"]["error"]
    for name, written in (("b.png", "b.png"), ("c.tif", "deep/c.tif")):
        assert outcomes[name]["enhanced"]
        before, after = outcomes[name]["quality"]["psnr_db"]
        assert after > before + 3
        back = read_picture(folder / "out" / written)
        assert back.dtype == np.uint16
        assert back.frames.shape == (1, 200, 180)
    assert (folder / "out" / "b_comparison.png").exists()


def test_dicom_becomes_a_derived_image_with_its_padding_untouched(folder: Path) -> None:
    main(["--input", str(folder / "in" / "a.dcm"), "--output", str(folder / "out"), "--device", "cpu"])
    source, derived = (pydicom.dcmread(folder / where / "a.dcm") for where in ("in", "out"))
    assert derived.ImageType[0] == "DERIVED"
    assert derived.SOPInstanceUID != source.SOPInstanceUID
    assert derived.SOPInstanceUID == derived.file_meta.MediaStorageSOPInstanceUID
    assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "lite" in derived.DerivationDescription
    for keyword in ("PatientName", "StudyInstanceUID", "BitsStored", "Rows", "PixelPaddingValue"):
        assert derived[keyword] == source[keyword]
    np.testing.assert_array_equal(derived.pixel_array[:, :20], 0)
    assert (derived.pixel_array[:, 20:] != source.pixel_array[:, 20:]).mean() > 0.5


def test_linear_values_that_count_down_are_denoised_as_those_that_count_up(tmp_path: Path) -> None:
    noisy, _ = low_dose_pair()
    top = 2**14 - 1
    for name, pixels, sign in (("up", noisy, 1), ("down", (top - noisy).astype(np.uint16), -1)):
        ds = dx(pixels)
        ds.PixelIntensityRelationshipSign = sign
        del ds.PixelPaddingValue
        ds.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    assert main(["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    up, down = (pydicom.dcmread(tmp_path / "out" / f"{name}.dcm").pixel_array for name in ("up", "down"))
    assert (up != noisy).mean() > 0.9
    # Halves may be rounded the other way.
    np.testing.assert_allclose(top - down.astype(np.int32), up, atol=1)


@pytest.mark.parametrize(
    ("intent", "relation", "domain"),
    [
        ("FOR PROCESSING", "LIN", Domain.LINEAR),
        ("FOR PROCESSING", "LOG", Domain.LOG),
        ("FOR PROCESSING", "DISP", Domain.DISPLAY),
        ("FOR PRESENTATION", "LIN", Domain.DISPLAY),
        ("FOR PRESENTATION", "LOG", Domain.LOG),
        ("", "LIN", Domain.LINEAR),  # XA and RF have no Presentation Intent Type
        ("", "", Domain.DISPLAY),
    ],
)
def test_domain_follows_presentation_intent_and_pixel_intensity_relationship(
    intent: str, relation: str, domain: Domain
) -> None:
    assert declared_domain(presentation_intent=intent, relationship=relation) is domain


def test_no_image_or_a_wrong_strength_is_exit_code_two(tmp_path: Path) -> None:
    assert main(["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert main(["--input", str(tmp_path), "--strength", "most"]) == 2
