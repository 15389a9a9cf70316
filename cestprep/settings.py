"""Settings of a run: one frozen object, made once and passed down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Resolved settings of a participant-level run.

    Attributes
    ----------
    bids_dir, out_dir, work_dir : Path
    participants, sessions : tuple of str
        Asked labels without prefix; empty for all.
    method : str
        Estimation method; also the one quality control reads.
    recipe : str
        Name of a packaged recipe or path of a YAML file.
    assume_nominal : tuple of str
        Field maps replaced by their nominal value on the user's word: "B0", "B1".
    derivatives : tuple of (name, Path)
        Derivative datasets that supply maps, masks and regions.
    nprocs : int
        Processes that run at the same time.
    random_seed : int
    verbose : int
    """

    bids_dir: Path
    out_dir: Path
    work_dir: Path
    recipe: str
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    method: str = "voxelwise"
    assume_nominal: tuple[str, ...] = ()
    derivatives: tuple[tuple[str, Path], ...] = ()
    nprocs: int = 1
    random_seed: int = 0
    verbose: int = 0
