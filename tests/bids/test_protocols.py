"""Table and sidecar to protocol and back; every gap is a sentence, never a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cestprep.bids.protocols import build_protocol, read_context
from cestprep.bids.synthetic import context_of, sidecar_of
from cestprep.errors import InputError
from cestprep.phantom.protocols import fingerprinting_protocol

WHERE, CONTEXT = Path("sub-01_cest.nii.gz"), Path("sub-01_cestcontext.tsv")


def described(pulsed=True):
    protocol = fingerprinting_protocol((6.0, 14.0), 123.25, pulsed)
    return protocol, context_of(protocol), sidecar_of(protocol, 3.0, "semisolid")


@pytest.mark.parametrize("pulsed", [True, False])
def test_round_trip(pulsed, tmp_path):
    protocol, table, fields = described(pulsed)
    path = tmp_path / "cestcontext.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    read = build_protocol(read_context(path), fields, WHERE, path)
    assert read.volumes == protocol.volumes
    assert read.is_m0 == protocol.is_m0
    assert read.frequency_mhz == protocol.frequency_mhz


def test_cwpe_amplitude_is_converted():
    _, table, fields = described()
    fields["SaturationB1Definition"] = "cwpe"
    volume = build_protocol(table, fields, WHERE, CONTEXT).volumes[1]
    assert volume.saturation.b1_ut == pytest.approx(table["saturation_b1"][1] * np.sqrt(2.5 / 1.3))


def test_far_off_resonant_reference_keeps_its_saturation():
    _, table, fields = described(pulsed=False)
    table.loc[0, ["saturation_offset", "saturation_b1", "saturation_duration"]] = [-300.0, 3.7, 2.5]
    protocol = build_protocol(table, fields, WHERE, CONTEXT)
    assert protocol.is_m0[0]
    assert protocol.volumes[0].saturation.offset_ppm == -300


def test_flip_angle_column_overrides_the_sidecar():
    _, table, fields = described(pulsed=False)
    table["flip_angle"] = np.nan
    table.loc[4, "flip_angle"] = 33.0
    angles = [
        v.readout.flip_angle_deg for v in build_protocol(table, fields, WHERE, CONTEXT).volumes
    ]
    assert angles[4] == 33
    assert set(angles[:4] + angles[5:]) == {90}


SIDECAR_BREAKAGES = {
    "no B1 definition": ({"SaturationB1Definition": None}, "SaturationB1Definition is missing"),
    "unknown B1 definition": ({"SaturationB1Definition": "max"}, "one of rms, mean, peak, cwpe"),
    "no frequency": ({"SpectrometerFrequency": None}, "SpectrometerFrequency is missing"),
    "no flip angle": ({"FlipAngle": None}, "FlipAngle is missing"),
    "flip angle as text": ({"FlipAngle": "90"}, "FlipAngle is '90'"),
    "no shots": ({"NumberShots": None}, "NumberShots is missing"),
    "fractional shots": ({"NumberShots": 1.5}, "NumberShots is 1.5"),
    "shots without interval": (
        {"RepetitionTimeExcitation": None},
        "RepetitionTimeExcitation is missing",
    ),
    "no pulse count": ({"MTNumberOfPulses": None}, "MTNumberOfPulses is missing"),
    "no pulse delay": ({"SaturationPulseDelay": None}, "SaturationPulseDelay is missing"),
    "shaped pulse": ({"MTPulseShape": "GAUSSIAN"}, "only HARD"),
    "spin lock as text": ({"SaturationSpinLock": "yes"}, "SaturationSpinLock is 'yes'"),
    "no spin-lock statement": ({"SaturationSpinLock": None}, "SaturationSpinLock is missing"),
    "no M0 type": ({"M0Type": None}, "M0Type is missing"),
    "M0 where none should be": ({"M0Type": "Absent"}, "although M0Type is 'Absent'"),
    "other duration": ({"MTPulseDuration": 0.05}, "pulses of 0.05 s"),
    "infinite duration": ({"MTPulseDuration": float("inf")}, "MTPulseDuration is inf"),
    "frequency in Hz": ({"SpectrometerFrequency": 123.25e6}, "resonate near"),
    "frequency of another field": ({"SpectrometerFrequency": 298.0}, "resonate near"),
    "frequency true": ({"SpectrometerFrequency": True}, "is True, so ppm have no reference"),
    "huge number": ({"FlipAngle": 10**400}, "FlipAngle is"),
    "large flip angle": ({"FlipAngle": 7200}, "at most 180"),
    "interval in ms": ({"RepetitionTimeExcitation": 28.37}, "expected seconds"),
    "M0 elsewhere": ({"M0Type": "Separate"}, "although M0Type is 'Separate'"),
}


@pytest.mark.parametrize(("change", "says"), SIDECAR_BREAKAGES.values(), ids=SIDECAR_BREAKAGES)
def test_sidecar_gaps_are_named(change, says):
    _, table, fields = described()
    fields = {k: v for k, v in (fields | change).items() if v is not None}
    with pytest.raises(InputError, match=says) as caught:
        build_protocol(table, fields, WHERE, CONTEXT)
    for fault in caught.value.faults:
        assert fault.mend


def test_all_gaps_are_named_at_once():
    _, table, _ = described()
    with pytest.raises(InputError) as caught:
        build_protocol(table, {}, WHERE, CONTEXT)
    assert len(caught.value.faults) >= 6


def column(name, value):
    def change(table):
        table[name] = table[name].astype(object) if name in table else None
        table.loc[2, name] = value

    return change


TABLE_BREAKAGES = {
    "missing column": (lambda t: t.pop("recovery_time"), "lacks the column"),
    "unknown type": (column("volume_type", "control"), "expected saturated"),
    "text": (column("saturation_b1", "two"), "holds text"),
    "negative": (column("saturation_b1", -1), "negative"),
    "no recovery": (column("recovery_time", "n/a"), "recovery_time is n/a"),
    "recovery in ms": (column("recovery_time", 1000), "recovery_time is 1000"),
    "infinite": (column("saturation_offset", np.inf), "is infinite"),
    "frequency that contradicts": (column("saturation_frequency", 500), "500 Hz, but"),
    "noRF with B1": (column("volume_type", "noRF"), "noRF with a saturation_b1"),
    "only references": (lambda t: t.__setitem__("volume_type", "m0scan"), "no saturated row"),
    "text in an optional column": (column("flip_angle", "ninety"), "flip_angle holds text"),
    "no offset": (column("saturation_offset", "n/a"), "offset, B1 and duration"),
    "half a pulse": (lambda t: t.__setitem__("saturation_pulses", 1.5), "saturation_pulses"),
    "B1 in T": (column("saturation_b1", 2e-6), "no plausible amplitude"),
    "offset in Hz": (column("saturation_offset", 4470), "ppm"),
    "no M0": (lambda t: t.__setitem__("volume_type", "noRF"), "no m0scan row"),
}


@pytest.mark.parametrize(("change", "says"), TABLE_BREAKAGES.values(), ids=TABLE_BREAKAGES)
def test_table_gaps_are_named(change, says, tmp_path):
    _, table, fields = described()
    change(table)
    path = tmp_path / "cestcontext.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(InputError, match=says):
        build_protocol(read_context(path), fields, WHERE, path)


def test_unreadable_table(tmp_path):
    path = tmp_path / "cestcontext.tsv"
    for content in (b"", b"\xff\xfe\x00v", b'a\tb\n"'):
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_context(path)
    with pytest.raises(InputError):
        read_context(tmp_path / "absent.tsv")


def test_table_without_rows_or_with_a_column_twice(tmp_path):
    _, table, _ = described()
    path = tmp_path / "cestcontext.tsv"
    table[:0].to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match="has no rows"):
        read_context(path)
    pd.concat([table, table[["saturation_b1"]]], axis=1).to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match="saturation_b1 twice"):
        read_context(path)


def test_equal_faults_of_many_rows_are_one_sentence():
    _, table, fields = described()
    table["recovery_time"] *= 1e3
    with pytest.raises(InputError, match=r"rows 3, 4, 5, 6, 7, …: recovery_time is 1000") as caught:
        build_protocol(table, fields, WHERE, CONTEXT)
    assert len(caught.value.faults) == 2  # the 15 s after the reference are another sentence


def test_single_pulse_of_another_length_than_the_sidecar_says():
    _, table, fields = described(pulsed=False)
    with pytest.raises(InputError, match="which no saturation_duration equals"):
        build_protocol(table, fields | {"MTPulseDuration": 0.1}, WHERE, CONTEXT)
