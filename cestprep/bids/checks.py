"""Checks of the images a session uses, as rules of one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cestprep.bids.auxiliary import PLAUSIBLE, UNITS, AuxiliarySource, usable_auxiliary
from cestprep.bids.files import grid_difference, image_data, load_image, same_grid
from cestprep.bids.regions import check_region
from cestprep.bids.scans import Scan
from cestprep.bids.session import Region, Series
from cestprep.errors import Fault, InputError


def check_images(
    mask_path: Path | None,
    series: Sequence[tuple[Series, int]],
    sources: Sequence[AuxiliarySource],
    regions: Sequence[Region],
    *,
    aligned: bool = True,
) -> list[Fault]:
    """Grids, volumes and values of everything a session uses.

    Parameters
    ----------
    mask_path : Path or None
        None where it will be made; what has signal in the first series stands for it.
    series : sequence of (Series, int)
        With the number of volumes their tables describe.
    sources : sequence of AuxiliarySource
    regions : sequence of Region
    aligned : bool
        Whether all series must be on one grid; else only the first counts, the others will be
        registered to it.
    """
    faults: list[Fault] = []

    def load(path: Path) -> nib.Nifti1Image | None:
        try:
            return load_image(path)
        except InputError as exc:
            faults.extend(exc.faults)
            return None

    shown = mask_path or series[0][0].image
    mask_image = load(shown)
    if mask_image is None:
        return faults
    mask = image_data(shown) > 0
    if mask_path is None and mask.ndim == 4:
        mask = np.asarray(mask.any(axis=3))
    if mask.ndim != 3 or not mask.any():
        what = f"has {mask.ndim} axes" if mask.ndim != 3 else "is empty"
        return [
            *faults,
            Fault(shown, f"the mask {what}", "Supply a 3D mask of what is to be fitted"),
        ]
    others = [s.image for s in sources if s.image] + [s.sd for s in sources if s.sd]
    paths = [*(s.image for s, _ in series), *others, *(r.image for r in regions)]
    images = {path: image for path in paths if (image := load(path)) is not None}
    free = set() if aligned else {s.image for s, _ in series[1:]}
    faults += _check_grids({p: i for p, i in images.items() if p not in free}, shown, mask_image)
    if faults:
        return faults
    for one, rows in series:
        faults += _check_series(one, rows, None if one.image in free else mask)
    for region in regions:
        faults += check_region(region, mask)
    for source in sources:
        faults += _check_map(source, mask) + _check_sd(source, mask)
    return faults


def _check_grids(
    images: Mapping[Path, nib.Nifti1Image], mask_path: Path, mask: nib.Nifti1Image
) -> list[Fault]:
    """Images that are not on the grid of the mask; the mask, if it is the odd one out."""
    mend = "Resample all images of the session to one grid first"
    away = {path: image for path, image in images.items() if not same_grid(image, mask)}
    first = next(iter(away.items()), None)
    if first is not None and len(images) > 1 and len(away) == len(images):
        path, image = first
        if all(same_grid(image, other) for other in away.values()):
            what = f"is not on the grid of any image, such as {path.name}"
            shown = f"{what}: {grid_difference(mask, image)}"
            return [Fault(mask_path, shown, "Give a mask on the grid of the images")]
    return [_off_grid(path, image, mask_path, mask, mend) for path, image in away.items()]


def _off_grid(
    path: Path, image: nib.Nifti1Image, other: Path, there: nib.Nifti1Image, mend: str
) -> Fault:
    """An image that is not on the grid of another."""
    return Fault(path, f"is not on the grid of {other.name}: {grid_difference(image, there)}", mend)


def _check_series(series: Series, rows: int, mask: np.ndarray | None) -> list[Fault]:
    """A series in the mask, or wherever it has signal."""
    path = series.image
    data = image_data(path)
    if data.ndim > 4:
        return [Fault(path, f"has {data.ndim} axes", "Supply a 4D series")]
    volumes = data.shape[3] if data.ndim == 4 else 1
    if volumes != rows:
        return [
            Fault(
                path,
                f"has {volumes} volumes, but {series.context} has {rows} rows",
                "Give one row per volume",
            )
        ]
    if mask is None:
        return _check_signal(path, data, "")
    return _check_signal(path, data[mask], " in the mask")


def check_scan(scan: Scan) -> list[Fault]:
    """Images of a scan that maps are made from: one grid, and signal in every volume."""
    images = [load_image(path) for path in scan.images]
    for path, image in zip(scan.images[1:], images[1:], strict=True):
        if not same_grid(image, images[0]):
            mend = "Images of one scan must have the same voxels"
            return [_off_grid(path, image, scan.images[0], images[0], mend)]
    return [
        fault
        for path, image in zip(scan.images, images, strict=True)
        for fault in _check_signal(path, image.get_fdata(dtype=np.float32), "")
    ]


def _check_signal(path: Path, data: np.ndarray, where: str) -> list[Fault]:
    """Magnitudes, volumes last where there are several: finite, none negative or all zero."""
    rows = data.reshape(-1, data.shape[-1] if data.ndim in (2, 4) else 1)
    again = "Reconstruct the series"

    def named(bad: np.ndarray) -> str:
        return f"volumes {', '.join(str(v + 1) for v in np.flatnonzero(bad))}"

    finite = np.isfinite(rows).all(axis=0)
    seen = np.asarray(rows.any(axis=0))
    if not finite.all():
        return [Fault(path, f"holds NaN or infinite values in {named(~finite)}", again)]
    if (rows < 0).any():
        return [Fault(path, f"holds negative values{where}", "Supply magnitude images, not phase")]
    if not seen.any():
        return [Fault(path, f"is zero everywhere{where}", "Check it, and the mask if there is one")]
    if not seen.all():
        return [Fault(path, f"{named(~seen)} are zero everywhere{where}", again)]
    return []


def _check_sd(source: AuxiliarySource, mask: np.ndarray) -> list[Fault]:
    if source.sd is None:
        return []
    values = image_data(source.sd)
    if values.ndim != 3:
        return [Fault(source.sd, f"has {values.ndim} axes", "Supply a 3D map")]
    inside = values[mask]
    if not np.isfinite(inside).any() or (inside < 0).any():
        return [
            Fault(source.sd, "is no map of standard deviations (negative or NaN)", "Correct it")
        ]
    return []


def _check_map(source: AuxiliarySource, mask: np.ndarray) -> list[Fault]:
    if source.image is None:
        return []
    values = image_data(source.image)
    if values.ndim != 3:
        return [Fault(source.image, f"has {values.ndim} axes", "Supply a 3D map")]
    inside = values[mask] * source.to_si
    measured = np.isfinite(inside) & ((inside != 0) | (source.quantity == "B0"))
    if not measured.any():
        return [Fault(source.image, "holds no value inside the mask", "Supply another map")]
    if usable_auxiliary(source.quantity, inside).mean() < 0.5:
        low, high = PLAUSIBLE[source.quantity]
        median = float(np.nanmedian(inside[np.isfinite(inside)]))
        return [
            Fault(
                source.image,
                f"median {source.quantity} in the mask is {median:g} after conversion and most "
                f"voxels lie outside {low:g} to {high:g} {UNITS[source.quantity]}",
                "Check the unit of the map (BIDS: T1map and T2map in seconds) and its sidecar",
            )
        ]
    return []
