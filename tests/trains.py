"""Pulseq files of pulse trains, written by pypulseq."""

from __future__ import annotations

import numpy as np

GAMMA = 42.5764


def write(path, volumes, frequency_mhz, shape="block"):
    """A file of trains: (recovery s, offset ppm, B1 uT, length s, count, delay s, tips) each.

    B1 is the peak; ``shape`` is block or gauss.
    """
    import pypulseq as pp

    system = pp.Opts(rf_dead_time=0, rf_ringdown_time=0, max_grad=125, grad_unit="mT/m",
                     max_slew=200, slew_unit="T/m/s", B0=frequency_mhz / GAMMA)  # fmt: skip
    spoiler = pp.make_trapezoid("z", amplitude=4e4, rise_time=1e-4, flat_time=8e-4, system=system)
    sequence = pp.Sequence(system)
    for recovery, offset, b1, length, count, delay, tips in volumes:
        sequence.add_block(pp.make_delay(recovery))
        hertz = offset * frequency_mhz
        whole = 2 * np.pi * GAMMA * b1 * length
        common = {"freq_offset": hertz, "system": system}
        if shape == "gauss":
            pulse = pp.make_gauss_pulse(whole, duration=length, **common)
            pulse.signal *= GAMMA * b1 / np.abs(pulse.signal).max()
        else:
            pulse = pp.make_block_pulse(whole, duration=length, **common)
        angle = np.arctan2(GAMMA * b1, abs(hertz))
        tip = pp.make_block_pulse(angle, duration=1e-3, **common)
        back = pp.make_block_pulse(angle, duration=1e-3, phase_offset=np.pi, **common)
        for i in range(count):
            for event in (tip, pulse, back) if tips else (pulse,):
                sequence.add_block(event)
            if i < count - 1:
                sequence.add_block(pp.make_delay(delay - (2e-3 if tips else 0)))
        sequence.add_block(spoiler)
        sequence.add_block(pp.make_adc(1, duration=1e-3))
    sequence.write(str(path))
    return path
