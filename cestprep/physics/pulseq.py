"""Pulseq sequences (text of .seq files, versions 1.2 to 1.5) as far as they act on magnetisation.

Shapes stay runs of constant value, never samples: a continuous-wave pulse of 15 s has 15 million.
Of gradients only presence and duration are kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Definitions: TypeAlias = Mapping[str, tuple[float, ...] | str]
T = TypeVar("T")
Line: TypeAlias = tuple[int, str]  # number in the file, stripped text

#: Most runs a shape may have: a run takes 16 bytes.
MAX_RUNS = 2_000_000
#: Longest shape with its own times, in samples of the RF raster.
MAX_SAMPLES = 1e12

#: Columns of a section, from a minor version on; names that end in "id" are integers.
_COLUMNS: Mapping[str, tuple[tuple[int, str], ...]] = {
    "BLOCKS": (
        (2, "id delay_id rf_id gx_id gy_id gz_id adc_id"),
        (3, "id delay_id rf_id gx_id gy_id gz_id adc_id ext_id"),
        (4, "id duration rf_id gx_id gy_id gz_id adc_id ext_id"),
    ),
    "RF": (
        (2, "id amplitude mag_id phase_id delay freq phase"),
        (4, "id amplitude mag_id phase_id time_id delay freq phase"),
        (5, "id amplitude mag_id phase_id time_id center delay freq_ppm phase_ppm freq phase use"),
    ),
    "GRADIENTS": (
        (2, "id amplitude shape_id delay"),
        (4, "id amplitude shape_id time_id delay"),
        (5, "id amplitude first last shape_id time_id delay"),
    ),
    "TRAP": ((2, "id amplitude rise flat fall delay"),),
    "ADC": (
        (2, "id num dwell delay freq phase"),
        (5, "id num dwell delay freq_ppm phase_ppm freq phase phase_id"),
    ),
    "DELAYS": ((2, "id delay"),),
    "EXTENSIONS": ((2, "id type_id ref_id next_id"),),
}
_INTEGERS = frozenset({"duration", "num"})
_NOT_NEGATIVE = frozenset({"duration", "num", "dwell", "delay", "rise", "flat", "fall"})
_NOUNS = {
    "BLOCKS": "block",
    "RF": "RF event",
    "GRADIENTS": "gradient",
    "TRAP": "trapezoid",
    "ADC": "ADC event",
    "DELAYS": "delay",
    "EXTENSIONS": "extension entry",
}
_SECTIONS = frozenset({*_COLUMNS, "VERSION", "DEFINITIONS", "SHAPES", "SIGNATURE"})
#: Without effect on magnetisation, where gradients only spoil.
_HARMLESS_EXTENSIONS = frozenset({"TRIGGERS", "LABELSET", "LABELINC", "ROTATIONS"})
_AXES = ("gx_id", "gy_id", "gz_id")
#: Divisors rather than factors: 10 us are then 1e-5 s to the last digit.
_US_PER_S, _NS_PER_S = 1e6, 1e9
#: By which events may outlast their block: rounding.
_SLACK_S = 1e-9


class PulseqError(ValueError):
    """A sequence that is malformed or beyond what is supported; says where and why."""


@dataclass(frozen=True, eq=False)
class Runs:
    """A shape as runs of constant value.

    Attributes
    ----------
    values : ndarray of float64
        Value of each run.
    counts : ndarray of int64
        Samples in each run.
    """

    values: Floats
    counts: Integers

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class RfEvent:
    """A radio-frequency pulse.

    Attributes
    ----------
    amplitude_hz : float
        Peak amplitude in Hz, to be multiplied by ``magnitude``.
    magnitude : Runs
        Relative magnitude, on the RF raster.
    phase : Runs or None
        Phase in turns, on the RF raster; None without a phase shape.
    delay_s : float
        From the start of the block to the first sample, in s.
    frequency_hz, frequency_ppm : float
        Offset from the scanner frequency: the sum of a part in Hz and one in ppm.
    phase_rad, phase_ppm : float
        Phase offset: the sum of a part in rad and one in rad/MHz.
    raster_s : float
        Duration of one sample, in s.
    """

    amplitude_hz: float
    magnitude: Runs
    phase: Runs | None
    delay_s: float
    frequency_hz: float
    frequency_ppm: float
    phase_rad: float
    phase_ppm: float
    raster_s: float

    @property
    def duration_s(self) -> float:
        """Length of the shape in s, without the delay."""
        return self.magnitude.n_samples * self.raster_s


@dataclass(frozen=True, eq=False)
class AdcEvent:
    """A readout of ``n_samples``, ``dwell_s`` apart, that starts ``delay_s`` into its block."""

    n_samples: int
    dwell_s: float
    delay_s: float

    @property
    def duration_s(self) -> float:
        """Length in s, without the delay."""
        return self.n_samples * self.dwell_s


@dataclass(frozen=True, eq=False)
class SequenceBlock:
    """Events that start together.

    Attributes
    ----------
    number : int
        Number in the file.
    duration_s : float
        Time to the next block, in s.
    rf : RfEvent or None
    gradient : bool
        Whether any gradient is on.
    adc : AdcEvent or None
    """

    number: int
    duration_s: float
    rf: RfEvent | None
    gradient: bool
    adc: AdcEvent | None


@dataclass(frozen=True, eq=False)
class PulseqSequence:
    """A sequence as read from a file.

    Attributes
    ----------
    version : tuple of int
        Major, minor, revision.
    definitions : Mapping
        By name: numbers where every token is a number, else the text.
    blocks : tuple of SequenceBlock
        In the order they are played; equal events are the same object.
    """

    version: tuple[int, int, int]
    definitions: Definitions
    blocks: tuple[SequenceBlock, ...]


def parse(text: str) -> PulseqSequence:
    """Sequence from the text of a .seq file.

    Raises
    ------
    PulseqError
        If the text is malformed or uses what is not supported.
    """
    sections, extensions = _sections(text)
    version = _version(_required(sections, "VERSION"))
    definitions = _definitions(sections.get("DEFINITIONS", []))
    lines = _required(sections, "BLOCKS")
    library = _Library(sections, extensions, version[1], definitions)
    return PulseqSequence(version, definitions, tuple(library.blocks(lines)))


def _sections(text: str) -> tuple[dict[str, list[Line]], dict[int, str]]:
    """Lines of every section without comments, and names of extensions by their type."""
    sections: dict[str, list[Line]] = {}
    extensions: dict[int, str] = {}
    current: list[Line] | None = None
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            name = line[1:-1]
            if name not in _SECTIONS or line[-1] != "]":
                raise PulseqError(
                    f"line {number}: unknown section {line}; versions 1.2 to 1.5 are read"
                )
            if name in sections:
                raise PulseqError(f"line {number}: section {line} appears twice")
            current = sections[name] = []
        elif line.startswith("extension "):
            kind, name = _extension((number, line))
            extensions[kind] = name
            current = []  # what an extension says is not used
        elif current is None:
            raise PulseqError(
                f"line {number}: expected a section such as [VERSION], found {line[:40]!r}; "
                "is this a Pulseq text file?"
            )
        else:
            current.append((number, line))
    if not sections:
        raise PulseqError("the file is empty; expected the text of a Pulseq sequence")
    return sections, extensions


def _extension(line: Line) -> tuple[int, str]:
    """Type and name of an extension."""
    found = re.fullmatch(r"extension\s+(\S+)\s+(\d+)", line[1])
    if found is None:
        raise PulseqError(f"line {line[0]}: expected 'extension NAME number', found {line[1]!r}")
    return int(found[2]), found[1]


def _required(sections: Mapping[str, list[Line]], name: str) -> list[Line]:
    if not sections.get(name):
        raise PulseqError(f"section [{name}] is {'empty' if name in sections else 'missing'}")
    return sections[name]


def _version(lines: list[Line]) -> tuple[int, int, int]:
    parts: dict[str, int] = {}
    for number, line in lines:
        found = re.match(r"(major|minor|revision)\s+(\d+)", line)  # a revision may be "1post1"
        if found is None:
            raise PulseqError(
                f"line {number}: [VERSION] holds major, minor and revision, found {line!r}"
            )
        parts[found[1]] = int(found[2])
    missing = {"major", "minor", "revision"} - set(parts)
    if missing:
        raise PulseqError(f"[VERSION] lacks {', '.join(sorted(missing))}")
    version = parts["major"], parts["minor"], parts["revision"]
    if version[0] != 1 or not 2 <= version[1] <= 5:
        raise PulseqError(
            f"version {version[0]}.{version[1]} is not supported; write the sequence as one of "
            "1.2 to 1.5"
        )
    return version


def _definitions(lines: list[Line]) -> Definitions:
    definitions: dict[str, tuple[float, ...] | str] = {}
    for number, line in lines:
        name, *rest = line.split(maxsplit=1)
        if name in definitions:
            raise PulseqError(f"line {number}: definition {name} appears twice")
        definitions[name] = _definition("".join(rest), f"line {number}: definition {name}")
    return MappingProxyType(definitions)


def _definition(text: str, where: str) -> tuple[float, ...] | str:
    try:
        values = tuple(float(token) for token in text.split())
    except ValueError:
        return text
    if not all(math.isfinite(value) for value in values):
        raise PulseqError(f"{where} must be finite, found {text!r}")
    return values or text


def _raster(definitions: Definitions, name: str, default_s: float) -> float:
    """Raster time in s."""
    values = definitions.get(name, (default_s,))
    if isinstance(values, str) or len(values) != 1 or not values[0] > 0:
        raise PulseqError(f"definition {name} must be one positive number (s), found {values!r}")
    return values[0]


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a table: where it stands, and its values by column."""

    where: str
    values: Mapping[str, float]

    def __getitem__(self, column: str) -> float:
        return self.values[column]

    def index(self, column: str) -> int:
        """Integer of a column; 0 if this version lacks the column."""
        return int(self.values.get(column, 0))


def _rows(section: str, minor: int, lines: Iterable[Line]) -> Iterator[_Row]:
    """Lines of a table in the dialect of a version."""
    names = [columns for since, columns in _COLUMNS[section] if since <= minor][-1].split()
    for number, line in lines:
        tokens = line.split()
        where = f"line {number}, {_NOUNS[section]} {tokens[0]}"
        if len(tokens) != len(names):
            raise PulseqError(
                f"{where}: [{section}] of version 1.{minor} has {len(names)} columns "
                f"({' '.join(names)}), found {len(tokens)}"
            )
        pairs = zip(names, tokens, strict=True)
        values = {name: _value(name, token, where) for name, token in pairs if name != "use"}
        yield _Row(where, values)


def _table(section: str, minor: int, lines: Iterable[Line]) -> dict[int, _Row]:
    """Lines of a table by their id."""
    table: dict[int, _Row] = {}
    for row in _rows(section, minor, lines):
        if row.index("id") in table:
            raise PulseqError(f"{row.where} is defined twice")
        table[row.index("id")] = row
    return table


def _value(name: str, token: str, where: str) -> float:
    """Finite number of a column, integer or not negative where the column demands it."""
    integer = name.endswith("id") or name in _INTEGERS
    try:
        value = float(int(token)) if integer else float(token)
    except (ValueError, OverflowError):
        kind = "an integer" if integer else "a number"
        raise PulseqError(f"{where}: {name} must be {kind}, found {token!r}") from None
    if not math.isfinite(value):
        raise PulseqError(f"{where}: {name} must be finite, found {token!r}")
    if value < 0 and name in _NOT_NEGATIVE:
        raise PulseqError(f"{where}: {name} must not be negative, found {token!r}")
    return value


class _Library:
    """Events of a file by id, and the blocks made of them."""

    def __init__(
        self,
        sections: Mapping[str, list[Line]],
        extensions: Mapping[int, str],
        minor: int,
        definitions: Definitions,
    ) -> None:
        if minor >= 4 and "DELAYS" in sections:
            raise PulseqError(f"section [DELAYS] does not belong to version 1.{minor}")

        def table(section: str) -> dict[int, _Row]:
            return _table(section, minor, sections.get(section, ()))

        self._minor = minor
        self._block_raster = _raster(definitions, "BlockDurationRaster", 1e-5)
        self._gradient_raster = _raster(definitions, "GradientRasterTime", 1e-5)
        self._shapes = _Shapes(sections.get("SHAPES", []), minor)
        self._gradients = _united(table("GRADIENTS"), table("TRAP"))
        self._delays = {i: row["delay"] / _US_PER_S for i, row in table("DELAYS").items()}
        self._adcs = {i: _adc(row) for i, row in table("ADC").items()}
        raster = _raster(definitions, "RadiofrequencyRasterTime", 1e-6)
        self._rfs = {i: _rf(row, self._shapes, raster) for i, row in table("RF").items()}
        self._extension_lists = table("EXTENSIONS")
        self._extension_names = extensions
        self._harmless: set[int] = set()

    def blocks(self, lines: Iterable[Line]) -> Iterator[SequenceBlock]:
        """Blocks in the order of the file."""
        previous = 0
        for row in _rows("BLOCKS", self._minor, lines):
            if row.index("id") <= previous:
                raise PulseqError(f"{row.where}: blocks must be in order, after block {previous}")
            previous = row.index("id")
            yield self._block(row)

    def _block(self, row: _Row) -> SequenceBlock:
        rf = _event(self._rfs, row, "rf_id", "RF event")
        adc = _event(self._adcs, row, "adc_id", "ADC event")
        axes = (_event(self._gradients, row, axis, "gradient") for axis in _AXES)
        gradients = [gradient for gradient in axes if gradient is not None]
        self._check_extensions(row)
        events = [event.delay_s + event.duration_s for event in (rf, adc) if event is not None]
        if self._minor < 4:
            delay = _event(self._delays, row, "delay_id", "delay") or 0.0
            duration = max([delay, *events, *map(self._gradient_s, gradients)])
        else:
            duration = row["duration"] * self._block_raster
            if max(events, default=0.0) > duration + _SLACK_S:
                raise PulseqError(
                    f"{row.where}: lasts {duration:g} s, shorter than its events "
                    f"({max(events):g} s); check BlockDurationRaster"
                )
        return SequenceBlock(row.index("id"), duration, rf, bool(gradients), adc)

    def _gradient_s(self, row: _Row) -> float:
        """Length of a gradient with its delay, in s, before version 1.4."""
        if "flat" in row.values:
            return (row["delay"] + row["rise"] + row["flat"] + row["fall"]) / _US_PER_S
        n_samples = self._shapes.find(row.index("shape_id"), row.where).n_samples
        return row["delay"] / _US_PER_S + n_samples * self._gradient_raster

    def _check_extensions(self, row: _Row) -> None:
        """Refuse extensions that act on magnetisation or timing."""
        entry = row.index("ext_id")
        while entry and entry not in self._harmless:
            if entry not in self._extension_lists:
                raise PulseqError(f"{row.where}: extension entry {entry} is not defined")
            item = self._extension_lists[entry]
            kind = item.index("type_id")
            name = self._extension_names.get(kind)
            if name is None:
                raise PulseqError(f"{item.where}: no line 'extension NAME {kind}' names its type")
            if name not in _HARMLESS_EXTENSIONS:
                raise PulseqError(
                    f"{row.where}: extension {name} is not supported; write the sequence without it"
                )
            self._harmless.add(entry)
            entry = item.index("next_id")


def _event(table: Mapping[int, T], row: _Row, column: str, noun: str) -> T | None:
    """Event a row refers to; None for id 0."""
    index = row.index(column)
    if index == 0:
        return None
    if index not in table:
        raise PulseqError(f"{row.where}: {noun} {index} is not defined")
    return table[index]


def _united(arbitrary: dict[int, _Row], trapezoids: dict[int, _Row]) -> dict[int, _Row]:
    """Gradients of both kinds, which share their ids."""
    for index in arbitrary.keys() & trapezoids.keys():
        raise PulseqError(f"{trapezoids[index].where}: [GRADIENTS] defines the same id")
    return arbitrary | trapezoids


def _adc(row: _Row) -> AdcEvent:
    return AdcEvent(row.index("num"), row["dwell"] / _NS_PER_S, row["delay"] / _US_PER_S)


def _rf(row: _Row, shapes: _Shapes, raster_s: float) -> RfEvent:
    phase_id, time_id = row.index("phase_id"), row.index("time_id")
    magnitude = shapes.runs(row.index("mag_id"), time_id, row.where, turns=False)
    phase = shapes.runs(phase_id, time_id, row.where, turns=True) if phase_id else None
    if phase is not None and phase.n_samples != magnitude.n_samples:
        raise PulseqError(
            f"{row.where}: magnitude has {magnitude.n_samples} samples, phase {phase.n_samples}"
        )
    return RfEvent(
        amplitude_hz=row["amplitude"],
        magnitude=magnitude,
        phase=phase,
        delay_s=row["delay"] / _US_PER_S,
        frequency_hz=row["freq"],
        frequency_ppm=row.values.get("freq_ppm", 0.0),
        phase_rad=row["phase"],
        phase_ppm=row.values.get("phase_ppm", 0.0),
        raster_s=raster_s,
    )


@dataclass(frozen=True)
class _Stored:
    """A shape as stored."""

    where: str
    n_samples: int
    lines: list[Line]


class _Shapes:
    """Shapes of a file, each decoded once, when an RF event refers to it."""

    def __init__(self, lines: list[Line], minor: int) -> None:
        self._stored = _stored_shapes(lines)
        self._may_be_plain = minor >= 4
        self._decoded: dict[int, Runs] = {}
        self._timed: dict[tuple[int, int, bool], Runs] = {}

    def find(self, index: int, where: str) -> _Stored:
        """Shape of an id, as stored."""
        if index not in self._stored:
            raise PulseqError(f"{where}: shape {index} is not defined in [SHAPES]")
        return self._stored[index]

    def runs(self, index: int, time_id: int, where: str, *, turns: bool) -> Runs:
        """Shape on the RF raster; ``turns``: values are equal modulo 1."""
        if time_id == -1:
            raise PulseqError(
                f"{where}: time_shape_id -1 (samples half a raster apart) is not supported; "
                "write the pulse on the RF raster"
            )
        decoded = self._decode(index, where)
        if time_id == 0:
            return decoded
        key = index, time_id, turns
        if key not in self._timed:
            times = _times(self._decode(time_id, where), f"{where}: time shape {time_id}")
            if times.size != decoded.n_samples:
                raise PulseqError(
                    f"{where}: shape {index} has {decoded.n_samples} samples, its time shape "
                    f"{time_id} {times.size}"
                )
            values = np.repeat(decoded.values, decoded.counts)
            # a phase is stored modulo 1: between 0.9 and 0.1 it takes the short way
            values = np.unwrap(values, period=1.0) if turns else values
            self._timed[key] = _on_raster(times, values, f"{where}: shape {index}")
        return self._timed[key]

    def _decode(self, index: int, where: str) -> Runs:
        if index not in self._decoded:
            stored = self.find(index, where)
            values = (_value("value", t, f"line {n}, {stored.where}") for n, t in stored.lines)
            data = np.fromiter(values, np.float64, len(stored.lines))
            plain = self._may_be_plain and data.size == stored.n_samples
            self._decoded[index] = (
                _plain(data, stored.where) if plain else _decompressed(data, stored)
            )
        return self._decoded[index]


def _stored_shapes(lines: list[Line]) -> dict[int, _Stored]:
    """Shapes by id, their values still text."""
    shapes: dict[int, _Stored] = {}
    heads = [i for i, (_, line) in enumerate(lines) if line[0].isalpha()]
    if lines and heads[:1] != [0]:
        raise PulseqError(f"line {lines[0][0]}: [SHAPES] must begin with 'shape_id NUMBER'")
    for head, end in zip(heads[::2], [*heads[2::2], len(lines)], strict=bool(lines)):
        index = _keyed(lines[head], "shape_id")
        follower = lines[head + 1] if head + 1 < end else lines[head]
        n_samples = _keyed(follower, "num_samples", "num_uncompressed")
        if index in shapes:
            raise PulseqError(f"line {lines[head][0]}: shape {index} is defined twice")
        shapes[index] = _Stored(f"shape {index}", n_samples, lines[head + 2 : end])
    return shapes


def _keyed(line: Line, *keys: str) -> int:
    """Positive number behind one of the keys."""
    found = re.fullmatch(r"(\w+)\s+(\d+)", line[1])
    if found is None or found[1].lower() not in keys or int(found[2]) == 0:
        raise PulseqError(
            f"line {line[0]}, [SHAPES]: expected '{keys[0]}' and a positive number, "
            f"found {line[1]!r}"
        )
    return int(found[2])


def _plain(data: Floats, where: str) -> Runs:
    """Shape stored sample by sample."""
    _check_runs(data.size, where)
    return _merged(data, np.ones(data.size, np.int64))


def _decompressed(data: Floats, stored: _Stored) -> Runs:
    """Shape stored as run lengths of its differences."""
    differences, counts = _differences(data, stored)
    n_samples = int(counts.sum())
    if n_samples != stored.n_samples:
        raise PulseqError(
            f"{stored.where} decodes to {n_samples} samples, its num_samples is {stored.n_samples}"
        )
    steps = np.where(differences == 0, 1, counts)
    _check_runs(int(steps.sum()), stored.where)
    lengths = np.repeat(np.where(differences == 0, counts, 1), steps)
    values = np.cumsum(np.repeat(differences, steps))
    if not np.isfinite(values).all():
        raise PulseqError(f"{stored.where} holds numbers whose sums are not finite")
    return _merged(values, lengths)


def _differences(data: Floats, stored: _Stored) -> tuple[Floats, Integers]:
    """Differences and how often each occurs: ``d d n`` means ``n + 2`` times ``d``."""
    pairs, free = [], 0
    for i in np.flatnonzero(data[1:] == data[:-1]).tolist():
        if i >= free:
            pairs.append(i)
            free = i + 3
    first = np.array(pairs, dtype=np.int64)
    if free > data.size:
        raise PulseqError(
            f"{stored.where} ends where a repeat count should follow two equal values"
        )
    repeats = data[first + 2]
    wrong = (repeats < 0) | (repeats > stored.n_samples) | (repeats != np.floor(repeats))
    if wrong.any():
        raise PulseqError(
            f"{stored.where}: repeat count {repeats[wrong][0]:g} is not an integer from 0 to its "
            f"num_samples {stored.n_samples}"
        )
    counts = np.ones(data.size, np.int64)
    counts[first] += 1 + repeats.astype(np.int64)
    keep = np.ones(data.size, bool)
    keep[first + 1] = keep[first + 2] = False
    return data[keep], counts[keep]


def _merged(values: Floats, counts: Integers) -> Runs:
    """Runs, neighbours of equal value united."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return Runs(values[starts], np.add.reduceat(counts, starts))


def _check_runs(n_runs: int, where: str) -> None:
    if n_runs > MAX_RUNS:
        raise PulseqError(
            f"{where} needs {n_runs} runs of constant value, more than {MAX_RUNS}; "
            "sample it coarser"
        )


def _times(shape: Runs, where: str) -> Floats:
    """Increasing points in time, in samples of the RF raster."""
    times = np.round(shape.values, 6)  # sums of rounded differences
    if not np.isfinite(times).all() or times.max() > MAX_SAMPLES:
        raise PulseqError(f"{where} ends after more than {MAX_SAMPLES:g} samples")
    if times.size < 2 or times[0] < 0 or (shape.counts > 1).any() or (np.diff(times) <= 0).any():
        raise PulseqError(f"{where} must hold two or more increasing times, none negative")
    return times


def _on_raster(times: Floats, values: Floats, where: str) -> Runs:
    """Shape, linear between points, at the centres of raster samples; 0 beyond the points."""
    n_samples = math.ceil(times[-1])
    edges = np.ceil(times - 0.5).astype(np.int64)  # first sample centred at or after each point
    edges[-1] = math.floor(times[-1] + 0.5)  # a centre on the last point still belongs to it
    edges = np.concatenate([[0], edges, [n_samples]])
    flat = np.concatenate([[True], values[1:] == values[:-1], [True]])
    lengths = np.diff(edges)
    steps = np.where(flat, np.minimum(lengths, 1), lengths)
    _check_runs(int(steps.sum()), where)
    within = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    centres = np.repeat(edges[:-1], steps) + within + 0.5
    counts = np.repeat(np.where(flat, lengths, 1), steps)
    return _merged(np.interp(centres, times, values, left=0.0, right=0.0), counts)
