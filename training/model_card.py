"""Write ``docs/model-card.md`` from the manifest of the weights and the report of the evaluation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from model.manifest import find_manifest

DOSES = ("1/2", "1/4", "1/10")

INTENDED = """\
## Intended use

Reduction of quantum and electronic noise in low-dose projection radiographs between modality and PACS. The original
is kept and can always be forwarded. It is no medical device by itself, has seen no reader study, and a site should
test it with its own detectors and doses before clinical use.

## How it works

ResNet-18 encoder and UNet decoder estimate the *noise* of an image whose noise was made uniform first (variance
stabilising transform of a noise curve that is estimated blindly from each image). What is removed is limited:
never more than 3.5 standard deviations of a pixel, nothing coarser than 64 pixels, a preset share of it (mild 0.4,
standard 0.7, strong 0.9), and nothing at all where the noise estimate is poor.
"""

LIMITS = """\
## Limits, plainly

- There is no raw FOR PROCESSING data in training or evaluation: low dose is simulated by a detector model, the "true"
  image is a reduced radiograph (which holds a little noise of its own, so gains at high dose are understated and
  texture near that noise may be lost) or a procedural phantom.
- Only chest is plentiful among the radiographs; other body parts stand on phantoms and dead leaves.
- Texture finer than about 6 pixels whose contrast is below the noise (trabeculae) is partly taken with the noise at
  full strength; presets keep a share of it.
- Images that were filtered before, noise coarser than 3.5 pixels, photographs and drawings are refused or get the mild
  preset; not every such image is recognised.
- On images below about 250 pixels a side there are few flat blocks: the blind estimate is then up to twice too high and
  fine structure is lost (a 192 pixel chest phantom gains 3.0 dB blind, 6.0 dB with the law known).
- For FOR PRESENTATION images noise depends on more than the value; the estimate is the flattest areas' at each value.
"""


def write_card(manifest: dict[str, Any], report: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    training = manifest["training"]
    trained = manifest["trained_for"]
    lines = [
        f"# Model card: {manifest['name']}",
        "",
        "Written by `python -m training.model_card` from the weights' manifest and the evaluation; do not edit.",
        "",
        f"- architecture {manifest['architecture']}, width {manifest['width']}, {manifest['parameters'] / 1e6:.2f} M "
        f"parameters, stored as {manifest['precision']}",
        f"- SHA-256 `{manifest['sha256']}`",
        f"- trained {training['elapsed_s'] / 60:.0f} minutes, {training['steps']} steps, "
        f"{training['gigapixels']:.1f} gigapixels",
        f"- trained for {trained['quanta'][0]:g} to {trained['quanta'][1]:g} effective quanta per pixel at the median, "
        f"noise kernels of {trained['kernel_fwhm_px'][0]:g} to {trained['kernel_fwhm_px'][1]:g} px, "
        f"structure noise up to "
        f"{trained['structure'][1]:.0%}, noise assumed within {trained['sigma_error']:.0%}",
        "",
        INTENDED,
        "## Data",
        "",
        manifest["data"],
        "",
        "## Measured",
        "",
    ]
    if report["sha256"] != manifest["sha256"]:
        raise ValueError("the evaluation is of other weights than the manifest")
    lines += _measured(report)
    lines += ["", LIMITS]
    return "\n".join(lines)


def _measured(report: dict[str, Any]) -> list[str]:
    lines = [
        f"Full dose is {report['full_dose_quanta']:g} effective quanta per pixel at the median of the picture; "
        f"{report['seeds']} noise seed(s). Gains over the noisy input in dB in the stabilised domain, with the 95 % "
        'interval over patients; PSNR (range P99.9 - P0.1 of the field) and SSIM (log image). "Law known": the true '
        "noise is given, as it is to all classical filters, whose one parameter is tuned on a third of these images. "
        '"Blind": nothing is given. Our BM3D is 0.25 dB below the authors\' on white noise.',
    ]
    groups = sorted({(line["source"], line["kernel"]) for line in report["summary"]})
    for source, kernel in groups:
        members = [li for li in report["summary"] if (li["source"], li["kernel"]) == (source, kernel)]
        lines += [
            "",
            f"### {source}, {kernel} noise ({members[0]['patients']} patients)",
            "",
            "| method | " + " | ".join(f"dose {dose}" for dose in DOSES) + " |",
            "|---" * 4 + "|",
        ]
        for method in sorted({line["method"] for line in members}, key=_order):
            cells = [
                _cell(line) for dose in DOSES for line in members if line["method"] == method and line["dose"] == dose
            ]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def _order(method: str) -> tuple[int, str]:
    return (0 if method == "noisy" else 2 if method.startswith("ours") else 1, method)


def _cell(line: dict[str, Any]) -> str:
    low, high = line["interval_95"]
    figures = f"{line['psnr_db']:.1f} dB, {line['ssim']:.3f}"
    if line["method"] == "noisy":
        return figures
    return f"**{line['gain_stabilised_db']:+.2f}** ({low:.2f} .. {high:.2f}); {figures}"


def main(arguments: list[str] | None = None) -> int:
    """Write the card; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.model_card", description=__doc__)
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--evaluation", type=Path, default=Path("outputs/evaluation/evaluation.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/model-card.md"))
    options = parser.parse_args(arguments)
    manifest = json.loads(find_manifest(options.weights).read_text(encoding="utf-8"))
    report = json.loads(options.evaluation.read_text(encoding="utf-8"))
    options.output.write_text(write_card(manifest, report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
