"""New files of a dataset are written aside, looked at as validation does, and moved in together."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cestprep.bids.convert.dataset import Place
from cestprep.bids.files import copy_file
from cestprep.bids.sidecars import metadata
from cestprep.bids.spec import CONTEXT, SERIES
from cestprep.bids.validation import crosschecks
from cestprep.bids.validation.finding import Finding
from cestprep.errors import Fault, UsageError

#: What a dataset says for many images.
_INHERITED = (".json", ".tsv")


@dataclass(frozen=True)
class Stage:
    """New files beside what they inherit.

    Attributes
    ----------
    place : Place
        Where to write; its root is temporary.
    root : Path
        Of the dataset itself.
    """

    place: Place
    root: Path

    def check(self) -> list[Finding]:
        """Warnings about the new files.

        Raises
        ------
        UsageError
            With every error that validation would find.
        """
        found = crosschecks.findings(self.place.root)
        wrong = [finding.as_fault() for finding in found if finding.severity == "error"]
        if wrong:
            raise UsageError(*wrong)
        return found

    def check_inherited(
        self, image: Path, fields: Mapping[str, Any], known: Collection[str]
    ) -> None:
        """Refuse what an image would inherit although nobody stated it.

        Parameters
        ----------
        image : Path
        fields : mapping
            All that was stated.
        known : collection of str
            Fields that change numbers.

        Raises
        ------
        UsageError
        """
        said = metadata(image, self.place.root)
        mend = "State it for this series too, or give it another --acq"
        wrong = [
            Fault(self.root / image.name, f"{key} {said[key]!r} would come from a file above", mend)
            for key in sorted(set(known) & set(said) - set(fields))
        ]
        if wrong:
            raise UsageError(*wrong)

    def publish(self, written: Collection[Path]) -> list[Path]:
        """Move new files to the dataset, images last; those it has already may stay.

        Raises
        ------
        UsageError
            If one exists and is another; nothing is moved then.
        """
        ordered = sorted(written, key=lambda path: ".nii" in path.name)
        targets = {path: self.root / path.relative_to(self.place.root) for path in ordered}
        other = [t for p, t in targets.items() if t.exists() and not _alike(p, t)]
        for image in (t for t in targets.values() if ".nii" in t.name):
            other += [file for file in _companions(image) if file not in targets.values()]
        if other:
            what, mend = (
                "exists already and says something else",
                "Remove it, or give another label",
            )
            raise UsageError(*(Fault(path, what, mend) for path in other))
        for path, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        return list(targets.values())


def _companions(image: Path) -> list[Path]:
    """Files in the folder of an image that would speak for it."""
    stem = image.name.partition(".")[0]
    names = [f"{stem}.*"]
    if stem.endswith(f"_{SERIES}"):
        names.append(f"{stem.removesuffix(SERIES)}{CONTEXT}.*")
    return [file for name in names for file in sorted(image.parent.glob(name))]


def _alike(a: Path, b: Path) -> bool:
    return b.is_file() and a.read_bytes() == b.read_bytes()


@contextmanager
def staged(place: Place) -> Iterator[Stage]:
    """A temporary dataset on the same disk with what the files of a place would inherit.

    It goes with everything that was not published.
    """
    root = place.root
    if root.exists() and not root.is_dir():
        raise UsageError(Fault(root, "is a file", "Give a folder"))
    folder = root if root.exists() else _nearest(root)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".tmp-"))
    try:
        own = replace(place, root=temporary)
        for level in (root, *_levels(place)):
            for file in sorted(level.glob("*")) if level.is_dir() else ():
                if file.is_file() and file.suffix in _INHERITED:
                    copy_file(file, temporary / file.relative_to(root))
        yield Stage(own, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _levels(place: Place) -> Iterator[Path]:
    """Folders between the dataset and the files of a session."""
    folder = place.root / f"sub-{place.subject}"
    yield folder
    if place.session:
        yield folder / f"ses-{place.session}"


def _nearest(path: Path) -> Path:
    """The nearest folder above that exists.

    Raises
    ------
    UsageError
        If it is a file.
    """
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir():
        raise UsageError(
            Fault(above, "is a file, so nothing can be written below", "Give a folder")
        )
    return above
