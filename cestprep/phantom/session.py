"""A scan session of a digital head: where it lies in each series, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cestprep.imaging.grid import Grid
from cestprep.phantom.motion import between_series, series_poses
from cestprep.phantom.scan import Blurred, SignalOf, make_series, noisy, receive_bias

#: Largest shift (mm) and rotation (degrees) within a fingerprinting series; half in the others.
LARGEST_MOTION = (3.0, 3.0)


@dataclass(frozen=True)
class Acquisition:
    """A series to be taken.

    Attributes
    ----------
    name : str
    count : int
        Volumes.
    signal_of : callable
        From simulator parameters to signals ``(count, V)``, in units of ``m0`` 1.
    motion : float
        Share of `LARGEST_MOTION` by which the head moves in it.
    """

    name: str
    count: int
    signal_of: SignalOf
    motion: float = 0.5


@dataclass(frozen=True)
class Taken:
    """A series as it was measured.

    Attributes
    ----------
    name : str
    poses : ndarray, shape (n, 4, 4)
        Head to scanner, mm, RAS.
    data : ndarray, shape (x, y, z, n)
    """

    name: str
    poses: np.ndarray
    data: np.ndarray


def take(
    blurred: Blurred,
    grid: Grid,
    acquisitions: Sequence[Acquisition],
    noise_sd: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    moves: bool = True,
) -> Iterator[Taken]:
    """Take one series after another.

    Parameters
    ----------
    blurred : Blurred
    grid : Grid
        Of all series, fixed in the scanner.
    acquisitions : sequence of Acquisition
    noise_sd : float
        SD of the noise before magnitudes are taken, in units of ``m0`` 1.
    seed : int
    progress : callable, optional
        Called with name, volumes done and volumes in all.
    moves : bool
        Whether the head does.
    """
    bias = receive_bias(grid, seed)
    for number, acquisition in enumerate(acquisitions):
        rng = np.random.default_rng([seed, 74, number])
        start = np.eye(4) if number == 0 else between_series(rng)
        largest = (acquisition.motion * LARGEST_MOTION[0], acquisition.motion * LARGEST_MOTION[1])
        poses = series_poses(acquisition.count, start, largest, rng)
        if not moves:  # with the same noise
            poses = np.broadcast_to(np.eye(4), poses.shape)
        series = make_series(blurred, acquisition.signal_of)
        data = np.empty((*grid.shape, acquisition.count), np.float32)
        for i, pose in enumerate(poses):
            data[..., i] = noisy(bias * series.volume(i, grid, pose), noise_sd, rng)
            if progress is not None:
                progress(acquisition.name, i + 1, acquisition.count)
        yield Taken(acquisition.name, poses, data)
