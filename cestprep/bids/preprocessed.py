"""What the estimation starts from, as derivatives: enough to train on without the raw dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cestprep.bids.auxiliary import AuxiliarySource, written_unit
from cestprep.bids.derivatives import Sink
from cestprep.bids.files import copy_file, image_data, load_image, write_image, write_json
from cestprep.bids.naming import auxiliary_path, mask_path
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.bids.sidecars import companion
from cestprep.bids.spec import (
    CONTEXT,
    MAGNITUDE,
    MAP_FOLDERS,
    PREPROCESSED,
    SERIES,
    SPACE,
)


def write_preprocessed(sink: Sink, session: SessionPlan) -> list[Path]:
    """Write series, maps and mask in ``space-cestref`` but for those that were made there.

    Returns the paths of all files.
    """
    fields = {"SpatialReference": sink.uri(sink.reference_path(session)), "SkullStripped": False}
    written: list[Path] = []
    for plan in session.stages:
        if plan.raw is None:
            written += write_series(sink, session, plan, plan.series.image, {})
    for source in session.auxiliary:
        if source.image not in session.made:
            for stat, image in _maps_of(source):
                written += _write_map(sink, session, source, stat, image, fields)
        if source.quantity == "B0" and source.image is not None:
            written += _write_magnitude(sink, session, fields)
    if session.mask in session.made:
        return written
    mask = load_image(session.mask)
    path = mask_path(sink.out_dir, session, session.recipe.mask)
    inside = (image_data(session.mask) > 0).astype("uint8")
    written.append(write_image(path, inside, mask))
    about = {**fields, "Type": "Brain", "Sources": [sink.uri(session.mask)]}
    return [*written, write_json(companion(path, ".json"), about)]


def write_series(
    sink: Sink, session: SessionPlan, plan: StagePlan, image: Path, found: Mapping[str, Any]
) -> list[Path]:
    """Write the series a stage starts from, with its table and sequence.

    Parameters
    ----------
    sink, session, plan
    image : Path
        Volumes on the grid of the reference.
    found : mapping
        Further fields: what was found of noise and lost volumes.
    """
    context = plan.series.context
    assert context is not None  # plans have one
    path = sink.path(session, SERIES, **plan.entities, space=SPACE, desc=PREPROCESSED)
    table = sink.path(session, CONTEXT, ".tsv", **plan.entities)
    copy_file(context, table)
    fields = {"SpatialReference": sink.uri(sink.reference_path(session)), "SkullStripped": False}
    about = {**plan.series.fields, **fields, **found, "Sources": [sink.uri(plan.found)]}
    about.pop("PulseqFile", None)  # a URI of the raw dataset; the copy lies beside
    written = [write_image(path, image_data(image), load_image(image)), table]
    if plan.sequence is not None:
        written.append(copy_file(plan.sequence, companion(path, ".seq")))
    return [*written, write_json(companion(path, ".json"), about)]


def _maps_of(source: AuxiliarySource) -> Iterator[tuple[dict[str, str], Path]]:
    """Map and SD map of a quantity that was not assumed, with their ``stat``."""
    if source.image is not None:
        yield {}, source.image
    if source.sd is not None:
        yield {"stat": "std"}, source.sd


def _write_map(
    sink: Sink,
    session: SessionPlan,
    source: AuxiliarySource,
    stat: Mapping[str, str],
    image: Path,
    fields: Mapping[str, Any],
) -> list[Path]:
    unit, factor = written_unit(source.quantity, session.frequency_mhz)
    path = auxiliary_path(sink.out_dir, session, source.quantity, **stat)
    values = image_data(image) * (source.to_si * factor)
    about = {**fields, "Units": unit, "Sources": [sink.uri(image)]}
    written = write_image(path, values, load_image(image))
    return [written, write_json(companion(path, ".json"), about)]


def _write_magnitude(sink: Sink, session: SessionPlan, fields: Mapping[str, Any]) -> list[Path]:
    """The reference volume beside the field map: BIDS has no field map without a magnitude."""
    first = session.stages[0]
    path = sink.path(session, MAGNITUDE, datatype=MAP_FOLDERS["B0"], space=SPACE)
    image = load_image(first.series.image)
    volume = image_data(first.series.image)[..., first.reference_volume]
    about = {**fields, "Sources": [sink.uri(first.series.image)]}
    return [write_image(path, volume, image), write_json(companion(path, ".json"), about)]
