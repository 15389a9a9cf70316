"""Recipes: the packaged ones are complete; a wrong one is refused in words."""

from __future__ import annotations

import copy

import pytest

from cestprep.data import load_recipe, recipe_names
from cestprep.inference.recipe import Recipe, RecipeError


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_cite_every_constant(name):
    recipe = Recipe.from_mapping(load_recipe(name))
    assert recipe.name == name
    for stage in recipe.stages:
        assert stage.constants
        for _, constant in stage.constants:
            assert len(constant.source) > 10


def test_documented_ranges():
    for name, ksw in (("brain-3t", 600), ("mouse-7t", 1000)):
        mt, amide = Recipe.from_mapping(load_recipe(name)).stages
        bounds = [(f.name, f.low, f.high) for f in (*mt.free, *amide.free)]
        assert bounds == [("fss", 0, 30), ("kssw", 0, 150), ("fs", 0, 1.2), ("ksw", 0, ksw)]
        assert mt.auxiliary == ("T1", "T2", "B0", "B1")


BREAKAGES = {
    "unknown key": (lambda r: r.update(stage=[]), "unknown key"),
    "two names alike": (
        lambda r: r["stages"][0]["free"].update(FSS=r["stages"][0]["free"]["fss"]),
        "differ in capitals only",
    ),
    "number and text of one name": (
        lambda r: r["stages"][0]["free"].update(
            {5: r["stages"][0]["free"]["fss"], "5": r["stages"][0]["free"]["kssw"]}
        ),
        "no two that differ",
    ),
    "nothing to estimate": (lambda r: r["stages"][0].update(free={}), "at least one name"),
    "range of nothing": (
        lambda r: r["stages"][0]["free"]["kssw"].update(range=[10, 10.0000001]),
        "well below high",
    ),
    "endless name": (
        lambda r: r["stages"][0]["free"].update({"x" * 300: r["stages"][0]["free"].pop("kssw")}),
        "at most 40 letters",
    ),
    "no field": (lambda r: r.update(field_t=0), "expected above 0"),
    "target list": (lambda r: r["stages"][0].update(target=["MT"]), "expected a text"),
    "stage name for files": (lambda r: r["stages"][0].update(name="a/b"), "letters and digits"),
    "no stages": (lambda r: r.pop("stages"), "'stages' is missing"),
    "stages no list": (lambda r: r.update(stages={}), "expected a list"),
    "reversed range": (lambda r: r["stages"][0]["free"]["fss"].update(range=[30, 0]), "below high"),
    "range of text": (
        lambda r: r["stages"][0]["free"]["fss"].update(range=["a", 1]),
        "a finite number",
    ),
    "infinite range": (
        lambda r: r["stages"][0]["free"]["kssw"].update(range=[0, ".inf"]),
        "a finite number",
    ),
    "impossible range": (
        lambda r: r["stages"][0]["free"]["fss"].update(range=[-5, 30]),
        "physical limits",
    ),
    "unit of another kind": (
        lambda r: r["stages"][0]["free"]["kssw"].update(unit="percent"),
        "expected '1/s'",
    ),
    "negative constant": (lambda r: r["stages"][0]["pools"][0]["t2"].update(value=-1), "limits"),
    "fraction from a rate": (
        lambda r: r["stages"][1]["inherit"].update({"semisolid.fraction": "mt.kssw"}),
        "is a k_exchange",
    ),
    "model of other pools": (lambda r: r["stages"][0].update(model="bm3pool"), "pools of kind"),
    "key that is no text": (lambda r: r.update({1: 2}), "unknown key"),
    "unknown unit": (lambda r: r["stages"][0]["free"]["fss"].update(unit="mM"), "one of"),
    "unknown parameter": (
        lambda r: r["stages"][0]["free"]["fss"].update(parameter="semisolid.mass"),
        "not a parameter",
    ),
    "foreign pool": (
        lambda r: r["stages"][0]["free"]["fss"].update(parameter="amide.fraction"),
        "does not have",
    ),
    "no source": (lambda r: r["stages"][0]["pools"][0]["t2"].pop("source"), "'source' is missing"),
    "wrong unit": (lambda r: r["stages"][0]["pools"][0]["t2"].update(unit="ms"), "expected 's'"),
    "pool without offset": (lambda r: r["stages"][0]["pools"][0].pop("offset_ppm"), "no value"),
    "inherits from later": (
        lambda r: r["stages"][0].update(inherit={"semisolid.t2": "amide.fs"}),
        "earlier stage",
    ),
    "given twice": (
        lambda r: r["stages"][1]["inherit"].update({"amide.fraction": "mt.fss"}),
        "more than once",
    ),
    "free scale without m0": (
        lambda r: r["conventions"].update(normalization="free-scale"),
        "m0 among the free",
    ),
    "unknown convention": (lambda r: r["conventions"].update(mt="xy"), "one of z, xyz"),
    "flag of text": (lambda r: r["conventions"].update(pools_rebalance="no"), "true or false"),
    "same stage twice": (lambda r: r["stages"].append(r["stages"][0]), "unique"),
}


@pytest.mark.parametrize(("breakage", "says"), BREAKAGES.values(), ids=BREAKAGES)
def test_wrong_recipes_are_refused_in_words(breakage, says):
    raw = copy.deepcopy(load_recipe("mouse-7t"))
    breakage(raw)
    with pytest.raises(RecipeError, match=says):
        Recipe.from_mapping(raw)
