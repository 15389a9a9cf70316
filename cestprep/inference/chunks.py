"""Voxels in chunks of one fixed size, so that memory is bounded and one program is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from cestprep.inference.problem import InverseProblem, predict_voxels
from cestprep.physics.bloch import n_states
from cestprep.resources import computing_cores


class Progress(Protocol):
    """Listener to a long step."""

    def __call__(self, done: int, total: int) -> None:
        """Hear that ``done`` of ``total`` are finished."""
        ...

    def phase(self, what: str, unit: str) -> Progress:
        """Listener to a part of the step, which counts something else."""
        ...


def phase(progress: Progress | None, what: str, unit: str = "voxels") -> Progress | None:
    """Listener to a part of a step, if anybody listens."""
    return None if progress is None else progress.phase(what, unit)


def voxels_per_chunk(problem: InverseProblem, memory_mb: float | None, dtype: np.dtype) -> int:
    """Voxels whose propagators, with their tangents, fit into a memory budget.

    Without a budget: on a CPU what stays in the cache of one core (1.75 MB was fastest, 16 MB twice
    as slow), elsewhere 512 MB.  At least 16, or 64 where ``reduced`` does little for each.
    """
    if memory_mb is None:
        memory_mb = 1.75 if jax.default_backend() == "cpu" else 512.0
    reduced = problem.solver == "reduced"
    n = n_states(problem.model) - 2 * reduced
    distinct = len({v.preparation for v in problem.protocol.volumes})
    copies = 6 * (1 + len(problem.free))
    per_voxel = n * (n + 1) * distinct * copies * np.dtype(dtype).itemsize
    return max(64 if reduced else 16, int(memory_mb * 2**20 / per_voxel) // 16 * 16)


def over_chunks(
    fun: Callable[..., Any],
    arrays: Sequence[Any],
    size: int,
    progress: Progress | None = None,
) -> Any:
    """Apply ``fun`` to slices of the last axis and join the results (pytrees of arrays).

    The last slice is filled up by repeating its last voxel, so every call has the same shape.
    Slices that fit into a core's cache are too small for more than one core, so on a CPU each core
    has one of its own.
    """
    total = arrays[0].shape[-1]

    def part(start: int) -> Any:
        index = np.minimum(np.arange(start, start + size), total - 1)
        kept = min(size, total - start)
        result = jax.device_get(fun(*(a[..., index] for a in arrays)))
        return jax.tree.map(lambda x: np.asarray(x)[..., :kept], result)

    parts = []
    if progress is not None:
        progress(0, total)
    for done in _side_by_side(part, range(0, total, size)):
        parts.append(done)
        if progress is not None:
            progress(min(len(parts) * size, total), total)
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=-1), *parts)


def _side_by_side(part: Callable[[int], Any], starts: range) -> Iterator[Any]:
    """Results in order; the first is alone, so that what it compiles is compiled once."""
    yield part(starts[0])
    pool = ThreadPoolExecutor(computing_cores() if jax.default_backend() == "cpu" else 1)
    try:
        yield from pool.map(part, starts[1:])
    finally:
        pool.shutdown(cancel_futures=True)


def predict_all(
    problem: InverseProblem,
    theta: np.ndarray,
    known: np.ndarray,
    progress: Progress | None = None,
) -> np.ndarray:
    """Normalised signals ``(n, V)`` of free ``(p, V)`` and known ``(q, V)`` values."""
    size = voxels_per_chunk(problem, None, theta.dtype)
    run = partial(predict_voxels, problem)
    signals: np.ndarray = over_chunks(run, [theta, known], size, progress)
    return signals


def replaced(whole: Any, where: np.ndarray, part: Any) -> Any:
    """Pytree of arrays ``(..., V)`` with the voxels at ``where`` (indices) taken from another."""

    def merge(old: Any, new: Any) -> np.ndarray:
        merged = np.array(old)
        merged[..., where] = new
        return merged

    return jax.tree.map(merge, whole, part)
