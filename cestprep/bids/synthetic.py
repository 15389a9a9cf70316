"""Parts of synthetic datasets: descriptions, images with sidecars, tables of protocols."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cestprep.bids.description import write_description
from cestprep.bids.files import write_image, write_json, write_text
from cestprep.bids.spec import CONTEXT
from cestprep.physics.protocol import Protocol

MAKER = "cestprep-tools demo"
#: Image units of a signal of 1.
SIGNAL = 1000.0
#: Lowest and highest offset (ppm) of the fingerprinting of a pool.
TARGET_OFFSETS = {"semisolid": (6.0, 14.0), "amide": (3.5, 3.5), "rNOE": (-3.5, -3.5)}


def describe_derivative(root: Path, name: str) -> None:
    """Description of a derivative dataset two folders below the raw one."""
    write_description(root, name, "derivative", MAKER, License="CC0", DatasetLinks={"raw": "../.."})


def write_volume(
    root: Path, stem: str, data: np.ndarray, like: nib.Nifti1Image, sidecar: Mapping[str, Any]
) -> None:
    """Write an image on the grid of another, and its sidecar if there is something to say."""
    write_image(root / f"{stem}.nii.gz", data, like)
    if sidecar:
        write_json(root / f"{stem}.json", dict(sidecar))


def write_tabled(
    root: Path,
    stem: str,
    data: np.ndarray,
    like: nib.Nifti1Image,
    protocol: Protocol,
    sidecar: Mapping[str, Any],
) -> None:
    """Write a series with its sidecar and the table of its protocol."""
    write_volume(root, stem, data, like, sidecar)
    table = context_of(protocol).to_csv(sep="\t", index=False, na_rep="n/a")
    name = stem.rpartition("_")[0] + f"_{CONTEXT}.tsv"
    write_text(root / name, table)


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
