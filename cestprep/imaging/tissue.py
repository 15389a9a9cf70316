"""White matter, grey matter and CSF from T1 and the template's priors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

#: In the order of the labels and of priors.
TISSUES = ("WM", "GM", "CSF")
#: Where the search begins: T1 at 3 T in s, and SD of its logarithm.
_START_T1_S, _START_SD = (0.95, 1.4, 3.8), (0.1, 0.12, 0.3)


@dataclass(frozen=True)
class Options:
    """How much neighbours and template count.

    Attributes
    ----------
    prior_power : float
        Exponent of the template's probabilities; below 1 they persuade less.
    neighbours : float
        Strength of the Markov field.
    iterations : int
    least_prior : float
        Probability that the template leaves to every tissue.
    """

    prior_power: float = 0.5
    neighbours: float = 0.3
    iterations: int = 20
    least_prior: float = 0.005


def segment(
    t1_s: np.ndarray, brain: np.ndarray, priors: np.ndarray, options: Options | None = None
) -> np.ndarray:
    """Probabilities of the tissues.

    Three Gaussians on log T1 and two classes of partial volume between them, whose voxels go to
    the tissue that is nearer; expectation-maximisation with the template's priors and a mean-field
    Markov field (as in Van Leemput et al., IEEE TMI 18 (1999) 897).

    Parameters
    ----------
    t1_s : ndarray, shape (x, y, z)
    brain : ndarray of bool, shape (x, y, z)
        Voxels without a positive, finite T1 are left out.
    priors : ndarray, shape (3, x, y, z)
        Of white matter, grey matter, CSF.

    Returns
    -------
    ndarray of float32, shape (3, x, y, z)
        0 outside the brain, else adding up to 1.
    """
    chosen = options or Options()
    inside = brain & np.isfinite(t1_s) & (t1_s > 0)
    x = np.log(t1_s[inside])
    template = np.clip(priors[:, inside], chosen.least_prior, 1) ** chosen.prior_power
    prior = _with_mixtures(template / template.sum(axis=0))
    around = _Neighbours(inside)
    share = prior / prior.sum(axis=0)
    mean, sd = np.log(_START_T1_S), np.array(_START_SD)
    for step in range(chosen.iterations):
        field = chosen.neighbours * around.sum(share) if step > 3 else 0.0
        share = _densities(x, mean, sd) * prior * np.exp(field)
        share = (share + 1e-300) / (share + 1e-300).sum(axis=0)
        mean, sd = _moments(x, share[:3])
    pure = share[:3]
    for mixture, (a, b) in zip(share[3:], ((0, 1), (1, 2)), strict=True):
        first = np.abs(x - mean[a]) < np.abs(x - mean[b])
        pure[a] += np.where(first, mixture, 0)
        pure[b] += np.where(first, 0, mixture)
    found = np.zeros((3, *brain.shape), np.float32)
    found[:, inside] = pure
    return found


def _with_mixtures(prior: np.ndarray) -> np.ndarray:
    """Priors of the tissues and of the two mixtures between neighbours in T1."""
    mixed = [0.5 * np.sqrt(prior[0] * prior[1]), 0.5 * np.sqrt(prior[1] * prior[2])]
    return np.concatenate([prior, np.stack(mixed)])


def _densities(x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Of log T1 in the five classes, shape (5, V)."""
    steps = np.diff(mean)
    means = np.concatenate([mean, mean[:-1] + steps / 2])
    sds = np.concatenate([sd, np.abs(steps) / 4])
    away = (x - means[:, None]) / sds[:, None]
    density: np.ndarray = np.exp(-0.5 * away**2) / sds[:, None]
    return density


def _moments(x: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight = share.sum(axis=1)
    mean = (share * x).sum(axis=1) / weight
    variance = (share * (x - mean[:, None]) ** 2).sum(axis=1) / weight
    return mean, np.maximum(np.sqrt(variance), 0.02)


class _Neighbours:
    """Sums over the six neighbours of each voxel inside a mask."""

    def __init__(self, inside: np.ndarray) -> None:
        self._inside = inside
        self._cross = ndimage.generate_binary_structure(3, 1).astype(np.float32)
        self._cross[1, 1, 1] = 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums of values ``(k, V)``."""
        sums = np.empty_like(values)
        for i, row in enumerate(values):
            volume = np.zeros(self._inside.shape, np.float32)
            volume[self._inside] = row
            sums[i] = ndimage.convolve(volume, self._cross, mode="constant")[self._inside]
        return sums


#: The rough brain is grown by this many voxels where images are compared.
_MARGIN = 2


def head_of(volume: np.ndarray) -> np.ndarray:
    """Roughly the brain in an unsaturated volume and some more: where images are compared."""
    return grown(rough_brain(volume))


def grown(rough: np.ndarray) -> np.ndarray:
    """A rough brain, and some more."""
    more: np.ndarray = ndimage.binary_dilation(rough, iterations=_MARGIN)
    return more


def rough_brain(image: np.ndarray) -> np.ndarray:
    """Roughly the brain in an unsaturated image: bright, in one piece, without holes.

    Parameters
    ----------
    image : ndarray, shape (x, y, z)
        Bone must be dark and fat suppressed.
    """
    from skimage.filters import threshold_otsu

    bright = image > threshold_otsu(image[image > 0] if (image > 0).any() else image)
    opened = ndimage.binary_opening(bright, iterations=2)
    pieces, count = ndimage.label(opened)
    if not count:
        return np.asarray(bright)
    largest = 1 + int(np.argmax(ndimage.sum(opened, pieces, range(1, count + 1))))
    filled: np.ndarray = ndimage.binary_fill_holes(pieces == largest)
    return filled
