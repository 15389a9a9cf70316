"""Pulseq text: every dialect, every complaint, pypulseq's own files and the published ones."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

from cestprep.physics.pulseq import PulseqError, parse

MINORS = (2, 3, 4, 5)
#: With a plateau, that compression has something to do.
GAUSS = np.round(np.minimum(np.exp(-(np.linspace(-2, 2, 50) ** 2)), 0.9), 6)
#: 30 samples of 1, then 10 of 0.
BLOCK = (1, 0, 0, 27, -1, 0, 0, 7)


def compressed(samples):
    """Run lengths of the differences, as Pulseq stores them."""
    differences = np.round(np.diff(samples, prepend=0), 6)
    out, i = [], 0
    while i < len(differences):
        n = 1
        while i + n < len(differences) and differences[i + n] == differences[i]:
            n += 1
        out += [differences[i]] if n == 1 else [differences[i], differences[i], n - 2]
        i += n
    return out


def shape(index, n_samples, values):
    lines = "\n".join(f"{v:.9g}" for v in values)
    return f"\nshape_id {index}\nnum_samples {n_samples}\n{lines}\n"


def sections(minor, gauss=None, rasters=""):
    """The same sequence in every dialect, by section.

    Blocks: 2 ms of rest; a gauss pulse (50 us after 10 us, phase shape); a block pulse (40 us, no
    phase shape); a trapezoid beside an arbitrary gradient; an ADC.
    """
    old = minor < 4
    ext = "" if minor == 2 else " 0"
    durations = (1, 0, 0, 0, 0) if old else (200, 6, 4, 50, 10)
    events = ("0 0 0 0 0", "1 0 0 0 0", "2 0 0 0 0", "0 0 1 2 0", "0 0 0 0 1")
    numbered = enumerate(zip(durations, events, strict=True), start=1)
    rf = {
        4: "1 100 1 2 0 10 -511.5 0.25\n2 85.5 3 0 0 0 30 0",
        5: "1 100 1 2 0 25 10 1.5 2.5 -511.5 0.25 s\n2 85.5 3 0 0 20 0 0 0 30 0 u",
    }.get(minor, "1 100 1 2 10 -511.5 0.25\n2 85.5 3 0 0 30 0")
    arbitrary = {4: "2 5e3 4 0 100", 5: "2 5e3 0 0 4 0 100"}.get(minor, "2 5e3 4 100")
    stored = compressed(GAUSS) if gauss is None else gauss
    parts = {
        "VERSION": f"major 1\nminor {minor}\nrevision 1post1",
        "DEFINITIONS": f"B0 3 \nnum_meas 1 \noffsets_ppm -4 4.5 \nseq_id_string a test {rasters}",
        "BLOCKS": "\n".join(f" {i} {d} {e}{ext}" for i, (d, e) in numbered),
        "RF": rf,
        "GRADIENTS": arbitrary,
        "TRAP": "1 1.36e+06 100 250 100 0",
        "ADC": "1 100 1000 0" + (" 0 0 0 0 0" if minor == 5 else " 0 0"),
        "DELAYS": "1 2000",
        "SHAPES": shape(1, 50, stored)
        + shape(2, 50, (0.5, -0.5, 0, 0, 46))
        + shape(3, 40, BLOCK)
        + shape(4, 40, BLOCK),
        "SIGNATURE": "Type md5\nHash abc",
    }
    if not old:
        del parts["DELAYS"]
    return parts


def joined(parts, end="\n"):
    """Text of a file; a section of None is left out."""
    kept = ((name, body) for name, body in parts.items() if body is not None)
    lines = "".join(f"# a comment\n[{name}]\n{body}\n\n" for name, body in kept)
    return lines.replace("\n", end)


def text(minor=3, **changed):
    """Text of the test sequence with whole sections replaced."""
    return joined(sections(minor) | changed)


def edited(minor, section, old, new):
    """Text of the test sequence with one place of one section changed."""
    parts = sections(minor)
    assert old in parts[section]
    return joined(parts | {section: parts[section].replace(old, new, 1)})


def samples(runs):
    return np.repeat(runs.values, runs.counts)


def timed(times, magnitude, phase=None, minor=4):
    """A single pulse of which shape 3 holds the times."""
    parts = sections(minor)
    shapes = shape(1, len(magnitude), magnitude) + shape(3, len(times), times)
    shapes += shape(2, len(phase), phase) if phase else ""
    parts["SHAPES"], parts["GRADIENTS"] = shapes, None
    parts["RF"] = f"1 100 1 {2 if phase else 0} 3 0 0 0"
    parts["BLOCKS"] = "1 100000000 1 0 0 0 0 0"
    return parse(joined(parts)).blocks[0].rf


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("minor", MINORS)
def test_dialects_say_the_same(minor, end):
    sequence = parse(joined(sections(minor), end))
    assert sequence.version == (1, minor, 1)
    assert sequence.definitions == {
        "B0": (3.0,),
        "num_meas": (1.0,),
        "offsets_ppm": (-4.0, 4.5),
        "seq_id_string": "a test",
    }
    blocks = sequence.blocks
    assert [b.number for b in blocks] == [1, 2, 3, 4, 5]
    durations = [b.duration_s for b in blocks]
    np.testing.assert_allclose(durations, [2e-3, 60e-6, 40e-6, 500e-6, 100e-6], rtol=1e-12)
    assert [b.gradient for b in blocks] == [False, False, False, True, False]
    assert [b.rf is not None for b in blocks] == [False, True, True, False, False]
    gauss, block, adc = blocks[1].rf, blocks[2].rf, blocks[4].adc
    assert (gauss.amplitude_hz, gauss.frequency_hz, gauss.phase_rad) == (100, -511.5, 0.25)
    assert (gauss.frequency_ppm, gauss.phase_ppm) == ((1.5, 2.5) if minor == 5 else (0, 0))
    assert (gauss.delay_s, gauss.raster_s) == (10e-6, 1e-6)
    np.testing.assert_allclose(gauss.duration_s, 50e-6)
    np.testing.assert_allclose(samples(gauss.magnitude), GAUSS, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(samples(gauss.phase), [0.5] + [0] * 49)
    np.testing.assert_array_equal(block.magnitude.values, [1, 0])
    np.testing.assert_array_equal(block.magnitude.counts, [30, 10])
    assert block.phase is None
    assert (adc.n_samples, adc.delay_s) == (100, 0)
    np.testing.assert_allclose(adc.duration_s, 100e-6)


@pytest.mark.parametrize("minor", [4, 5])
def test_uncompressed_shapes_equal_compressed_ones(minor):
    plain, packed = (
        parse(joined(sections(minor, gauss))).blocks[1].rf.magnitude for gauss in (GAUSS, None)
    )
    np.testing.assert_allclose(samples(plain), samples(packed), rtol=0, atol=1e-12)


def test_before_1_4_every_shape_is_compressed():
    """Differences may by chance be as many as the samples."""
    steps = np.arange(1, 51) / 100
    magnitude = parse(joined(sections(3, steps))).blocks[1].rf.magnitude
    np.testing.assert_allclose(samples(magnitude), np.cumsum(steps))


@pytest.mark.parametrize(
    ("stored", "want"),
    [
        ((0.5, 0.5, 0), [0.5, 1.0]),
        ((0.5, 0.5, 1), [0.5, 1.0, 1.5]),
        ((2, 2, 2, 2), [2, 4, 6, 8, 10]),  # the count equals the value, a value follows
        ((3, 3, 3, 3, 3, 1), [3, 6, 9, 12, 15, 18, 21, 24]),
        ((0, 0, 2, 1, 1, 0, -1), [0, 0, 0, 0, 1, 2, 1]),
        ((1, 0, 0, 3, -1), [1, 1, 1, 1, 1, 1, 0]),
    ],
)
def test_run_lengths(stored, want):
    shapes = shape(1, len(want), stored)
    changed = {
        "SHAPES": shapes,
        "GRADIENTS": None,
        "RF": "1 1 1 0 0 0 0",
        "BLOCKS": "1 0 1 0 0 0 0 0",
    }
    runs = parse(text(3, **changed)).blocks[0].rf.magnitude
    np.testing.assert_array_equal(samples(runs), want)
    assert (np.diff(runs.values) != 0).all()


def test_older_spelling_of_shapes():
    parts = sections(2)
    shapes = parts["SHAPES"].replace("shape_id", "Shape_ID")
    shapes = shapes.replace("num_samples", "Num_Uncompressed")
    assert parse(joined(parts | {"SHAPES": shapes})).blocks[1].rf.magnitude.n_samples == 50


def test_equal_events_and_shapes_are_the_same_object():
    changed = sections(4)["BLOCKS"] + "\n 6 6 1 0 0 0 0 0"
    blocks = parse(text(4, BLOCKS=changed)).blocks
    assert blocks[1].rf is blocks[5].rf


@pytest.mark.parametrize("minor", MINORS)
def test_rasters_of_the_definitions(minor):
    rasters = "\nRadiofrequencyRasterTime 2e-06\nGradientRasterTime 2e-5\nBlockDurationRaster 2e-5"
    blocks = parse(joined(sections(minor, rasters=rasters))).blocks
    np.testing.assert_allclose(blocks[1].rf.duration_s, 100e-6)
    want = (110e-6, 900e-6) if minor < 4 else (120e-6, 1000e-6)
    np.testing.assert_allclose([blocks[1].duration_s, blocks[3].duration_s], want)


def test_long_block_pulse_takes_no_memory():
    n = 15_000_030
    shapes = shape(1, n, (1, 0, 0, 14999997, -1, 0, 0, 27)) + shape(2, n, (0, 0, n - 2))
    shapes += shape(4, 40, BLOCK)
    source = text(3, SHAPES=shapes, RF="1 85.1528 1 2 100 -199258 0\n2 85.1528 1 2 100 0 0")
    tracemalloc.start()
    try:
        rf = parse(source).blocks[1].rf
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    np.testing.assert_array_equal(rf.magnitude.counts, [15_000_000, 30])
    assert (rf.phase.values.size, rf.phase.n_samples) == (1, n)
    np.testing.assert_allclose(rf.duration_s, 15.00003)


def test_gradient_shapes_are_not_decoded():
    rest = sections(3)["SHAPES"].split("\nshape_id 4")[0]
    shapes = rest + shape(4, 40, (1, 2, 3))
    assert parse(text(3, SHAPES=shapes)).blocks[3].duration_s == pytest.approx(500e-6)


def test_time_shape_block():
    """As pypulseq writes block pulses: two equal points."""
    magnitude = timed((0, 15_000_000), (1, 1), (0, 0)).magnitude
    np.testing.assert_array_equal(magnitude.values, [1])
    np.testing.assert_array_equal(magnitude.counts, [15_000_000])


def test_time_shape_is_linear_between_points():
    rf = timed((0, 4, 10, 11.5, 14), (0, 1, 1, 0.25, 0.25))
    want = np.interp(np.arange(14) + 0.5, (0, 4, 10, 11.5, 14), (0, 1, 1, 0.25, 0.25))
    np.testing.assert_allclose(samples(rf.magnitude), want)
    np.testing.assert_array_equal(rf.magnitude.counts, [1, 1, 1, 1, 6, 1, 3])


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ((0.5, 3.5), [1, 1, 1, 1]),
        ((2, 4), [0, 0, 1, 1]),
        ((0, 2.2), [1, 1, 0]),
        ((0, 2.5), [1, 1, 1]),
        ((0.6, 0.7), [0]),
    ],
)
def test_time_shape_is_nothing_beyond_its_points(times, want):
    np.testing.assert_array_equal(samples(timed(times, (1, 1)).magnitude), want)


def test_phase_takes_the_short_way():
    phase = samples(timed((0, 4), (1, 1), (0.9, 0.1)).phase)
    np.testing.assert_allclose(phase, 0.9 + 0.2 * (np.arange(4) + 0.5) / 4)


def with_extension(name, minor=3):
    parts = sections(minor)
    last = parts["BLOCKS"].splitlines()[-1]
    blocks = parts["BLOCKS"].replace(last, last[:-1] + "2")
    listed = f"1 1 1 0\n2 1 1 1\n\nextension {name} 1\n1 5 SLC\n2 2 REP"
    return joined(parts | {"BLOCKS": blocks, "EXTENSIONS": listed})


@pytest.mark.parametrize("minor", [3, 4, 5])
@pytest.mark.parametrize("name", ["TRIGGERS", "LABELSET", "LABELINC", "ROTATIONS"])
def test_harmless_extensions(name, minor):
    assert len(parse(with_extension(name, minor)).blocks) == 5


@pytest.mark.parametrize("name", ["RF_SHIMS", "DELAYS"])
def test_other_extensions_are_refused(name):
    with pytest.raises(PulseqError, match=rf"line \d+, block 5: extension {name} is not supported"):
        parse(with_extension(name))


RF3, RF4 = "1 100 1 2 10 -511.5 0.25", "1 100 1 2 0 10 -511.5 0.25"
SHAPE1 = f"num_samples 50\n{GAUSS[0]:.9g}"
LONG_RAMP = shape(1, 3_000_000, (1e-6, 1e-6, 2_999_998)) + shape(4, 40, BLOCK)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "the file is empty"),
        ("\n# only comments\n", "the file is empty"),
        ("sub-01 ses-1\n", r"line 1: expected a section such as \[VERSION\], found 'sub-01 ses-1'"),
        (text(TEST="1"), r"unknown section \[TEST\]"),
        (text() + "[RF\n", r"line \d+: unknown section \[RF;"),
        (text() + "[RF]\n", r"line \d+: section \[RF\] appears twice"),
        (text(VERSION=None), r"section \[VERSION\] is missing"),
        (text(BLOCKS=None), r"section \[BLOCKS\] is missing"),
        (text(BLOCKS=""), r"section \[BLOCKS\] is empty"),
        (text(VERSION="major 1\nminor 3"), "lacks revision"),
        (text(VERSION="major one"), r"line 3: \[VERSION\] holds major.*found 'major one'"),
        (text(VERSION="major 1\nminor 1\nrevision 0"), "version 1.1 is not supported"),
        (text(VERSION="major 1\nminor 6\nrevision 0"), "version 1.6 .* one of 1.2 to 1.5"),
        (text(VERSION="major 2\nminor 3\nrevision 0"), "version 2.3 is not supported"),
        (text(4, DELAYS="1 2"), r"\[DELAYS\] does not belong to version 1.4"),
        (text(DEFINITIONS="B0 nan"), r"line \d+: definition B0 must be finite, found 'nan'"),
        (text(DEFINITIONS="a 1\na 2"), r"line \d+: definition a appears twice"),
        (text(DEFINITIONS="GradientRasterTime 0"), "GradientRasterTime must be one positive"),
        (text(DEFINITIONS="RadiofrequencyRasterTime x"), "RadiofrequencyRasterTime must be one"),
        (edited(3, "BLOCKS", " 2 0 1", " 2 0 9"), "block 2: RF event 9 is not defined"),
        (edited(3, "BLOCKS", "0 0 1 2 0", "0 0 1 9 0"), "block 4: gradient 9 is not defined"),
        (edited(3, "BLOCKS", "0 0 0 0 1", "0 0 0 0 9"), "block 5: ADC event 9 is not defined"),
        (edited(3, "BLOCKS", "1 1 0", "1 9 0"), "block 1: delay 9 is not defined"),
        (edited(3, "BLOCKS", " 2 0 1", " 2 0 -1"), "RF event -1 is not defined"),
        (edited(3, "BLOCKS", " 2 0", " 1 0"), "block 1: blocks must be in order, after block 1"),
        (edited(3, "BLOCKS", " 2 0", " 2 0 0"), r"\[BLOCKS\] of version 1.3 has 8 .*, found 9"),
        (edited(3, "BLOCKS", " 2 0", " 2 x"), "block 2: delay_id must be an integer, found 'x'"),
        (edited(4, "BLOCKS", " 1 200", " 1 -200"), "duration must not be negative"),
        (edited(4, "BLOCKS", " 2 6", " 2 5"), "block 2: lasts 5e-05 s, shorter than its events"),
        (edited(4, "BLOCKS", "0 0 1 2 0 0", "0 0 1 2 0 7"), "extension entry 7 is not defined"),
        (with_extension("TRIGGERS").replace("TRIGGERS 1", "TRIGGERS 3"), "'extension NAME 1'"),
        (with_extension("TRIGGERS").replace("TRIGGERS 1", "TRIGGERS"), "'extension NAME number'"),
        (edited(3, "RF", RF3, RF4), r"line \d+, RF event 1: \[RF\] of version 1.3 has 7 columns"),
        (edited(4, "RF", RF4, RF3), r"RF event 1: \[RF\] of version 1.4 has 8 columns"),
        (edited(3, "RF", "100 ", "abc "), "RF event 1: amplitude must be a number, found 'abc'"),
        (edited(3, "RF", "100 ", "inf "), "RF event 1: amplitude must be finite, found 'inf'"),
        (edited(3, "RF", "100 1", "100 1.5"), "mag_id must be an integer, found '1.5'"),
        (edited(3, "RF", " 10 ", " -10 "), "RF event 1: delay must not be negative, found '-10'"),
        (edited(3, "RF", "\n2", "\n1"), "RF event 1 is defined twice"),
        (edited(3, "RF", "100 1 2", "100 9 2"), "RF event 1: shape 9 is not defined in"),
        (edited(3, "RF", "100 1 2", "100 0 2"), "RF event 1: shape 0 is not defined in"),
        (edited(3, "RF", "100 1 2", "100 1 3"), "magnitude has 50 samples, phase 40"),
        (edited(5, "RF", "100 1 2 0", "100 1 2 -1"), "time_shape_id -1 .* is not supported"),
        (edited(4, "RF", "100 1 2 0", "100 1 2 3"), "time shape 3 must hold two or more incr"),
        (edited(3, "TRAP", " 250", " -250"), "trapezoid 1: flat must not be negative"),
        (edited(3, "TRAP", "1 ", "2 "), r"trapezoid 2: \[GRADIENTS\] defines the same id"),
        (edited(3, "GRADIENTS", " 4 ", " 9 "), "gradient 2: shape 9 is not defined"),
        (edited(3, "ADC", " 1000 ", " -1000 "), "ADC event 1: dwell must not be negative"),
        (edited(3, "DELAYS", "2000", "-2000"), "delay 1: delay must not be negative"),
        (edited(3, "SHAPES", SHAPE1, "num_samples 50\nx"), r"expected 'shape_id'.*found 'x'"),
        (
            edited(3, "SHAPES", SHAPE1, "num_samples 50\n-inf"),
            r"line \d+, shape 1: value must be f",
        ),
        (edited(3, "SHAPES", SHAPE1, "num_samples 50\n0 0"), r"shape 1: value must be a number"),
        (edited(3, "SHAPES", "num_samples 50\n", ""), r"expected 'num_samples' and a positive"),
        (edited(3, "SHAPES", "num_samples 50", "num_samples 0"), "expected 'num_samples' and a p"),
        (edited(3, "SHAPES", "num_samples 50", "num_samples 51"), "50 samples, .* is 51"),
        (edited(3, "SHAPES", "shape_id 2", "shape_id 1"), "shape 1 is defined twice"),
        (edited(3, "SHAPES", "\nshape_id 1", "1"), r"\[SHAPES\] must begin with 'shape_id"),
        (text(SHAPES="shape_id 1"), "expected 'num_samples'"),
        (edited(3, "SHAPES", "-0.5\n0\n0\n46", "0\n0"), "shape 2 ends where a repeat count"),
        (edited(3, "SHAPES", "\n46\n", "\n4.5\n"), "shape 2: repeat count 4.5 is not an integer"),
        (edited(3, "SHAPES", "\n46\n", "\n-1\n"), "shape 2: repeat count -1 is not an integer"),
        (edited(3, "SHAPES", "\n46\n", "\n1e30\n"), "shape 2: repeat count 1e.30 is not"),
        (text(SHAPES=LONG_RAMP, RF="1 1 1 0 0 0 0\n2 1 1 0 0 0 0"), "shape 1 needs 3000000 runs"),
    ],
)
def test_complaints(source, said):
    with pytest.raises(PulseqError, match=said):
        parse(source)


@pytest.mark.parametrize(
    ("times", "magnitude", "said"),
    [
        ((0, 1, 2), (1, 1), "shape 1 has 2 samples, its time shape 3 3"),
        ((0, 2, 2), (1, 1, 1), "time shape 3 must hold two or more increasing times"),
        ((3, 2), (1, 1), "time shape 3 must hold two or more increasing times"),
        ((-1, 2), (1, 1), "time shape 3 must hold two or more increasing times"),
        ((5,), (1,), "time shape 3 must hold two or more increasing times"),
        ((0, 3_000_000), (0, 1), "shape 1 needs 3000000 runs"),
    ],
)
def test_complaints_of_time_shapes(times, magnitude, said):
    with pytest.raises(PulseqError, match=said):
        timed(times, magnitude)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sequence and what pypulseq makes of it as text."""
    import pypulseq as pp

    system = pp.Opts(rf_dead_time=100e-6, rf_ringdown_time=30e-6)
    sequence = pp.Sequence(system)
    gauss = pp.make_gauss_pulse(
        2.5, duration=5e-3, freq_offset=-447.05, phase_offset=0.7, delay=100e-6, system=system
    )
    block = pp.make_block_pulse(
        1.2, duration=0.1, freq_ppm=3.5, phase_ppm=0.01, delay=100e-6, system=system
    )
    sequence.add_block(pp.make_delay(1.5))
    sequence.add_block(gauss)
    sequence.add_block(block)
    sequence.add_block(pp.make_trapezoid("z", amplitude=1e5, duration=5e-3, system=system))
    sequence.add_block(pp.make_adc(100, duration=1e-3, system=system))
    sequence.set_definition("offsets_ppm", [-3.5, 3.5])
    folder = tmp_path_factory.mktemp("pypulseq")
    sequence.write(str(folder / "v15.seq"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence.write(str(folder / "v14.seq"), v141_compat=True)
    return sequence, {m: (folder / f"v1{m}.seq").read_text() for m in (4, 5)}


@pytest.mark.parametrize("minor", [4, 5])
def test_against_pypulseq(written, minor):
    sequence, texts = written
    ours = parse(texts[minor])
    assert ours.version[:2] == (1, minor)
    assert ours.definitions["offsets_ppm"] == (-3.5, 3.5)
    assert len(ours.blocks) == len(sequence.block_events) == 5
    for block in ours.blocks:
        theirs = sequence.get_block(block.number)
        np.testing.assert_allclose(block.duration_s, theirs.block_duration, rtol=1e-12)
        assert block.gradient == (theirs.gz is not None)
        assert (block.rf is None) == (theirs.rf is None)
        assert (block.adc is None) == (theirs.adc is None)
    gauss, rect = ours.blocks[1].rf, ours.blocks[2].rf
    for rf, number in ((gauss, 2), (rect, 3)):
        theirs = sequence.get_block(number).rf
        np.testing.assert_allclose(rf.delay_s, theirs.delay)
        np.testing.assert_allclose(rf.duration_s, theirs.shape_dur)
        centres = (np.arange(rf.magnitude.n_samples) + 0.5) * rf.raster_s
        waveform = np.interp(centres, theirs.t, theirs.signal)
        turns = np.exp(2j * np.pi * samples(rf.phase))
        got = rf.amplitude_hz * samples(rf.magnitude) * turns
        np.testing.assert_allclose(got, waveform, rtol=0, atol=2e-6 * abs(waveform).max())
    assert (gauss.frequency_hz, gauss.phase_rad) == (-447.05, 0.7)
    assert rect.magnitude.values.size == 1
    if minor == 5:
        assert (rect.frequency_ppm, rect.phase_ppm) == (3.5, 0.01)
    adc = ours.blocks[4].adc
    np.testing.assert_allclose([adc.n_samples, adc.duration_s], [100, 1e-3])


def frequency_mhz(definitions):
    """Scanner frequency, None where the file does not say."""
    if "FREQ" in definitions:
        return definitions["FREQ"][0]
    (b0,) = definitions["B0"]
    return 42.5764 * b0 if b0 > 0 else None


def saturation_frequencies(sequence):
    """Frequency of the last pulse longer than 4 ms before every ADC; None without one."""
    out, last = [], None
    for block in sequence.blocks:
        if block.rf is not None and block.rf.duration_s > 4e-3:
            last = block.rf.frequency_hz
        if block.adc is not None:
            out.append(last)
            last = None
    return out


@pytest.mark.shared_data
def test_published_sequences(shared):
    folders = (shared / "reference/pulseq", shared / "reference/bmsim")
    paths = [path for folder in folders for path in sorted(folder.glob("*.seq"))]
    assert len(paths) == 16
    compared = 0
    for path in paths:
        sequence = parse(path.read_text())
        definitions = sequence.definitions
        frequencies = saturation_frequencies(sequence)
        assert len(frequencies) == definitions["num_meas"][0], path
        mhz = frequency_mhz(definitions)
        if mhz is None:
            continue
        want = np.array(definitions["offsets_ppm"]) * mhz
        assert len(want) == len(frequencies), path
        given = [(w, f) for w, f in zip(want, frequencies, strict=True) if f is not None]
        compared += len(given)
        for w, f in given:
            # the file gives six digits
            assert abs(f - w) < max(0.1, 5e-6 * abs(w)), path
    assert compared > 1000
