"""B0 and B1 from WASABI by its exact signal: relaxation and what readouts leave are part of it.

The usual equation of four parameters (Schuenke et al., Magn. Reson. Med. 77 (2017) 571) knows
neither, which shifts B0 and B1 where the readout does not start every volume anew.
"""

from __future__ import annotations

from itertools import product

import jax.numpy as jnp
import numpy as np

from cestprep.inference import least_squares
from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate
from cestprep.inference.measured import Measured
from cestprep.inference.problem import InverseProblem, Observation, predict_voxels
from cestprep.inference.recipe import AUXILIARY, FreeParameter
from cestprep.inference.residual import estimate_of, fit_measured, fitted_again
from cestprep.physics.pools import PoolModel
from cestprep.physics.protocol import Protocol

#: Range that is searched: B0 in ppm, B1 relative to nominal.
B0_RANGE, B1_RANGE = (-1.5, 1.5), (0.2, 1.8)
#: Places at which a search begins; a step further away holds minima of its own.
_B0_STARTS, _B1_STARTS = np.linspace(-1.2, 1.2, 49), np.linspace(0.4, 1.6, 25)
#: T1 and T2 (s) for which signals are looked up: white and grey matter, fluid, and short ones.
_KINDS = np.array([(0.4, 0.03), (0.9, 0.07), (1.5, 0.1), (2.5, 0.3), (4.0, 1.5)]).T
#: A residual this many times the median one may be that of a wrong minimum; others lie this far
#: away, in ppm and in B1.
_BAD, _ELSEWHERE = 1.25, 0.2
#: Voxels looked up together.
_TOGETHER = 10_000


def wasabi_problem(protocol: Protocol) -> InverseProblem:
    """B0 and B1 of free water whose T1 and T2 are known."""
    free = (
        FreeParameter("B0", AUXILIARY["B0"], *B0_RANGE, "ppm", "field offset"),
        FreeParameter("B1", AUXILIARY["B1"], *B1_RANGE, "1", "transmit field over nominal"),
    )
    known = (AUXILIARY["T1"], AUXILIARY["T2"])
    return InverseProblem(protocol, PoolModel(()), free, (), known, "unit-norm")


def fit_wasabi(
    protocol: Protocol, observation: Observation, progress: Progress | None = None
) -> Estimate:
    """B0 (ppm) and B1 (relative) in each voxel.

    Parameters
    ----------
    protocol : Protocol
    observation : Observation
        Known parameters are T1 and T2 in s.
    progress : Progress, optional
    """
    measured = Measured.of(wasabi_problem(protocol), observation)
    if not measured.count:
        return measured.blank()
    fit = fit_measured(measured, least_squares.Options(), progress, _looked_up(measured))
    left = np.asarray(fit.residual_norm)
    bad = np.flatnonzero(~(left < _BAD * np.median(left)))
    elsewhere = _looked_up(measured.take(bad), avoid=np.asarray(fit.theta)[:, bad])
    return estimate_of(measured, fitted_again(measured, fit, bad, elsewhere))


def _looked_up(measured: Measured, avoid: np.ndarray | None = None) -> np.ndarray:
    """B0 and B1 whose signal is most like each voxel's, shape (2, F); not near ``avoid``."""
    places = np.array(list(product(_B0_STARTS, _B1_STARTS))).T
    away = np.log(measured.known[:, None]) - np.log(_KINDS[:, :, None])
    kind = np.argmin(np.sum(away**2, axis=0), axis=0)
    found = np.zeros((2, measured.count))
    for number in np.unique(kind):
        known = np.broadcast_to(_KINDS[:, number, None], (2, places.shape[1]))
        table = predict_voxels(measured.problem, jnp.asarray(places), jnp.asarray(known))
        of_kind = np.flatnonzero(kind == number)
        for first in range(0, of_kind.size, _TOGETHER):
            chosen = of_kind[first : first + _TOGETHER]
            likeness = np.asarray(table).T @ measured.data[:, chosen]
            if avoid is not None:
                near = np.abs(places[:, :, None] - avoid[:, None, chosen]).max(axis=0) < _ELSEWHERE
                likeness[near] = -np.inf
            found[:, chosen] = places[:, np.argmax(likeness, axis=0)]
    return found
