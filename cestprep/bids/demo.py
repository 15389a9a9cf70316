"""Write a synthetic CEST-BIDS session with its truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cestprep.bids.description import write_description
from cestprep.bids.files import write_text
from cestprep.bids.spec import MAGNITUDE, MAP_FOLDERS, MAP_SUFFIXES
from cestprep.bids.synthetic import (
    MAKER,
    SIGNAL,
    TARGET_OFFSETS,
    describe_derivative,
    sidecar_of,
    write_tabled,
    write_volume,
)
from cestprep.inference.recipe import Recipe, Stage
from cestprep.phantom.head import LABELS, Head, make_head, noisy_signal
from cestprep.phantom.protocols import fingerprinting_protocol

README = """\
Synthetic session made by `cestprep-tools demo` with recipe {options.recipe.name} at
{options.frequency_mhz} MHz: a head of grey and white matter with ventricles in air, Rician noise of
SD {options.noise_sd:g} (SNR {options.snr:g} of fully relaxed water), seed {options.seed}. Brain
mask and tissue labels are in derivatives/masks, the true parameters in derivatives/truth. T1, T2,
B0 and B1 maps are exact.
"""
#: Raw map: suffix, datatype, parameter, factor to file units, sidecar.
RAW_MAPS = (
    (MAP_SUFFIXES["T1"], MAP_FOLDERS["T1"], "t1", 1.0, {"Units": "s"}),
    (MAP_SUFFIXES["T2"], MAP_FOLDERS["T2"], "t2", 1.0, {"Units": "s"}),
    (MAP_SUFFIXES["B1"], MAP_FOLDERS["B1"], "b1_scale", 100.0, {"Units": "percent"}),
    (
        MAP_SUFFIXES["B0"],
        MAP_FOLDERS["B0"],
        "b0_ppm",
        None,
        {"Units": "Hz"},
    ),  # None: the scanner frequency
)


@dataclass(frozen=True)
class DemoOptions:
    """What to write.

    Attributes
    ----------
    recipe : Recipe
        Its stages say which series to simulate, its field where.
    frequency_mhz : float
    pulsed : bool
        Pulsed spin-lock saturation, else continuous wave.
    shape : (int, int, int)
    snr : float
    seed : int
    """

    recipe: Recipe
    frequency_mhz: float = 123.25
    pulsed: bool = True
    shape: tuple[int, int, int] = (18, 20, 2)
    snr: float = 100.0
    seed: int = 0

    @property
    def noise_sd(self) -> float:
        """SD of the noise before magnitudes are taken, in image units."""
        return SIGNAL / self.snr


def write_demo(root: Path, options: DemoOptions, subject: str = "01", session: str = "01") -> None:
    """Write raw data, ``derivatives/masks`` and ``derivatives/truth`` under ``root``."""
    head = make_head(options.shape, options.seed)
    like = nib.Nifti1Image(np.zeros(options.shape, np.float32), np.diag([2.0, 2.0, 4.0, 1.0]))
    like.header.set_xyzt_units("mm")
    where = f"sub-{subject}/ses-{session}", f"sub-{subject}_ses-{session}"
    write_description(root, "cestprep synthetic session", "raw", MAKER, License="CC0")
    write_text(root / "README.md", README.format(options=options))
    for number, stage in enumerate(options.recipe.stages):
        _write_series(root, where, head, like, options, stage, number)
    for suffix, datatype, parameter, factor, sidecar in RAW_MAPS:
        values = head.parameters[parameter] * (options.frequency_mhz if factor is None else factor)
        stem = f"{where[0]}/{datatype}/{where[1]}_{suffix}"
        write_volume(
            root,
            stem,
            head.volume(values),
            like,
            {**sidecar, "MagneticFieldStrength": options.recipe.field_t},
        )
        if suffix == MAP_SUFFIXES["B0"]:
            write_volume(
                root,
                stem.replace(suffix, MAGNITUDE),
                head.volume(head.parameters["m0"]),
                like,
                {},
            )
    _write_masks(root / "derivatives/masks", where, head, like)
    _write_truth(root / "derivatives/truth", where, head, like, options.recipe)


def _write_series(root: Path, where: tuple[str, str], head: Head, like: nib.Nifti1Image,
                  options: DemoOptions, stage: Stage, number: int) -> None:  # fmt: skip
    protocol = fingerprinting_protocol(
        TARGET_OFFSETS[stage.target], options.frequency_mhz, options.pulsed
    )
    constants = {name: c.value for name, c in stage.constants}
    seed = options.seed + 1000 * (number + 1)
    signal = noisy_signal(
        head, protocol, options.recipe.pool_model(stage), constants, options.snr, seed
    )
    data = SIGNAL * head.volume(signal)
    data[~head.mask] = _air(options.noise_sd, (int((~head.mask).sum()), len(signal)), seed)
    stem = f"{where[0]}/cest/{where[1]}_acq-{stage.name}_cest"
    about = sidecar_of(protocol, options.recipe.field_t, stage.target)
    write_tabled(root, stem, data, like, protocol, about)


def _air(sd: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Magnitudes where there is only noise, drawn apart from that of the head."""
    return np.random.default_rng([seed, 1]).rayleigh(sd, shape)


def _write_masks(root: Path, where: tuple[str, str], head: Head, like: nib.Nifti1Image) -> None:
    describe_derivative(root, "Brain mask and tissue labels")
    stem = f"{where[0]}/cest/{where[1]}_desc-brain_mask"
    write_volume(root, stem, head.mask.astype(np.uint8), like, {"Type": "Brain"})
    stem = f"{where[0]}/anat/{where[1]}_seg-tissue_dseg"
    write_volume(root, stem, head.labels.astype(np.uint8), like, {"Manual": False})
    rows = "".join(f"{value}\t{name}\n" for name, value in LABELS.items())
    write_text(root / f"{stem}.tsv", "index\tname\n" + rows)


def _write_truth(root: Path, where: tuple[str, str], head: Head, like: nib.Nifti1Image,
                 recipe: Recipe) -> None:  # fmt: skip
    describe_derivative(root, "True parameters")
    for stage in recipe.stages:
        series = f"{where[0]}/cest/{where[1]}_acq-{stage.name}_cest.nii.gz"
        shared = {
            "Model": {"Name": stage.model},
            "Estimator": {"Name": "truth"},
            "SpatialReference": f"bids:raw:{series}",
            "SkullStripped": True,
        }
        for free in stage.free:
            stem = (f"{where[0]}/cest/{where[1]}_acq-{stage.name}_space-cestref_model-{stage.model}"
                    f"_param-{free.name}_desc-truth_cestmap")  # fmt: skip
            values = head.parameters[free.parameter] / free.to_si
            write_volume(root, stem, head.volume(values), like, {"Units": free.unit, **shared})
