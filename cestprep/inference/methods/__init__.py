"""Estimation methods: one module each, found by its name; adding a method touches one file.

A module offers ``TITLE``, ``Options`` (a frozen dataclass of its settings), ``meaning`` (what its
numbers are, by its options), ``NEEDS_NOISE`` and ``estimate``, returning an
`cestprep.inference.estimate.Estimate` for every voxel of an observation.  One that trains also
offers ``learn``, whose result ``estimate`` takes as ``learned``; one with a ``paper`` mode says in
``PAPER_OPTIONS`` which settings count there; ``adapted`` refuses or changes a problem.  Where a
method needs a noise level, observations come with one (`cestprep.inference.solving`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol, cast

from cestprep.inference.chunks import Progress
from cestprep.inference.estimate import Estimate, Meaning
from cestprep.inference.problem import InverseProblem, Observation


class Method(Protocol):
    """What a method's module offers."""

    TITLE: str
    NEEDS_NOISE: bool
    Options: Any

    def meaning(self, options: Any) -> Meaning:
        """What means and intervals are."""
        ...

    def estimate(
        self,
        problem: InverseProblem,
        observation: Observation,
        seed: int = 0,
        progress: Progress | None = None,
        options: Any = None,
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


def trains(method: Method) -> bool:
    """Whether a method trains a network."""
    return hasattr(method, "learn")


def trained_names() -> tuple[str, ...]:
    """Names of the methods that train a network."""
    return tuple(name for name in names() if trains(load(name)))


def paper_options(name: str) -> frozenset[str]:
    """Settings that count in a method's paper mode; none if it has no such mode."""
    found: frozenset[str] = getattr(load(name), "PAPER_OPTIONS", frozenset())
    return found


def shortened(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Option texts of a method that trains for a tenth of its steps, unless told how long."""
    method = load(name)
    if not hasattr(method, "learn"):
        return dict(given)
    usual = method.Options()
    some = paper_options(name) if given.get("paper") == "true" else None
    counts = {
        key: str(getattr(usual, key) // 10)
        for key in _STEPS
        if hasattr(usual, key) and (some is None or key in some)
    }
    return counts | dict(given)


#: Options that say how long a method trains.
_STEPS = ("steps", "own_steps")


def adapted(name: str, problem: InverseProblem, options: Any) -> InverseProblem:
    """The problem a method solves in place of a recipe's, by its options.

    Raises
    ------
    ValueError
        If the data do not allow it.
    """
    change = getattr(load(name), "adapted", None)
    found: InverseProblem = problem if change is None else change(problem, options)
    return found


def options_of(name: str, given: Mapping[str, str]) -> Any:
    """Options of a method from texts by name.

    Raises
    ------
    ValueError
        If the method has no such option, a text is not a value of its kind, or one is without
        effect beside the others.
    """
    kinds = {f.name: str(f.type) for f in fields(load(name).Options)}
    if given.get("paper") == "true":
        idle = sorted(given.keys() & kinds.keys() - paper_options(name))
        if idle:
            raise ValueError(f"{', '.join(idle)}: no effect with paper=true")
    values = {}
    for key, text in given.items():
        if key not in kinds:
            known = ", ".join(kinds) or "none"
            raise ValueError(f"{key}={text}: {name} has no such option; it has {known}")
        read, expected = _READERS[kinds[key]]
        try:
            values[key] = read(text)
        except (KeyError, ValueError):
            raise ValueError(f"{key}={text}: expected {expected}") from None
    return load(name).Options(**values)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


_NOT_NEGATIVE = _number, "a finite number, 0 or above"
#: By the kind of an option: how its text is read, and what is expected.
_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": ({"true": True, "false": False}.__getitem__, "true or false"),
    "int": (_whole, "a whole number"),
    "float": _NOT_NEGATIVE,
    "float | None": _NOT_NEGATIVE,
}
