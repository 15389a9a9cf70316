"""Standard spaces that are asked for, and where their templates are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cestprep.bids.files import image_data, load_image
from cestprep.bids.spec import SPACE
from cestprep.data import template
from cestprep.errors import Fault, UsageError
from cestprep.imaging.anatomy import Template
from cestprep.imaging.grid import Grid

#: Sides of voxels that can be asked for, in mm; the last where none is.
RESOLUTIONS = (1, 2)
_OPTION = "--output-spaces"
_GRAMMAR = re.compile(r"(?P<name>[A-Za-z0-9]+)(:res-0?(?P<res>[0-9]))?")
_PARTS = ("label-WM_probseg", "label-GM_probseg", "desc-brain_mask")


@dataclass(frozen=True)
class Space:
    """A template's space.

    Attributes
    ----------
    name : str
    resolution : int
        Side of a voxel, mm.
    files : tuple of Path
        Probabilities of white and of grey matter, and brain; none of the packaged template.
    """

    name: str
    resolution: int
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}:res-{self.resolution}"

    def template(self) -> Template:
        """Tissues and brain of the template."""
        if not self.files:
            return template.brain_template()
        wm, gm, brain = (image_data(path) for path in self.files)
        return Template(wm, gm, brain, load_image(self.files[0]).affine)

    def grid(self, whole: Template) -> Grid:
        """Voxels of maps in this space: those of the template's field of view."""
        sides = np.linalg.norm(whole.affine[:3, :3], axis=0)
        steps = self.resolution / sides
        shape = tuple(int(n) for n in np.ceil(np.array(whole.brain.shape) / steps))
        return Grid(shape, whole.affine @ np.diag([*steps, 1.0]))  # type: ignore[arg-type]


def find_spaces(asked: Sequence[str]) -> tuple[Space, ...]:
    """Spaces that were asked for, besides the grid of the reference.

    Raises
    ------
    UsageError
        If a name is wrong or its template is not on this machine.
    """
    found = []
    for text in dict.fromkeys(asked):
        if text == SPACE:
            continue
        match = _GRAMMAR.fullmatch(text)
        resolution = int(match["res"] or RESOLUTIONS[-1]) if match else 0
        if match is None or resolution not in RESOLUTIONS:
            choice = " or ".join(f"res-{r}" for r in RESOLUTIONS)
            mend = f"Give {SPACE}, or a template as NAME[:{choice}], such as {template.SPACE}:res-2"
            raise UsageError(Fault(f"{_OPTION} {text}", "is no space", mend))
        name = match["name"]
        files = () if name == template.SPACE else _templateflow(text, name)
        found.append(Space(name, resolution, files))
    return tuple(found)


def _templateflow(text: str, name: str) -> tuple[Path, ...]:
    """Files of a template in TemplateFlow's folder; nothing is downloaded."""
    home = Path(os.environ.get("TEMPLATEFLOW_HOME") or Path.home() / ".cache/templateflow")
    folder = home / f"tpl-{name}"
    files, missing = [], []
    for part in _PARTS:
        names = [f"tpl-{name}_res-{res}_{part}.nii.gz" for res in ("01", "1", "02", "2")]
        there = [p for p in map(folder.joinpath, names) if p.is_file() and p.stat().st_size]
        files += there[:1]
        missing += [] if there else [part]
    if missing:
        what = f"has no {', '.join(missing)} in {folder}"
        fetch = "from templateflow import api; " + "; ".join(
            f"api.get('{name}', resolution=1, {query})"
            for query in ("suffix='probseg'", "desc='brain', suffix='mask'")
        )
        mend = f'Where there is a network, run: python -c "{fetch}"; or choose {template.SPACE}'
        raise UsageError(Fault(f"{_OPTION} {text}", what, mend))
    return tuple(files)
