"""Sequences of series: to table and back exactly, and what no table says in words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cestprep.bids.convert.dataset import as_tsv
from cestprep.bids.protocols import build_protocol, read_context
from cestprep.bids.pulseq import conflicts, describe, play
from cestprep.bids.spec.examples import pulseq_text
from cestprep.physics.pulseq_protocol import idealised, prepared

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "pulseq"
FREQUENCY = 127.7292
READOUT = {"FlipAngle": 15, "NumberShots": 1, "MagneticFieldStrength": 3,
           "SpectrometerFrequency": FREQUENCY}  # fmt: skip


def written(tmp_path, volumes):
    """A sequence of rectangular trains (recovery, offset, B1, length, count, delay, tips)."""
    import pypulseq as pp

    system = pp.Opts(rf_dead_time=0, rf_ringdown_time=0, max_grad=125, grad_unit="mT/m",
                     max_slew=200, slew_unit="T/m/s")  # fmt: skip
    spoiler = pp.make_trapezoid("z", amplitude=4e4, rise_time=1e-4, flat_time=8e-4, system=system)
    sequence = pp.Sequence(system)
    for recovery, offset, b1, length, count, delay, tips in volumes:
        sequence.add_block(pp.make_delay(recovery))
        hertz = offset * FREQUENCY
        lock = pp.make_block_pulse(2 * np.pi * 42.5764 * b1 * length, duration=length,
                                   freq_offset=hertz, system=system)  # fmt: skip
        angle = np.arctan2(42.5764 * b1, abs(hertz))
        for i in range(count):
            if tips:
                tip = pp.make_block_pulse(angle, duration=1e-3, freq_offset=hertz, system=system)
                sequence.add_block(tip)
            sequence.add_block(lock)
            if tips:
                back = pp.make_block_pulse(angle, duration=1e-3, freq_offset=hertz,
                                           phase_offset=np.pi, system=system)  # fmt: skip
                sequence.add_block(back)
            if i < count - 1:
                sequence.add_block(pp.make_delay(delay - (2e-3 if tips else 0)))
        sequence.add_block(spoiler)
        sequence.add_block(pp.make_adc(1, duration=1e-3))
    path = tmp_path / "made.seq"
    sequence.write(str(path))
    return path


TRAINS = {
    "continuous wave": (1, 0.0, False),
    "train": (5, 0.03, False),
    "spin-locked train": (4, 0.05, True),
}


@pytest.mark.parametrize("what", TRAINS)
def test_round_trip_is_exact(tmp_path, what):
    """1e-6 ppm, 1e-6 uT, 1 us, through the text of the table."""
    count, delay, tips = TRAINS[what]
    rows = [(2.0, 3.5, 2.0), (1.0, -8.25, 1.375), (1.5, 14.0, 0.7)]
    volumes = [(*row, 0.1, count, delay, tips) for row in rows]
    played = play(written(tmp_path, volumes), FREQUENCY)
    found = describe(played)
    (tmp_path / "t.tsv").write_text(as_tsv(found.table))
    table = read_context(tmp_path / "t.tsv")
    fields = {**READOUT, **found.fields, "M0Type": "Absent"}
    image = tmp_path / "x_cest.nii.gz"
    back = build_protocol(table, fields, image, tmp_path / "t.tsv")
    assert not conflicts(table, fields, played)
    trains = zip(played.volumes, prepared(played), strict=True)
    for volume, told, (source, train) in zip(back.volumes, volumes, trains, strict=True):
        recovery, offset, b1, length, n, wait, tipped = told
        made = volume.saturation
        assert abs(made.offset_ppm - train.offset_ppm) < 1e-6
        assert abs(made.b1_ut - train.b1_peak_ut) < 1e-6
        # the file itself has six digits
        np.testing.assert_allclose((made.offset_ppm, made.b1_ut), (offset, b1), rtol=5e-6)
        assert made.n_pulses == n
        assert made.spin_lock == ("ideal" if tipped else "none")
        # the readout's millisecond, and the first tip, count as recovery
        assert 0 <= volume.recovery_s - recovery < 2.1e-3
        for is_so, should in ((volume.recovery_s, source.recovery_s + train.lead_s),
                              (made.pulse_duration_s, length),
                              (made.pulse_delay_s, wait if n > 1 else 0.0)):  # fmt: skip
            assert abs(is_so - should) < 1e-6


def test_ideal_tips_are_those_of_the_simulator(tmp_path):
    """Table and `idealised` agree on what an ideally locked train is."""
    volumes = [(2.0, 3.5, 2.0, 0.1, 3, 0.05, True), (1.0, -8.0, 1.5, 0.1, 3, 0.05, True)]
    played = play(written(tmp_path, volumes), FREQUENCY)
    ideal = [b for v in idealised(played).volumes for b in v.preparation if hasattr(b, "b1_ut")]
    for made, row in zip(ideal, describe(played).table.itertuples(), strict=True):
        assert abs(made.offset_ppm - row.saturation_offset) < 1e-9
        assert abs(made.b1_ut - row.saturation_b1) < 1e-9


def test_what_a_table_cannot_say(tmp_path):
    found = describe(play(written(tmp_path, [(1.0, 3.5, 2.0, 0.1, 3, 0.05, False)]), FREQUENCY))
    said = " ".join(found.unsaid)
    assert "The phase of each pulse" in said
    assert "from saturation to readout" in said
    locked = describe(play(written(tmp_path, [(1.0, 3.5, 2.0, 0.1, 3, 0.05, True)]), FREQUENCY))
    assert any(s.startswith("The tips around each pulse, 10.8") for s in locked.unsaid)


def example(tmp_path, offsets=(3.5, 8.0), b1=(2.0, 1.0)):
    path = tmp_path / "x.seq"
    path.write_text(pulseq_text(offsets, b1))
    played = play(path, 127.73)
    found = describe(played)
    return played, found.table, dict(found.fields)


def test_a_table_of_the_sequence_has_no_conflict(tmp_path):
    played, table, fields = example(tmp_path)
    assert conflicts(table, fields, played) == []
    reference = pd.DataFrame([{"volume_type": "m0scan", "saturation_b1": 0.0}])
    longer = pd.concat([reference, table], ignore_index=True)
    assert conflicts(longer, fields, played) == []


BREAKS = {
    "saturation_offset": 0.01, "saturation_b1": 0.1, "saturation_duration": 0.1,
    "recovery_time": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("column", BREAKS)
def test_conflicts_are_named_with_both_numbers(tmp_path, column):
    played, table, fields = example(tmp_path)
    table.loc[1, column] += BREAKS[column]
    (sentence,) = conflicts(table, fields, played)
    assert sentence.startswith(f"row 2: {column} is ")
    assert "the file" in sentence


@pytest.mark.parametrize(
    ("field", "value"), [("SaturationSpinLock", True), ("MTNumberOfPulses", 3)]
)
def test_conflicts_of_the_sidecar(tmp_path, field, value):
    played, table, fields = example(tmp_path)
    (sentence,) = conflicts(table, fields | {field: value}, played)
    assert field in sentence


def test_rows_must_pair(tmp_path):
    played, table, fields = example(tmp_path)
    (sentence,) = conflicts(pd.concat([table, table]), fields, played)
    assert "2 readouts, the table 4 rows" in sentence


EXPECTED = {
    "APTw_3T_000_2uT_1block_2s_braintumor": ["from saturation to readout"],
    "APTw_3T_001_2uT_36SincGauss_DC90_2s_braintumor": ["shape", "phase", "readout"],
    "APTw_3T_003_2uT_8block_DC95_834ms_braintumor": ["phase", "not equal", "readout"],
    "MRF_CEST_3T_001_block_brain": ["phase", "readout"],
    "MRF_CEST_3T_002_13SL_DC50_2500ms_LArginine": ["tips", "readout"],
    "MRF_CEST_3T_003_13SL_DC50_2500ms_MT": ["tips", "readout"],
    "MultiPool_3T_001_0p6uT_80Gauss_DC50_3200ms_GLINT": ["shape", "phase", "readout"],
    "T2map_001_T2prep": ["phase", "another length", "differ between volumes", "readout"],
    "WASABIT1_3T_001_3p7uT_1block_5p12ms": ["shape", "not the last", "readout"],
    "WASABI_3T_001_3p7uT_1block_5ms": ["readout"],
}


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the sequences in ../shared")
@pytest.mark.parametrize("name", EXPECTED)
def test_published_sequences(name):
    """Each thing no table says has one sentence; what it says agrees with the sequence."""
    played = play(SHARED / f"{name}.seq", FREQUENCY)
    found = describe(played)
    assert len(found.unsaid) == len(EXPECTED[name])
    for words, sentence in zip(EXPECTED[name], found.unsaid, strict=True):
        assert words in sentence
        assert sentence.count(".") >= 1
    trains = prepared(played)
    for row, train in zip(itertools.islice(found.table.itertuples(), 5), trains, strict=False):
        if train.n_pulses:
            assert row.saturation_b1 == train.b1_rms_ut
