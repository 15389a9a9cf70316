"""Voxels whose signals come from BMCTool, with a protocol that it plays as we do.

Rectangular pulses without spin lock, whole turns of the carrier between them, no readout pulse and
no B0 offset: the conventions are the same there (docs/conventions.rst).
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.validation import cases
from cestprep.data import load_recipe
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import Recipe
from cestprep.phantom.protocols import fingerprinting_protocol
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

sys.path.insert(0, str(cases.ROOT / "tests" / "physics"))
_PULSES = 10
#: All offsets are multiples of this (ppm), so that one time is whole turns of each.
_STEP_PPM = {"mt": 2.0, "amide": 3.5}


def problem(stage: str) -> tuple[InverseProblem, Any]:
    """A stage of the 3 T recipe with that protocol, and the protocol as a Pulseq sequence."""
    from test_bmctool import FREQUENCY, generated_sequence, whole_turns

    step = _STEP_PPM[stage]
    turns = whole_turns(step, 0.1)
    like = fingerprinting_protocol(cases.OFFSETS_PPM[stage], FREQUENCY, pulsed=True)
    volumes = []
    for block in like.blocks:
        if isinstance(block, Saturation):
            offset = step * round(block.offset_ppm / step)
            recovery = 1.0 if volumes else 15.0
            volumes.append((recovery, offset, block.b1_ut, turns, _PULSES, turns))
    blocks: list[Any] = []
    for recovery, offset, b1, pulse, count, delay in volumes:
        saturation = Saturation(offset, b1, pulse, count, delay, "none")
        blocks += [Recovery(recovery), saturation, Spoil(), Readout(0.0)]
    protocol = Protocol(tuple(blocks), FREQUENCY, (False,) * len(volumes))
    whole = Recipe.from_mapping(load_recipe("brain-3t"))
    chosen = next(s for s in whole.stages if s.name == stage)
    return InverseProblem.of_stage(whole, chosen, protocol), generated_sequence(volumes)


def truth(problem: InverseProblem, count: int, seed: int) -> cases.Truth:
    """Free parameters from the prior, the rest as in a brain, without B0 offsets."""
    drawn = cases.prior(problem, count, seed)
    known = drawn.known.copy()
    known[problem.known_parameters.index("b0_ppm")] = 0.0
    return dataclasses.replace(drawn, known=known)


def signals(problem: InverseProblem, sequence: Any, truth: cases.Truth) -> np.ndarray:
    """Longitudinal magnetisation of water after each saturation, shape (n, V)."""
    from test_bmctool import FREQUENCY

    named = dict(zip(problem.known_parameters, truth.known, strict=True)) | dict(problem.constants)
    named |= {f.parameter: truth.theta[i] for i, f in enumerate(problem.free)}
    count = truth.theta.shape[1]
    values = {k: np.broadcast_to(v, count) for k, v in named.items()}
    voxels = [{k: float(v[i]) for k, v in values.items()} for i in range(count)]
    configs = [_config(problem, voxel, FREQUENCY) for voxel in voxels]
    with get_context("spawn").Pool() as pool:
        found: list[np.ndarray] = pool.map(partial(_play, sequence), configs, chunksize=50)
    return np.stack(found, axis=1)


def _config(problem: InverseProblem, p: dict[str, float], frequency_mhz: float) -> dict[str, Any]:
    config: dict[str, Any] = {
        "water_pool": {"f": 1.0, "t1": p["t1"], "t2": p["t2"]},
        "b0": frequency_mhz / 42.5764,
        "gamma": 267.5153,
        "b0_inhom": 0.0,
        "rel_b1": p["b1_scale"],
        "verbose": False,
        "reset_init_mag": False,
        "max_pulse_samples": 300,
        "scale": 1.0,
    }
    keys = {"f": "fraction", "k": "k_exchange", "t2": "t2", "dw": "offset_ppm"}
    for pool in problem.model.ordered:
        own: dict[str, Any] = {key: p[f"{pool.name}.{name}"] for key, name in keys.items()}
        own["t1"] = p["t1"]
        if pool.kind == "mt":
            config["mt_pool"] = own | {"lineshape": "Lorentzian"}
        else:
            config["cest_pool"] = {pool.name: own}
    return config


def _play(sequence: Any, config: dict[str, Any]) -> np.ndarray:
    from bmctool.parameters import Parameters
    from bmctool.simulation.BMCSim import BMCSim

    simulation = BMCSim(Parameters.from_dict(config), sequence, verbose=False)
    simulation.run()
    signal: np.ndarray = simulation.get_zspec()[1]
    return signal
