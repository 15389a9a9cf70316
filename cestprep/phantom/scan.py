"""Scans of a digital head: tissue signals by exact physics, partial volume, motion, noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from cestprep.imaging.grid import Grid
from cestprep.imaging.transforms import apply
from cestprep.phantom.anatomy import BRAIN, Anatomy
from cestprep.phantom.smooth import smooth_field
from cestprep.phantom.tissues import HEAD_TISSUES

#: Grid on which signals of a tissue are computed; they vary as smoothly as tissues and fields do.
_COARSE_MM = 6.0
#: Relative SD of tissue parameters within a tissue, and its smoothness.
_VARIATION, _VARIATION_FWHM_MM = 0.03, 20.0
#: Spread of B0 (ppm), range of B1, smoothness of both.
_B0_SD, _B1_RANGE, _FIELD_FWHM_MM = 0.15, (0.7, 1.2), 90.0

#: From simulator parameters (V,) by name to signals (n, V).
SignalOf = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A head with everything a simulator asks, on a coarse grid in head coordinates.

    Attributes
    ----------
    anatomy : Anatomy
    coarse : Grid
    parameters : mapping of tissue to mapping of parameter to ndarray, shape (coarse voxels,)
        Package units; the same fields ``b0_ppm`` and ``b1_scale`` in each tissue.
    """

    anatomy: Anatomy
    coarse: Grid
    parameters: Mapping[str, Mapping[str, np.ndarray]]


def make_subject(anatomy: Anatomy, seed: int) -> Subject:
    """Give each tissue its parameters, with smooth variation, and the head its fields.

    Parameters
    ----------
    anatomy : Anatomy
    seed : int
    """
    rng = np.random.default_rng([seed, 72])
    spacing = anatomy.affine[0, 0]
    reach = (np.array(anatomy.brain.shape) - 1) * spacing
    shape = tuple(int(n) for n in np.ceil(reach / _COARSE_MM).astype(int) + 1)
    affine = np.diag([_COARSE_MM] * 3 + [1.0])
    affine[:3, 3] = anatomy.affine[:3, 3]
    coarse = Grid(shape, affine)  # type: ignore[arg-type]

    def field(fwhm_mm: float) -> np.ndarray:
        return smooth_field(shape, _COARSE_MM, fwhm_mm, rng).ravel().astype(float)

    fields = {"b0_ppm": _b0(coarse, field(_FIELD_FWHM_MM)), "b1_scale": _b1(coarse, field)}
    names = next(iter(HEAD_TISSUES.values()))
    varied = {name: 1 + _VARIATION * field(_VARIATION_FWHM_MM).clip(-3, 3) for name in names}
    parameters = {
        tissue: {**{name: value * varied[name] for name, value in means.items()}, **fields}
        for tissue, means in HEAD_TISSUES.items()
        if tissue in anatomy.fractions
    }
    return Subject(anatomy, coarse, parameters)


def _b0(coarse: Grid, smooth: np.ndarray) -> np.ndarray:
    """Smooth, with more of it above the sinuses."""
    x, y, z = coarse.points
    sinus = np.exp(-((x / 30) ** 2 + ((y - 55) / 25) ** 2 + ((z + 25) / 20) ** 2))
    field: np.ndarray = _B0_SD * smooth + 0.35 * sinus
    return field.clip(-0.6, 0.6)


def _b1(coarse: Grid, field: Callable[[float], np.ndarray]) -> np.ndarray:
    """Bright in the middle, as at 3 T."""
    x, y, z = coarse.points
    radius2 = (x / 80) ** 2 + ((y + 15) / 100) ** 2 + ((z - 10) / 90) ** 2
    scale: np.ndarray = 1.15 - 0.25 * radius2 + 0.03 * field(_FIELD_FWHM_MM)
    return scale.clip(*_B1_RANGE)


@dataclass(frozen=True)
class Blurred:
    """A subject as the voxels of a grid see it.

    Attributes
    ----------
    subject : Subject
    fractions : mapping of tissue to ndarray
        On the grid of the anatomy.
    near : mapping of tissue to ndarray of bool, shape (coarse voxels,)
        Where signals of a tissue matter.
    """

    subject: Subject
    fractions: Mapping[str, np.ndarray]
    near: Mapping[str, np.ndarray]


def blur(subject: Subject, grid: Grid) -> Blurred:
    """See a subject by voxels of a grid's size; the SD of a box of width w is w / sqrt(12)."""
    anatomy = subject.anatomy
    sigma = grid.voxel_mm / np.sqrt(12) / anatomy.affine[0, 0]
    fractions = {name: ndimage.gaussian_filter(f, sigma) for name, f in anatomy.fractions.items()}
    near = {name: _near(fractions[name], subject) for name in subject.parameters}
    return Blurred(subject, fractions, near)


@dataclass(frozen=True)
class Series:
    """What makes noise-free volumes, one at a time.

    Attributes
    ----------
    blurred : Blurred
    signals : mapping of tissue to ndarray, shape (n, coarse voxels)
    """

    blurred: Blurred
    signals: Mapping[str, np.ndarray]

    def volume(self, i: int, grid: Grid, pose: np.ndarray) -> np.ndarray:
        """Magnitude of volume ``i`` with the head at a pose (head to scanner), on a grid."""
        points = apply(np.linalg.inv(pose), grid.points)
        total = np.zeros(points.shape[1], np.float32)
        subject = self.blurred.subject
        coarse = subject.coarse
        for tissue, fraction in self.blurred.fractions.items():
            share = sample(fraction, subject.anatomy.affine, points)
            inside = share > 0
            signal = self.signals[tissue][i].reshape(coarse.shape)
            there = points[:, inside]  # fringes of WASABI are too narrow for straight lines
            total[inside] += share[inside] * sample(signal, coarse.affine, there, order=3)
        return total.reshape(grid.shape)


@dataclass(frozen=True)
class Truth:
    """What the voxels of a grid hold with the head at a pose.

    Attributes
    ----------
    blurred : Blurred
    grid : Grid
    pose : ndarray, shape (4, 4)
        Head to scanner.
    """

    blurred: Blurred
    grid: Grid
    pose: np.ndarray

    @cached_property
    def _points(self) -> np.ndarray:
        return apply(np.linalg.inv(self.pose), self.grid.points)

    @property
    def tissues(self) -> tuple[str, ...]:
        """Of the brain, in the order of `labels`."""
        return tuple(name for name in (*BRAIN, "lesion") if name in self.blurred.fractions)

    @cached_property
    def shares(self) -> np.ndarray:
        """Of the brain's tissues, shape (t, V)."""
        fractions, affine = self.blurred.fractions, self.blurred.subject.anatomy.affine
        return np.stack([sample(fractions[name], affine, self._points) for name in self.tissues])

    @cached_property
    def brain(self) -> np.ndarray:
        """Voxels at least half of which lie in the brain, shape of the grid."""
        anatomy = self.blurred.subject.anatomy
        inside = sample(anatomy.brain.astype(np.float32), anatomy.affine, self._points) >= 0.5
        return inside.reshape(self.grid.shape)

    @property
    def labels(self) -> np.ndarray:
        """Largest tissue of each voxel of the brain, from 1 on; 0 elsewhere."""
        largest = 1 + np.argmax(self.shares, axis=0).reshape(self.grid.shape)
        labels: np.ndarray = np.where(self.brain, largest, 0)
        return labels

    def parameter(self, name: str) -> np.ndarray:
        """Mean of a simulator parameter over the tissues of a voxel in the brain; 0 elsewhere."""
        subject, total = self.blurred.subject, np.zeros(self._points.shape[1], np.float32)
        coarse = subject.coarse
        for tissue, share in zip(self.tissues, self.shares, strict=True):
            values = subject.parameters[tissue][name].reshape(coarse.shape)
            total += share * sample(values, coarse.affine, self._points)
        mean = total / np.maximum(self.shares.sum(axis=0), 1e-6)
        return np.where(self.brain, mean.reshape(self.grid.shape), 0)


def sample(
    volume: np.ndarray, affine: np.ndarray, points: np.ndarray, order: int = 1
) -> np.ndarray:
    """Values at points ``(3, V)`` in mm; 0 outside fractions, the nearest value elsewhere."""
    index = apply(np.linalg.inv(affine), points)
    found: np.ndarray = ndimage.map_coordinates(
        np.asarray(volume, np.float32), index.astype(np.float32), order=order, mode="nearest"
    )
    return found


def make_series(blurred: Blurred, signal_of: SignalOf) -> Series:
    """Signals of every tissue for a scan.

    Parameters
    ----------
    blurred : Blurred
    signal_of : callable
        Simulated signals, in units of ``m0`` 1.
    """
    subject, near = blurred.subject, blurred.near
    names = next(iter(subject.parameters.values()))
    asked = {
        key: np.concatenate([p[key][near[tissue]] for tissue, p in subject.parameters.items()])
        for key in names
    }
    found = np.abs(signal_of(asked))
    ends = np.cumsum([inside.sum() for inside in near.values()])[:-1]
    parts = np.split(found, ends, axis=1)
    signals = {
        tissue: _spread(part, inside, subject.coarse.shape)
        for (tissue, inside), part in zip(near.items(), parts, strict=True)
    }
    return Series(blurred, signals)


#: Signals of a tissue are computed this many coarse voxels around it.
_MARGIN = 1.5


def _near(share: np.ndarray, subject: Subject) -> np.ndarray:
    """Coarse voxels in and around a tissue, shape (coarse voxels,)."""
    reach = int(np.ceil(_MARGIN * _COARSE_MM / subject.anatomy.affine[0, 0]))
    around = ndimage.maximum_filter((share > 0).astype(np.uint8), size=2 * reach + 1)
    return sample(around, subject.anatomy.affine, subject.coarse.points) > 0


def _spread(signals: np.ndarray, inside: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Signals ``(n, inside)`` on the whole coarse grid: elsewhere those of the nearest voxel."""
    order = np.zeros(inside.size, int)
    order[inside] = np.arange(inside.sum())
    away = ~inside.reshape(shape)
    nearest = ndimage.distance_transform_edt(away, return_distances=False, return_indices=True)
    spread: np.ndarray = signals[:, order.reshape(shape)[tuple(nearest)].ravel()]
    return spread


def receive_bias(grid: Grid, seed: int) -> np.ndarray:
    """Smooth receive sensitivity, fixed in the scanner; mean 1."""
    rng = np.random.default_rng([seed, 73])
    smooth = smooth_field(grid.shape, float(np.abs(grid.affine[:3, :3]).max()), 120.0, rng)
    bias: np.ndarray = np.exp(0.15 * smooth)
    bias /= bias.mean()
    return bias


def noisy(clean: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Rician magnitudes: noise of one SD in the real and the imaginary part."""
    real = clean + sd * rng.standard_normal(clean.shape)
    magnitude: np.ndarray = np.hypot(real, sd * rng.standard_normal(clean.shape))
    return magnitude.astype(np.float32)
