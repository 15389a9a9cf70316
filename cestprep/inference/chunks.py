"""Voxels in chunks of one fixed size, so that memory is bounded and one program is compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from cestprep.inference.problem import InverseProblem, predict_voxels
from cestprep.physics.bloch import n_states


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
    """Voxels whose propagators, with their tangents, fit into a memory budget (at least 16).

    Without a budget: on a CPU what stays in its cache (1.75 MB was fastest, 16 MB twice as slow),
    elsewhere 512 MB.
    """
    if memory_mb is None:
        memory_mb = 1.75 if jax.default_backend() == "cpu" else 512.0
    n = n_states(problem.model) - (2 if problem.solver == "reduced" else 0)
    distinct = len({v.preparation for v in problem.protocol.volumes})
    copies = 6 * (1 + len(problem.free))
    per_voxel = n * (n + 1) * distinct * copies * np.dtype(dtype).itemsize
    return max(16, int(memory_mb * 2**20 / per_voxel) // 16 * 16)


def over_chunks(
    fun: Callable[..., Any],
    arrays: Sequence[Any],
    size: int,
    progress: Progress | None = None,
) -> Any:
    """Apply ``fun`` to slices of the last axis and join the results (pytrees of arrays).

    The last slice is filled up by repeating its last voxel, so every call has the same shape.
    """
    total = arrays[0].shape[-1]
    parts = []
    if progress is not None:
        progress(0, total)
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        kept = min(size, total - start)
        result = jax.device_get(fun(*(a[..., index] for a in arrays)))
        parts.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[..., :kept], result))
        if progress is not None:
            progress(start + kept, total)
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=-1), *parts)


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
