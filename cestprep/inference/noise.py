"""Noise of one volume, from sources that do not depend on the fit.

A fit's own residual mixes noise with misfit, so a p-value from it would be circular; it is the last
resort and says so (`RESIDUAL`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESIDUAL = "residual"
#: Mean over SD of pure Rayleigh noise, and how far a background may be from it.
_RAYLEIGH_RATIO, _RATIO_TOLERANCE = 1.9131, 0.12
_FEWEST_BACKGROUND, _FEWEST_REPEATS = 200, 50
_REPEATS_AGREE = 0.05


@dataclass(frozen=True)
class Noise:
    """SD of one volume's noise in the units of the data, and where it was found.

    Attributes
    ----------
    sd : float
    source : {"option", "background", "repeated M0"}
    """

    sd: float
    source: str


def background_sd(samples: np.ndarray) -> float | None:
    """SD of the noise behind magnitudes of air, None if they do not look like it.

    Where there is no signal, magnitudes of one coil follow a Rayleigh distribution: its median is
    sd * sqrt(2 ln 2), less prone to ghosts than its mean.  Reconstructions that mask, filter or
    combine coils otherwise have another ratio of mean to SD, and are turned down.

    Parameters
    ----------
    samples : ndarray
        Magnitudes outside the object.

    Returns
    -------
    float or None
        In the units of the samples.  Source: Gudbjartsson & Patz, MRM 34 (1995) 910-914.
    """
    air = samples[np.isfinite(samples)]
    if air.size < _FEWEST_BACKGROUND or np.mean(air == 0) > 0.01:
        return None
    air = air[air <= np.percentile(air, 99.5)]
    if air.std() <= 0 or abs(air.mean() / air.std() / _RAYLEIGH_RATIO - 1) > _RATIO_TOLERANCE:
        return None
    return float(np.median(air) / np.sqrt(2 * np.log(2)))


def repeated_sd(repeats: np.ndarray) -> float | None:
    """SD of the noise from volumes acquired alike, None if they are too few or differ in level.

    Parameters
    ----------
    repeats : ndarray, shape (n_repeats, V)
        At least two volumes of one contrast in the same voxels.

    Returns
    -------
    float or None
        Median over voxels, so that pulsation in some does not count.
    """
    good = np.isfinite(repeats).all(axis=0) & (repeats > 0).all(axis=0)
    if repeats.shape[0] < 2 or good.sum() < _FEWEST_REPEATS:
        return None
    levels = np.median(repeats[:, good] / repeats[:, good].mean(axis=0), axis=1)
    if np.ptp(levels) > _REPEATS_AGREE:
        return None
    scaled = repeats[:, good] / levels[:, None]
    dof = repeats.shape[0] - 1
    variance = scaled.var(axis=0, ddof=1)
    # median of a chi-square with dof degrees of freedom over dof (Wilson-Hilferty)
    centre = (1 - 2 / (9 * dof)) ** 3 if dof > 1 else 0.4549
    return float(np.sqrt(np.median(variance) / centre))


def find(
    given_sd: float | None, background: np.ndarray | None, repeats: np.ndarray | None
) -> Noise | None:
    """The first source that holds, in order of trust; None leaves the residual.

    Parameters
    ----------
    given_sd : float or None
        On the user's word, in the units of the data.
    background : ndarray or None
        Magnitudes outside the object.
    repeats : ndarray or None, shape (n_repeats, V)
    """
    if given_sd is not None:
        return Noise(given_sd, "option")
    air = None if background is None else background_sd(background)
    if air is not None:
        return Noise(air, "background")
    again = None if repeats is None else repeated_sd(repeats)
    return None if again is None else Noise(again, "repeated M0")
