"""Sequences of series: to table and back exactly, and what no table says in words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sessions
import trains

from cestprep.bids.convert.dataset import as_tsv
from cestprep.bids.derivatives import Sink
from cestprep.bids.preprocessed import write_preprocessed
from cestprep.bids.protocols import build_protocol, read_context
from cestprep.bids.pulseq import conflicts, describe, play
from cestprep.bids.spec.examples import pulseq_text
from cestprep.errors import InputError
from cestprep.physics.protocol import Pulse, Saturation
from cestprep.physics.pulseq_protocol import idealised, prepared

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "pulseq"
FREQUENCY = 127.7292
READOUT = {"FlipAngle": 15, "NumberShots": 1, "MagneticFieldStrength": 3,
           "SpectrometerFrequency": FREQUENCY}  # fmt: skip


def written(tmp_path, volumes):
    return trains.write(tmp_path / "made.seq", volumes, FREQUENCY)


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
    sources = zip(played.volumes, prepared(played), strict=True)
    for volume, told, (source, train) in zip(back.volumes, volumes, sources, strict=True):
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
    rows = itertools.islice(found.table.itertuples(), 5)
    for row, train in zip(rows, prepared(played), strict=False):
        if train.n_pulses:
            assert row.saturation_b1 == train.b1_rms_ut


SERIES = "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cest"
MOUSE_MHZ = 298.03


def beside(root, b1_scale=1.0, shape="block", **changes):
    """Write the .seq of the MT series from its table, without the reference volume."""
    table = read_context(root / f"{SERIES}context.tsv")
    rows = table[table["volume_type"] == "saturated"]
    volumes = [(r.recovery_time, r.saturation_offset, b1_scale * r.saturation_b1,
                r.saturation_duration, 1, 0.0, False) for r in rows.itertuples()]  # fmt: skip
    path = root / f"{SERIES}.seq"
    trains.write(path, volumes, MOUSE_MHZ, shape)
    sessions.edit_json(root / f"{SERIES}.json", **changes)
    return path


def test_rectangular_pulses_are_the_same_with_and_without_their_sequence(dataset):
    without = sessions.plan(dataset).stages[0]
    path = beside(dataset)
    planned = sessions.plan(dataset)
    stage = planned.stages[0]
    assert stage.sequence == path
    assert path in planned.files
    assert "pulses of sub-01_ses-01_acq-mt_cest.seq" in planned.describe()
    pairs = zip(without.problem.protocol.volumes, stage.problem.protocol.volumes, strict=True)
    for told, played in pairs:
        assert (told.saturation is None) == (not played.preparation)
        if told.saturation is not None:
            made = next(b for b in played.preparation if isinstance(b, Saturation))
            assert abs(made.offset_ppm - told.saturation.offset_ppm) < 1e-9
            assert abs(made.b1_ut - told.saturation.b1_ut) < 1e-9
            assert abs(made.pulse_duration_s - told.saturation.pulse_duration_s) < 1e-9
        assert abs(played.recovery_s - told.recovery_s) < 1e-9


def test_pulses_of_any_shape_come_from_the_sequence(dataset):
    """Refused by name alone; with the sequence its envelope is simulated."""
    sessions.edit_json(dataset / f"{SERIES}.json", MTPulseShape="GAUSSIAN")
    with pytest.raises(InputError, match=r"Store the \.seq file"):
        sessions.plan(dataset)
    beside(dataset, shape="gauss", SaturationB1Definition="peak", MTPulseShape="GAUSSIAN")
    protocol = sessions.plan(dataset).stages[0].problem.protocol
    pulses = [b for b in protocol.blocks if isinstance(b, Pulse)]
    table = read_context(dataset / f"{SERIES}context.tsv")
    assert len(pulses) == (table["volume_type"] == "saturated").sum()
    stated = table.loc[table["volume_type"] == "saturated", "saturation_b1"]
    np.testing.assert_allclose([p.b1_ut for p in pulses], stated, rtol=1e-6)
    assert not pulses[0].waveform.is_rectangular


def test_a_sequence_that_contradicts_the_table_is_refused(dataset):
    path = beside(dataset, b1_scale=1.1)
    with pytest.raises(InputError, match=r"saturation_b1 is .* uT, the file plays") as caught:
        sessions.plan(dataset)
    assert caught.value.faults[0].where == path


def test_a_sequence_elsewhere_is_found_by_its_uri(dataset):
    path = beside(dataset, PulseqFile="bids::code/mt.seq")
    (dataset / "code").mkdir()
    path.rename(dataset / "code/mt.seq")
    assert sessions.plan(dataset).stages[0].sequence == dataset / "code/mt.seq"
    (dataset / "code/mt.seq").unlink()
    with pytest.raises(InputError, match="names no file of the dataset"):
        sessions.plan(dataset)


def test_preprocessed_series_keep_their_sequence(dataset, tmp_path):
    """Networks of a cohort are trained from there."""
    path = beside(dataset)
    planned = sessions.plan(dataset)
    written = write_preprocessed(Sink(tmp_path / "out", {"raw": dataset}, "psvae"), planned)
    (copy,) = (p for p in written if p.suffix == ".seq")
    assert copy.read_text() == path.read_text()
    assert copy.name == "sub-01_ses-01_acq-mt_space-cestref_desc-preproc_cest.seq"


def test_real_tips_are_simulated(tmp_path):
    volumes = [(2.0, 3.5, 2.0, 0.1, 2, 0.05, True), (1.0, -8.0, 1.5, 0.1, 2, 0.05, True)]
    played = play(written(tmp_path, volumes), FREQUENCY)
    found = describe(played)
    fields = {**READOUT, **found.fields, "M0Type": "Absent"}
    where = tmp_path / "x.nii.gz"
    protocol = build_protocol(found.table, fields, where, where, played)
    blocks = [b for b in protocol.blocks if isinstance(b, Pulse)]
    assert len(blocks) == 2 * 2 * 3
    sources = [b for b in played.blocks if isinstance(b, Pulse)]
    for made, source in zip(blocks, sources, strict=True):
        assert made.phase_rad == source.phase_rad
        assert abs(made.offset_ppm - source.offset_ppm) < 1e-9
        assert abs(made.b1_ut - source.b1_ut) < 1e-9
