"""Simulated abdominal CT intensities for a label map: plausible, not a physical model.

Nothing learnt on them says anything about clinical CT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom

# Raise it whenever the same arguments no longer give the same image.
GENERATION = 1
ORGANS = ("kidney", "liver")
_AIR, _FAT, _MUSCLE = -1000.0, -100.0, 55.0
_Path = Callable[[np.ndarray], np.ndarray]


def simulate_ct(
    label: np.ndarray,
    spacing: Sequence[float],
    seed: int | Sequence[int],
    organ: str = "kidney",
    axcodes: str = "RAS",
    slice_thickness: float | None = None,
) -> np.ndarray:
    """Contrast-enhanced abdominal CT around the organ and tumours of a label map, the same for the same arguments.

    Body outline, fat, muscle, spine, ribs, lungs, vessels, bowel and neighbouring organs are placed around the label;
    they are drawn anew for each seed, as are the contrast phase, the tumours' enhancement (below, near or above the
    organ's), necrosis, cysts and nodules that resemble tumours, noise and sharpness. The values of organ, tumour and
    surroundings overlap, so no threshold finds them. They follow common radiological ranges, not a physical model.

    Args:
        label: 0 background, 1 organ, 2 tumour, any axis order, shape (d0, d1, d2).
        spacing: voxel size in mm, one for each axis of ``label``.
        seed: of all that the label does not say; a sequence of integers is a seed too.
        organ: "kidney" or "liver": what the label shows.
        axcodes: to where the axes of ``label`` lead, as in ``monai.transforms.Orientation``; "IPL" for the arrays of
            KiTS19, "LPS" for slices stacked from bottom to top.
        slice_thickness: in mm, for the blur along the slices' axis (I or S) and the noise; the spacing along it
            if not given.

    Returns:
        Hounsfield units in [-1024, 3071], int16, shape of ``label``.

    Raises:
        ValueError: label, spacing, organ, axcodes or slice thickness cannot be used.

    Example:
        >>> from monai_kd.data import abdomen_labels
        >>> label = abdomen_labels(0, size=(48, 48, 32), spacing=(6, 6, 6))
        >>> image = simulate_ct(label, spacing=(6, 6, 6), seed=0)
        >>> image.dtype, image.shape, bool(100 < image[label == 1].mean() < 220)
        (dtype('int16'), (48, 48, 32), True)
    """
    label = _checked_label(label)
    check_geometry(label.shape, spacing, organ, axcodes)
    there = ornt_transform(axcodes2ornt(axcodes), axcodes2ornt("IPL"))
    back = ornt_transform(axcodes2ornt("IPL"), axcodes2ornt(axcodes))
    steps = [0.0, 0.0, 0.0]
    for step, axis in zip(spacing, there[:, 0].astype(int)):
        steps[axis] = float(step)
    thickness = steps[0] if slice_thickness is None else float(slice_thickness)
    if not (np.isfinite(thickness) and thickness > 0):
        raise ValueError(f"slice_thickness must be a positive number of mm, got {slice_thickness}.")
    image = _simulate(np.random.default_rng(seed), apply_orientation(label, there), steps, organ, thickness)
    return np.ascontiguousarray(apply_orientation(image, back))


def check_geometry(size: Sequence[int], spacing: Sequence[float], organ: str, axcodes: str) -> None:
    """Raise ``ValueError`` unless there is a 3D volume of that size, spacing in mm, organ and axis directions."""
    if len(size) != 3 or min(size) < 8:
        raise ValueError(f"expected a 3D volume of at least 8 voxels a side, got {tuple(size)}.")
    if len(spacing) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"spacing must be three positive numbers of mm, got {tuple(spacing)}.")
    if organ not in ORGANS:
        raise ValueError(f"organ must be one of {', '.join(ORGANS)}, got {organ!r}.")
    if len(axcodes) != 3 or any(len(set(axcodes) & set(pair)) != 1 for pair in ("LR", "PA", "IS")):
        raise ValueError(f"axcodes must have one of L and R, P and A, I and S, such as 'RAS'; got {axcodes!r}.")


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], steps: Sequence[float], grain: float) -> np.ndarray:
    """Correlated noise of about unit size, float32; ``grain`` is the length in mm over which it changes."""
    cells = [max(2, min(length, int(np.ceil(length * step / grain)) + 1)) for length, step in zip(shape, steps)]
    coarse = gaussian_filter(rng.standard_normal(cells, dtype=np.float32), 1.0, mode="nearest")
    coarse *= 1 / max(float(coarse.std()), 1e-3)
    factors = [length / count for length, count in zip(shape, cells)]
    return zoom(coarse, factors, order=1, mode="nearest", grid_mode=True)


def _checked_label(label: np.ndarray) -> np.ndarray:
    label = np.asarray(label)
    if label.ndim != 3:
        raise ValueError(f"label must have 3 axes, got shape {label.shape}.")
    values = np.unique(label)
    if not np.isin(values, (0, 1, 2)).all():
        shown = ", ".join(map(str, values[:6]))
        raise ValueError(f"label must hold 0 (background), 1 (organ) and 2 (tumour) only, got {shown}.")
    return label.astype(np.uint8)


# Below, axes are (z, y, x): z downwards, y backwards, x to the patient's left. Lengths are in mm from a point in the
# vertebral column at the level of the kidneys.


@dataclass(frozen=True)
class _Grid:
    """Positions of the voxels along each axis, and the distances between them."""

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    steps: tuple[float, float, float]

    def open(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z, y, x = self.axes
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def box(self, low: Iterable[float], high: Iterable[float]) -> tuple[tuple[slice, ...], _Grid]:
        """Voxels between two corners: their slices and their own grid."""
        where = tuple(
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, side="right")))
            for axis, a, b in zip(self.axes, low, high)
        )
        z, y, x = (axis[part] for axis, part in zip(self.axes, where))
        return where, _Grid((z, y, x), self.steps)


@dataclass(frozen=True)
class _Phase:
    """Enhancement (HU) of what takes up contrast medium, from early (0) to late (1)."""

    early: float

    def mix(self, first: float, last: float) -> float:
        return first + (last - first) * (1 - self.early)

    @property
    def aorta(self) -> float:
        return self.mix(270, 145)

    @property
    def veins(self) -> float:
        return self.mix(105, 150)

    @property
    def spleen(self) -> float:
        return self.mix(140, 115)


def _simulate(
    rng: np.random.Generator, label: np.ndarray, steps: Sequence[float], organ: str, thickness: float
) -> np.ndarray:
    z0, y0, x0 = _landmarks(rng, label, steps, organ)
    axes = [np.arange(length, dtype=np.float32) * step for length, step in zip(label.shape, steps)]
    grid = _Grid((axes[0] - z0, axes[1] - y0, axes[2] - x0), (steps[0], steps[1], steps[2]))
    phase = _Phase(early=rng.uniform())

    hu, depth, half_height = _body(rng, grid, label, organ)
    cavity = depth > 0
    _bowel(rng, grid, hu, cavity)
    _neighbours(rng, grid, hu, cavity, phase, organ)
    _spine(rng, grid, hu)
    _vessels(rng, grid, hu, phase)
    if label.any():
        _organ(rng, grid, hu, label, phase, organ)
    return _acquire(rng, grid, hu, depth, half_height, thickness)


def _landmarks(
    rng: np.random.Generator, label: np.ndarray, steps: Sequence[float], organ: str
) -> tuple[float, float, float]:
    """Level of the kidneys, front-to-back position of the vertebral bodies, and midline, in mm from the first voxel."""
    middle = [(length - 1) * step / 2 for length, step in zip(label.shape, steps)]
    jitter = rng.uniform(-1, 1, 3)
    points = np.argwhere(label == 1 if (label == 1).any() else label > 0) * np.asarray(steps)
    if not len(points):
        return middle[0], middle[1] + 40, middle[2]
    if organ == "kidney":
        left, right = np.percentile(points[:, 2], (2, 98))
        off = (left + right) / 2 - middle[2] if right - left > 120 else 0.0
        x0 = middle[2] + float(np.clip(off, -25, 25))
        return float(np.median(points[:, 0]) + 8 * jitter[0]), float(np.median(points[:, 1]) - 8 + 4 * jitter[1]), x0
    front, back = np.percentile(points[:, 1], (2, 98))
    bottom = np.percentile(points[:, 0], 98)
    return float(bottom - 15 + 10 * jitter[0]), float((front + back) / 2 + 48 + 5 * jitter[1]), middle[2]


def _body(rng: np.random.Generator, grid: _Grid, label: np.ndarray, organ: str) -> tuple[np.ndarray, np.ndarray, float]:
    """HU of body wall, fat and lungs; depth in mm below the wall (negative in it and outside); half the body's height.

    The outline is made wide enough for the label.
    """
    z, y, x = grid.open()
    half_width = float(np.clip(np.ptp(grid.axes[2]) / 2 * rng.uniform(0.82, 0.94), 130, 210))
    half_height = half_width * rng.uniform(0.66, 0.78)
    middle = 58 - half_height
    power = rng.uniform(2.1, 2.6)
    along = 1 + 0.03 * np.sin(z / rng.uniform(60, 110) + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    ratio = (np.abs(x / half_width) ** power + np.abs((y - middle) / half_height) ** power) ** (1 / power)
    ratio = ratio.astype(np.float32) / along
    if label.any():
        # The skin lies at least 14 mm from the label.
        grow = max(1.0, float(ratio[label > 0].max()) / (1 - 14 / half_height))
        ratio /= grow
        half_height *= grow
    skin = (1 - ratio) * half_height
    wall = rng.uniform(9, 15)
    fat = rng.uniform(6, 34)
    if label.any():
        fat = float(np.clip(np.percentile(skin[label > 0], 2) - wall, 4, fat))
    depth = skin - (fat * (1 + 0.15 * np.sin(3 * np.arctan2(y - middle, x) + rng.uniform(0, 6))) + wall)
    depth = depth.astype(np.float32)

    inside_fat = _FAT + rng.uniform(-6, 6)
    muscle = _MUSCLE + rng.uniform(-10, 10)
    hu = np.where(depth > 0, np.float32(inside_fat), np.float32(muscle))
    hu[depth < -wall] = inside_fat
    hu[skin < 0] = _AIR
    _ribs(rng, grid, hu, depth, wall)
    _lungs(rng, grid, hu, depth, label, organ)
    return hu, depth, half_height


def _ribs(rng: np.random.Generator, grid: _Grid, hu: np.ndarray, depth: np.ndarray, wall: float) -> None:
    """Oblique bars in the wall, above the kidneys' lower poles."""
    z, y, x = grid.open()
    angle = np.abs(np.arctan2(x, -(y + 40))) / np.pi  # 1 at the back, 0 in front
    height = z + 70 * angle + rng.uniform(0, 28)
    bar = np.abs((height / 28) % 1 - 0.5) * 28 < rng.uniform(4.0, 5.5)
    low = 20 + 45 * angle
    ribs = bar & (np.abs(depth + wall / 2) < 4.5) & (z < low) & (angle > 0.25)
    hu[ribs] = rng.uniform(280, 480)


def _lungs(
    rng: np.random.Generator, grid: _Grid, hu: np.ndarray, depth: np.ndarray, label: np.ndarray, organ: str
) -> None:
    """Air-filled tissue above two domes of the diaphragm, with mediastinum and heart between."""
    z, y, x = grid.open()
    top = -rng.uniform(130, 165)
    if organ == "liver" and label.any():
        top = float(grid.axes[0][np.flatnonzero(label.any(axis=(1, 2)))[0]]) - rng.uniform(2, 8)
    dome = top + ((np.abs(x) - 75) / 75) ** 2 * 35 + ((y + 50) / 80) ** 2 * 35
    above = (z < dome) & (depth > 1)
    hu[above] = rng.uniform(-880, -800)
    heart = (x - 15) ** 2 / 60**2 + (y + 75) ** 2 / 50**2 < 1
    hu[above & (heart | ((np.abs(x) < 28) & (y > -60)))] = rng.uniform(60, 130)


def _bowel(rng: np.random.Generator, grid: _Grid, hu: np.ndarray, cavity: np.ndarray) -> None:
    """Loops below the stomach and in front of the spine: wall, and fluid, contrast medium, stool or gas within."""
    z, y, x = grid.open()
    shape = hu.shape
    loops = smooth_noise(rng, shape, grid.steps, 14.0) + 0.25 * smooth_noise(rng, shape, grid.steps, 5.0)
    content = smooth_noise(rng, shape, grid.steps, 45.0)
    away = 20 * smooth_noise(rng, shape, grid.steps, 30.0)
    room = cavity & (z + away > -70 + 0.3 * np.abs(x)) & ((y + away < -32) | ((np.abs(x) + away > 75) & (y + away < 5)))
    level = rng.uniform(-0.3, 0.3)
    hu[room & (loops > level)] = rng.uniform(50, 110)
    lumen = room & (loops > level + 0.35)
    hu[lumen] = rng.uniform(10, 45)
    positive = rng.uniform(90, 240)
    hu[lumen & (content > rng.uniform(0.2, 2.0))] = positive
    hu[lumen & (content < rng.uniform(-1.6, -0.5)) & (y < -50)] = -900


def _neighbours(
    rng: np.random.Generator, grid: _Grid, hu: np.ndarray, cavity: np.ndarray, phase: _Phase, organ: str
) -> None:
    """The other organs, muscles along the spine, and nodules with the values of organs and tumours."""
    move = lambda *centre: tuple(np.asarray(centre) + rng.uniform(-8, 8, 3))  # noqa: E731
    scale = rng.uniform(0.85, 1.15)
    if organ == "kidney":
        liver = phase.mix(75, 112) + rng.uniform(-12, 12)
        _ellipsoid(hu, grid, move(-70, -50, -72), (80 * scale, 78, 72 * scale), liver, cavity)
        _ellipsoid(hu, grid, move(-85, -85, 5), (42, 42, 75 * scale), liver, cavity)
        _ellipsoid(hu, grid, move(-28, -80, -50), (28, 15, 15), rng.uniform(2, 20), cavity)  # gall bladder
    else:
        for side in (-1, 1):
            middle = move(25 + 6 * side, 8, 68 * side)
            _ellipsoid(hu, grid, middle, (52, 27, 27), phase.mix(190, 165), cavity)
            _ellipsoid(hu, grid, middle, (30, 10, 12), _FAT, cavity)
    _ellipsoid(hu, grid, move(-72, -8, 98), (50 * scale, 42, 30 * scale), phase.spleen + rng.uniform(-10, 10), cavity)
    stomach, fill = move(-68, -80, 45), rng.choice([rng.uniform(5, 45), rng.uniform(90, 200)], p=[0.7, 0.3])
    _ellipsoid(hu, grid, stomach, (38, 34, 48), rng.uniform(60, 100), cavity)
    _ellipsoid(hu, grid, stomach, (33, 29, 43), fill, cavity)
    if rng.random() < 0.7:
        _ellipsoid(hu, grid, (stomach[0], stomach[1] - 14, stomach[2]), (24, 13, 30), -900, cavity)
    _ellipsoid(hu, grid, move(-28, -48, 20), (13, 14, 55), rng.uniform(75, 115), cavity)  # pancreas
    for side in (-1, 1):
        colon = (rng.uniform(-4, 4) - 30, side * rng.uniform(98, 112))
        lumen = rng.choice([-850.0, rng.uniform(0, 60), rng.uniform(80, 180)])
        for radius, value in ((21.0, rng.uniform(45, 90)), (17.0, lumen)):
            _tube(hu, grid, _bend(rng, colon[0], 4), _bend(rng, colon[1], 6), radius, value, cavity, top=-20)
        muscle = _MUSCLE + rng.uniform(-8, 8)
        _tube(hu, grid, _bend(rng, 42, 1), _bend(rng, side * 33.0, 1), 25.0, muscle, None)
        _tube(hu, grid, _bend(rng, 4, 1), _bend(rng, side * 35.0, 2), 15.0, muscle, None, top=-15)
    for _ in range(rng.integers(4, 10)):
        middle = (rng.uniform(-70, 70), rng.uniform(-70, 25), rng.choice([-1, 1]) * rng.uniform(30, 105))
        radii = tuple(rng.uniform(6, 22) * rng.uniform(0.8, 1.25, 3))
        _ellipsoid(hu, grid, middle, radii, rng.uniform(10, 190), cavity)


def _spine(rng: np.random.Generator, grid: _Grid, hu: np.ndarray) -> None:
    z, y, x = grid.open()
    bone, shell, disc = rng.uniform(140, 240), rng.uniform(330, 520), rng.uniform(70, 110)
    unit = rng.uniform(32, 38)
    place = (z / unit + rng.uniform()) % 1
    column = np.sqrt((x / 24) ** 2 + (y / 18) ** 2)
    vertebra = np.where(column < 0.86, bone, shell)
    _put(hu, column < 1, np.where(place < 0.24, disc, vertebra))
    canal = np.sqrt(x**2 + (y - 29) ** 2)
    _put(hu, (canal < 17) & (place > 0.3), shell)
    _put(hu, (np.abs(x) < 42) & (np.abs(y - 27) < 4.5) & (np.abs(place - 0.6) < 0.14), shell)
    _put(hu, (np.abs(x) < 4) & (y > 40) & (y < 62) & (np.abs(place - 0.7) < 0.22), shell)
    _put(hu, canal < 9, 25.0)


def _vessels(rng: np.random.Generator, grid: _Grid, hu: np.ndarray, phase: _Phase) -> None:
    """Aorta, inferior vena cava, and the renal vessels towards both sides."""
    aorta = (-30 + rng.uniform(-3, 3), 9 + rng.uniform(-4, 4))
    cava = (-28 + rng.uniform(-3, 3), -20 + rng.uniform(-4, 4))
    _tube(hu, grid, _bend(rng, aorta[0], 3), _bend(rng, aorta[1], 4), rng.uniform(8, 12), phase.aorta, None)
    _tube(hu, grid, _bend(rng, cava[0], 3), _bend(rng, cava[1], 3), rng.uniform(9, 13), phase.veins, None)
    for side in (-1, 1):
        for start, value, radius in ((aorta, phase.aorta, 3.5), (cava, phase.veins, 5.5)):
            level = rng.uniform(-15, 10)
            end = (level + rng.uniform(0, 20), rng.uniform(-4, 10), side * rng.uniform(52, 62))
            _rod(hu, grid, (level, *start), end, radius * rng.uniform(0.8, 1.2), value)


def _organ(rng: np.random.Generator, grid: _Grid, hu: np.ndarray, label: np.ndarray, phase: _Phase, organ: str) -> None:
    """Paint organ and tumours in place, and for kidneys the fat around them."""
    margin = 20.0
    found = [np.flatnonzero(label.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low = [axis[points[0]] - margin for axis, points in zip(grid.axes, found)]
    high = [axis[points[-1]] + margin for axis, points in zip(grid.axes, found)]
    box, grid = grid.box(low, high)
    label, hu = label[box], hu[box]  # a view: hu is changed in place
    shape, steps = label.shape, grid.steps
    inside, tumour = label > 0, label == 2
    depth = distance_transform_edt(inside, sampling=steps).astype(np.float32)
    coarse = smooth_noise(rng, shape, steps, 14.0)
    fine = smooth_noise(rng, shape, steps, 4.0)
    if organ == "kidney":
        near = gaussian_filter(inside.astype(np.float32), [5.0 / step for step in steps])
        halo = np.clip(8 * (near - 0.12 - 0.12 * np.clip(coarse, 0, 2)), 0, 1) * ~inside
        hu += halo * (hu > -200) * (hu < 180) * (_FAT + rng.uniform(-5, 8) - hu)
        base = phase.mix(205, 165) + rng.uniform(-15, 15)
        core = phase.mix(110, 160) + rng.uniform(-10, 10)
        medulla = np.clip((depth - 6) / 4, 0, 1) * np.clip(0.6 + fine, 0, 1)
        tissue = base + medulla * (core - base)
        mean = base + 0.45 * (core - base)
    else:
        mean = base = phase.mix(90, 112) + rng.uniform(-12, 10)
        ridge = np.hypot(smooth_noise(rng, shape, steps, 20.0), smooth_noise(rng, shape, steps, 20.0))
        branch = np.clip((rng.uniform(0.22, 0.34) - ridge) / 0.1, 0, 1) * np.clip((depth - 4) / 10, 0, 1)
        tissue = base + branch * rng.uniform(25, 60)
    tissue += rng.uniform(3, 7) * coarse + rng.uniform(4, 9) * fine
    _cysts(rng, grid, tissue, label, organ, mean)
    if tumour.any():
        lesion = _lesion(rng, grid, tumour, mean, organ)
        blur = [rng.uniform(0.5, 3.0) / step for step in steps]
        here, there = gaussian_filter(tumour.astype(np.float32), blur), gaussian_filter((label == 1).astype("f4"), blur)
        share = here / np.maximum(here + there, 1e-6)
        tissue += share * (lesion - tissue)
    hu[inside] = tissue[inside]


def _cysts(
    rng: np.random.Generator, grid: _Grid, tissue: np.ndarray, label: np.ndarray, organ: str, mean: float
) -> None:
    """Round spots in the organ that are no tumours."""
    points = np.argwhere(label == 1)
    for _ in range(rng.integers(0, 5 if organ == "kidney" else 4)):
        place, radius = rng.uniform(), float(np.exp(rng.uniform(np.log(4), np.log(13))))
        value = rng.choice([rng.uniform(-5, 20), mean + rng.uniform(-75, -20)])
        if len(points):
            point = points[int(place * len(points))]
            centre = [float(axis[index]) for axis, index in zip(grid.axes, point)]
            _ellipsoid(tissue, grid, centre, (radius, radius, radius), value, None)


def _lesion(rng: np.random.Generator, grid: _Grid, tumour: np.ndarray, mean: float, organ: str) -> np.ndarray:
    """HU of tumour tissue over the whole box: enhancement relative to the organ, texture, necrosis in the depth."""
    shape, steps = tumour.shape, grid.steps
    kinds = ((-80, -40), (-45, -5), (5, 40)) if organ == "kidney" else ((-55, -30), (-32, -12), (12, 35))
    low, high = kinds[rng.choice(3, p=[0.4, 0.44, 0.16])]
    size = (18.0, 32.0) if organ == "kidney" else (8.0, 15.0)
    rough = smooth_noise(rng, shape, steps, 7.0) + 0.5 * smooth_noise(rng, shape, steps, 20.0)
    lesion = mean + rng.uniform(low, high) + rng.uniform(*size) * rough
    depth = distance_transform_edt(tumour, sampling=steps).astype(np.float32)
    start, value = rng.uniform(0.4, 1.1), rng.uniform(8, 35)
    if depth.max() > 8:
        dead = np.clip(5 * (depth / depth.max() + 0.2 * rough - start), 0, 1)
        lesion += dead * (value - lesion)
    return lesion.astype(np.float32)


def _acquire(
    rng: np.random.Generator, grid: _Grid, hu: np.ndarray, depth: np.ndarray, half_height: float, thickness: float
) -> np.ndarray:
    """Tissue texture, finite sharpness within and slice thickness across slices, and noise; int16.

    Noise grows with the body that X-rays pass, towards its middle, and with thinner slices.
    """
    size = np.where(hu > -300, np.float32(rng.uniform(3, 7)), np.float32(25) * (depth > 0))
    hu += size * smooth_noise(rng, hu.shape, grid.steps, 6.0)
    sharp = rng.uniform(0.8, 1.6)
    # 0.42 is the standard deviation of a bell with full width 1 at half its height.
    sigma = (0.42 * thickness / grid.steps[0], *(max(0.35, sharp / step) for step in grid.steps[1:]))
    hu = gaussian_filter(hu, sigma, mode="nearest", truncate=3.0)
    noise = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), (0, 0.6, 0.6), truncate=3.0)
    level = rng.uniform(7, 13) * np.exp((half_height - 110) / 90) * np.sqrt(3 / np.clip(thickness, 1, 6))
    noise *= level / float(noise.std())
    noise *= np.clip(0.6 + depth / 120, 0.4, 1.3)
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)


def _put(hu: np.ndarray, where: np.ndarray, value: np.ndarray | float) -> None:
    np.copyto(hu, np.asarray(value, dtype=np.float32), where=where)


def _bend(rng: np.random.Generator, middle: float, size: float) -> _Path:
    """A coordinate that swings around ``middle`` along z."""
    wave, start = rng.uniform(50, 90), rng.uniform(0, 2 * np.pi)
    return lambda z: middle + size * np.sin(z / wave + start)


def _mix(hu: np.ndarray, cover: np.ndarray, value: float, within: np.ndarray | None) -> None:
    if within is not None:
        cover = cover * within
    hu += cover * (np.float32(value) - hu)


def _ellipsoid(
    hu: np.ndarray,
    grid: _Grid,
    centre: Sequence[float],
    radii: Sequence[float],
    value: float,
    within: np.ndarray | None,
) -> None:
    """Paint in place; voxels at the border are mixed by how much of them is covered."""
    edge = max(grid.steps)
    low = [middle - radius - edge for middle, radius in zip(centre, radii)]
    high = [middle + radius + edge for middle, radius in zip(centre, radii)]
    box, part = grid.box(low, high)
    squares = [((axis - middle) / radius) ** 2 for axis, middle, radius in zip(part.open(), centre, radii)]
    ratio = np.sqrt(squares[0] + squares[1] + squares[2])
    cover = np.clip((1 - ratio) * min(radii) / min(grid.steps) + 0.5, 0, 1)
    _mix(hu[box], cover, value, None if within is None else within[box])


def _tube(
    hu: np.ndarray,
    grid: _Grid,
    y_path: _Path,
    x_path: _Path,
    radius: float,
    value: float,
    within: np.ndarray | None,
    top: float = -np.inf,
) -> None:
    """Paint in place a tube along z, from ``top`` downwards."""
    wide = radius + max(grid.steps)
    ys, xs = y_path(grid.axes[0]), x_path(grid.axes[0])
    box, part = grid.box((top, ys.min() - wide, xs.min() - wide), (np.inf, ys.max() + wide, xs.max() + wide))
    z, y, x = part.open()
    distance = np.hypot(y - y_path(z), x - x_path(z))
    cover = np.clip((radius - distance) / min(grid.steps[1:]) + 0.5, 0, 1)
    _mix(hu[box], cover, value, None if within is None else within[box])


def _rod(
    hu: np.ndarray, grid: _Grid, start: Sequence[float], end: Sequence[float], radius: float, value: float
) -> None:
    """Paint in place a straight piece of vessel."""
    wide = radius + max(grid.steps)
    low, high = np.minimum(start, end) - wide, np.maximum(start, end) + wide
    box, part = grid.box(low, high)
    away = [axis - first for axis, first in zip(part.open(), start)]
    way = np.asarray(end) - np.asarray(start)
    along = np.clip(sum(a * w for a, w in zip(away, way)) / float(way @ way), 0, 1)
    distance = np.sqrt(sum((a - along * w) ** 2 for a, w in zip(away, way)))
    _mix(hu[box], np.clip((radius - distance) / min(grid.steps) + 0.5, 0, 1), value, None)
