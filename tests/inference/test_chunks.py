"""Chunks: the same numbers on any number of cores, progress in order, faults that come through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cestprep.inference.chunks import over_chunks

SIGNAL = np.random.default_rng(0).standard_normal((3, 1001)).astype(np.float32)


@jax.jit
def spread(x):
    return jnp.sum(x**2, axis=0), jnp.tanh(x)


@pytest.mark.parametrize("cores", ["1", "2", "5", "none of these"])
def test_results_are_in_order_and_the_same_on_any_number_of_cores(monkeypatch, cores):
    monkeypatch.setenv("NPROC", cores)
    total, curve = over_chunks(spread, [SIGNAL], 16)
    np.testing.assert_allclose(total, np.sum(SIGNAL**2, axis=0), rtol=1e-6)
    np.testing.assert_allclose(curve, np.tanh(SIGNAL), rtol=1e-5)


def test_progress_counts_voxels_up_to_all():
    class Listener:
        def __init__(self):
            self.heard = []

        def __call__(self, done, total):
            self.heard.append((done, total))

        def phase(self, what, unit):
            return self

    listener = Listener()
    over_chunks(spread, [SIGNAL], 300, listener)
    assert listener.heard == [(0, 1001), (300, 1001), (600, 1001), (900, 1001), (1001, 1001)]


def test_an_error_in_a_chunk_is_the_caller_s_and_ends_the_work(monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    begun = []

    def fails(x):
        begun.append(x.shape)
        if len(begun) > 3:
            raise FloatingPointError("chunk")
        return x

    with pytest.raises(FloatingPointError, match="chunk"):
        over_chunks(fails, [SIGNAL], 1)
    assert len(begun) < 1001
