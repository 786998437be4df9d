"""Procedural radiographs with known truth: shapes, their path lengths, Beer-Lambert."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.textures import power_law_field

FloatArray = NDArray[np.float32]

DARKEST = 0.004
"""Transmission behind the collimator: scatter and leakage keep it above zero."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place on the detector, in units of its shorter side; (0, 0) is the centre."""

    y: float
    x: float


class _Scene:
    """Attenuation in nepers, to which bodies add the path length through them."""

    def __init__(self, rows: int, columns: int, rng: np.random.Generator) -> None:
        self.attenuation = np.zeros((rows, columns), dtype=np.float32)
        self.rng = rng
        self.unit = float(min(rows, columns))

    def box(self, low: Point, high: Point) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """Return the view of the attenuation inside a box with its y and x coordinates, None if outside."""
        rows, columns = self.attenuation.shape
        y0 = max(0, int(np.floor(low.y * self.unit + rows / 2)) - 1)
        y1 = min(rows, int(np.ceil(high.y * self.unit + rows / 2)) + 2)
        x0 = max(0, int(np.floor(low.x * self.unit + columns / 2)) - 1)
        x1 = min(columns, int(np.ceil(high.x * self.unit + columns / 2)) + 2)
        if y0 >= y1 or x0 >= x1:
            return None
        y = ((np.arange(y0, y1, dtype=np.float32) + 0.5 - rows / 2) / self.unit)[:, None]
        x = ((np.arange(x0, x1, dtype=np.float32) + 0.5 - columns / 2) / self.unit)[None, :]
        return self.attenuation[y0:y1, x0:x1], y, x

    def ellipsoid(self, centre: Point, radii: Point, nepers: float, *, tilt: float = 0.0, power: float = 2.0) -> None:
        """Add an ellipsoid that attenuates by ``nepers`` along its longest path (negative: a cavity)."""
        reach = max(radii.y, radii.x)
        found = self.box(Point(y=centre.y - reach, x=centre.x - reach), Point(y=centre.y + reach, x=centre.x + reach))
        if found is None:
            return
        view, y, x = found
        u = (x - centre.x) * np.cos(tilt) + (y - centre.y) * np.sin(tilt)
        v = -(x - centre.x) * np.sin(tilt) + (y - centre.y) * np.cos(tilt)
        inside = 1.0 - np.abs(u / radii.x) ** power - np.abs(v / radii.y) ** power
        view += np.float32(nepers) * np.sqrt(np.clip(inside, 0.0, None)).astype(np.float32)

    def tube(self, start: Point, end: Point, radius: float, nepers: float, *, wall: float = 1.0) -> None:
        """Add a cylinder; ``wall`` below 1 makes a cortical shell of that relative thickness around weak marrow."""
        low = Point(y=min(start.y, end.y) - radius, x=min(start.x, end.x) - radius)
        high = Point(y=max(start.y, end.y) + radius, x=max(start.x, end.x) + radius)
        found = self.box(low, high)
        if found is None:
            return
        view, y, x = found
        dy, dx = end.y - start.y, end.x - start.x
        length2 = max(dy * dy + dx * dx, 1e-12)
        along = ((y - start.y) * dy + (x - start.x) * dx) / length2
        off2 = ((y - start.y) * dx - (x - start.x) * dy) ** 2 / length2
        # Ends are cut square so that a chain of short tubes does not add up at its joints.
        within = (along >= 0) & (along < 1)
        path = np.sqrt(np.clip(1.0 - off2 / radius**2, 0.0, None))
        if wall < 1.0:
            inner = radius * (1.0 - wall)
            path = path - 0.75 * (inner / radius) * np.sqrt(np.clip(1.0 - off2 / inner**2, 0.0, None))
        view += np.float32(nepers) * np.where(within, path, 0.0).astype(np.float32)

    def chain(self, points: list[Point], radius: float, nepers: float, *, wall: float = 1.0) -> None:
        """Add tubes along a line of points."""
        for a, b in pairwise(points):
            self.tube(a, b, radius, nepers, wall=wall)

    def vessels(self, root: Point, angle: float, radius: float, nepers: float) -> None:
        """Grow a tree of tapering vessels; a thinner vessel attenuates less, as its path is shorter."""
        rng = self.rng
        stack = [(root, angle, radius)]
        while stack:
            at, heading, r = stack.pop()
            if r < 0.0007:
                continue
            length = float(rng.uniform(4.0, 9.0)) * r + 0.012
            end = Point(y=at.y + length * np.sin(heading), x=at.x + length * np.cos(heading))
            self.tube(at, end, r, nepers * r / radius)
            fork = rng.random() < 0.45
            for _ in range(2 if fork else 1):
                turn = float(rng.normal(0.0, 0.55 if fork else 0.2))
                taper = float(rng.uniform(0.68, 0.85) if fork else rng.uniform(0.88, 0.97))
                stack.append((end, heading + turn, r * taper))


def _arc(centre: Point, radii: Point, start: float, stop: float, *, slope: float = 0.0, steps: int = 28) -> list[Point]:
    angles = np.linspace(start, stop, steps)
    return [
        Point(y=float(centre.y + radii.y * np.sin(a) + slope * np.cos(a)), x=float(centre.x + radii.x * np.cos(a)))
        for a in angles
    ]


def _chest(scene: _Scene) -> None:
    rng = scene.rng
    wide, high = rng.uniform(0.42, 0.55), rng.uniform(0.55, 0.8)
    scene.ellipsoid(Point(y=0.1, x=0.0), Point(y=high, x=wide), rng.uniform(1.6, 2.6), power=rng.uniform(2.2, 3.5))
    for side in (-1, 1):
        lung = Point(y=rng.uniform(-0.06, 0.0), x=side * wide * 0.47)
        radii = Point(y=high * rng.uniform(0.42, 0.5), x=wide * rng.uniform(0.36, 0.42))
        scene.ellipsoid(lung, radii, -rng.uniform(0.8, 1.3), tilt=-0.12 * side, power=2.6)
        for _ in range(int(rng.integers(4, 8))):
            hilum = Point(y=lung.y + rng.uniform(-0.06, 0.06), x=side * wide * rng.uniform(0.15, 0.25))
            away = (0.0 if side > 0 else np.pi) + rng.normal(0.0, 0.9)
            scene.vessels(hilum, away, rng.uniform(0.006, 0.014), rng.uniform(0.15, 0.35))
        for k in range(int(rng.integers(7, 11))):
            y = -0.42 + 0.085 * k + rng.normal(0.0, 0.004)
            points = _arc(
                Point(y=y, x=0.0),
                Point(y=0.05 + 0.008 * k, x=wide * min(0.93, 0.55 + 0.06 * k)),
                -1.5,
                1.2,
                slope=-0.08,
            )
            points = [Point(y=p.y, x=side * p.x) for p in points]
            scene.chain(points, rng.uniform(0.009, 0.013), rng.uniform(0.25, 0.5), wall=rng.uniform(0.2, 0.4))
        collar = [Point(y=-0.36 - 0.05 * np.sin(t * 3), x=side * (0.05 + 0.38 * t)) for t in np.linspace(0, 1, 16)]
        scene.chain(collar, rng.uniform(0.012, 0.018), rng.uniform(0.4, 0.7), wall=0.3)
    scene.ellipsoid(Point(y=0.12, x=0.05), Point(y=0.2, x=rng.uniform(0.12, 0.2)), rng.uniform(0.8, 1.4), tilt=0.4)
    for k in range(14):
        middle = Point(y=-0.5 + 0.075 * k, x=float(rng.normal(0.0, 0.002)))
        scene.ellipsoid(middle, Point(y=0.03, x=0.045), rng.uniform(0.4, 0.8), power=6.0)
    if rng.random() < 0.5:  # a catheter or a lead
        line = [Point(y=-0.5 + 0.6 * t, x=0.08 * np.sin(4 * t + 1) + 0.1) for t in np.linspace(0, 1, 60)]
        scene.chain(line, rng.uniform(0.002, 0.004), rng.uniform(0.3, 1.5), wall=rng.choice([0.4, 1.0]))


def _limb(scene: _Scene) -> None:
    rng = scene.rng
    tilt = rng.normal(0.0, 0.25)
    count = int(rng.integers(1, 6))
    spread = rng.uniform(0.12, 0.2)
    for k in range(count):
        x = (k - (count - 1) / 2) * spread
        radius = rng.uniform(0.025, 0.05) if count > 2 else rng.uniform(0.05, 0.09)
        scene.chain(
            [Point(y=-0.9, x=x - 0.9 * np.sin(tilt)), Point(y=0.9, x=x + 0.9 * np.sin(tilt))],
            radius * rng.uniform(2.0, 2.6),
            rng.uniform(0.5, 1.1),
        )
        y = -0.75
        while y < 0.75:
            length = rng.uniform(0.2, 0.6)
            steps = np.linspace(0.0, 1.0, 160)
            for t0, t1 in pairwise(steps):
                flare = 1.0 + 0.45 * (2 * (t0 + t1) / 2 - 1) ** 4
                a = Point(y=y + t0 * length, x=x + np.sin(tilt) * (y + t0 * length))
                b = Point(y=y + t1 * length, x=x + np.sin(tilt) * (y + t1 * length))
                scene.tube(a, b, radius * flare, rng.uniform(0.98, 1.02) * 1.4, wall=0.18 + 0.1 * (2 * t0 - 1) ** 2)
            y += length + rng.uniform(0.008, 0.02)


def _pelvis(scene: _Scene) -> None:
    rng = scene.rng
    scene.ellipsoid(Point(y=0.0, x=0.0), Point(y=0.8, x=rng.uniform(0.5, 0.75)), rng.uniform(2.2, 3.6), power=3.0)
    for side in (-1, 1):
        wing = Point(y=-0.15, x=side * 0.24)
        scene.ellipsoid(wing, Point(y=0.17, x=0.12), rng.uniform(0.4, 0.8), tilt=0.5 * side, power=3.0)
        scene.chain(_arc(wing, Point(y=0.17, x=0.13), 0, 2 * np.pi, steps=40), 0.01, 0.4, wall=0.5)
        scene.ellipsoid(Point(y=0.12, x=side * 0.27), Point(y=0.06, x=0.06), 0.8)
        scene.chain(
            [Point(y=0.12, x=side * 0.27), Point(y=0.22, x=side * 0.36), Point(y=0.8, x=side * 0.33)],
            rng.uniform(0.045, 0.06),
            1.2,
            wall=0.25,
        )
        ring = _arc(Point(y=0.26, x=side * 0.1), Point(y=0.07, x=0.08), 0, 2 * np.pi, steps=36)
        scene.chain(ring, 0.018, 0.5, wall=0.4)
    for k in range(6):
        scene.ellipsoid(Point(y=-0.5 + 0.1 * k, x=0.0), Point(y=0.04, x=0.06), rng.uniform(0.5, 0.9), power=6.0)
    for _ in range(int(rng.integers(3, 12))):  # bowel gas
        scene.ellipsoid(
            Point(y=rng.uniform(-0.5, 0.1), x=rng.uniform(-0.3, 0.3)),
            Point(y=rng.uniform(0.015, 0.06), x=rng.uniform(0.02, 0.08)),
            -rng.uniform(0.1, 0.5),
        )


def _angiogram(scene: _Scene) -> None:
    rng = scene.rng
    scene.ellipsoid(Point(y=0.0, x=0.0), Point(y=rng.uniform(0.5, 0.9), x=rng.uniform(0.5, 0.9)), rng.uniform(1.5, 3.0))
    for _ in range(int(rng.integers(2, 6))):
        root = Point(y=rng.uniform(-0.5, 0.5), x=rng.uniform(-0.5, 0.5))
        scene.vessels(root, rng.uniform(0, 2 * np.pi), rng.uniform(0.01, 0.028), rng.uniform(0.4, 1.6))
    for _ in range(int(rng.integers(2, 6))):
        scene.ellipsoid(
            Point(y=rng.uniform(-0.5, 0.5), x=rng.uniform(-0.5, 0.5)),
            Point(y=rng.uniform(0.05, 0.4), x=rng.uniform(0.05, 0.4)),
            rng.normal(0.0, 0.5),
        )


def _textures(scene: _Scene) -> None:
    """Give bone its trabeculae and soft tissue its cloudiness; both follow the attenuation present."""
    rng = scene.rng
    a = scene.attenuation
    shape = (a.shape[0], a.shape[1])
    bone = np.clip(a - ndimage.gaussian_filter(a, 0.06 * scene.unit, truncate=2.0), 0.0, 0.6)
    fine = rng.standard_normal(shape, dtype=np.float32)
    s = rng.uniform(0.8, 2.0)
    stripes = ndimage.gaussian_filter(fine, (s * rng.uniform(1.0, 2.5), s)) - ndimage.gaussian_filter(fine, 3 * s)
    stripes /= max(float(stripes.std()), 1e-9)
    a += np.float32(rng.uniform(0.02, 0.12)) * bone * stripes
    soft = np.clip(a, 0.0, 1.0)
    a += np.float32(rng.uniform(0.004, 0.03)) * soft * power_law_field(shape, rng.uniform(2.0, 3.2), rng)


def _line_pairs(scene: _Scene, centre: Point, nepers: float) -> None:
    """Add bar groups of 2 to 12 pixels per line pair."""
    x = centre.x
    for period_px in (2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0):
        width = max(4.0 * period_px, 10.0) / scene.unit
        found = scene.box(Point(y=centre.y, x=x), Point(y=centre.y + 0.04, x=x + width))
        if found is not None:
            view, _, xs = found
            bars = np.mod((xs - x) * scene.unit, period_px) < period_px / 2
            view += np.float32(nepers) * bars.astype(np.float32)
        x += width + 0.01


def _contrast_detail(scene: _Scene, centre: Point, nepers: float) -> None:
    """Add a grid of discs: contrast halves from row to row, diameter from column to column."""
    for i in range(5):
        for j in range(5):
            at = Point(y=centre.y + 0.035 * i, x=centre.x + 0.035 * j)
            radius = 0.012 / 1.6**j
            found = scene.box(Point(y=at.y - radius, x=at.x - radius), Point(y=at.y + radius, x=at.x + radius))
            if found is None:
                continue
            view, y, x = found
            edge = np.clip((radius - np.hypot(y - at.y, x - at.x)) * scene.unit + 0.5, 0.0, 1.0)
            view += np.float32(nepers / 2**i) * edge.astype(np.float32)


def _inserts(scene: _Scene, rng: np.random.Generator) -> None:
    _line_pairs(scene, Point(y=rng.uniform(-0.4, 0.35), x=rng.uniform(-0.45, 0.0)), rng.uniform(0.08, 0.5))
    _contrast_detail(scene, Point(y=rng.uniform(-0.4, 0.2), x=rng.uniform(-0.4, 0.2)), rng.uniform(0.1, 0.4))


def _collimate(transmission: FloatArray, rng: np.random.Generator) -> None:
    rows, columns = transmission.shape
    y = np.arange(rows, dtype=np.float32)[:, None]
    x = np.arange(columns, dtype=np.float32)[None, :]
    top, bottom = rng.uniform(0.0, 0.1, 2) * rows
    left, right = rng.uniform(0.0, 0.1, 2) * columns
    soft = rng.uniform(1.0, 4.0)
    inside = np.minimum(np.minimum(y - top, rows - bottom - y), np.minimum(x - left, columns - right - x))
    open_part = np.clip(inside / soft + 0.5, 0.0, 1.0)
    transmission *= open_part + (1 - open_part) * np.float32(rng.uniform(0.01, 0.05))


ANATOMIES = {"chest": _chest, "limb": _limb, "pelvis": _pelvis, "angiogram": _angiogram}


def phantom(rows: int, columns: int, seed: int, *, anatomy: str | None = None, inserts: bool = True) -> FloatArray:
    """Draw a radiograph whose noise-free truth is known.

    Bodies with the path lengths of ellipsoids and tubes (soft tissue, lungs, ribs, hollow bones, vessel trees),
    trabecular and cloudy texture, line pairs and contrast-detail discs, seen through Beer-Lambert with a little
    focal blur and a collimated border.

    Parameters
    ----------
    rows, columns
        Size in pixels, at least 16 each.
    seed
        The same seed gives the same picture on one machine.
    anatomy
        One of ``ANATOMIES``; None lets the seed choose.
    inserts
        Whether line pairs and contrast discs are added.

    Returns
    -------
    Shape ``(rows, columns)``: transmission in ``(0, 1]``, 1 is the unattenuated beam.
    """
    rng = np.random.default_rng(seed)
    scene = _Scene(rows, columns, rng)
    kind = anatomy or str(rng.choice(sorted(ANATOMIES)))
    ANATOMIES[kind](scene)
    np.clip(scene.attenuation, 0.0, 6.0, out=scene.attenuation)
    _textures(scene)
    if inserts:  # a generator of their own: the rest of the picture is the same with and without them
        _inserts(scene, np.random.default_rng((seed, 1)))
    blurred = ndimage.gaussian_filter(np.exp(-np.clip(scene.attenuation, 0.0, 6.0)), rng.uniform(0.4, 0.8))
    if rng.random() < 0.7:
        _collimate(blurred, rng)
    return np.asarray(np.clip(blurred, DARKEST, 1.0), dtype=np.float32)
