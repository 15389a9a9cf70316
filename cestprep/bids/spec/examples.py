"""Tiny datasets that show every kind of file CEST-BIDS has.

    python -m cestprep.bids.spec.examples OUT

Images are made up and a few voxels large; names, tables and sidecars are what matters.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from cestprep.bids.description import write_description
from cestprep.bids.files import write_image, write_json, write_text

SHAPE = (5, 4, 3)
_FREQUENCY_MHZ = 127.73
_OFFSETS = {"mt": (8.0, 6.0, 10.0, 14.0), "amide": (3.5, 3.5, 3.5, 3.5)}
_B1_UT = (2.0, 1.5, 3.0, 0.5)
_SATURATION_S, _RECOVERY_S = 2.5, 1.0
_TARGET = {"mt": "semisolid", "amide": "amide"}
_MODEL = {"mt": ("bm2poolmt", "fss", "kssw"), "amide": ("bm3pool", "fs", "ksw")}
_UNITS = {"fss": "percent", "kssw": "1/s", "fs": "percent", "ksw": "1/s"}
_SCANNER = {
    "MagneticFieldStrength": 3,
    "SpectrometerFrequency": _FREQUENCY_MHZ,
    "FlipAngle": 15,
    "NumberShots": 45,
    "RepetitionTimeExcitation": 0.028,
}
_PULSES = {
    "MTNumberOfPulses": 1,
    "MTPulseDuration": _SATURATION_S,
    "MTPulseShape": "HARD",
    "SaturationB1Definition": "rms",
    "SaturationSpinLock": False,
}
_SUB, _PRE = "sub-01/ses-01", "sub-01_ses-01"


def write_examples(out: Path) -> tuple[Path, Path]:
    """Write ``raw`` and ``derivatives`` under a folder; returns both."""
    raw, derivatives = out / "raw", out / "derivatives"
    _write_raw(raw)
    _write_derivatives(derivatives)
    return raw, derivatives


def _image(root: Path, stem: str, fields: Mapping[str, Any], volumes: int = 0,
           value: float = 1.0, kind: str = "float32") -> None:  # fmt: skip
    shape = (*SHAPE, volumes) if volumes else SHAPE
    like = nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    write_image(root / f"{stem}.nii.gz", np.full(shape, value, kind), like)
    write_json(root / f"{stem}.json", dict(fields))


def _table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    write_text(path, "\n".join("\t".join(map(str, row)) for row in rows) + "\n")


def _described(root: Path, name: str, kind: Literal["raw", "derivative"], **more: Any) -> None:
    write_description(root, name, kind, "cestprep", License="CC0", **more)
    write_text(root / "README.md", f"# {name}\n\nWritten by cestprep.bids.spec.examples.\n")


def _context(offsets: Sequence[float]) -> dict[str, list[Any]]:
    n = len(offsets)
    return {
        "volume_type": ["m0scan", *["saturated"] * n],
        "saturation_offset": ["n/a", *offsets],
        "saturation_b1": [0, *_B1_UT[:n]],
        "saturation_duration": [0, *[_SATURATION_S] * n],
        "recovery_time": [15, *[_RECOVERY_S] * n],
    }


def _write_raw(root: Path) -> None:
    _described(root, "CEST-BIDS example", "raw")
    for name in ("mt", "amide"):
        fields = {**_SCANNER, **_PULSES, "CESTAcquisitionType": "MRF", "M0Type": "Included"}
        fields |= {"SaturationTarget": [_TARGET[name]], "B0FieldSource": "wasabi"}
        # what all sessions share stands at the top (inheritance)
        write_json(root / f"acq-{name}_cest.json", fields)
        _table(root / f"acq-{name}_cestcontext.tsv", _context(_OFFSETS[name]))
        stem = f"{_SUB}/cest/{_PRE}_acq-{name}_cest"
        _image(root, stem, {}, 1 + len(_B1_UT), 100)
        (root / f"{stem}.json").unlink()
        write_text(root / f"{stem}.seq", pulseq_text(_OFFSETS[name], _B1_UT))
    stem = f"{_SUB}/fmap/{_PRE}"
    series = [f"bids::{_SUB}/cest/{_PRE}_acq-{name}_cest.nii.gz" for name in ("mt", "amide")]
    shifts = np.linspace(-1.5, 1.5, 5).tolist()
    about = {**_SCANNER, "MTPulseDuration": 0.005, "MTPulseShape": "HARD"}
    about |= {"SaturationB1Definition": "rms", "B0FieldIdentifier": "wasabi", "IntendedFor": series}
    _image(root, f"{stem}_WASABI", about, len(shifts) + 1, 100)
    _table(root / f"{stem}_cestcontext.tsv", {
        "volume_type": ["m0scan", *["saturated"] * len(shifts)],
        "saturation_offset": [-300, *shifts],
        "saturation_b1": [3.7] * (len(shifts) + 1),
        "saturation_duration": [0.005] * (len(shifts) + 1),
        "recovery_time": [12, *[3] * len(shifts)],
    })  # fmt: skip
    stem = f"{_SUB}/anat/{_PRE}"
    _image(root, f"{stem}_SRT1", {**_SCANNER, "SaturationRecoveryTime": [6, 2, 0.5]}, 3, 100)
    _image(root, f"{stem}_T2PREP", {**_SCANNER, "T2PreparationTime": [0, 0.03, 0.1]}, 3, 100)
    _image(root, f"{stem}_T1w", {"MagneticFieldStrength": 3}, value=100)


def _write_derivatives(root: Path) -> None:
    links = {"DatasetLinks": {"raw": "../raw"}, "SourceDatasets": [{"URL": "../raw"}]}
    _described(root, "CEST-BIDS derivatives example", "derivative", **links)
    labels = ("preproc", "brain", "psvae", "hmc", "coreg", "motion")
    _table(root / "descriptions.tsv", {
        "desc_id": [f"desc-{label}" for label in labels],
        "description": ["resampled to the reference", "brain mask", "estimated by psvae",
                        "head-motion correction", "coregistration", "motion parameters"],
    })  # fmt: skip
    reference = f"{_SUB}/cest/{_PRE}_desc-coreg_cestref"
    space = {"SpatialReference": f"bids::{reference}.nii.gz", "SkullStripped": False}
    source = [f"bids:raw:{_SUB}/cest/{_PRE}_acq-mt_cest.nii.gz"]
    _image(root, reference, {"SkullStripped": False, "Sources": source})
    for name in ("mt", "amide"):
        _write_stage(root, name, space)
    _write_maps(root, space)
    _write_transforms(root)
    write_text(root / "sub-01_ses-01.html", "<!doctype html><title>report</title>\n")


def _write_stage(root: Path, name: str, space: Mapping[str, Any]) -> None:
    model, *parameters = _MODEL[name]
    stem = f"{_SUB}/cest/{_PRE}_acq-{name}"
    series = f"{stem}_space-cestref_desc-preproc_cest"
    _image(root, series, {**space, "SaturationTarget": [_TARGET[name]]}, 5, 100)
    _table(root / f"{stem}_cestcontext.tsv", _context(_OFFSETS[name]))
    about = {
        **space,
        "Model": {"Name": model, "Pools": ["water", _TARGET[name]]},
        "Estimator": {"Name": "psvae", "Mode": "fit", "Seed": 0},
        "EstimationAlgorithm": "physics-structured variational autoencoder",
        "ParameterBounds": {p: [0, 100] for p in parameters},
        "Sources": [f"bids::{series}.nii.gz"],
    }
    maps, end = f"{stem}_space-cestref_model-{model}", "_desc-psvae_cestmap"
    for p in parameters:
        unit = {"Units": _UNITS[p]}
        _image(root, f"{maps}_param-{p}{end}", {**about, **unit})
        _image(root, f"{maps}_param-{p}_stat-std{end}", {**about, **unit})
        for stat in ("cilower", "ciupper"):
            level = {"CredibleLevel": 0.95}
            _image(root, f"{maps}_param-{p}_stat-{stat}{end}", {**about, **unit, **level})
    first, second = parameters
    pairs = [f"cov({first},{first})", f"cov({first},{second})", f"cov({second},{second})"]
    units = [_UNITS[a] + " * " + _UNITS[b]
             for a, b in ((first, first), (first, second), (second, second))]  # fmt: skip
    joint = {"Units": ", ".join(units), "VolumeLabels": pairs}
    _image(root, f"{maps}_stat-cov{end}", {**about, **joint}, 3)
    for stat, unit_of in (("corr", "arbitrary"), ("rsquared", "arbitrary"), ("nrmse", "percent"),
                          ("validity", "arbitrary")):  # fmt: skip
        _image(root, f"{maps}_stat-{stat}{end}", {**about, "Units": unit_of})
    mask = {**about, "Type": "ROI"}
    _image(root, f"{maps}_label-valid_desc-psvae_mask", mask, kind="uint8")
    _image(root, f"{maps}_desc-psvae_cest", {**about, "Units": "arbitrary"}, 5)
    network = root / f"{stem}_model-{model}_desc-psvae_network.safetensors"
    network.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    write_json(network.with_suffix(".json"), {key: about[key] for key in ("Model", "Estimator")})
    regions: dict[str, Sequence[Any]] = {
        "index": [1, 2],
        "name": ["GM", "WM"],
        "parameter": [first] * 2,
        "n_voxels": [10, 12],
        "mean": [6.1, 12.9],
        "std": [1.2, 1.5],
    }
    _table(root / f"{stem}_seg-tissue_model-{model}_desc-psvae_cestmap.tsv", regions)
    _table(root / f"{stem}_qc.tsv", {"median_nrmse_percent": [1.2]})
    moved = {axis: [0.0] * 5 for axis in ("trans_x", "trans_y", "trans_z")}
    _table(root / f"{stem}_desc-motion_timeseries.tsv", moved)


def _write_maps(root: Path, space: Mapping[str, Any]) -> None:
    anat, fmap = f"{_SUB}/anat/{_PRE}_space-cestref", f"{_SUB}/fmap/{_PRE}_space-cestref"
    for suffix, value in (("T1map", 1.3), ("T2map", 0.07)):
        _image(root, f"{anat}_{suffix}", {**space, "Units": "s"}, value=value)
        _image(root, f"{anat}_stat-std_{suffix}", {**space, "Units": "s"}, value=0.01)
    _image(root, f"{fmap}_fieldmap", {**space, "Units": "Hz"}, value=10)
    _image(root, f"{fmap}_magnitude", space, value=100)
    _image(root, f"{fmap}_TB1map", {**space, "Units": "percent"}, value=95)
    brain = f"{_SUB}/cest/{_PRE}_space-cestref_desc-brain_mask"
    _image(root, brain, {**space, "Type": "Brain"}, kind="uint8")
    _image(root, f"{anat}_seg-tissue_dseg", space, kind="uint8")
    _table(root / f"{anat}_seg-tissue_dseg.tsv", {"index": [1, 2, 3], "name": ["GM", "WM", "CSF"]})
    for label in ("GM", "WM", "CSF"):
        _image(root, f"{anat}_seg-tissue_label-{label}_probseg", space, value=0.3)


def _write_transforms(root: Path) -> None:
    text = "#Insight Transform File V1.0\n"
    for where, name in (
        ("cest", "acq-mt_from-orig_to-cestref_mode-image_desc-hmc"),
        ("cest", "from-cestref_to-T1w_mode-image_desc-coreg"),
        ("fmap", "from-WASABI_to-cestref_mode-image_desc-coreg"),
    ):
        write_text(root / f"{_SUB}/{where}/{_PRE}_{name}_xfm.txt", text)


def pulseq_text(offsets_ppm: Sequence[float], b1_ut: Sequence[float]) -> str:
    """A Pulseq 1.4 file of one rectangular pulse, a spoiler and an ADC for each volume."""
    raster, rf_raster, gamma = 1e-5, 1e-6, 42.5764
    lengths = [round(t / raster) for t in (_RECOVERY_S, _SATURATION_S, 1e-3)]
    blocks: list[str] = []
    pulses: list[str] = []
    for i, (offset, b1) in enumerate(zip(offsets_ppm, b1_ut, strict=True), start=1):
        for duration, events in zip(
            (*lengths, lengths[2]), ("0 0 0 0 0", f"{i} 0 0 0 0", "0 0 0 1 0", "0 0 0 0 1"),
            strict=True,
        ):  # fmt: skip
            blocks.append(f"{len(blocks) + 1} {duration} {events} 0")
        pulses.append(f"{i} {b1 * gamma:.9g} 1 2 3 0 {offset * _FREQUENCY_MHZ:.9g} 0")
    samples = round(_SATURATION_S / rf_raster)
    shapes = "\n".join(
        f"shape_id {i}\nnum_samples 2\n{a}\n{b}\n"
        for i, (a, b) in enumerate(((1, 1), (0, 0), (0, samples)), start=1)
    )
    return (
        "# Pulseq sequence file\n\n[VERSION]\nmajor 1\nminor 4\nrevision 0\n\n[DEFINITIONS]\n"
        f"AdcRasterTime 1e-07\nBlockDurationRaster {raster:g}\nFREQ {_FREQUENCY_MHZ}\n"
        f"GradientRasterTime {raster:g}\nRadiofrequencyRasterTime {rf_raster:g}\n\n"
        "[BLOCKS]\n" + "\n".join(blocks) + "\n\n[RF]\n" + "\n".join(pulses) + "\n\n"
        "[TRAP]\n1 400000 100 800 100 0\n\n[ADC]\n1 1 1000000 0 0 0\n\n[SHAPES]\n\n" + shapes
    )


if __name__ == "__main__":
    for written in write_examples(Path(sys.argv[1])):
        print(written)
