"""What a session offers: one pure function over pybids layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cestprep.bids.anatomy import AnatomyFiles, find_anatomy
from cestprep.bids.sidecars import applicable, metadata, parse_name
from cestprep.bids.spec import (
    CONTEXT,
    DATATYPE,
    MAP_SUFFIXES,
    MASK,
    PREPROCESSED,
    PYBIDS_CONFIG,
    SCANS,
    SEGMENTATION,
    SERIES,
    SPACE,
)
from cestprep.errors import Fault, InputError, UsageError

if TYPE_CHECKING:
    from bids import BIDSLayout


@dataclass(frozen=True)
class Series:
    """A saturation-transfer series with its table and sidecar fields."""

    image: Path
    context: Path | None
    fields: Mapping[str, Any]

    @property
    def targets(self) -> tuple[str, ...]:
        """Pools the series saturates, from ``SaturationTarget``.

        Raises
        ------
        InputError
            If the field is neither a word nor a list of words.
        """
        value = self.fields.get("SaturationTarget", [])
        words = [value] if isinstance(value, str) else value
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            what = f'SaturationTarget is {value!r}, expected a list such as ["amide"]'
            raise InputError(Fault(self.image, what, "Correct the sidecar"))
        return tuple(words)


@dataclass(frozen=True)
class MapFile:
    """A map and its SD map if there is one, their sidecar fields, and their dataset."""

    image: Path
    fields: Mapping[str, Any]
    sd: Path | None
    sd_fields: Mapping[str, Any]
    dataset: str


@dataclass(frozen=True)
class Region:
    """A labelled region image (``label-<name>_mask`` or a ``dseg`` with its table)."""

    name: str
    image: Path
    table: Path | None
    is_dseg: bool


@dataclass(frozen=True)
class SessionFiles:
    """Everything found for one session.

    Attributes
    ----------
    subject, session, root
    series : tuple of Series
        Of saturation transfer, raw unless ``prepared``.
    maps : mapping of quantity to MapFile
    mask : Path or None
    regions : tuple of Region
    scans : mapping of suffix to tuple of Series
        Raw scans that maps are made from.
    prepared : tuple of Series
        Series that a derivative dataset holds aligned with the reference.
    anatomy : AnatomyFiles or None
        What fMRIPrep or sMRIPrep made.
    """

    subject: str
    session: str | None
    root: Path
    series: tuple[Series, ...]
    maps: Mapping[str, MapFile]
    mask: Path | None
    regions: tuple[Region, ...] = field(default=())
    scans: Mapping[str, tuple[Series, ...]] = field(default_factory=dict)
    prepared: tuple[Series, ...] = ()
    anatomy: AnatomyFiles | None = None

    @property
    def label(self) -> str:
        """``sub-…[_ses-…]``."""
        return session_label(self.subject, self.session)

    @property
    def folder(self) -> Path:
        """Folder of the session in the raw dataset."""
        folder = self.root / f"sub-{self.subject}"
        return folder / f"ses-{self.session}" if self.session else folder


def session_label(subject: str, session: str | None) -> str:
    """``sub-<subject>[_ses-<session>]``."""
    return f"sub-{subject}" + (f"_ses-{session}" if session else "")


def list_sessions(root: Path) -> dict[str, tuple[str | None, ...]]:
    """Participants and their sessions by folder names; no indexing.

    Raises
    ------
    UsageError
        If the folder is missing or holds no participant.
    """
    mend = "Give the top folder of a BIDS dataset"
    if not root.is_dir():
        raise UsageError(Fault(root, "is not a folder", mend))
    found: dict[str, tuple[str | None, ...]] = {}
    for folder in sorted(p for p in root.glob("sub-*") if p.is_dir()):
        sessions = sorted(p.name.removeprefix("ses-") for p in folder.glob("ses-*") if p.is_dir())
        without = (None,) if not sessions or (folder / DATATYPE).is_dir() else ()
        found[folder.name.removeprefix("sub-")] = (*without, *sessions)
    if not found:
        raise UsageError(Fault(root, "holds no folder sub-<label>", mend))
    return found


def choose_sessions(
    available: Mapping[str, Sequence[str | None]],
    participants: Sequence[str],
    sessions: Sequence[str],
) -> list[tuple[str, str | None]]:
    """Asked (participant, session) pairs; all of them where nothing is asked.

    Raises
    ------
    UsageError
        Naming the labels that do not exist and those that do.
    """
    unknown = [p for p in participants if p not in available]
    if unknown:
        raise UsageError(
            Fault(
                f"--participant-label {' '.join(unknown)}",
                "no such participant in the dataset",
                f"There are {', '.join(available)}",
            )
        )
    subjects = list(dict.fromkeys(participants)) or list(available)
    existing = {s for subject in subjects for s in available[subject] if s}
    missing = [s for s in sessions if s not in existing]
    if missing:
        raise UsageError(
            Fault(
                f"--session-label {' '.join(missing)}",
                "no such session for the asked participants",
                f"There are {', '.join(sorted(existing)) or 'no sessions'}",
            )
        )
    chosen = [
        (subject, session)
        for subject in subjects
        for session in available[subject]
        if not sessions or session in sessions
    ]
    for subject in participants:
        if subject not in {s for s, _ in chosen}:
            raise UsageError(
                Fault(
                    f"--participant-label {subject}",
                    f"has none of the sessions {', '.join(sessions)}",
                    "Leave the participant or the sessions out",
                )
            )
    for label in (part for pair in chosen for part in pair if part is not None):
        if not label.isalnum():
            raise UsageError(
                Fault(f"label '{label}'", "holds more than letters and digits", "Rename the folder")
            )
    return chosen


def make_layout(root: Path, subjects: Sequence[str]) -> BIDSLayout:
    """Index of some participants only (a few files instead of a whole cohort)."""
    from bids import BIDSLayout, BIDSLayoutIndexer

    wanted = "|".join(map(re.escape, subjects))
    ignore = [
        re.compile(rf"^/sub-(?!(?:{wanted})(?:/|$))"),
        re.compile(r"^/(?:derivatives|sourcedata|code|models|logs)(?:/|$)"),
        re.compile(r"/\."),
    ]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    return BIDSLayout(root, config=str(PYBIDS_CONFIG), validate=False, indexer=indexer)


def select_session(
    layout: BIDSLayout,
    derivatives: Mapping[str, BIDSLayout],
    subject: str,
    session: str | None,
    mask: str = "brain",
    description: str | None = None,
) -> SessionFiles:
    """Find the series, maps, mask (``desc-<mask>_mask``) and regions of one session.

    Series are those without ``desc-``, or with the given one in a derivative dataset.

    Maps and masks of derivative datasets come before those of the raw dataset; among the datasets
    the first one given wins.  Nothing is chosen by the ``acq`` label.

    Raises
    ------
    InputError
        If something is ambiguous or a sidecar is unreadable.
    """
    root = Path(layout.root)
    datasets = {**derivatives, "raw": layout}
    maps = {}
    for quantity, suffix in MAP_SUFFIXES.items():
        for name, source in datasets.items():
            found = _map(source, name, suffix, subject, session)
            if found is not None:
                maps[quantity] = found
                break
    anatomies = {n: find_anatomy(d.files, subject, session) for n, d in derivatives.items()}
    # what lies beside a preprocessed T1w is on its grid, unless it says otherwise
    where = {n: {"space": SPACE} if found else {} for n, found in anatomies.items()}
    masks = [
        _only(
            _query(d, subject, session, [MASK], desc=mask, label=None, **where[n]), f"{mask} mask"
        )
        for n, d in derivatives.items()
    ]
    return SessionFiles(
        subject=subject,
        session=session,
        root=root,
        series=tuple(
            _series(p, root) for p in _query(layout, subject, session, [SERIES], desc=description)
        ),
        maps=maps,
        mask=next((m for m in masks if m is not None), None),
        regions=_first_of_each(
            [r for n, d in derivatives.items() for r in _regions(d, subject, session, **where[n])]
        ),
        scans={
            suffix: tuple(_series(p, root) for p in _query(layout, subject, session, [suffix]))
            for suffix in SCANS
        },
        prepared=tuple(
            _series(path, Path(d.root))
            for d in derivatives.values()
            for path in _query(d, subject, session, [SERIES], desc=PREPROCESSED, space=SPACE)
        ),
        anatomy=next((found for found in anatomies.values() if found is not None), None),
    )


def _query(
    layout: BIDSLayout,
    subject: str,
    session: str | None,
    suffixes: Sequence[str],
    **wanted: str | None,
) -> list[Path]:
    """Images of a session by suffix and entities (None: must be absent), sorted by path.

    Entities are read from file names: pybids also finds some in the folders above the dataset.
    Images in another space than the series' (``space-``, but for ``cestref``) are left out.
    """
    wanted = {"sub": subject, "ses": session, **wanted}
    found: dict[Path, Path] = {}
    for path in sorted(map(Path, layout.files)):
        entities, suffix, extension = parse_name(path.name)
        matches = all(entities.get(key) == value for key, value in wanted.items())
        matches = matches and entities.get("space") in (None, SPACE)
        if suffix in suffixes and extension in (".nii", ".nii.gz") and matches:
            found.setdefault(path.resolve(), path)  # links to one file count once
    return list(found.values())


def _only(found: list[Path], what: str) -> Path | None:
    if len(found) > 1:
        raise InputError(
            Fault(
                found[0].parent,
                f"there are {len(found)} candidates for the {what}: "
                f"{', '.join(p.name for p in found)}",
                "Keep one of them in the dataset given",
            )
        )
    return found[0] if found else None


def _series(image: Path, root: Path) -> Series:
    contexts = applicable(image, root, CONTEXT, ".tsv")
    return Series(image, contexts[0] if contexts else None, metadata(image, root))


def _map(
    layout: BIDSLayout, dataset: str, suffix: str, subject: str, session: str | None
) -> MapFile | None:
    image = _only(_query(layout, subject, session, [suffix], stat=None), suffix)
    if image is None:
        return None
    sd = _only(_query(layout, subject, session, [suffix], stat="std"), f"SD of the {suffix}")
    root = Path(layout.root)
    return MapFile(image, metadata(image, root), sd, metadata(sd, root) if sd else {}, dataset)


def _first_of_each(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Regions without those whose name an earlier one has."""
    by_name: dict[str, Region] = {}
    for region in regions:
        by_name.setdefault(region.name, region)
    return tuple(by_name.values())


def _regions(layout: BIDSLayout, subject: str, session: str | None, **wanted: str) -> list[Region]:
    root = Path(layout.root)
    regions: dict[str, Region] = {}
    for image in _query(layout, subject, session, [MASK, SEGMENTATION], **wanted):
        entities, suffix, _ = parse_name(image.name)
        is_dseg = suffix == SEGMENTATION
        name = entities.get("seg") or entities.get("desc") if is_dseg else entities.get("label")
        if name is None or "model" in entities:  # desc-brain_mask; which estimates are valid
            continue
        if not name.isalnum() or name in regions:
            what = "has no label of letters and digits"
            if name in regions:
                what = f"is called '{name}' like {regions[name].image.name}"
            raise InputError(Fault(image, what, "Rename it, or keep one of them in the dataset"))
        tables = applicable(image, root, SEGMENTATION, ".tsv") if is_dseg else []
        regions[name] = Region(name, image, tables[0] if tables else None, is_dseg)
    return list(regions.values())
