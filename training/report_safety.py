"""Sections on the blind noise estimate, on the guards and on real noise."""

from __future__ import annotations

from training.findings import estimation_words, guard_words, percent
from training.plots import Mark, Point, dot_panels
from training.report_parts import Line, Picture, Section, across, table_of


def estimation_section(estimation: Line) -> Section:
    """Return how far the blind noise estimate is from the truth, beside two common estimators."""
    rows = estimation.get("rows") or []
    points = [
        Point(
            panel=str(row["background"]),
            row=f"{row['kernel']}, {row['size_px']} px",
            series=name,
            value=100 * float(row[key]),
        )
        for row in rows
        for name, key in _ESTIMATORS
        if row.get(key) is not None
    ]
    picture = Picture(
        source=dot_panels(
            points,
            xlabel="error of the estimated sigma (%)",
            marks=[Mark(value=0.0, meaning="right")],
            series=[name for name, _ in _ESTIMATORS],
        ),
        alt="Error of the noise estimate per condition",
        caption="Relative error of the estimated standard deviation by correlation of the noise, size of the image and "
        "background; a dot for each exposure. Left of zero: noise is underestimated.",
    )
    quanta = sorted({float(row["quanta"]) for row in rows})
    table = across(
        "Error of the estimated sigma: ours / Immerkaer / Haar MAD (%)",
        rows,
        keys=(("background", "background"), ("kernel", "noise"), ("size_px", "side (px)")),
        over="quanta",
        columns={value: f"{value:g} quanta per pixel" for value in quanta},
        cell=lambda row: " / ".join(_percentage(row.get(key)) for _, key in _ESTIMATORS),
    )
    text = [
        "The denoiser must know how much noise there is before it removes any. Immerkaer's estimator and the Haar MAD "
        "assume white noise: on detector noise, which is correlated, they see too little.",
        *estimation_words(estimation),
    ]
    if estimation.get("how"):
        text.append(f"How: {estimation['how']}.")
    return Section(
        anchor="estimation",
        title="Blind noise estimation",
        text=tuple(text),
        pictures=(picture,) if points else (),
        tables=(table,) if rows else (),
    )


_ESTIMATORS = (("ours", "ours_error"), ("Immerkaer", "immerkaer_error"), ("Haar MAD", "haar_mad_error"))


def _percentage(value: float | None) -> str:
    return "–" if value is None else percent(value).removesuffix(" %")


def guards_section(guards: Line) -> Section:
    """Return how often the guards hold back a good image, and what they do with each bad one."""
    alarms = guards.get("false_alarms") or {}
    domains = [{"domain": name, **counts} for name, counts in (alarms.get("by_domain") or {}).items()]
    reasons = [{"reason": reason, "times": times} for reason, times in (alarms.get("reasons") or {}).items()]
    tables = [
        table_of("False alarms by kind of pixel values", domains, _DOMAIN_COLUMNS),
        table_of("Reasons of the false alarms", reasons, (("reason", "reason"), ("times", "times"))),
        table_of("What the guards do with images made to set them off", guards.get("cases") or [], _GUARD_COLUMNS),
    ]
    return Section(
        anchor="guards",
        title="Guards",
        text=(
            "The guards should let low-dose radiographs pass and hold back what the network does not know.",
            *guard_words(guards),
        ),
        tables=tuple(table for table in tables if table.rows),
    )


_DOMAIN_COLUMNS = (("domain", "values"), ("images", "images"), ("refused", "refused"), ("lowered", "lowered"))
_GUARD_COLUMNS = (
    ("case", "case"),
    ("expected", "expected"),
    ("decision", "decision"),
    ("as_expected", "as expected"),
    ("strength", "strength"),
    ("reasons", "reasons"),
)


def real_noise_section(real_noise: Line) -> Section:
    """Return scenes with real photon noise and a truth by averaging, and real open fields beside simulated ones."""
    scenes = [{**scene, "scene": _scene(scene)} for scene in real_noise.get("scenes") or []]
    points = [
        Point(panel="", row=scene["scene"], series=words, value=float(scene[key]))
        for scene in scenes
        for key, words in (("gain_db_0.7", "strength 0.7"), ("gain_db", "full strength"))
        if scene.get(key) is not None
    ]
    picture = Picture(
        source=dot_panels(points, xlabel="gain over the single frame (dB)", marks=[Mark(value=0.0, meaning="no gain")]),
        alt="Gain on scenes with real noise",
        caption="Gain on single frames of scenes with real noise, against references from other frames.",
    )
    tables = [
        table_of("Scenes", scenes, _SCENE_COLUMNS),
        table_of("Notes on the scenes", scenes, _NOTE_COLUMNS),
        table_of("The simulator beside real open fields", real_noise.get("open_fields") or [], _FIELD_COLUMNS),
    ]
    return Section(
        anchor="real-noise",
        title="Real noise",
        text=(
            "The noise of these scenes is not simulated: an object at rest was taken many times, and other frames "
            "of it stand for the truth. Open fields show how near simulated noise comes to real noise.",
        ),
        pictures=(picture,) if points else (),
        tables=tuple(table for table in tables if table.rows and len(table.columns) > 1),
    )


_SCENE_COLUMNS = (
    ("name", "scene"),
    ("frames", "frames"),
    ("noise_sigma_measured", "σ by repetition"),
    ("noise_sigma_estimated", "σ estimated"),
    ("error_at_median", "error at the median (%)"),
    ("error_over_values", "error over all values (%)"),
    ("correlation_1px", "correlation at 1 px"),
    ("gain_db_0.7", "gain, 0.7 (dB)"),
    ("gain_db", "gain, full (dB)"),
    ("least_strength_left", "least strength the guards left"),
)
_NOTE_COLUMNS = (
    ("name", "scene"),
    ("condition", "condition"),
    ("guard", "guards"),
    ("how", "how"),
    ("note", "note"),
)
_FIELD_COLUMNS = (
    ("name", "field"),
    ("mean", "mean"),
    ("sigma", "σ"),
    ("correlation_1px", "correlation at 1 px"),
    ("variance_error", "variance, simulated against real (%)"),
    ("nps_error_median", "noise spectrum, median ring (%)"),
    ("nps_error", "noise spectrum, worst ring (%)"),
)


def _scene(scene: Line) -> str:
    condition = scene.get("condition")
    return f"{scene['name']}: {condition}" if condition else str(scene["name"])
