"""Estimation methods: one module each, found by its name; adding a method touches one file.

A module offers ``TITLE``, ``INTERVAL`` (what its credible intervals are) and
``estimate(problem, observation, seed=0, progress=None)``, returning an
`cestprep.inference.estimate.Estimate` for every voxel of the observation.  One that trains also
offers ``learn``, with the same arguments, whose result ``estimate`` takes as ``learned``.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol, cast

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate
from cestprep.inference.problem import InverseProblem, Observation


class Method(Protocol):
    """What a method's module offers."""

    TITLE: str
    INTERVAL: str

    def estimate(
        self,
        problem: InverseProblem,
        observation: Observation,
        seed: int = 0,
        progress: Progress | None = None,
        **learned: Any,
    ) -> Estimate:
        """Estimate all voxels of an observation."""
        ...


def names() -> tuple[str, ...]:
    """Names of the methods that exist."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def load(name: str) -> Method:
    """The module of a method.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in names():
        raise ValueError(f"no method '{name}'; there are {', '.join(names())}")
    return cast(Method, importlib.import_module(f"{__name__}.{name}"))
