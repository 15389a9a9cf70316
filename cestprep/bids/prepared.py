"""What is made of raw scans, as derivatives: series, maps, masks, transforms and motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cestprep.bids.auxiliary import written_unit
from cestprep.bids.derivatives import Sink
from cestprep.bids.files import (
    image_data,
    load_image,
    replacing,
    write_image,
    write_json,
    write_text,
)
from cestprep.bids.naming import auxiliary_path
from cestprep.bids.plan import SessionPlan
from cestprep.bids.preparation import TISSUE
from cestprep.bids.preprocessed import write_series
from cestprep.bids.scans import Scan
from cestprep.bids.sidecars import companion
from cestprep.bids.spec import (
    DATATYPE,
    MASK,
    MOTION,
    PROBABILITY,
    SEGMENTATION,
    SPACE,
    TIMESERIES,
    TRANSFORM,
    WASABI,
)
from cestprep.imaging.anatomy import eroded
from cestprep.imaging.tissue import TISSUES
from cestprep.imaging.transforms import framewise_displacement, motion_parameters

#: Name of a series' own space in file names, and kinds of transforms.
_OWN, _MOTION, _PLACE = "orig", "hmc", "coreg"


@dataclass(frozen=True)
class Found:
    """What was found of a scan.

    Attributes
    ----------
    series : Path or None
        Volumes on the grid of the reference.
    record : mapping
        Lost volumes and noise.
    motion : mapping or None
        ``transforms`` from its anchor to its volumes; ``lost`` and ``gated`` where known.
    place : mapping or None
        ``matrix`` from the reference to its anchor, how far it ``moved_mm``, whether it ``failed``.
    """

    series: Path | None
    record: Mapping[str, Any]
    motion: Mapping[str, np.ndarray] | None
    place: Mapping[str, np.ndarray] | None


def write_scan(sink: Sink, session: SessionPlan, scan: Scan, found: Found) -> list[Path]:
    """Write a scan's motion and place, and the series if a stage starts from it."""
    written: list[Path] = []
    if found.motion is not None:
        written += _write_motion(sink, session, scan, found.motion)
    if found.place is not None:
        path = place_path(sink, session, scan)
        about = {
            "MovedMM": float(found.place["moved_mm"]),
            "RegistrationFailed": bool(found.place["failed"]),
        }
        written.append(_write_transforms(path, found.place["matrix"][None]))
        written.append(write_json(companion(path, ".json"), about))
    for plan in session.stages:
        if plan.raw is not None and plan.stage.name == scan.name and found.series is not None:
            written += write_series(sink, session, plan, found.series, found.record)
    return written


def place_path(sink: Sink, session: SessionPlan, scan: Scan) -> Path:
    """Path of the transform from the reference to a scan."""
    entities = {"from": scan.name, "to": SPACE, "desc": _PLACE}
    where = _place_of(session, scan)["datatype"]
    return sink.path(session, TRANSFORM, ".txt", datatype=where, **entities)


def motion_path(sink: Sink, session: SessionPlan, scan: Scan) -> Path:
    """Path of the table of a scan's motion."""
    return sink.path(session, TIMESERIES, ".tsv", **_place_of(session, scan), desc="motion")


def _place_of(session: SessionPlan, scan: Scan) -> dict[str, str]:
    """Datatype and entities of what belongs to a scan."""
    for plan in session.stages:
        if plan.stage.name == scan.name:
            return {"datatype": DATATYPE, **plan.entities}
    folder = scan.images[0].parent.name
    return {"datatype": folder, "acquisition": scan.name.lower()}


def _write_motion(
    sink: Sink, session: SessionPlan, scan: Scan, found: Mapping[str, np.ndarray]
) -> list[Path]:
    image, within = load_image(scan.images[0]), found["transforms"]
    centre = image.affine @ [*(0.5 * (np.array(image.shape[:3]) - 1)), 1.0]
    parameters = motion_parameters(within, centre[:3])
    table = pd.DataFrame(parameters, columns=list(MOTION))
    table["framewise_displacement"] = framewise_displacement(parameters)
    path = motion_path(sink, session, scan)
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    about: dict[str, Any] = {name: {"Units": "mm" if "trans" in name else "rad"} for name in MOTION}
    about["framewise_displacement"] = {
        "Units": "mm",
        "Description": "sum of absolute changes from the volume before, rotations as arcs on a "
        "sphere of 50 mm (Power et al., NeuroImage 59 (2012) 2142)",
    }
    for field, key in (("lost", "LostVolumes"), ("gated", "GatedVolumes")):
        about[key] = np.flatnonzero(found.get(field, [])).tolist()
    kind = {"from": _OWN, "to": SPACE, "desc": _MOTION}
    moved = sink.path(session, TRANSFORM, ".txt", **_place_of(session, scan), **kind)
    return [
        write_text(path, text),
        write_json(path.with_suffix(".json"), about),
        _write_transforms(moved, within),
    ]


def _write_transforms(path: Path, matrices: np.ndarray) -> Path:
    """Rigid transforms as ITK text."""
    from nitransforms.linear import LinearTransformsMapping

    with replacing(path) as temporary:
        LinearTransformsMapping(matrices).to_filename(temporary, fmt="itk")
    return path


def write_map(
    sink: Sink,
    session: SessionPlan,
    quantity: str,
    images: Mapping[str, Path],
    record: Mapping[str, Any],
) -> list[Path]:
    """Write a map, given in package units, its SD and R² (``images`` by ``stat``)."""
    assert session.preparation is not None
    unit, factor = written_unit(quantity, session.frequency_mhz)
    scan = session.preparation.scan_of(quantity)
    sources = [sink.uri(path) for path in scan.images]
    if scan.name == WASABI:
        sources += [
            sink.uri(a.image)
            for a in session.auxiliary
            if a.quantity in ("T1", "T2") and a.image is not None
        ]
    about = {
        "SpatialReference": sink.uri(sink.reference_path(session)),
        "SkullStripped": True,
        "Sources": sources,
        **record,
    }
    mask = image_data(session.mask) > 0
    written = []
    for stat, image in images.items():
        path = auxiliary_path(sink.out_dir, session, quantity, **({"stat": stat} if stat else {}))
        to_file, units = (1.0, "arbitrary") if stat == "rsquared" else (factor, unit)
        values = np.where(mask, image_data(image) * to_file, 0).astype(np.float32)
        written.append(write_image(path, values, load_image(image)))
        written.append(write_json(companion(path, ".json"), {"Units": units, **about}))
    return written


def write_mask(sink: Sink, session: SessionPlan, brain: Path) -> list[Path]:
    """Write the brain."""
    inside = (image_data(brain) > 0).astype(np.uint8)
    about = {**_shared(sink, session), "Type": "Brain"}
    return [
        write_image(session.mask, inside, load_image(brain)),
        write_json(companion(session.mask, ".json"), about),
    ]


def _shared(sink: Sink, session: SessionPlan) -> dict[str, Any]:
    t1 = session.source_of("T1").image
    sources = [] if t1 is None else [sink.uri(t1)]
    return {"SpatialReference": sink.uri(sink.reference_path(session)), "Sources": sources}


def write_tissues(sink: Sink, session: SessionPlan, tissues: Path) -> list[Path]:
    """Write probabilities, labels with their table, and the inner parts as masks."""
    shares, like = image_data(tissues), load_image(tissues)
    shared = {**_shared(sink, session), "Manual": False}
    where = {"datatype": "anat", "space": SPACE}
    path = sink.path(session, SEGMENTATION, **where, segmentation=TISSUE)
    labels = np.where(shares.any(axis=3), 1 + np.argmax(shares, axis=3), 0).astype(np.uint8)
    rows = "".join(f"{i}\t{name}\n" for i, name in enumerate(TISSUES, start=1))
    table = companion(path, ".tsv")
    written = [
        write_image(path, labels, like),
        write_json(companion(path, ".json"), shared),
        write_text(table, "index\tname\n" + rows),
    ]
    for i, name in enumerate(TISSUES):
        share = shares[..., i]
        probability = sink.path(session, PROBABILITY, **where, segmentation=TISSUE, label=name)
        core = sink.path(session, MASK, **where, label=name)
        inner = {**shared, "Type": "ROI", "Description": "mostly of this tissue, less one voxel"}
        del inner["Manual"]
        written += [
            write_image(probability, share, like),
            write_json(companion(probability, ".json"), shared),
            write_image(core, eroded(share).astype(np.uint8), like),
            write_json(companion(core, ".json"), inner),
        ]
    return written


def warp_path(sink: Sink, session: SessionPlan, template: str) -> Path:
    """Path of the transform that brings a template to the reference."""
    return sink.path(session, TRANSFORM, ".h5", datatype="anat", **{"from": template, "to": SPACE})


def write_warp(sink: Sink, session: SessionPlan, displacement: Path, template: str) -> Path:
    """Write the transform from points of the reference to points of the template."""
    from cestprep.imaging.resampling import write_displacement

    path = warp_path(sink, session, template)
    with replacing(path) as temporary:
        write_displacement(
            str(temporary), image_data(displacement), load_image(displacement).affine
        )
    return path
