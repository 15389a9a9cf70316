"""Maps in standard spaces, as derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from cestprep.bids.derivatives import Sink
from cestprep.bids.files import (
    copy_file,
    image_data,
    load_image,
    read_json,
    write_image,
    write_json,
)
from cestprep.bids.plan import SessionPlan
from cestprep.bids.prepared import warp_path, write_warp
from cestprep.bids.sidecars import companion, parse_name
from cestprep.bids.spec import MASK, PREPROCESSED, PROBABILITY, SEGMENTATION, SPACE
from cestprep.bids.templates import Space
from cestprep.data.template import SPACE as PACKAGED
from cestprep.imaging.anatomy import Template, normalize
from cestprep.imaging.resampling import read_displacement
from cestprep.imaging.spaces import label_at, map_at, origins
from cestprep.inference.estimate import Validity


def in_space(native: Path, space: Space) -> Path:
    """Name of a derivative in a space."""
    whole = rf"_space-{SPACE}((?:_seg-[A-Za-z0-9]+)?)"
    named = rf"_space-{space.name}\1_res-{space.resolution}"
    return native.with_name(re.sub(whole, named, native.name))


def brought_files(files: Iterable[str]) -> list[Path]:
    """Images among derivatives that are brought to standard spaces: of three axes, no series."""
    found = []
    for path in map(Path, files):
        entities, _, extension = parse_name(path.name)
        if extension != ".nii.gz" or entities.get("space") != SPACE:
            continue
        if entities.get("desc") != PREPROCESSED and len(nib.load(path).shape) == 3:
            found.append(path)
    return list(dict.fromkeys(found))


def _displacement(
    sink: Sink, session: SessionPlan, space: Space, template: Template, folder: Path
) -> np.ndarray:
    """From the reference to the template: found with the brain, or now, and kept."""
    preparation = session.preparation
    found_brain = preparation is not None and preparation.anatomy and preparation.given is None
    if found_brain and space.name == PACKAGED:
        return read_displacement(str(warp_path(sink, session, space.name)))
    mask = load_image(session.mask)
    source, inside = session.source_of("T1"), np.asarray(mask.dataobj) > 0
    assert source.image is not None
    t1_s = image_data(source.image) * source.to_si
    field = normalize(t1_s, inside, mask.affine, template, session.effort).displacement
    kept = write_image(folder / "displacement.nii.gz", field, mask)
    write_warp(sink, session, kept, space.name)
    return field


def write_in_space(
    sink: Sink, session: SessionPlan, space: Space, files: Iterable[str], folder: Path
) -> list[Path]:
    """Write derivatives on the grid of a template; returns the paths of all files.

    Parameters
    ----------
    sink : Sink
    session : SessionPlan
    space : Space
    files : iterable of str
        Derivatives; those that are no images, or no maps, are passed over.
    folder : Path
        For working files.
    """
    template = space.template()
    grid = space.grid(template)
    displacement = _displacement(sink, session, space, template, folder)
    points = origins(grid, displacement, load_image(session.mask).affine)
    like = nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)
    like.header["sform_code"] = like.header["qform_code"] = 4  # MNI 152
    warp = sink.uri(warp_path(sink, session, space.name))
    written = []
    for native in brought_files(files):
        path = in_space(native, space)
        values = _values(native, points).reshape(grid.shape)
        about = read_json(companion(native, ".json"))
        about.pop("SpatialReference", None)
        about |= {
            "Sources": [sink.uri(native), warp],
            "Resolution": f"{space.resolution} mm isotropic, field of view of the template",
        }
        written += [write_image(path, values, like), write_json(companion(path, ".json"), about)]
        table = companion(native, ".tsv")
        if parse_name(native.name)[1] == SEGMENTATION and table.exists():
            written.append(copy_file(table, companion(path, ".tsv")))
    return written


def _values(native: Path, points: np.ndarray) -> np.ndarray:
    """What an image holds at points: labels of the nearest voxel, other values between voxels."""
    image = load_image(native)
    entities, suffix, _ = parse_name(native.name)
    codes = entities.get("stat") == "validity"
    if codes or suffix in (MASK, SEGMENTATION):
        labels = np.asarray(image.dataobj).astype(np.int32)
        blank = int(Validity.OUTSIDE_MASK) if codes else 0
        return label_at(labels, image.affine, points, blank).astype(np.uint8)
    data = image.get_fdata(dtype=np.float32)
    known = np.isfinite(data) & ((data != 0) | (suffix == PROBABILITY))
    return map_at(data, known, image.affine, points).astype(np.float32)
