"""Files of a CEST-BIDS dataset as they are written; `staging` moves them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pandas as pd

from cestprep.bids.convert.series import Series
from cestprep.bids.description import write_description
from cestprep.bids.files import copy_file, read_json, write_image, write_json, write_text
from cestprep.bids.sidecars import companion
from cestprep.bids.spec import (
    CONTEXT,
    DATATYPE,
    MAGNITUDE,
    MAP_FOLDERS,
    MASK,
    QUANTITIES,
    SERIES,
)
from cestprep.errors import Fault, UsageError


@dataclass(frozen=True)
class Place:
    """Where a file of a session goes.

    Attributes
    ----------
    root : Path
    subject : str
    session, acquisition, run : str or None
    """

    root: Path
    subject: str
    session: str | None = None
    acquisition: str | None = None
    run: str | None = None

    def path(self, datatype: str, suffix: str, ending: str, **entities: str | None) -> Path:
        """Path of a file of the session."""
        named = {"sub": self.subject, "ses": self.session, **entities}
        stem = "_".join(f"{key}-{value}" for key, value in named.items() if value)
        folder = self.root / f"sub-{self.subject}"
        folder = folder / f"ses-{self.session}" if self.session else folder
        return folder / datatype / f"{stem}_{suffix}{ending}"

    def series(self, suffix: str, ending: str) -> Path:
        """Path of a file of the series."""
        return self.path(DATATYPE, suffix, ending, acq=self.acquisition, run=self.run)


Kind = Literal["raw", "derivative"]
_MAKER = "cestprep-tools convert"


def is_new(root: Path, kind: Kind) -> bool:
    """Whether a dataset has yet to be made; an existing one must be of the kind.

    Raises
    ------
    UsageError
        If the folder is something else.
    """
    path = root / "dataset_description.json"
    if not path.exists():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UsageError(Fault(root, "is not empty and no BIDS dataset", "Choose a new folder"))
        return True
    about = read_json(path)
    found = about.get("DatasetType", "raw")
    if found != kind:
        raise UsageError(Fault(root, f"is a {found} dataset, not {kind}", "Choose another"))
    missing = [key for key in ("Name", "BIDSVersion") if not isinstance(about.get(key), str)]
    if missing:
        what = f"lacks {' and '.join(missing)}, so the dataset is not valid"
        raise UsageError(Fault(path, what, "Add them first"))
    return False


def write_new(folder: Path, kind: Kind, name: str) -> list[Path]:
    """Description, ``.bidsignore`` and README of a new dataset; returns the paths."""
    text = f"# {name}\n\nConverted by {_MAKER}.\n"
    files = write_description(folder, name, kind, _MAKER)
    return [*files, write_text(folder / "README.md", text)]


def write_series(
    place: Place, image: nib.Nifti1Image, series: Series, sequence: Path | None, *, shared: bool
) -> list[Path]:
    """Write sidecar, table, sequence and image of a series; returns the paths.

    Parameters
    ----------
    place : Place
    image : Nifti1Image
    series : Series
    sequence : Path or None
        Copied beside the image.
    shared : bool
        Table and sidecar at the top of the dataset for all sessions, where they must agree.
    """
    label = f"acq-{place.acquisition}_" if place.acquisition else ""
    sidecar, table = place.series(SERIES, ".json"), place.series(CONTEXT, ".tsv")
    if shared:
        sidecar, table = place.root / f"{label}{SERIES}.json", place.root / f"{label}{CONTEXT}.tsv"
    picture = place.series(SERIES, ".nii.gz")
    written = [write_json(sidecar, series.fields), write_text(table, as_tsv(series.table))]
    if sequence is not None:
        written.append(copy_file(sequence, companion(picture, ".seq")))
    return [*written, write_image(picture, _stored(image), image, _volume_time(series.table))]


def write_map(
    place: Place, image: nib.Nifti1Image, suffix: str, fields: Mapping[str, Any]
) -> list[Path]:
    """Write a map of T1, T2, B0 or B1; returns the paths."""
    datatype = MAP_FOLDERS[QUANTITIES[suffix]]
    path = place.path(datatype, suffix, ".nii.gz", acq=place.acquisition, run=place.run)
    return _write(path, image, fields)


def write_magnitude(place: Place, image: nib.Nifti1Image) -> Path:
    """Write the magnitude beside a field map; returns its path."""
    path = place.path(MAP_FOLDERS["B0"], MAGNITUDE, ".nii.gz", acq=place.acquisition, run=place.run)
    return write_image(path, _stored(image), image)


def write_mask(place: Place, image: nib.Nifti1Image, label: str) -> list[Path]:
    """Write a mask into a derivative dataset; returns the paths."""
    path = place.path(DATATYPE, MASK, ".nii.gz", desc=label)
    return _write(path, image, {"Type": "Brain"})


def _write(path: Path, image: nib.Nifti1Image, fields: Mapping[str, Any]) -> list[Path]:
    sidecar = write_json(companion(path, ".json"), dict(fields))
    return [sidecar, write_image(path, _stored(image), image)]


#: Kinds of numbers that programs for NIfTI take; others are written as float32.
_KINDS = ("uint8", "int16", "uint16", "int32", "float32")


def _stored(image: nib.Nifti1Image) -> np.ndarray:
    data = np.asarray(image.dataobj)
    return data if data.dtype.name in _KINDS else data.astype(np.float32)


def _volume_time(table: pd.DataFrame) -> float:
    """Typical time of a volume without its readout, in s."""
    return float((table["recovery_time"] + table["saturation_duration"]).median())


def as_tsv(table: pd.DataFrame) -> str:
    """Table as it is written; numbers to 12 digits."""
    return str(table.to_csv(sep="\t", index=False, na_rep="n/a", float_format=_shortest))


def _shortest(value: Any) -> str:
    return f"{value:.12g}"
