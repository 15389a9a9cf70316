"""``cestprep-tools convert``: arrays, NIfTI, text tables and sequences into a CEST-BIDS dataset."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cestprep.bids.spec import ACQUISITION_TYPES, B1_DEFINITIONS, MAP_SUFFIXES
from cestprep.errors import Fault, UsageError

if TYPE_CHECKING:
    from cestprep.bids.convert.dataset import Kind, Place
    from cestprep.bids.convert.series import Stated

_MAPS = {"T1map": ("s",), "T2map": ("s",), "fieldmap": ("Hz", "ppm"), "TB1map": ("percent",)}
_ABOUT = (
    "Write a series, a map or a mask into a CEST-BIDS dataset, which is made if it does not exist; "
    "nothing in it is replaced. Images are NIfTI, .npy, .mat (version 7 or older), a folder with "
    "the DICOM files of one series, or a Bruker reconstruction (EXPERIMENT/pdata/N)."
)


def add_convert(commands: Any) -> None:
    """Add the subcommand to ``cestprep-tools``."""
    parser = commands.add_parser(
        "convert", help="bring data into a CEST-BIDS dataset", description=_ABOUT
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", help="what it is")
    series = _kind(kinds, "series", "a saturation series with its tables or its .seq file")
    _add_series(series)
    maps = _kind(kinds, "map", "a map of T1, T2, B0 or B1")
    maps.add_argument("--suffix", required=True, choices=_MAPS, help="what the map is")
    units = list(dict.fromkeys(unit for known in _MAPS.values() for unit in known))
    maps.add_argument("--units", required=True, choices=units, help="unit of the values as stored")
    maps.add_argument("--field-t", type=_positive, metavar="T", help="field strength")
    maps.add_argument("--magnitude", type=Path, metavar="IMAGE",
                      help="of a field map: image on its grid, asked for by BIDS")  # fmt: skip
    maps.add_argument("--positive-field", choices=("above", "below"),
                      help="of a field map: where it is positive, water resonates above or below "
                      "the scanner frequency")  # fmt: skip
    mask = _kind(kinds, "mask", "a mask, into a derivative dataset of its own")
    mask.add_argument(
        "--label",
        default="brain",
        type=partial(_label, "desc-"),
        help="desc-<label> (default: %(default)s)",
    )
    for sub, run in ((series, _series), (maps, _map), (mask, _mask)):
        sub.set_defaults(run=run)


def _kind(kinds: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, help=text, description=f"Convert {text}."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE",
                        help="NIfTI, .npy, .mat, or a folder: DICOM, Bruker pdata/N")  # fmt: skip
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="dataset to write into")
    parser.add_argument("--subject", required=True, type=partial(_label, "sub-"), metavar="LABEL")
    parser.add_argument("--session", type=partial(_label, "ses-"), metavar="LABEL")
    parser.add_argument("--acq", type=partial(_label, "acq-"), metavar="LABEL",
                        help="acq-<label>, such as mt")  # fmt: skip
    parser.add_argument("--run-index", type=_index, metavar="N", help="run-<N> of repeats")
    parser.add_argument("--variable", metavar="NAME", help="array of a .mat file")
    parser.add_argument("--volume-axis", type=int, metavar="AXIS",
                        help="of an array: axis of the volumes, from 0")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--voxel-mm", type=_positive, nargs=3, metavar=("X", "Y", "Z"),
                      help="of an array: voxel size")  # fmt: skip
    size.add_argument("--like", type=Path, metavar="IMAGE",
                      help="of an array: NIfTI image on the same voxels, for size, place and "
                      "orientation")  # fmt: skip
    return parser


def _add_series(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seq", type=Path, metavar="FILE", help="Pulseq file that was played; it is kept")
    add("--offsets", type=Path, metavar="TXT", help="text table of offsets, one per volume")
    add("--offset-unit", choices=("ppm", "Hz"))
    add("--positive-offset", choices=("downfield", "upfield"),
        help="where positive offsets of the table lie; amide protons are downfield")  # fmt: skip
    add("--b1", type=Path, metavar="TXT", help="text table of B1 in uT, one per volume")
    add("--b1-definition", choices=B1_DEFINITIONS,
        help="rms, mean or peak of one pulse, or cwpe of the whole train")  # fmt: skip
    add("--saturation-duration", type=_seconds, metavar="S|TXT",
        help="whole module, first pulse on to last pulse off")  # fmt: skip
    add("--recovery", type=_seconds, metavar="S|TXT",
        help="free recovery before each saturation")  # fmt: skip
    add(
        "--m0",
        choices=("first", "zero-b1", "none"),
        help="unsaturated references: the first volume (the tables may leave it out), all with "
        "B1 0, or none",
    )
    add(
        "--frequency-mhz", type=_positive, metavar="MHZ", help="scanner frequency, reference of ppm"
    )
    add("--field-t", type=_positive, metavar="T", help="field strength")
    add("--target", nargs="+", type=_word, metavar="POOL", help="semisolid, amide, rNOE, ...")
    add("--acquisition-type", choices=ACQUISITION_TYPES)
    add("--pulses", type=_count, metavar="N", help="pulses of the saturation module")
    add("--pulse-duration", type=_positive, metavar="S")
    add("--pulse-shape", choices=("HARD",), type=str.upper,
        help="rectangular pulses; others need their sequence: --seq")  # fmt: skip
    add("--pulse-delay", type=_number, metavar="S", help="from the end of a pulse to the next")
    add("--spin-lock", action=argparse.BooleanOptionalAction, help="tips around each pulse")
    add("--flip-angle", type=_number, metavar="DEG", help="of the readout")
    add("--shots", type=_count, metavar="N", help="of the readout")
    add("--shot-interval", type=_number, metavar="S", help="of the readout")
    add("--shared", action="store_true",
        help="table and sidecar at the top of the dataset, for all sessions")  # fmt: skip


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 0 or above")
    return value


def _seconds(text: str) -> float | Path:
    try:
        return _number(text)
    except argparse.ArgumentTypeError:
        return Path(text)


def _positive(text: str) -> float:
    value = _number(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _word(text: str) -> str:
    if not (text.isascii() and text.replace("-", "").replace(".", "").isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a pool")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _index(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return text


def _label(prefix: str, text: str) -> str:
    label = text.removeprefix(prefix)
    if not (label.isascii() and label.isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of letters and digits")
    return label


def _place(options: argparse.Namespace) -> Place:
    from cestprep.bids.convert.dataset import Place

    acq, run = options.acq, options.run_index
    return Place(options.dataset, options.subject, options.session, acq, run)


#: What the headers of DICOM and Bruker series answer, by option.
_HEADERS = {
    "field_t": "MagneticFieldStrength",
    "frequency_mhz": "ImagingFrequency",
    "flip_angle": "FlipAngle",
}
#: Relative agreement asked of an option and a header.
_AGREE = 1e-3


def _image(options: argparse.Namespace) -> Any:
    from cestprep.bids.convert.bruker import is_bruker, read_bruker
    from cestprep.bids.convert.dicom import read_dicom
    from cestprep.bids.convert.source import is_array, read_volume

    if not is_array(options.image):
        _refuse(options, ("variable", "volume_axis", "voxel_mm", "like"))
    if options.image.is_dir():
        read = read_bruker if is_bruker(options.image) else read_dicom
        image, fields = read(options.image)
        _answer(options, fields)
        return image

    voxel = None if options.voxel_mm is None else tuple(options.voxel_mm)
    axis, like = options.volume_axis, options.like
    return read_volume(options.image, options.variable, axis, voxel, like)


def _option(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def _given(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of the options that were given, as they are typed."""
    return [_option(name) for name in names if getattr(options, name) is not None]


def _refuse(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    given = _given(options, names)
    if given:
        what = f"is not an array, so {', '.join(given)} would change nothing"
        raise UsageError(Fault(options.image, what, "Leave it out"))


def _answer(options: argparse.Namespace, fields: Mapping[str, Any]) -> None:
    """Take from headers what no option says; refuse what an option says otherwise.

    Raises
    ------
    UsageError
        Naming both numbers.
    """
    from cestprep.bids.protocols import is_number

    for name, field in _HEADERS.items():
        value = fields.get(field)
        if not (is_number(value) and value > 0 and hasattr(options, name)):
            continue  # headers hold 0 for unknown
        given = getattr(options, name)
        if given is not None and abs(given - value) > _AGREE * abs(value):
            what = f"is {given:g}, but {field} in {options.image} is {value:g}"
            raise UsageError(Fault(_option(name), what, "Leave the option out, or correct it"))
        if given is None:
            print(f"{_option(name)} {value:g}: {field} of {options.image}")
            setattr(options, name, float(value))


#: Sidecar field of each option of a series.
_FIELDS = {
    "acquisition_type": "CESTAcquisitionType",
    "pulses": "MTNumberOfPulses",
    "pulse_duration": "MTPulseDuration",
    "pulse_shape": "MTPulseShape",
    "pulse_delay": "SaturationPulseDelay",
    "spin_lock": "SaturationSpinLock",
    "flip_angle": "FlipAngle",
    "shots": "NumberShots",
    "shot_interval": "RepetitionTimeExcitation",
    "target": "SaturationTarget",
}
#: Fields that options of this command state: nobody else may.
_STATED = (
    *_FIELDS.values(), "MagneticFieldStrength", "SpectrometerFrequency", "ImagingFrequency",
    "M0Type", "SaturationB1Definition", "PulseqFile", "Units",
)  # fmt: skip
#: Where some pools resonate, in ppm from water.
_SIDES = {"amide": (2.0, 5.0), "rNOE": (-5.0, -1.0)}
#: Without a sequence these describe the pulses, and no table does.
_PULSES = ("pulses", "pulse_duration", "pulse_shape")
#: What a sequence says itself.
_OF_TABLES = (
    "offsets", "offset_unit", "positive_offset", "b1", "b1_definition", "saturation_duration",
    "recovery", "pulses", "pulse_duration", "pulse_shape", "pulse_delay", "spin_lock",
)  # fmt: skip


def _stated(options: argparse.Namespace) -> Stated:
    from cestprep.bids.convert.series import Stated

    given = {name: getattr(options, name) for name in _FIELDS}
    fields = {_FIELDS[k]: v for k, v in given.items() if v is not None}
    timed: dict[str, Any] = {}
    for name, table, value in (
        ("saturation_duration", "durations", "duration_s"),
        ("recovery", "recoveries", "recovery_s"),
    ):
        found = getattr(options, name)
        timed[table if isinstance(found, Path) else value] = found
    copied = ("frequency_mhz", "field_t", "b1_definition", "offset_unit", "positive_offset", "m0")
    return Stated(
        **{name: getattr(options, name) for name in copied},
        offsets=options.offsets,
        b1=options.b1,
        sequence=options.seq,
        fields=fields,
        **timed,
    )


def _check_series(options: argparse.Namespace) -> None:
    """Options that contradict each other."""
    beside = _given(options, _OF_TABLES)
    if options.seq is not None and beside:
        what = "given beside --seq, which says what was played"
        raise UsageError(Fault(", ".join(beside), what, "Give the sequence or the tables"))
    if options.shared and options.acq is None:
        what = "files for all sessions need a label"
        raise UsageError(Fault("--shared", what, "Give --acq LABEL"))


def _needed(options: argparse.Namespace) -> list[str]:
    """Options without which a series is not described."""
    needed = ["target", "acquisition_type", "flip_angle"]
    if options.seq is None:
        needed = [*_PULSES, *needed]
        needed += ["pulse_delay", "spin_lock"] if (options.pulses or 1) > 1 else []
    return [*needed, "shot_interval"] if (options.shots or 1) > 1 else needed


def _series(options: argparse.Namespace) -> int:
    from cestprep.bids.convert.dataset import write_series
    from cestprep.bids.convert.series import Questions, of_stated

    _check_series(options)
    image = _image(options)
    missing = [name for name in _needed(options) if getattr(options, name) is None]
    if len(image.shape) != 4:
        what = f"has shape {image.shape}, a series has volumes"
        raise UsageError(Fault(options.image, what, "Give --volume-axis for arrays"))
    ask = [_question(name) for name in missing]
    try:
        series = of_stated(_stated(options), image.shape[3])
    except Questions as asked:
        _show(asked.table)
        raise UsageError(*asked.faults, *ask) from None
    if ask:
        _show(series.table)
        raise UsageError(*ask)
    try:
        written = _add(
            options,
            ("raw", "CEST series"),
            lambda place: write_series(place, image, series, options.seq, shared=options.shared),
            series.fields,
        )
    except UsageError:
        _show(series.table)
        raise
    for line in (*written, *series.notes, *_summary(options, series.table)):
        print(line)
    return 0


def _add(
    options: argparse.Namespace,
    kind: tuple[Kind, str],
    write: Callable[[Place], list[Path]],
    fields: Mapping[str, Any],
) -> list[str]:
    """Write files aside, look at them as validation does, move them into the dataset.

    Returns
    -------
    list of str
        Paths written and warnings.
    """
    from cestprep.bids.convert.dataset import is_new, write_new
    from cestprep.bids.convert.staging import staged

    new = is_new(options.dataset, kind[0])
    with staged(_place(options)) as stage:
        files = write_new(stage.place.root, *kind) if new else []
        files += write(stage.place)
        stage.check_inherited(files[-1], fields, _STATED)
        warnings = stage.check()
        shown = [str(path) for path in stage.publish(files)]
    return [*shown, *(f"{w.file}: {w.what}. {w.mend}." for w in warnings)]


def _summary(options: argparse.Namespace, table: Any) -> Iterator[str]:
    """The table in a line, and what it probably should not be."""
    from cestprep.data import recipe_targets

    saturated = table[table["volume_type"] == "saturated"]
    offsets, b1 = saturated["saturation_offset"], saturated["saturation_b1"]
    yield (
        f"{len(table)} volumes, {len(table) - len(saturated)} of them references; offsets "
        f"{offsets.min():.4g} to {offsets.max():.4g} ppm, B1 {b1.min():.4g} to {b1.max():.4g} uT."
    )
    for target in options.target:
        if target not in recipe_targets():
            known = ", ".join(recipe_targets())
            yield f"note: no packaged recipe is for --target {target}; they are for {known}."
        low, high = _SIDES.get(target, (-math.inf, math.inf))
        if not ((offsets > low) & (offsets < high)).any():
            yield f"note: no offset lies between {low:g} and {high:g} ppm, where {target} is."


def _question(name: str) -> Fault:
    what = f"is not given, so {_FIELDS[name]} is unknown"
    return Fault(_option(name), what, "Give it; see --help")


def _show(table: Any) -> None:
    if len(table):
        print("The table so far, as it would be written:", file=sys.stderr)
        print(table.to_string(index=False, na_rep="n/a"), file=sys.stderr)


def _map(options: argparse.Namespace) -> int:
    from cestprep.bids.convert.dataset import write_magnitude, write_map
    from cestprep.bids.convert.series import plain

    known = _MAPS[options.suffix]
    if options.units not in known:
        what = f"{options.suffix} is not in {options.units}"
        raise UsageError(Fault("--units", what, f"Convert it to {' or '.join(known)}"))
    _check_field_map(options)
    image = _image(options)
    _check_3d(options, image)
    if options.positive_field == "below":
        image = type(image)(-image.get_fdata(dtype="float32"), image.affine, image.header)
    field = {} if options.field_t is None else {"MagneticFieldStrength": plain(options.field_t)}
    fields = {"Units": options.units, **field}
    magnitude = None if options.magnitude is None else _magnitude(options)

    def write(place: Place) -> list[Path]:
        before = [] if magnitude is None else [write_magnitude(place, magnitude)]
        return [*before, *write_map(place, image, options.suffix, fields)]

    print("\n".join(_add(options, ("raw", "CEST series"), write, fields)))
    return 0


def _check_field_map(options: argparse.Namespace) -> None:
    """What BIDS and the sign of B0 ask for, and only field maps have."""
    asked = ("magnitude", "positive_field")
    is_field_map = options.suffix == MAP_SUFFIXES["B0"]
    wrong = [name for name in asked if (getattr(options, name) is None) == is_field_map]
    what = "is not given for a field map" if is_field_map else "is of field maps only"
    mend = "Give it; see --help" if is_field_map else "Leave it out"
    if wrong:
        raise UsageError(*(Fault(_option(name), what, mend) for name in wrong))


def _magnitude(options: argparse.Namespace) -> Any:
    return _image(argparse.Namespace(**{**vars(options), "image": options.magnitude}))


def _mask(options: argparse.Namespace) -> int:
    import numpy as np

    from cestprep.bids.convert.dataset import write_mask

    image = _image(options)
    _check_3d(options, image)
    values = np.unique(image.dataobj)
    if not {1} <= set(values) <= {0, 1}:
        what = f"holds values from {values[0]:g} to {values[-1]:g}, a mask has 0 and 1"
        raise UsageError(Fault(options.image, what, "Give 1 inside, 0 outside"))

    def write(place: Place) -> list[Path]:
        return write_mask(place, image, options.label)

    print("\n".join(_add(options, ("derivative", "Masks"), write, {})))
    return 0


def _check_3d(options: argparse.Namespace, image: Any) -> None:
    if len(image.shape) != 3:
        what = f"has shape {image.shape}, expected three axes"
        raise UsageError(Fault(options.image, what, "Give a map without volumes"))
