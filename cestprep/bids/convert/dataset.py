"""Writing into a CEST-BIDS dataset: what is there is never replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cestprep import __version__
from cestprep.bids.convert.series import Series
from cestprep.bids.files import (
    copy_file,
    json_text,
    read_json,
    write_image,
    write_json,
    write_text,
)
from cestprep.bids.sidecars import companion
from cestprep.bids.spec import (
    CONTEXT,
    DATATYPE,
    DERIVATIVE_BIDSIGNORE,
    MAGNITUDE,
    MAP_FOLDERS,
    MASK,
    QUANTITIES,
    RAW_BIDSIGNORE,
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


def prepare(root: Path, kind: str, name: str) -> None:
    """Description and ``.bidsignore`` of a new dataset; an existing one must be of the kind.

    Raises
    ------
    UsageError
        If the folder is something else.
    """
    path = root / "dataset_description.json"
    if path.exists():
        found = read_json(path).get("DatasetType", "raw")
        if found != kind:
            raise UsageError(Fault(root, f"is a {found} dataset, not {kind}", "Choose another"))
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(Fault(root, "is not empty and no BIDS dataset", "Choose a new folder"))
    maker = {"GeneratedBy": [{"Name": "cestprep-tools convert", "Version": __version__}]}
    about = {"Name": name, "BIDSVersion": "1.11.0", "DatasetType": kind, **maker}
    write_json(path, about)
    ignored = RAW_BIDSIGNORE if kind == "raw" else DERIVATIVE_BIDSIGNORE
    write_text(root / ".bidsignore", "\n".join(ignored) + "\n")
    write_text(root / "README.md", f"# {name}\n\nConverted by cestprep-tools convert.\n")


def write_series(
    place: Place, image: nib.Nifti1Image, series: Series, sequence: Path | None, *, shared: bool
) -> list[Path]:
    """Write image, table, sidecar and sequence of a series; returns the paths.

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
    top = {
        ".json": place.root / f"{label}{SERIES}.json",
        ".tsv": place.root / f"{label}{CONTEXT}.tsv",
    }
    own = {".json": place.series(SERIES, ".json"), ".tsv": place.series(CONTEXT, ".tsv")}
    where = top if shared else own
    picture, played = place.series(SERIES, ".nii.gz"), place.series(SERIES, ".seq")
    _refuse_existing(picture, *([] if shared else own.values()))
    texts = {".json": json_text(series.fields), ".tsv": as_tsv(series.table)}
    for ending, text in texts.items():
        _agree(where[ending], text)
    written = [write_text(where[ending], text) for ending, text in texts.items()]
    if sequence is not None:
        written.append(copy_file(sequence, played))
    data = np.asarray(image.dataobj)
    return [*written, write_image(picture, data, image, _volume_time(series.table))]


def write_map(place: Place, image: nib.Nifti1Image, suffix: str, fields: Mapping[str, Any]) -> Path:
    """Write a map of T1, T2, B0 or B1; returns its path."""
    datatype = MAP_FOLDERS[QUANTITIES[suffix]]
    path = place.path(datatype, suffix, ".nii.gz", acq=place.acquisition, run=place.run)
    _refuse_existing(path)
    return _write(path, image, fields)


def write_magnitude(place: Place, image: nib.Nifti1Image) -> Path:
    """Write the magnitude beside a field map; returns its path."""
    path = place.path(MAP_FOLDERS["B0"], MAGNITUDE, ".nii.gz", acq=place.acquisition, run=place.run)
    _refuse_existing(path)
    return write_image(path, np.asarray(image.dataobj), image)


def write_mask(place: Place, image: nib.Nifti1Image, label: str) -> Path:
    """Write a mask into a derivative dataset; returns its path."""
    path = place.path(DATATYPE, MASK, ".nii.gz", desc=label)
    _refuse_existing(path)
    return _write(path, image, {"Type": "Brain"})


def _write(path: Path, image: nib.Nifti1Image, fields: Mapping[str, Any]) -> Path:
    write_json(companion(path, ".json"), dict(fields))
    return write_image(path, np.asarray(image.dataobj), image)


def _volume_time(table: pd.DataFrame) -> float:
    """Typical time of a volume without its readout, in s."""
    return float((table["recovery_time"] + table["saturation_duration"]).median())


def as_tsv(table: pd.DataFrame) -> str:
    """Table as it is written; numbers to 12 digits."""
    return str(table.to_csv(sep="\t", index=False, na_rep="n/a", float_format=_shortest))


def _shortest(value: Any) -> str:
    return f"{value:.12g}"


def _refuse_existing(*paths: Path) -> None:
    there = [path for path in paths if path.exists()]
    if there:
        raise UsageError(
            *(Fault(path, "exists already", "Remove it, or give another label") for path in there)
        )


def _agree(path: Path, text: str) -> None:
    """Refuse to replace a file that says something else."""
    if path.exists() and path.read_text("utf-8") != text:
        what = "exists already and says something else"
        raise UsageError(Fault(path, what, "Leave --shared out for this session, or correct it"))
