"""Labelled regions: from masks and label images with tables to names and voxels."""

from __future__ import annotations

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
        If the table cannot be read or lacks ``index`` and ``name``.
    """
    try:
        table = pd.read_csv(path, sep="\t")
        return {int(i): str(name) for i, name in zip(table["index"], table["name"], strict=True)}
    except (OSError, ValueError, KeyError) as exc:
        what = f"is no table of region labels with columns index and name ({exc})"
        raise InputError(Fault(path, what, "Mend the TSV beside the dseg")) from None


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
