"""Images and numbers as other people store them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cestprep.bids.files import load_image
from cestprep.errors import Fault, UsageError

_ARRAYS = (".npy", ".mat")


def is_array(path: Path) -> bool:
    """Whether a file holds numbers without axes or voxel size."""
    return path.suffix in _ARRAYS


def read_volume(
    path: Path,
    variable: str | None,
    volume_axis: int | None,
    voxel_mm: tuple[float, float, float] | None,
    like: Path | None = None,
) -> nib.Nifti1Image:
    """An image: NIfTI as it is, arrays with the axes and voxel size that are stated.

    Parameters
    ----------
    path : Path
        ``.nii``, ``.nii.gz``, ``.npy`` or ``.mat`` (up to version 7).
    variable : str, optional
        Of a ``.mat`` file; needed where it holds several arrays.
    volume_axis : int, optional
        Axis of the volumes of an array, from 0; None: it has none.
    voxel_mm : tuple of float, optional
        Needed for arrays, unless there is
    like : Path, optional
        an image on the same voxels, whose place and orientation the array takes.

    Returns
    -------
    Nifti1Image
        Shape (x, y, z) or (x, y, z, volumes).

    Raises
    ------
    UsageError
        If the file cannot be read, or what it needs is not said.
    """
    if not is_array(path):
        return load_image(path)
    array = _array(path, variable)
    if voxel_mm is None and like is None:
        what = f"holds an array of shape {array.shape} without voxel size"
        raise UsageError(Fault(path, what, "Give --like IMAGE, or --voxel-mm X Y Z"))
    if volume_axis is not None:
        if not -array.ndim <= volume_axis < array.ndim:
            what = f"has axes 0 to {array.ndim - 1}, --volume-axis is {volume_axis}"
            raise UsageError(Fault(path, what, "Give the axis of the volumes"))
        array = np.moveaxis(array, volume_axis, -1)
    spatial = array.ndim - (volume_axis is not None)
    if spatial not in (2, 3):
        what = f"has shape {array.shape}, of which {spatial} axes are space; expected 2 or 3"
        raise UsageError(Fault(path, what, "Give --volume-axis for series, none for maps"))
    if spatial == 2:
        array = np.expand_dims(array, 2)
    affine = np.diag([*voxel_mm, 1.0]) if voxel_mm else _affine(path, array.shape, like)
    image = nib.Nifti1Image(array.astype(np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    return image


def _affine(path: Path, shape: tuple[int, ...], like: Path | None) -> np.ndarray:
    """Of an image that has as many voxels along each axis."""
    assert like is not None
    image = load_image(like)
    if image.shape[:3] != shape[:3]:
        what = f"has {shape[:3]} voxels, {like} has {image.shape[:3]}"
        raise UsageError(Fault(path, what, "Reorder its axes, or give another image to --like"))
    affine: np.ndarray = image.affine
    return affine


def _array(path: Path, variable: str | None) -> np.ndarray:
    try:
        found = _matlab(path, variable) if path.suffix == ".mat" else np.load(path)
    except (UsageError, FileNotFoundError, PermissionError):
        raise
    except Exception as exc:  # numpy and scipy raise many kinds on bad files
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        mend = "Save it as .npy, as .mat of version 7 or older, or as NIfTI"
        raise UsageError(Fault(path, f"cannot be read ({reason})", mend)) from None
    array = np.asarray(found)
    if array.dtype.kind == "b":  # of masks
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iuf" or array.size == 0:
        what = f"holds {array.dtype} of shape {array.shape}, expected real numbers"
        raise UsageError(Fault(path, what, "Export magnitudes"))
    return array


def _matlab(path: Path, variable: str | None) -> np.ndarray:
    from scipy.io import loadmat

    content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    arrays = {k: v for k, v in content.items() if np.asarray(v).ndim >= 2 and np.size(v) > 1}
    if variable is None and len(arrays) == 1:
        return np.asarray(next(iter(arrays.values())))
    if variable in content:
        return np.asarray(content[variable])
    shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in content.items())
    what = f"holds {shapes}" + (f", no {variable}" if variable else "; which one is meant?")
    raise UsageError(Fault(path, what, "Choose by --variable NAME"))


def _decimal_commas(lines: Sequence[str]) -> bool:
    """Whether commas stand between digits, and no number has a point."""
    within = any(re.search(r"\d,\d", line) for line in lines)
    return within and not any("." in line for line in lines)


def read_numbers(path: Path, count: int | None = None) -> np.ndarray:
    """Numbers of a text table: one per line or per field, comments after ``#``.

    Raises
    ------
    UsageError
        If there is something else, or not ``count`` of them.
    """
    mend = "Write one number per line"
    try:
        text = path.read_text("utf-8-sig")
        lines = [line.split("#")[0] for line in text.splitlines()]
        if _decimal_commas(lines):
            what = "has commas within numbers, which may be decimal commas or separators"
            raise UsageError(Fault(path, what, f"{mend}, with decimal points"))
        numbers = np.array([float(w) for line in lines for w in line.replace(",", " ").split()])
    except ValueError as exc:
        raise UsageError(Fault(path, f"cannot be read as numbers ({exc})", mend)) from None
    odd = np.flatnonzero(~np.isfinite(numbers))
    if odd.size or not numbers.size:
        what = f"number {odd[0] + 1} is not finite" if odd.size else "holds no numbers"
        raise UsageError(Fault(path, what, mend))
    if count is not None and numbers.size not in (1, count):
        what = f"holds {numbers.size} numbers for {count} volumes"
        raise UsageError(Fault(path, what, "Give one number per volume, or one for all"))
    return numbers
