"""Denoise a folder: ``python -m model.infer --input DIR --output outputs/results [--strength standard]``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.denoiser import Denoiser
from model.domain import Domain
from model.errors import ModelError, UnsupportedInput
from model.memory import keep_freed_memory
from model.metrics import mse, psnr, ssim
from model.pictures import (
    PICTURES,
    Picture,
    comparison,
    is_dicom,
    read_picture,
    to_stored,
    toward_exposure,
    write_picture,
)
from model.strength import parse_strength


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures against a reference, each (before, after)."""

    psnr_db: tuple[float, float]
    ssim: tuple[float, float]
    mse: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file."""

    file: str
    written: str | None
    enhanced: bool
    strength: float
    noise_before: float | None
    noise_after: float | None
    seconds: float
    reasons: tuple[str, ...]
    quality: Quality | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """Settings of one run over a folder."""

    source: Path
    output: Path
    reference: Path | None
    strength: float
    domain: Domain | None


def find_images(source: Path) -> list[Path]:
    """Return DICOM, PNG, TIFF and JPEG files below a folder (or the file itself), sorted."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in files if path.suffix.lower() in PICTURES or is_dicom(path)]


def denoise_file(path: Path, denoiser: Denoiser, job: Job) -> Outcome:
    """Denoise one file and write the result with a before/after picture.

    Raises
    ------
    ModelError, OSError
        If the file cannot be read, denoised or written.
    """
    started = time.monotonic()
    picture = read_picture(path)
    domain = job.domain or picture.domain
    exposure = toward_exposure(picture, picture.frames, domain)
    result = denoiser.denoise(exposure, domain=domain, strength=job.strength, mask=picture.mask)
    result = replace(result, frames=toward_exposure(picture, result.frames, domain))
    relative = path.relative_to(job.source).parent if job.source.is_dir() else Path()
    description = (
        f"Noise reduced by {denoiser.name} (SHA-256 {denoiser.digest[:12]}) at strength {result.strength:.2f}"
        if result.enhanced
        else "Noise reduction refused; pixel values unchanged"
    )
    quality = _against_reference(picture, result.frames, job.reference, relative)
    written = write_picture(picture, result.frames, job.output / relative, description=description)
    preview = comparison(picture.frames[0], result.frames[0])
    sitk.WriteImage(sitk.GetImageFromArray(preview), str(written.with_name(written.stem + "_comparison.png")))
    return Outcome(
        file=str(path),
        written=str(written),
        enhanced=result.enhanced,
        strength=result.strength,
        noise_before=result.noise_before,
        noise_after=result.noise_after,
        reasons=result.reasons,
        seconds=round(time.monotonic() - started, 3),
        quality=quality,
    )


def _against_reference(
    picture: Picture, frames: NDArray[np.float32], reference: Path | None, relative: Path
) -> Quality | None:
    path = reference / relative / picture.path.name if reference is not None else None
    if path is None or not path.is_file():
        return None
    truth = read_picture(path).frames
    if truth.shape != frames.shape:
        raise UnsupportedInput(f"{path.name}: the reference has the shape {truth.shape}, the image {frames.shape}")
    after = to_stored(picture, frames)[0].astype(np.float32)
    before = picture.frames[0]
    return Quality(
        psnr_db=(psnr(before, truth[0]), psnr(after, truth[0])),
        ssim=(ssim(before, truth[0]), ssim(after, truth[0])),
        mse=(mse(before, truth[0]), mse(after, truth[0])),
    )


def run(job: Job, denoiser: Denoiser, console: Console) -> list[Outcome]:
    """Denoise every image of the folder; a file that fails is reported and the others go on."""
    outcomes = []
    for path in track(find_images(job.source), description="denoising", console=console):
        try:
            outcomes.append(denoise_file(path, denoiser, job))
        except (ModelError, OSError) as error:
            outcomes.append(
                Outcome(
                    file=str(path),
                    written=None,
                    enhanced=False,
                    strength=0.0,
                    noise_before=None,
                    noise_after=None,
                    seconds=0.0,
                    reasons=(),
                    error=str(error),
                )
            )
    return outcomes


def show(outcomes: list[Outcome], console: Console) -> None:
    """Print one line per file."""
    table = Table()
    for title in ("file", "result", "strength", "noise", "PSNR dB", "SSIM", "MSE", "s"):
        table.add_column(title)

    def arrow(pair: tuple[float | None, float | None] | None, digits: int) -> str:
        if pair is None or pair[0] is None or pair[1] is None:
            return ""
        return f"{pair[0]:.{digits}f} → {pair[1]:.{digits}f}"

    for o in outcomes:
        result = o.error or ("enhanced" if o.enhanced else "unchanged: " + "; ".join(o.reasons))
        q = o.quality
        figures = (arrow(q.psnr_db, 2), arrow(q.ssim, 4), arrow(q.mse, 2)) if q else ("", "", "")
        noise = arrow((o.noise_before, o.noise_after), 2)
        table.add_row(Path(o.file).name, result, f"{o.strength:.2f}", noise, *figures, f"{o.seconds:.1f}")
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run; 0: every file was handled, 1: some failed, 2: wrong arguments or no image found."""
    parser = argparse.ArgumentParser(prog="python -m model.infer", description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="folder or file: DICOM, PNG, TIFF, JPEG")
    parser.add_argument("--output", type=Path, default=Path("outputs/results"))
    parser.add_argument("--reference", type=Path, default=None, help="folder with high-dose images of the same names")
    parser.add_argument("--strength", default="standard", help="mild, standard, strong or a number from 0 to 1")
    parser.add_argument(
        "--domain",
        choices=["auto", *(d.value for d in Domain)],
        default="auto",
        help="relation of the values to exposure; auto: by DICOM attributes, pictures are display",
    )
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory-mb", type=int, default=1024)
    options = parser.parse_args(arguments)
    console = Console(file=sys.stderr)
    keep_freed_memory()
    try:
        job = Job(
            source=options.input,
            output=options.output,
            reference=options.reference,
            strength=parse_strength(options.strength),
            domain=None if options.domain == "auto" else Domain(options.domain),
        )
        denoiser = Denoiser.load(options.weights, device=options.device, memory_mb=options.memory_mb)
    except (ValueError, ModelError) as error:
        console.print(str(error))
        return 2
    if not options.input.exists() or not find_images(options.input):
        console.print(f"No DICOM, PNG, TIFF or JPEG image in {options.input}")
        return 2
    outcomes = run(job, denoiser, console)
    show(outcomes, Console())
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(
        json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n", encoding="utf-8"
    )
    return 1 if any(outcome.error for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
