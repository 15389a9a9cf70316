"""Anatomy that fMRIPrep or sMRIPrep made: a T1-weighted image with brain, tissues and templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cestprep.bids.sidecars import parse_name
from cestprep.bids.spec import MASK, PREPROCESSED, PROBABILITY, TRANSFORM
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
    warps : mapping of str to Path
        By space, what brings this image onto a template (points of the template to points here).
    """

    t1w: Path
    mask: Path
    tissues: tuple[Path, ...]
    warps: Mapping[str, Path] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.t1w, self.mask, *self.tissues, *self.warps.values()]


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
        lacks = ", ".join(
            ([] if masks else ["desc-brain_mask"]) + [f"label-{n}_probseg" for n in missing]
        )
        what, mend = (
            f"has no {lacks} beside it",
            "Give complete derivatives of fMRIPrep or sMRIPrep",
        )
        raise InputError(Fault(t1w, what, mend))
    warps = {
        e["to"]: p for p, e, s, x in own
        if s == TRANSFORM and x == ".h5" and e.get("from") == T1W and "to" in e
    }  # fmt: skip
    return AnatomyFiles(t1w, masks[0], tuple(shares[name] for name in TISSUES), warps)
