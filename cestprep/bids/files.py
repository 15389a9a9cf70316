"""Reading with messages a user can act on; writing that never leaves half a file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError

from cestprep.errors import Fault, InputError
from cestprep.imaging.grid import Grid


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=ending)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".tmp-"))
    new, old = temporary / "new", temporary / "old"
    new.mkdir()
    try:
        yield new
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write JSON atomically.

    Raises
    ------
    ValueError
        If a number is not finite: JSON has no such numbers.
    """
    return write_text(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """JSON as it is written (see `write_json`)."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def copy_file(source: Path, target: Path) -> Path:
    """Copy a file atomically; returns the copy."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def write_image(
    path: Path, data: np.ndarray, like: nib.Nifti1Image, volume_s: float | None = None
) -> Path:
    """Write a NIfTI image atomically, on the grid of ``like``; of a series also s per volume."""
    image = nib.Nifti1Image(data, like.affine)
    image.header.set_xyzt_units("mm", "sec")
    for setter, code in (("set_qform", "qform_code"), ("set_sform", "sform_code")):
        getattr(image, setter)(like.affine, int(like.header[code]))
    if not like.header["qform_code"] and not like.header["sform_code"]:
        image.set_sform(like.affine, 1)
    if volume_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], volume_s))
    with replacing(path) as temporary:
        nib.save(image, temporary)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON object.

    Raises
    ------
    InputError
        If the file cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(
            Fault(path, f"cannot be read as JSON ({exc})", "Mend or replace the file")
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            Fault(path, "holds no JSON object", 'Write the fields as {"Name": value, ...}')
        )
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def load_image(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI image and read its data.

    Raises
    ------
    InputError
        If it is missing, truncated, no NIfTI image or has voxels of no place or plausible size.
    """
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise ImageFileError("not a NIfTI image")
        if image.get_data_dtype().kind not in "iuf":
            raise ImageFileError(f"values of type {image.get_data_dtype()}, expected real numbers")
        odd = _misplaced(image)
        if odd:
            raise ImageFileError(odd)
        image.get_fdata(dtype=np.float32)
    except Exception as exc:  # what nibabel, gzip and zlib raise on bad files is an open list
        reason = str(exc).split("\n")[0] or type(exc).__name__
        raise InputError(
            Fault(path, f"cannot be read as NIfTI ({reason})", "Copy or convert the image again")
        ) from None
    return image


#: Plausible sides of a voxel, in mm.
_VOXEL_MM = (0.005, 200.0)


def _misplaced(image: nib.Nifti1Image) -> str | None:
    """What is wrong with place and size of an image's voxels, if anything."""
    if not np.isfinite(image.affine).all() or not np.linalg.det(image.affine[:3, :3]):
        return "its affine is singular or not finite, so its voxels have no place"
    sides = voxel_sizes(image.affine)
    if sides.min() < _VOXEL_MM[0] or sides.max() > _VOXEL_MM[1]:
        return f"voxels of {_times(sides)} mm are not plausible"
    unit = image.header.get_xyzt_units()[0]
    return None if unit in ("mm", "unknown") else f"lengths are in {unit}, expected mm"


def image_data(path: Path) -> np.ndarray:
    """Voxel values of a NIfTI image as float32 (see `load_image`)."""
    data: np.ndarray = load_image(path).get_fdata(dtype=np.float32)
    return data


def same_grid(a: nib.Nifti1Image | Grid, b: nib.Nifti1Image | Grid) -> bool:
    """Whether two images share shape (first three axes) and affine (to 0.01 mm at the corners)."""
    return grid_difference(a, b) is None


def grid_difference(a: nib.Nifti1Image | Grid, b: nib.Nifti1Image | Grid) -> str | None:
    """How the grids of two images differ (see `same_grid`), in words; None if they do not."""
    if a.shape[:3] != b.shape[:3]:
        return f"{_times(a.shape[:3])} voxels instead of {_times(b.shape[:3])}"
    corner = np.diag([*a.shape[:3], 1.0])
    corner[:3, 3] = 0
    corners = np.concatenate([corner, np.eye(4)[:, 3:]], axis=1)
    corners[3] = 1
    away = float(np.abs(a.affine @ corners - b.affine @ corners).max())
    if away <= _SAME_MM:
        return None
    own, other = voxel_sizes(a.affine), voxel_sizes(b.affine)
    if not np.allclose(own, other, rtol=1e-3):
        return f"voxels of {_times(own)} mm instead of {_times(other)}"
    return f"its affine places voxels up to {away:.3g} mm elsewhere"


#: Places closer than this (mm) are the same.
_SAME_MM = 0.01


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
