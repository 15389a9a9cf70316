"""Against BMCTool, an independent open simulator that plays Pulseq files (b0_inhom 0 only).

The published sequences are not part of the repository; a generated one always runs.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import voxels as vx
from bmctool.parameters import Parameters
from bmctool.simulation.BMCSim import BMCSim

from cestprep.physics import simulate
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

WATER = {"f": 1.0, "t1": 1.3, "t2": 0.075}
MT = {"f": 0.1, "k": 40.0, "t1": 1.3, "t2": 4e-5, "dw": 0.0, "lineshape": "Lorentzian"}
CEST = {"f": 0.002, "k": 300.0, "t1": 1.3, "t2": 0.04, "dw": 3.0}
FREQUENCY = 127.7292


def bmctool(sequence, cest, mt):
    """Longitudinal water magnetisation by BMCTool, magnetisation carried on between volumes."""
    config = {
        "water_pool": WATER,
        "b0": FREQUENCY / 42.5764,
        "gamma": 267.5153,
        "b0_inhom": 0.0,
        "rel_b1": 1.0,
        "verbose": False,
        "reset_init_mag": False,
        "max_pulse_samples": 300,
        "scale": 1.0,
    }
    config |= {"cest_pool": {"amine": CEST}} if cest else {}
    config |= {"mt_pool": MT} if mt else {}
    simulation = BMCSim(Parameters.from_dict(config), sequence, verbose=False)
    simulation.run()
    return simulation.get_zspec()[1], simulation.defs


def ours(volumes, cest, mt, spin_lock):
    """The same by cestprep: no readout flip, pools exchange all the time."""
    names = (("amide",) if cest else ()) + (("semisolid",) if mt else ())
    blocks = []
    for recovery, offset, b1, pulse, count, delay in volumes:
        saturation = Saturation(offset, b1, pulse, count, delay, spin_lock)
        blocks += [Recovery(recovery), saturation, Spoil(), Readout(0.0)]
    protocol = Protocol(tuple(blocks), FREQUENCY, (False,) * len(volumes))
    p = {"t1": WATER["t1"], "t2": WATER["t2"], "b0_ppm": 0.0, "b1_scale": 1.0, "m0": 1.0}
    for name, pool in (("amide", CEST), ("semisolid", MT)):
        keys = {"fraction": "f", "k_exchange": "k", "t2": "t2", "offset_ppm": "dw"}
        p |= {f"{name}.{key}": pool[k] for key, k in keys.items() if name in names}
    p = {key: np.array([value]) for key, value in p.items()}
    model = vx.model(names, pools_rebalance=False)
    return np.asarray(jax.jit(lambda q: simulate.signal(protocol, model, q))(p))[:, 0]


@pytest.mark.parametrize(
    ("name", "cest", "mt"),
    [
        ("MRF_CEST_3T_003_13SL_DC50_2500ms_MT", False, True),
        ("MRF_CEST_3T_002_13SL_DC50_2500ms_LArginine", True, False),
    ],
)
@pytest.mark.shared_data
def test_published_fingerprinting_sequences(x64, shared, name, cest, mt):
    """Spin-lock trains; BMCTool plays their real 1 ms tips, ours are ideal: 3e-3."""
    got, defs = bmctool(shared / f"reference/pulseq/{name}.seq", cest, mt)
    b1, offsets = np.atleast_1d(defs["B1rms"]), np.atleast_1d(defs["offsets_ppm"])
    volumes = [(1.0, o, b, 0.1, 13, 0.1) for o, b in zip(offsets, b1, strict=True)]
    assert len(volumes) == 30
    want = ours(volumes, cest, mt, "ideal")
    np.testing.assert_allclose(got, want, atol=3e-3, rtol=0)
    assert np.ptp(want) > 0.1


def generated_sequence(volumes):
    """A Pulseq sequence of rectangular pulse trains as Pulseq-CEST writes them."""
    import pypulseq as pp

    system = pp.Opts(
        rf_dead_time=0, rf_ringdown_time=0, grad_unit="mT/m", max_grad=125, max_slew=1e4
    )
    sequence = pp.Sequence(system)
    spoiler = pp.make_trapezoid("z", amplitude=100 * 42.5764e3 * 0.01, duration=1e-3, system=system)
    for recovery, offset, b1, pulse, count, delay in volumes:
        rf = pp.make_block_pulse(
            flip_angle=2 * np.pi * 42.5764 * b1 * pulse,
            duration=pulse,
            freq_offset=offset * FREQUENCY,
            system=system,
        )
        sequence.add_block(pp.make_delay(recovery))
        for i in range(count):
            sequence.add_block(rf)
            if i < count - 1:
                sequence.add_block(pp.make_delay(delay))
        sequence.add_block(spoiler)
        sequence.add_block(pp.make_adc(1, duration=1e-3))
    sequence.set_definition("offsets_ppm", [v[1] for v in volumes])
    return sequence


def whole_turns(offset_ppm, about_s):
    """A time during which an offset turns by whole cycles.

    BMCTool's pulses start in phase with the magnetisation frame, ours with the running carrier;
    after whole turns the two conventions are the same.
    """
    hertz = abs(offset_ppm) * FREQUENCY
    return round(hertz * about_s) / hertz


@pytest.mark.parametrize(("cest", "mt"), [(False, True), (True, False), (True, True)])
def test_generated_sequence(x64, cest, mt):
    """Rectangular trains without spin lock: only the 1 ms spoiler is left out, 1e-3."""
    volumes = [
        (1.0, 3.0, 2.0, whole_turns(3.0, 0.05), 3, whole_turns(3.0, 0.02)),
        (0.7, -8.0, 3.5, whole_turns(-8.0, 0.05), 3, whole_turns(-8.0, 0.02)),
        (0.5, 3.0, 0.5, 0.2, 1, 0.0),
        (0.5, 14.0, 5.0, 0.2, 1, 0.0),
    ]
    got, _ = bmctool(generated_sequence(volumes), cest, mt)
    want = ours(volumes, cest, mt, "none")
    np.testing.assert_allclose(got, want, atol=1e-3, rtol=0)
