"""Anatomy that fMRIPrep or sMRIPrep made: a T1-weighted image with brain and tissues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cestprep.bids.sidecars import parse_name
from cestprep.bids.spec import MASK, PREPROCESSED, PROBABILITY
from cestprep.errors import Fault, InputError
from cestprep.imaging.tissue import TISSUES

T1W = "T1w"


@dataclass(frozen=True)
class AnatomyFiles:
    """Images on the grid of a preprocessed T1w.

    Attributes
    ----------
    t1w, mask : Path
    tissues : tuple of Path
        Probabilities of the tissues, in their order.
    """

    t1w: Path
    mask: Path
    tissues: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.t1w, self.mask, *self.tissues]


def find_anatomy(files: Sequence[str], subject: str, session: str | None) -> AnatomyFiles | None:
    """The anatomy of a session among the files of a derivative dataset, else of its participant.

    Raises
    ------
    InputError
        If it lacks brain mask or tissue probabilities.
    """
    paths = sorted(Path(f) for f in files if Path(f).parent.name == "anat")
    named = [(path, *parse_name(path.name)) for path in paths]
    for wanted in dict.fromkeys((session, None)):
        own = [
            (path, entities, suffix, extension)
            for path, entities, suffix, extension in named
            if (entities.get("sub"), entities.get("ses")) == (subject, wanted)
            and "space" not in entities
        ]
        t1w = [
            p for p, e, s, x in own if s == T1W and e.get("desc") == PREPROCESSED and _is_image(x)
        ]
        if t1w:
            return _around(t1w[0], own)
    return None


def _is_image(extension: str) -> bool:
    return extension in (".nii", ".nii.gz")


def _around(t1w: Path, own: Sequence[tuple[Path, Mapping[str, str], str, str]]) -> AnatomyFiles:
    images = [(p, e, s) for p, e, s, x in own if _is_image(x)]
    masks = [p for p, e, s in images if s == MASK and e.get("desc") == "brain"]
    shares = {e.get("label"): p for p, e, s in images if s == PROBABILITY}
    missing = [name for name in TISSUES if name not in shares]
    if not masks or missing:
        lacks = [] if masks else ["desc-brain_mask"]
        lacks += [f"label-{name}_probseg" for name in missing]
        mend = "Give complete derivatives of fMRIPrep or sMRIPrep"
        raise InputError(Fault(t1w, f"has no {', '.join(lacks)} beside it", mend))
    return AnatomyFiles(t1w, masks[0], tuple(shares[name] for name in TISSUES))
