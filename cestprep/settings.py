"""Settings of a run: one frozen object, made once, passed down and saved with the results."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cestprep.errors import Fault, UsageError
from cestprep.resources import usable_cores, usable_memory_gb

ASSUMABLE = ("B0", "B1")
#: Name under which `Settings.noise_sd` keeps the value of stages it does not name.
ALL_STAGES = "all stages"
#: Where to compute; "auto" is what JAX chooses.
DEVICES = ("auto", "cpu", "gpu")
#: What is done with networks: trained on each session, reused, reused and refined voxel by voxel.
MODES = ("fit", "transfer", "transfer+refine")
#: Steps after which a run can be made to stop.
STEPS = ("preproc",)
#: How signals are simulated (`cestprep.physics.solvers`; importing it would start JAX).
SOLVER_CHOICES = ("auto", "general", "reduced", "isar2")


@dataclass(frozen=True)
class Settings:
    """Resolved settings of a participant-level run.

    Attributes
    ----------
    bids_dir, out_dir, work_dir : Path
    recipe : str
        Name of a packaged recipe or path of a YAML file.
    participants, sessions : tuple of str
        Asked labels without prefix; empty for all.
    method : str
        Estimation method; also the one quality control reads.
    method_options : mapping of str to str
        Options of the method by name.
    mode : str
        One of `MODES`.
    checkpoint : Path or None
        Folder of trained networks.
    solver : str
        One of `SOLVER_CHOICES`.
    assume_nominal : tuple of str
        Field maps replaced by their nominal value on the user's word: "B0", "B1".
    noise_sd : mapping of str to float
        SD of one volume's noise in the units of the series, by stage; `ALL_STAGES` stands for the
        stages not named. Where there is none it is looked for in the data.
    motion : bool
        Whether motion is corrected and series are registered, where the recipe is a human's.
    stop_after : str
        ``preproc`` to stop before the estimation; empty to go on.
    propagate : bool
        Whether the uncertainty of maps and of earlier stages enters.
    sloppy : bool
        Whether registrations and training are cut short, for trials of a setup.
    output_spaces : tuple of str
        Standard spaces that maps are written in too, as ``NAME[:res-N]``.
    derivatives : mapping of str to Path
        Derivative datasets that supply maps, masks and regions, by name.
    nprocs : int
        Steps that run at the same time.
    memory_gb : float
        Memory the steps may take together (steps wait for each other, nothing is enforced).
    random_seed : int
    device : str
        One of `DEVICES`.
    verbose : int
    """

    bids_dir: Path
    out_dir: Path
    work_dir: Path
    recipe: str = "brain-3t"
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    method: str = "psvae"
    method_options: dict[str, str] = field(default_factory=dict)
    mode: str = "fit"
    checkpoint: Path | None = None
    solver: str = "auto"
    assume_nominal: tuple[str, ...] = ()
    noise_sd: dict[str, float] = field(default_factory=dict)
    motion: bool = True
    stop_after: str = ""
    propagate: bool = True
    sloppy: bool = False
    output_spaces: tuple[str, ...] = ()
    derivatives: dict[str, Path] = field(default_factory=dict)
    nprocs: int = field(default_factory=usable_cores)
    memory_gb: float = field(default_factory=usable_memory_gb)
    random_seed: int = 0
    device: str = "auto"
    verbose: int = 0

    def to_toml(self) -> str:
        """TOML text from which `read_toml` makes the same settings."""
        import tomli_w

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, tuple):
                return list(value)
            return str(value) if isinstance(value, Path) else value

        return tomli_w.dumps(
            {key: plain(value) for key, value in asdict(self).items() if value not in (None, "")}
        )


#: What each kind of setting looks like in a file: its type, that of its items, and in words.
_SHAPES: dict[str, tuple[type, type, str]] = {
    "Path": (str, str, "a path"),
    "Path | None": (str, str, "a path"),
    "str": (str, str, "text"),
    "tuple[str, ...]": (list, str, "a list of texts"),
    "dict[str, Path]": (dict, str, "a table of names and paths"),
    "dict[str, str]": (dict, str, "a table of names and texts"),
    "dict[str, float]": (dict, float, "a table of names and numbers"),
    "int": (int, int, "a whole number"),
    "float": (float, float, "a number"),
    "bool": (bool, bool, "true or false"),
}


def read_toml(path: Path) -> dict[str, Any]:
    """Settings in a TOML file, as keyword arguments of `Settings`; absent ones are absent.

    Raises
    ------
    UsageError
        If the file cannot be read, holds an unknown key or a value of the wrong kind.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise UsageError(
            Fault(f"--config-file {path}", f"cannot be read as TOML ({exc})", "Mend the file")
        ) from None
    kinds = {f.name: str(f.type) for f in fields(Settings)}
    faults = []
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in kinds:
            known = ", ".join(kinds)
            faults.append(Fault(path, f"unknown setting '{key}'", f"Known are {known}"))
            continue
        shape, item, words = _SHAPES[kinds[key]]
        if not (_is(value, shape) and all(_is(i, item) for i in _items(value))):
            faults.append(Fault(path, f"{key} is {value!r}, expected {words}", "Correct it"))
            continue
        settings[key] = _typed(kinds[key], value)
    if faults:
        raise UsageError(*faults)
    return settings


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a type; whole numbers pass for numbers, empty text for nothing."""
    if isinstance(value, str):
        return kind is str and bool(value) and "\0" not in value
    return type(value) is kind or (kind is float and type(value) is int)


def _typed(kind: str, value: Any) -> Any:
    if kind.startswith("Path"):
        return Path(value).expanduser()
    if kind == "dict[str, Path]":
        return {name: Path(item).expanduser() for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
