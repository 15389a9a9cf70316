"""Pulsed Z-spectra at several B1, fitted by `voxelwise` and `psvae`: bias against the truth."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.inference import methods, solving
from cestprep.physics.protocol import Block, Protocol, Readout, Recovery, Saturation, Spoil

OFFSETS_PPM = (-300.0, *np.round(np.arange(-6.0, 6.01, 0.5), 2))
B1_UT = (0.6, 1.2, 2.0)


def protocol(frequency_mhz: float = 127.73) -> Protocol:
    """Trains of eight rectangular pulses at half duty, 3 s apart, offset by offset for each B1."""
    blocks: list[Block] = []
    for b1 in B1_UT:
        for offset in OFFSETS_PPM:
            saturation = Saturation(offset, b1, 0.1, 8, 0.1, "none")
            blocks += [Recovery(3.0), saturation, Spoil(), Readout(90.0)]
    return Protocol(tuple(blocks), frequency_mhz, (False,) * (len(B1_UT) * len(OFFSETS_PPM)))


def study(count: int = 200, snr: float = 100.0, seed: int = 21) -> dict[str, Any]:
    """Mean and SD of errors over the posterior SD, amide fraction and rate of a brain."""
    problem = dataclasses.replace(cases.problem("amide"), protocol=protocol(), solver="auto")
    truth = cases.brain(problem, count, seed)
    clean = cases.oracle(problem, truth, f"spectra_{count}")
    seen = cases.observe(problem, truth, clean, snr, seed + 1, propagate=False)
    rows = {}
    for name in ("voxelwise", "psvae"):
        method = methods.load(name)
        learned = solving.learn(method, problem, seen) if methods.trains(method) else None
        found = solving.estimate(method, problem, seen, learned=learned)
        sd = np.sqrt(np.einsum("iiv->iv", found.covariance))
        error = (found.mean - truth.theta)[:, found.valid] / sd[:, found.valid]
        for free, row in zip(problem.free, error, strict=True):
            rows[f"{name}, {free.name}"] = {
                "bias in SD": float(row.mean()),
                "spread in SD": float(row.std()),
                "valid": float(found.valid.mean()),
            }
    return rows
