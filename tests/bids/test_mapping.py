"""Maps of whole volumes: what is missing stays missing."""

from __future__ import annotations

import numpy as np
import pytest

from cestprep.bids.mapping import map_scan
from cestprep.bids.scans import Scan
from cestprep.physics import relaxometry
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

SHAPE = (12, 11, 10)
HEAD = tuple(slice(3, n - 3) for n in SHAPE)
OFFSETS = np.linspace(-1, 1, 21)
TIMES = (10.0, 5.0, 2.0, 1.0, 0.5)


def wassr():
    blocks = []
    for offset in OFFSETS.tolist():
        blocks += [Recovery(3.0), Saturation(offset, 0.3, 0.1), Spoil(), Readout(15.0)]
    protocol = Protocol(tuple(blocks), 123.25, (False,) * len(OFFSETS))
    return Scan("WASSR", (), protocol=protocol, banded=True)


def volumes(signals):
    """A head of one signal with noise, in the dark."""
    rng = np.random.default_rng(0)
    data = 1e-3 * np.abs(rng.standard_normal((*SHAPE, len(signals))))
    data[HEAD] += signals.ravel()
    return data.astype(np.float32)


def test_b0_that_is_not_known_is_no_zero():
    signals = np.asarray(relaxometry.wassr(0.2, 1.0, 0.8, 0.4, OFFSETS))
    data = volumes(signals)
    data[5, 5, 5] = 0.0  # no signal
    found = map_scan(wassr(), data, {})
    assert found["value"][6, 6, 5] == pytest.approx(0.2, abs=0.01)
    assert 0 < found["sd"][6, 6, 5] < 0.05
    assert np.isnan(found["value"][5, 5, 5])
    assert np.isnan(found["sd"][5, 5, 5])


def test_t1_that_is_not_known_is_zero():
    data = volumes(np.asarray(relaxometry.saturation_recovery(100.0, 1.2, np.array(TIMES))))
    data[5, 5, 5] = 70.0  # no recovery
    found = map_scan(Scan("SRT1", (), times_s=TIMES), data, {})
    assert found["value"][6, 6, 5] == pytest.approx(1.2, rel=0.01)
    assert found["sd"][6, 6, 5] > 0
    assert found["value"][5, 5, 5] == found["sd"][5, 5, 5] == 0
