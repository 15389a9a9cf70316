"""``dataset_description.json`` and ``.bidsignore`` of datasets we write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cestprep import __version__
from cestprep.bids.files import write_json, write_text
from cestprep.bids.spec import DERIVATIVE_BIDSIGNORE, RAW_BIDSIGNORE

#: Of the standard that datasets are said to follow.
BIDS_VERSION = "1.11.0"


def write_description(
    root: Path,
    name: str,
    kind: Literal["raw", "derivative"],
    maker: str,
    how: str | None = None,
    **more: Any,
) -> list[Path]:
    """Say what a dataset is and hide from the released standard what it does not know.

    Parameters
    ----------
    root : Path
    name : str
    kind : {"raw", "derivative"}
    maker : str
        Program that wrote it.
    how : str, optional
        What is to be known of how.
    **more
        Further fields.

    Returns
    -------
    list of Path
        Of the two files.
    """
    described = {} if how is None else {"Description": how}
    about = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "GeneratedBy": [{"Name": maker, "Version": __version__, **described}],
        **more,
    }
    ignored = RAW_BIDSIGNORE if kind == "raw" else DERIVATIVE_BIDSIGNORE
    return [
        write_json(root / "dataset_description.json", about),
        write_text(root / ".bidsignore", "\n".join(ignored) + "\n"),
    ]
