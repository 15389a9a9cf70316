"""Labelled regions: from masks and label images with tables to names and voxels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cestprep.bids.files import image_data
from cestprep.bids.session import Region
from cestprep.errors import Fault, InputError


def read_labels(path: Path) -> dict[int, str]:
    """Names of the values of a ``dseg``, from its table.

    Raises
    ------
    InputError
        If the table cannot be read, lacks ``index`` and ``name``, or they are not unique.
    """
    try:
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
        labels = dict(zip(map(int, table["index"]), table["name"].str.strip(), strict=True))
    except (OSError, ValueError, KeyError) as exc:
        what = f"is no table of region labels with columns index and name ({exc})"
        raise InputError(Fault(path, what, "Mend the TSV beside the dseg")) from None
    if len(labels) < len(table) or len(set(labels.values())) < len(table) or "" in labels.values():
        what = "has a repeated index, or a repeated or empty name"
        raise InputError(Fault(path, what, "Give every region one index and one name"))
    return labels


def check_region(region: Region, mask: np.ndarray) -> list[Fault]:
    """What is wrong with a region on the grid of the mask."""
    values = image_data(region.image)
    if values.ndim != 3:
        return [Fault(region.image, f"has {values.ndim} axes", "Supply a 3D image")]
    present = np.unique(values[mask])
    if not np.isfinite(present).all() or (present < 0).any() or (present % 1).any():
        return [Fault(region.image, "holds values that are no labels", "Supply whole numbers >= 0")]
    if not region.is_dseg:
        binary = set(present) <= {0, 1}
        return [] if binary else [Fault(region.image, "is no mask of 0 and 1", "Supply one")]
    if region.table is None:
        return []
    try:
        named = read_labels(region.table)
    except InputError as exc:
        return list(exc.faults)
    unnamed = [str(int(v)) for v in present if v and int(v) not in named]
    if unnamed:
        what = f"has no row for the label(s) {', '.join(unnamed)} of {region.image.name}"
        return [Fault(region.table, what, "Name every label in the mask")]
    return []


def region_voxels(regions: Sequence[Region], mask: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Voxels of every region, among those of the mask.

    Returns
    -------
    mapping of segmentation name to mapping of region name to ndarray of bool, shape (V,)
        Values of a ``dseg`` without a table are named by their number.

    Raises
    ------
    InputError
        If a table is unreadable.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for region in regions:
        values = image_data(region.image)[mask]
        if region.is_dseg:
            present = sorted({int(v) for v in np.unique(values) if v > 0})
            names = read_labels(region.table) if region.table else {v: str(v) for v in present}
            labelled = {name: values == value for value, name in names.items()}
        else:
            labelled = {region.name: values > 0}
        found.setdefault(region.name, {}).update(labelled)
    return found
