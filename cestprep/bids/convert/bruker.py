"""Reconstructed Bruker images (the folder ``pdata/N`` of an experiment), by brukerapi."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cestprep.errors import Fault, UsageError

#: Sidecar field of each parameter of ``visu_pars``.
_FIELDS = {
    "VisuAcqImagingFrequency": "ImagingFrequency",
    "VisuAcqFlipAngle": "FlipAngle",
    "VisuMagneticFieldStrength": "MagneticFieldStrength",
}
_SLICES = ("FG_SLICE", "frame")


def is_bruker(folder: Path) -> bool:
    """Whether a folder is a Bruker reconstruction or an experiment that holds some."""
    return any(folder.glob("2dseq")) or any(folder.glob("pdata/*/2dseq"))


def read_bruker(folder: Path) -> tuple[nib.Nifti1Image, Mapping[str, Any]]:
    """Magnitudes as ParaVision scaled them, and the sidecar fields ``visu_pars`` gives.

    Raises
    ------
    UsageError
        If the reader is absent or fails, or there is not one stack of slices with one kind of
        volumes.
    """
    if not (folder / "2dseq").exists():
        known = ", ".join(str(p.parent) for p in sorted(folder.glob("pdata/*/2dseq")))
        what = "is a Bruker experiment, its images are in folders of their own"
        raise UsageError(Fault(folder, what, f"Give one of {known}"))
    try:
        from brukerapi.dataset import Dataset
    except ImportError:
        mend = "Install it: pip install 'cestprep[convert]'; or convert to NIfTI yourself"
        raise UsageError(Fault(folder, "Bruker folders need brukerapi", mend)) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about companions that an image does not need
            return _converted(folder, Dataset(folder / "2dseq"))
    except UsageError:
        raise
    except Exception as exc:  # brukerapi has 27 kinds without a common base
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        what = f"cannot be read as a Bruker image ({reason})"
        mend = "It needs 2dseq and visu_pars as ParaVision 5.1 or later writes them"
        raise UsageError(Fault(folder, what, mend)) from None


def _converted(folder: Path, found: Any) -> tuple[nib.Nifti1Image, Mapping[str, Any]]:
    packages = len(found.slice_packages_index())
    if packages > 1:
        mend = "Give a scan with one stack of slices"
        raise UsageError(Fault(folder, f"holds {packages} stacks of slices", mend))
    data, groups = _volumes_last(folder, np.asarray(found.data), list(found.dim_type))
    kinds = _words(found, "VisuCoreFrameType") - {"MAGNITUDE_IMAGE"}
    if data.dtype.kind == "c" or kinds:
        what = f"holds {', '.join(kinds) or 'complex images'}, not magnitudes"
        raise UsageError(Fault(folder, what, "Reconstruct magnitudes"))
    units = _words(found, "VisuCoreUnits") - {"mm"}
    if units:
        what = f"has lengths in {', '.join(units)}, expected mm"
        raise UsageError(Fault(folder, what, "Export the series to convert as NIfTI"))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ found.affine  # patient (LPS) to NIfTI (RAS)
    image = nib.Nifti1Image(data[..., 0] if not groups else data, affine)
    image.header.set_xyzt_units("mm", "sec")
    values = {field: found[name].value for name, field in _FIELDS.items() if name in found}
    return image, {k: float(np.ravel(v)[0]) for k, v in values.items()}


def _words(found: Any, name: str) -> set[str]:
    """Values of a parameter, without the brackets of text; none where it is not given."""
    if name not in found:
        return set()
    values = np.ravel(np.asarray(found[name].value, dtype=object))
    return {str(value).strip("<> ") for value in values}


def _volumes_last(folder: Path, data: np.ndarray, axes: list[str]) -> tuple[np.ndarray, list[str]]:
    """The array (x, y, z, volumes) in float32, and the groups of frames its volumes are."""
    if axes.count("spatial") == 2:
        place = next(axes.index(name) for name in _SLICES if name in axes)
        data, axes = np.moveaxis(data, place, 2), [*axes[:2], "spatial", *_without(axes[2:], place)]
    sizes = dict(zip(axes[3:], data.shape[3:], strict=True))
    groups = [name for name, size in sizes.items() if size > 1]
    if len(groups) > 1:
        what = "has volumes of several kinds: " + ", ".join(f"{g} ({sizes[g]})" for g in groups)
        raise UsageError(Fault(folder, what, "Export the series to convert as NIfTI"))
    kind = np.float32 if data.dtype.kind in "iuf" else data.dtype
    return data.reshape(*data.shape[:3], -1).astype(kind), groups


def _without(names: list[str], place: int) -> list[str]:
    return [name for i, name in enumerate(names, 2) if i != place]
