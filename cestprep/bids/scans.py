"""Raw scans that maps and anatomy are made from, and what their volumes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cestprep.bids.files import load_image
from cestprep.bids.protocols import build_protocol, frequency_mhz, is_number, read_context
from cestprep.bids.pulseq import contradictions, find_sequence, read_and_play
from cestprep.bids.session import Series
from cestprep.bids.spec import ANGLES, ECHOES, PREPARED, SATURATION_RECOVERY
from cestprep.errors import Fault, InputError
from cestprep.physics.protocol import Protocol

#: ``SaturationTarget`` of a series that maps B0 by direct saturation of water (WASSR).
WATER = "water"
#: Times beyond this (s) were rather meant in ms.
_LONGEST_S = 60.0
#: The second flip angle is this many times the first, to within a share.
_TWICE, _NEARLY = 2.0, 0.02


@dataclass(frozen=True)
class Scan:
    """One scan: its images, what registers it, and what its volumes are.

    Attributes
    ----------
    name : str
        Name of the stage, or suffix.
    images : tuple of Path
        One 4D image, or several of one volume each.
    anchor : int
        Volume of full signal, by which it is registered.
    times_s : tuple of float
        Recovery, preparation or echo time of each volume.
    protocol : Protocol or None
        Of series with a table.
    angle_deg : float
        First flip angle of two.
    banded : bool
        Whether dark bands that follow the fields keep volumes from being registered with
        each other.
    """

    name: str
    images: tuple[Path, ...]
    anchor: int = 0
    times_s: tuple[float, ...] = ()
    protocol: Protocol | None = None
    angle_deg: float = 0.0
    banded: bool = False


def relaxation_scan(
    scans: Mapping[str, tuple[Series, ...]], suffixes: Sequence[str]
) -> Scan | None:
    """The first of the scans by suffix that there is, for T1 or T2.

    Raises
    ------
    InputError
        If its times are missing, implausible or not one per volume.
    """
    for suffix in suffixes:
        series = scans.get(suffix, ())
        if not series:
            continue
        if suffix == ECHOES:
            times = tuple(_echo_time(one) for one in series)
            order = sorted(range(len(times)), key=times.__getitem__)
            images = tuple(series[i].image for i in order)
            times = tuple(times[i] for i in order)
        else:
            one = only(series, suffix)
            images, times = (one.image,), _times(one, PREPARED[suffix])
        if len(set(times)) < 3:
            what = f"has {len(set(times))} distinct times, too few for a map"
            raise InputError(Fault(images[0], what, "Supply at least 3"))
        full = max(times) if suffix == SATURATION_RECOVERY else min(times)
        return Scan(suffix, images, times.index(full), times)
    return None


def only(series: Sequence[Series], what: str) -> Series:
    """The one series there is.

    Raises
    ------
    InputError
        If there are several.
    """
    if len(series) > 1:
        names = ", ".join(s.image.name for s in series)
        what = f"there are {len(series)} {what} scans in the session: {names}"
        raise InputError(Fault(series[0].image.parent, what, "Keep one of them in the dataset"))
    return series[0]


def _echo_time(series: Series) -> float:
    value = series.fields.get("EchoTime")
    if not is_number(value) or not 0 < value < _LONGEST_S:
        what = f"EchoTime is {value!r}, expected seconds"
        raise InputError(Fault(series.image, what, "Write the echo time into the sidecar"))
    return float(value)


def _times(series: Series, key: str) -> tuple[float, ...]:
    values = series.fields.get(key)
    if not isinstance(values, list) or not all(
        is_number(v) and 0 <= v < _LONGEST_S for v in values
    ):
        what = f"{key} is {values!r:.60}, expected a list of seconds, one per volume"
        raise InputError(Fault(series.image, what, "Write them into the sidecar (CEST-BIDS 1.3)"))
    shape = load_image(series.image).shape
    volumes = shape[3] if len(shape) == 4 else 1
    if volumes != len(values):
        what = f"has {volumes} volumes, but {key} lists {len(values)} times"
        raise InputError(Fault(series.image, what, "Give one time per volume"))
    return tuple(float(v) for v in values)


def played_protocol(series: Series, root: Path) -> tuple[Protocol, Path | None]:
    """What a series with a table plays, and its Pulseq file if there is one.

    Raises
    ------
    InputError
        If table, sidecar or sequence are missing, wrong or contradict each other.
    """
    if series.context is None:
        raise InputError(
            Fault(series.image, "has no cestcontext.tsv", "Add the table (CEST-BIDS 1.1)")
        )
    table = read_context(series.context)
    sequence = find_sequence(series.image, root, series.fields)
    frequency = frequency_mhz(series.fields)
    played = None
    if sequence is not None and frequency is not None:  # of a missing one the protocol complains
        content, played = read_and_play(sequence, frequency)
        faults = contradictions(sequence, content, table, series.fields, played)
        if faults:
            raise InputError(*faults)
    return build_protocol(table, series.fields, series.image, series.context, played), sequence


def field_scan(series: Series, root: Path, name: str) -> Scan:
    """A WASABI or WASSR scan.

    Raises
    ------
    InputError
        If table, sidecar or sequence are missing or wrong.
    """
    if series.context is not None and "M0Type" not in series.fields:  # its rows say it
        has_m0 = bool((read_context(series.context)["volume_type"] == "m0scan").any())
        kind = "Included" if has_m0 else "Absent"
        series = replace(series, fields={**series.fields, "M0Type": kind})
    protocol, _ = played_protocol(series, root)
    shape = load_image(series.image).shape
    volumes = shape[3] if len(shape) == 4 else 1
    if volumes != protocol.n_volumes:
        what = f"has {volumes} volumes, but {series.context} has {protocol.n_volumes} rows"
        raise InputError(Fault(series.image, what, "Give one row per volume"))
    return Scan(name, (series.image,), anchor_of(protocol), protocol=protocol, banded=True)


def anchor_of(protocol: Protocol) -> int:
    """Index of the first unsaturated volume, else 0."""
    return protocol.is_m0.index(True) if True in protocol.is_m0 else 0


def angle_scan(series: Sequence[Series]) -> Scan:
    """Two images with a flip angle and twice that.

    Raises
    ------
    InputError
        If they are not two, or their angles are missing or not one to two.
    """
    mend = "Supply flip-1 and flip-2 with FlipAngle, the second twice the first (BIDS: TB1DAM)"
    found = [s.fields.get("FlipAngle") for s in series]
    angles = [float(a) for a in found if is_number(a) and 0 < a <= 180]
    if len(series) != 2 or len(angles) != 2:
        what = f"{len(series)} {ANGLES} images with FlipAngle {found}, expected two"
        raise InputError(Fault(series[0].image.parent, what, mend))
    (small, first), (large, second) = sorted(
        zip(angles, series, strict=True), key=lambda pair: pair[0]
    )
    if abs(large / small - _TWICE) > _NEARLY:
        what = f"FlipAngle is {small:g} and {large:g} degrees"
        raise InputError(Fault(first.image, what, mend))
    return Scan(ANGLES, (first.image, second.image), 0, angle_deg=small)


def scan_data(scan: Scan) -> np.ndarray:
    """All volumes, shape (x, y, z, n)."""
    volumes = [load_image(path).get_fdata(dtype=np.float32) for path in scan.images]
    data = [v if v.ndim == 4 else v[..., None] for v in volumes]
    stacked: np.ndarray = np.concatenate(data, axis=3)
    return stacked


def scan_affine(scan: Scan) -> np.ndarray:
    """Voxels to mm of all images of a scan."""
    affine: np.ndarray = load_image(scan.images[0]).affine
    return affine
