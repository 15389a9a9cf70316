"""Pool models of Pulseq-CEST documents, generated and (where present) published."""

from __future__ import annotations

import copy
import math
import re

import jax
import numpy as np
import oracle
import pytest
import voxels as vx
import yaml

from cestprep.physics import simulate
from cestprep.physics.constants import GAMMA_HZ_PER_UT
from cestprep.physics.pools import WATER_PARAMETERS, ExchangingPool
from cestprep.physics.pulseq_pools import read_pools

DOCUMENT = """
water_pool: {f: 1.0, t1: 1.2, t2: 0.08}
mt_pool: {f: 0.1, k: 30, t1: 1.0, t2: 9e-6, dw: -2.0, lineshape: 'SuperLorentzian'}
cest_pool:
  'amide': {f: 0.0009, t1: 1.1, t2: 0.1, k: 50, dw: 3.5}
  'NOE_1': {f: 0.0045, t1: 1.3, t2: 0.005, k: 20, dw: -3}
b0: 3
gamma: 267.5153
b0_inhom: 0.0
rel_b1: 1
verbose: False
reset_init_mag: True
scale: 1
max_pulse_samples: 300
"""


def document(**changes):
    """The document with entries changed by place (``__`` between keys), or dropped where None."""
    made = yaml.safe_load(DOCUMENT)
    for place, value in changes.items():
        *path, key = place.split("__")
        section = made
        for step in path:
            section = section[step]
        if value is None:
            del section[key]
        else:
            section[key] = value
    return made


class TestReading:
    def test_pools_in_order(self):
        got = read_pools(document())
        assert got.model.pools == (
            ExchangingPool("amide", "cest"),
            ExchangingPool("NOE_1", "cest"),
            ExchangingPool("mt_pool", "mt", "superlorentzian"),
        )
        assert (got.model.mt, got.model.pools_rebalance) == ("z", False)

    def test_parameters(self):
        got = read_pools(document())
        t1s = {f"{pool.name}.t1" for pool in got.model.pools}
        assert set(got.parameters) == set(got.model.parameter_names) | t1s
        assert {key: got.parameters[key] for key in WATER_PARAMETERS} == {
            "t1": 1.2, "t2": 0.08, "b0_ppm": 0.0, "b1_scale": 1.0, "m0": 1.0,
        }  # fmt: skip
        pool = {k: v for k, v in got.parameters.items() if k.startswith("mt_pool.")}
        assert pool == {
            "mt_pool.fraction": 0.1, "mt_pool.k_exchange": 30.0, "mt_pool.t1": 1.0,
            "mt_pool.t2": 9e-6, "mt_pool.offset_ppm": -2.0,
        }  # fmt: skip
        assert got.parameters["amide.offset_ppm"] == 3.5

    def test_conditions(self):
        got = read_pools(document())
        assert got.frequency_mhz == pytest.approx(3 * 267.5153 / (2 * math.pi))
        assert got.frequency_mhz == pytest.approx(3 * GAMMA_HZ_PER_UT, rel=1e-6)
        assert got.reset == 1.0
        assert got.notes == ("verbose is ignored", "max_pulse_samples is ignored")

    def test_document_is_left_alone(self):
        made = document()
        before = copy.deepcopy(made)
        read_pools(made)
        assert made == before

    def test_least_document(self):
        got = read_pools({"water_pool": {"t1": 1, "t2": 0.1}, "b0": 7})
        assert got.model.pools == ()
        assert set(got.parameters) == set(WATER_PARAMETERS)
        assert (got.reset, got.notes) == (1.0, ())

    @pytest.mark.parametrize("empty", [{"cest_pool": None}, {"cest_pool": {}}, {"mt_pool": {}}])
    def test_empty_groups(self, empty):
        least = {"water_pool": {"t1": 1, "t2": 0.1}, "b0": 7}
        assert read_pools(least | empty).model.pools == ()

    def test_rates_for_times(self):
        changes = {"water_pool__t1": None, "water_pool__r1": 0.8}
        changes |= {"mt_pool__t2": None, "mt_pool__r2": 1e5}
        got = read_pools(document(**changes)).parameters
        assert (got["t1"], got["mt_pool.t2"]) == (1.25, 1e-5)

    @pytest.mark.parametrize("word", ["Lorentzian", "superlorentzian", "GAUSSIAN"])
    def test_lineshapes_in_any_case(self, word):
        assert (
            read_pools(document(mt_pool__lineshape=word)).model.pools[-1].lineshape == word.lower()
        )

    def test_water_fraction(self):
        got = read_pools(document(water_pool__f=0.5)).parameters
        assert (got["m0"], got["mt_pool.fraction"], got["amide.fraction"]) == (0.5, 0.2, 0.0018)

    @pytest.mark.parametrize("value", [False, 0, "false"])
    def test_continuous(self, value):
        got = read_pools(document(reset_init_mag=value, scale=0.5))
        assert got.reset is None
        assert any("scale 0.5 is ignored" in note for note in got.notes)

    def test_reset_scale(self):
        assert read_pools(document(scale=0.5)).reset == 0.5

    def test_inhomogeneities(self):
        got = read_pools(document(b0_inhom=-0.2, rel_b1=0.9))
        assert (got.parameters["b0_ppm"], got.parameters["b1_scale"]) == (-0.2, 0.9)
        assert any("all pools move by it" in note for note in got.notes)

    def test_other_spellings(self):
        changes = {"b0_inhom": None, "rel_b1": None, "max_pulse_samples": None}
        changes |= {"b0_inhomogeneity": 0.1, "relb1": 0.9, "max_samples": 100}
        got = read_pools(document(**changes))
        assert (got.parameters["b0_ppm"], got.parameters["b1_scale"]) == (0.1, 0.9)
        assert "max_pulse_samples is ignored" in got.notes

    def test_foreign_gamma(self):
        got = read_pools(document(gamma=267.0))
        assert got.frequency_mhz == pytest.approx(3 * 267 / (2 * math.pi))
        (note,) = (n for n in got.notes if n.startswith("gamma"))
        assert "267 " in note
        assert "267.51541" in note

    def test_names(self):
        made = document()
        pool = made["cest_pool"]["amide"]
        names = ["a.b", "a b", "a_b", 7, "", "mt_pool"]
        made["cest_pool"] = dict.fromkeys(names, pool)
        got = read_pools(made)
        want = ["a_b", "a_b_2", "a_b_3", "7", "pool", "mt_pool_2", "mt_pool"]
        assert [p.name for p in got.model.pools] == want
        assert "cest_pool.a b is called a_b_2" in got.notes
        assert set(got.model.parameter_names) <= set(got.parameters)

    def test_name_of_the_mt_pool_is_free_without_it(self):
        made = document(mt_pool=None)
        made["cest_pool"] = {"mt_pool": made["cest_pool"]["amide"]}
        assert [p.name for p in read_pools(made).model.pools] == ["mt_pool"]


FAULTS = {
    "b0: missing": {"b0": None},
    "b0: expected a number above 0, found 0": {"b0": 0},
    "b0: expected a finite number, found 'three'": {"b0": "three"},
    "gamma: expected a number above 0, found -1": {"gamma": -1},
    "b0_inhom: expected a finite number, found nan": {"b0_inhom": math.nan},
    "rel_b1: expected at least 0, found -0.1": {"rel_b1": -0.1},
    "scale: expected at most 1, found 2": {"scale": 2},
    "reset_init_mag: expected true or false, found 'often'": {"reset_init_mag": "often"},
    "B0: unknown key": {"B0": 3},
    "b0_inhomogeneity: given together with b0_inhom": {"b0_inhomogeneity": 0.1},
    "water_pool: missing": {"water_pool": None},
    "water_pool: expected a mapping of keys, found 3": {"water_pool": 3},
    "water_pool.f: expected a number above 0, found 0": {"water_pool__f": 0},
    "water_pool.dw: unknown key": {"water_pool__dw": 0},
    "water_pool.t1: expected a number above 0, found 0": {"water_pool__t1": 0},
    "water_pool.t2: missing": {"water_pool__t2": None},
    "water_pool.t2: given together with r2": {"water_pool__r2": 10},
    "cest_pool: expected a mapping of keys, found []": {"cest_pool": []},
    "cest_pool.amide: expected a mapping of keys, found 1": {"cest_pool__amide": 1},
    "cest_pool.amide.k: missing": {"cest_pool__amide__k": None},
    "cest_pool.amide.k: expected at least 0, found -1": {"cest_pool__amide__k": -1},
    "cest_pool.amide.k: expected a finite number, found True": {"cest_pool__amide__k": True},
    "cest_pool.amide.f: expected at least 0": {"cest_pool__amide__f": -1e-3},
    "cest_pool.amide.dw: expected a finite number, found inf": {"cest_pool__amide__dw": math.inf},
    "cest_pool.amide.K: unknown key": {"cest_pool__amide__K": 3},
    "cest_pool.amide.lineshape: unknown key": {"cest_pool__amide__lineshape": "Lorentzian"},
    "cest_pool.NOE_1.t2: expected a number above 0": {"cest_pool__NOE_1__t2": -0.1},
    "cest_pool.NOE_1.r1: expected a number above 0": {
        "cest_pool__NOE_1__t1": None, "cest_pool__NOE_1__r1": 0,
    },
    "mt_pool: expected a mapping of keys, found 'no'": {"mt_pool": "no"},
    "mt_pool.lineshape: missing": {"mt_pool__lineshape": None},
    "mt_pool.lineshape: expected one of lorentzian, superlorentzian, gaussian, found 'Voigt'": {
        "mt_pool__lineshape": "Voigt"
    },
    "found 'None'; a pool that is never saturated": {"mt_pool__lineshape": "None"},
    "mt_pool.dw: missing": {"mt_pool__dw": None},
}  # fmt: skip


class TestFaults:
    @pytest.mark.parametrize(("text", "changes"), FAULTS.items(), ids=FAULTS)
    def test_one(self, text, changes):
        with pytest.raises(ValueError, match=re.escape(text)) as caught:
            read_pools(document(**changes))
        assert len(str(caught.value).splitlines()) == 1

    def test_all_at_once(self):
        changes = {"b0": None, "cest_pool__amide__k": None, "water_pool__t1": "long"}
        changes |= {"mt_pool__t1": 0, "mt_pool__typo": 1}
        with pytest.raises(ValueError, match="unknown key") as caught:
            read_pools(document(**changes))
        places = {line.partition(":")[0] for line in str(caught.value).splitlines()}
        assert places == {place.replace("__", ".") for place in changes}

    @pytest.mark.parametrize("nothing", [None, [], "b0: 3"])
    def test_no_document(self, nothing):
        with pytest.raises(ValueError, match="document: expected a mapping"):
            read_pools(nothing)


@pytest.mark.parametrize("lineshape", ["Lorentzian", "SuperLorentzian", "Gaussian"])
def test_simulation_equals_oracle(x64, lineshape):
    made = document(mt_pool__lineshape=lineshape, b0_inhom=0.2, rel_b1=0.9, water_pool__f=0.8)
    got = read_pools(made)
    volumes = vx.rows([0.0, 0.6, -3.5, 10.0, 3.5, -80.0], continuous_wave=True)
    readout = vx.READOUT[True]
    protocol = vx.protocol(volumes, got.frequency_mhz, readout)
    p = {key: np.array([value]) for key, value in got.parameters.items()}
    simulated = jax.jit(lambda q: simulate.signal(protocol, got.model, q))(p)[:, 0]
    water = made["water_pool"] | {"b0": 0.2, "b1": 0.9, "m0": 0.8}
    pools = [q | {"kind": "cest"} for q in made["cest_pool"].values()]
    pools.append(made["mt_pool"] | {"kind": "mt", "lineshape": lineshape.lower()})
    pools = [q | {"shift": q["dw"], "f": q["f"] / 0.8, "t2": float(q["t2"])} for q in pools]
    want = oracle.signal(volumes, got.frequency_mhz, pools, water, readout, rebalance=False)
    np.testing.assert_allclose(simulated, want, atol=1e-6, rtol=0)


@pytest.mark.shared_data
def test_published_white_matter(shared):
    path = shared / "reference/pulseq/WM_3T_default_7pool_bmsim.yaml"
    got = read_pools(yaml.safe_load(path.read_text()))
    names = ["amide", "guanidine_1", "amine_1", "OH_1", "NOE_1", "mt_pool"]
    assert [p.name for p in got.model.pools] == names
    assert got.model.pools[-1].lineshape == "lorentzian"
    assert got.parameters["OH_1.k_exchange"] == 3500
    assert got.notes == ("verbose is ignored", "max_pulse_samples is ignored")


@pytest.mark.shared_data
@pytest.mark.parametrize("case", [1, 2, 3, 5, 7, 8])
def test_challenge_documents(shared, case):
    path = shared / f"reference/bmsim/case_{case}.yaml"
    got = read_pools(yaml.safe_load(path.read_text()))
    assert got.frequency_mhz == pytest.approx(127.7292, abs=1e-6)
    assert all(pool.kind == "cest" for pool in got.model.pools)
    assert got.reset == 1.0
