"""Write a synthetic CEST-BIDS session with its truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cestprep import __version__
from cestprep.bids.files import write_image, write_json, write_text
from cestprep.bids.spec import (
    DERIVATIVE_BIDSIGNORE,
    MAGNITUDE,
    MAP_FOLDERS,
    MAP_SUFFIXES,
    RAW_BIDSIGNORE,
)
from cestprep.inference.recipe import Recipe, Stage
from cestprep.phantom.head import LABELS, Head, fingerprinting_protocol, make_head, noisy_signal
from cestprep.physics.protocol import Protocol

README = """\
Synthetic session made by `cestprep-tools demo` with recipe {options.recipe.name} at
{options.frequency_mhz} MHz: a head of grey and white matter with ventricles in air, Rician noise of
SD {options.noise_sd:g} (SNR {options.snr:g} of fully relaxed water), seed {options.seed}. Brain
mask and tissue labels are in derivatives/masks, the true parameters in derivatives/truth. T1, T2,
B0 and B1 maps are exact.
"""
SIGNAL = 1000.0  # image units of m0 = 1
TARGET_OFFSETS = {"semisolid": (6.0, 14.0), "amide": (3.5, 3.5), "rNOE": (-3.5, -3.5)}
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
    _dataset(root, "cestprep synthetic session", "raw")
    write_text(root / "README.md", README.format(options=options))
    for number, stage in enumerate(options.recipe.stages):
        _write_series(root, where, head, like, options, stage, number)
    for suffix, datatype, parameter, factor, sidecar in RAW_MAPS:
        values = head.parameters[parameter] * (options.frequency_mhz if factor is None else factor)
        stem = f"{where[0]}/{datatype}/{where[1]}_{suffix}"
        _image(
            root,
            stem,
            head.volume(values),
            like,
            {**sidecar, "MagneticFieldStrength": options.recipe.field_t},
        )
        if suffix == MAP_SUFFIXES["B0"]:
            _image(
                root,
                stem.replace(suffix, MAGNITUDE),
                head.volume(head.parameters["m0"]),
                like,
                {},
            )
    _write_masks(root / "derivatives/masks", where, head, like)
    _write_truth(root / "derivatives/truth", where, head, like, options.recipe)


def _dataset(root: Path, name: str, kind: str) -> None:
    ignored = RAW_BIDSIGNORE if kind == "raw" else DERIVATIVE_BIDSIGNORE
    write_text(root / ".bidsignore", "\n".join(ignored) + "\n")
    write_json(
        root / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": "1.11.0",
            "DatasetType": kind,
            "License": "CC0",
            "GeneratedBy": [{"Name": "cestprep-tools demo", "Version": __version__}],
            **({"DatasetLinks": {"raw": "../.."}} if kind == "derivative" else {}),
        },
    )


def _image(
    root: Path, stem: str, data: np.ndarray, like: nib.Nifti1Image, sidecar: dict[str, Any]
) -> None:
    write_image(root / f"{stem}.nii.gz", data, like)
    if sidecar:
        write_json(root / f"{stem}.json", sidecar)


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
    sidecar = sidecar_of(protocol, options.recipe.field_t, stage.target)
    _image(root, stem, data, like, sidecar)
    table = context_of(protocol).to_csv(sep="\t", index=False, na_rep="n/a")
    write_text(root / f"{stem}context.tsv", table)


def _air(sd: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Magnitudes where there is only noise, drawn apart from that of the head."""
    return np.random.default_rng([seed, 1]).rayleigh(sd, shape)


def context_of(protocol: Protocol) -> pd.DataFrame:
    """Rows of the ``cestcontext.tsv`` that describe a protocol."""
    rows = []
    for volume, is_m0 in zip(protocol.volumes, protocol.is_m0, strict=True):
        s = volume.saturation
        total = s.n_pulses * s.pulse_duration_s + (s.n_pulses - 1) * s.pulse_delay_s if s else 0.0
        rows.append(
            {
                "volume_type": "m0scan" if is_m0 else "saturated" if s else "noRF",
                "saturation_offset": s.offset_ppm if s else np.nan,
                "saturation_b1": s.b1_ut if s else 0.0,
                "saturation_duration": round(total, 9),
                "recovery_time": volume.recovery_s,
            }
        )
    return pd.DataFrame(rows)


def sidecar_of(protocol: Protocol, field_t: float, target: str) -> dict[str, Any]:
    """Sidecar fields that, with `context_of`, describe a protocol of one pulse train."""
    volumes = protocol.volumes
    first = next(v.saturation for v in volumes if v.saturation is not None)
    readout = volumes[0].readout
    fields = {
        "MagneticFieldStrength": field_t,
        "SpectrometerFrequency": protocol.frequency_mhz,
        "CESTAcquisitionType": "MRF",
        "M0Type": "Included" if any(protocol.is_m0) else "Absent",
        "SaturationB1Definition": "rms",
        "MTNumberOfPulses": first.n_pulses,
        "MTPulseDuration": first.pulse_duration_s,
        "MTPulseShape": "HARD",
        "SaturationPulseDelay": first.pulse_delay_s,
        "SaturationSpinLock": first.spin_lock == "ideal",
        "SaturationTarget": [target],
        "FlipAngle": readout.flip_angle_deg,
        "NumberShots": readout.n_shots,
    }
    if readout.n_shots > 1:
        fields["RepetitionTimeExcitation"] = readout.shot_interval_s
    return fields


def _write_masks(root: Path, where: tuple[str, str], head: Head, like: nib.Nifti1Image) -> None:
    _dataset(root, "Brain mask and tissue labels", "derivative")
    stem = f"{where[0]}/cest/{where[1]}_desc-brain_mask"
    _image(root, stem, head.mask.astype(np.uint8), like, {"Type": "Brain"})
    stem = f"{where[0]}/anat/{where[1]}_seg-tissue_dseg"
    _image(root, stem, head.labels.astype(np.uint8), like, {"Manual": False})
    rows = "".join(f"{value}\t{name}\n" for name, value in LABELS.items())
    write_text(root / f"{stem}.tsv", "index\tname\n" + rows)


def _write_truth(root: Path, where: tuple[str, str], head: Head, like: nib.Nifti1Image,
                 recipe: Recipe) -> None:  # fmt: skip
    _dataset(root, "True parameters", "derivative")
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
            _image(root, stem, head.volume(values), like, {"Units": free.unit, **shared})
