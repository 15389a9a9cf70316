"""Write a scan session of a digital head, with its truth beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np
import pandas as pd

from cestprep.bids.description import write_description
from cestprep.bids.files import write_text
from cestprep.bids.spec import (
    DATATYPE,
    MAGNITUDE,
    MAP,
    MAP_FOLDERS,
    MAP_SUFFIXES,
    MASK,
    MOTION,
    PREPARED,
    SATURATION_RECOVERY,
    SEGMENTATION,
    SERIES,
    SPACE,
    T2_PREPARED,
    WASABI,
)
from cestprep.bids.synthetic import (
    MAKER,
    SIGNAL,
    TARGET_OFFSETS,
    describe_derivative,
    sidecar_of,
    write_tabled,
    write_volume,
)
from cestprep.data.template import brain_template
from cestprep.imaging.grid import Grid
from cestprep.imaging.transforms import motion_parameters
from cestprep.inference.chunks import over_chunks
from cestprep.inference.recipe import Recipe, Stage
from cestprep.phantom import scan
from cestprep.phantom.anatomy import WARP_FWHM_MM, add_lesion, make_anatomy
from cestprep.phantom.motion import pose
from cestprep.phantom.protocols import (
    RECOVERY_S,
    T2_PREPARATION_S,
    WASABI_PULSE,
    fingerprinting_protocol,
    wasabi_protocol,
)
from cestprep.phantom.session import Acquisition, Taken, take
from cestprep.physics import relaxometry, simulate
from cestprep.physics.pools import PoolModel
from cestprep.physics.protocol import Protocol

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Size:
    """How finely a head is scanned.

    Attributes
    ----------
    voxel_mm : float
    shape : (int, int, int)
    spacing_mm : float
        Of the anatomy.
    """

    voxel_mm: float
    shape: tuple[int, int, int]
    spacing_mm: float


SIZES = {
    "tiny": Size(5.0, (36, 42, 10), 2.0),
    "small": Size(2.2, (82, 96, 28), 1.1),
    "full": Size(1.8, (100, 116, 50), 1.0),
}
#: The slab is turned a little, as an operator would.
_TURN_DEG = (4.0, -2.0, 3.0)
#: Middle of the slab, and what is drawn beyond its ends for a head that moves, in mm.
CENTRE_MM, _BEYOND_MM = (0.0, -15.0, 25.0), 15.0
_HEAD_MM = ((-92.0, 92.0), (-128.0, 95.0))
_LESION_MM, _LESION_RADIUS_MM = (-32.0, -5.0, 30.0), 14.0
FREQUENCY_MHZ, SNR = 123.25, 100.0
#: Places whose signals are computed together.
_TOGETHER = 2048
#: Volume repetition of the scans without a table, in s.
_T1W = (0.9, 2.3)


@dataclass(frozen=True)
class Options:
    """What to write.

    Attributes
    ----------
    recipe : Recipe
        Its stages say which series to simulate, its field where.
    size : str
        One of `SIZES`.
    seed : int
    lesion : bool
        Whether there is a glioma-like lesion.
    moves : bool
        Whether the head does.
    """

    recipe: Recipe
    size: str = "tiny"
    seed: int = 0
    lesion: bool = False
    moves: bool = True

    @property
    def grid(self) -> Grid:
        """Of all series."""
        size = SIZES[self.size]
        affine = np.diag([size.voxel_mm] * 3 + [1.0])
        affine[:3, 3] = -0.5 * size.voxel_mm * (np.array(size.shape) - 1)
        return Grid(size.shape, pose(_TURN_DEG, CENTRE_MM) @ affine)


def make_subject(options: Options, warp_fwhm_mm: float = WARP_FWHM_MM) -> scan.Subject:
    """The head that is scanned; its anatomy differs from the template's as smoothly as given."""
    height = SIZES[options.size].voxel_mm * SIZES[options.size].shape[2] / 2 + _BEYOND_MM
    box = (*_HEAD_MM, (CENTRE_MM[2] - height, CENTRE_MM[2] + height))
    spacing = SIZES[options.size].spacing_mm
    anatomy = make_anatomy(
        brain_template(), box, options.seed, spacing_mm=spacing, warp_fwhm_mm=warp_fwhm_mm
    )
    if options.lesion:
        anatomy = add_lesion(anatomy, _LESION_MM, _LESION_RADIUS_MM)
    return scan.make_subject(anatomy, options.seed)


def stage_protocol(stage: Stage) -> Protocol:
    """Fingerprinting of a stage."""
    return fingerprinting_protocol(TARGET_OFFSETS[stage.target], FREQUENCY_MHZ, pulsed=True)


def acquisitions(recipe: Recipe) -> list[Acquisition]:
    """Series of a session, in the order they are taken."""
    series = [
        Acquisition(
            stage.name,
            stage_protocol(stage).n_volumes,
            _signal_of(stage_protocol(stage), recipe.pool_model(stage), _constants(stage)),
            motion=1.0,
        )
        for stage in recipe.stages
    ]
    wasabi = wasabi_protocol(FREQUENCY_MHZ)
    water = _signal_of(wasabi, PoolModel(()), {})
    return [
        *series,
        Acquisition(WASABI, wasabi.n_volumes, water),
        Acquisition(SATURATION_RECOVERY, len(RECOVERY_S), _recovery),
        Acquisition(T2_PREPARED, len(T2_PREPARATION_S), _decay),
        Acquisition("T1w", 1, _t1_weighted, motion=0.0),
    ]


def _constants(stage: Stage) -> dict[str, float]:
    return {name: c.value for name, c in stage.constants}


def _signal_of(
    protocol: Protocol, model: PoolModel, constants: Mapping[str, float]
) -> scan.SignalOf:
    names = model.parameter_names

    @jax.jit
    def run(*values: jax.Array) -> jax.Array:
        return simulate.signal(protocol, model, dict(zip(names, values, strict=True)))

    def signal_of(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        named: Mapping[str, Any] = {**parameters, **constants}
        shape = parameters["t1"].shape
        arrays = [np.broadcast_to(np.asarray(named[n], np.float32), shape) for n in names]
        signals: np.ndarray = over_chunks(run, arrays, _TOGETHER)
        return signals

    return signal_of


def _recovery(p: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.asarray(relaxometry.saturation_recovery(p["m0"], p["t1"], np.array(RECOVERY_S)))


def _decay(p: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.asarray(relaxometry.transverse_decay(p["m0"], p["t2"], np.array(T2_PREPARATION_S)))


def _t1_weighted(p: Mapping[str, np.ndarray]) -> np.ndarray:
    inverted, repeated = (np.exp(-time / p["t1"]) for time in _T1W)
    signal: np.ndarray = np.abs(p["m0"] * (1 - 2 * inverted + repeated))
    return signal[None]


def write_session(root: Path, options: Options, progress: Progress | None = None) -> None:
    """Write raw data and ``derivatives/truth`` under ``root``."""
    write_description(root, "cestprep digital head", "raw", MAKER, License="CC0")
    write_text(root / "README.md", _readme(options))
    blurred = scan.blur(make_subject(options), options.grid)
    writer = _Writer(root, options, blurred)
    describe_derivative(writer.truth, "True parameters")
    taken = take(
        blurred,
        options.grid,
        acquisitions(options.recipe),
        1 / SNR,
        options.seed,
        progress,
        moves=options.moves,
    )
    for one in taken:
        writer.series(one)
    writer.maps()


def _readme(options: Options) -> str:
    return f"""\
Digital head made by `cestprep-tools demo --size {options.size} --seed {options.seed}` with recipe
{options.recipe.name} at {FREQUENCY_MHZ} MHz: own anatomy drawn from the ICBM 152 template, Rician
noise (SNR {SNR:g} of fully relaxed water), motion within and between series. derivatives/truth
holds the true parameters, tissues and motion, on the grid of the first series with the head where
it lay in its first volume.
"""


class _Writer:
    """Files of one session."""

    def __init__(self, root: Path, options: Options, blurred: scan.Blurred) -> None:
        self.root, self.truth = root, root / "derivatives/truth"
        self.options, self.blurred = options, blurred
        self._like = nib.Nifti1Image(np.zeros(options.grid.shape, np.float32), options.grid.affine)
        self._reference = np.eye(4)  # pose of the first volume
        self._scanner = {
            "MagneticFieldStrength": options.recipe.field_t,
            "SpectrometerFrequency": FREQUENCY_MHZ,
        }

    @staticmethod
    def _stem(datatype: str, name: str) -> str:
        return f"sub-01/ses-01/{datatype}/sub-01_ses-01_{name}"

    def series(self, one: Taken) -> None:
        """Image, sidecar, table and true motion of a series."""
        data, recipe = SIGNAL * one.data, self.options.recipe
        stages = {stage.name: stage for stage in recipe.stages}
        if one.name in stages:
            protocol = stage_protocol(stages[one.name])
            about = sidecar_of(protocol, recipe.field_t, stages[one.name].target)
            stem = self._stem(DATATYPE, f"acq-{one.name}_{SERIES}")
            write_tabled(self.root, stem, data, self._like, protocol, about)
        elif one.name == WASABI:
            protocol = wasabi_protocol(FREQUENCY_MHZ)
            about = {**sidecar_of(protocol, recipe.field_t, ""), "MTPulseDuration": WASABI_PULSE[0]}
            about = {k: v for k, v in about.items() if k not in _ONLY_OF_SERIES}
            stem = self._stem(MAP_FOLDERS["B0"], WASABI)
            write_tabled(self.root, stem, data, self._like, protocol, about)
        else:
            times = _TIMES.get(one.name)
            about = {**self._scanner, "FlipAngle": 15}
            if times is not None:
                about[PREPARED[one.name]] = list(times)
            data = data if times is not None else data[..., 0]
            write_volume(self.root, self._stem("anat", one.name), data, self._like, about)
        if one.name == recipe.stages[0].name:
            self._reference = one.poses[0]
        self._motion(one)

    def _motion(self, one: Taken) -> None:
        """Motion from the first volume of all, about the middle of the slab."""
        moved = np.stack([p @ np.linalg.inv(self._reference) for p in one.poses])
        table = pd.DataFrame(motion_parameters(moved, np.array(CENTRE_MM)), columns=MOTION)
        is_stage = one.name in {stage.name for stage in self.options.recipe.stages}
        acq = one.name if is_stage else one.name.lower()
        path = self.truth / f"{self._stem(DATATYPE, f'acq-{acq}_desc-motion_timeseries')}.tsv"
        write_text(path, table.to_csv(sep="\t", index=False, float_format="%.6g"))

    def maps(self) -> None:
        """True parameters, tissues and fields where the head lay in the first volume."""
        grid, recipe = self.options.grid, self.options.recipe
        truth = scan.Truth(self.blurred, grid, self._reference)
        source = self._stem(DATATYPE, f"acq-{recipe.stages[0].name}_{SERIES}.nii.gz")
        shared = {"SpatialReference": f"bids:raw:{source}", "SkullStripped": True}
        for stage in recipe.stages:
            model = {"Model": {"Name": stage.model}, "Estimator": {"Name": "truth"}}
            for free in stage.free:
                name = (f"acq-{stage.name}_space-{SPACE}_model-{stage.model}_param-{free.name}"
                        f"_desc-truth_{MAP}")  # fmt: skip
                values = truth.parameter(free.parameter) / free.to_si
                about = {"Units": free.unit, **model, **shared}
                self._true(self._stem(DATATYPE, name), values, about)
        for quantity, (parameter, factor, unit) in _MAPS.items():
            name = f"space-{SPACE}_{MAP_SUFFIXES[quantity]}"
            about = {"Units": unit, **self._scanner, **shared}
            self._true(
                self._stem(MAP_FOLDERS[quantity], name), factor * truth.parameter(parameter), about
            )
        self._true(self._stem(MAP_FOLDERS["B0"], f"space-{SPACE}_{MAGNITUDE}"),
                   SIGNAL * truth.parameter("m0"), shared)  # fmt: skip
        brain = {"Type": "Brain", "HeadToScanner": self._reference.tolist(), **shared}
        stem = self._stem(DATATYPE, f"space-{SPACE}_desc-brain_{MASK}")
        self._true(stem, truth.brain.astype(np.uint8), brain)
        self._tissues(truth, shared)

    def _tissues(self, truth: scan.Truth, shared: Mapping[str, Any]) -> None:
        stem = self._stem("anat", f"space-{SPACE}_seg-tissue_{SEGMENTATION}")
        names = truth.tissues
        self._true(stem, truth.labels.astype(np.uint8), {"Manual": False, **shared})
        rows = "".join(f"{value}\t{name}\n" for value, name in enumerate(names, start=1))
        write_text(self.truth / f"{stem}.tsv", "index\tname\n" + rows)

    def _true(self, stem: str, values: np.ndarray, about: Mapping[str, Any]) -> None:
        write_volume(self.truth, stem, values, self._like, about)


#: Times of the scans whose sidecar lists them.
_TIMES = {SATURATION_RECOVERY: RECOVERY_S, T2_PREPARED: T2_PREPARATION_S}
#: Fields of a saturation series that a field map does not have.
_ONLY_OF_SERIES = ("CESTAcquisitionType", "M0Type", "SaturationTarget")
#: Parameter, factor to the unit of files, and that unit, of each map.
_MAPS = {
    "T1": ("t1", 1.0, "s"),
    "T2": ("t2", 1.0, "s"),
    "B0": ("b0_ppm", FREQUENCY_MHZ, "Hz"),
    "B1": ("b1_scale", 100.0, "percent"),
}
