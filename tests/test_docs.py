"""What the documentation shows must work."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from cestprep.cli.parser import make_parser
from cestprep.cli.tools import make_parser as make_tools_parser
from cestprep.inference.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]


def test_recipe_in_the_documentation_is_valid():
    text = (ROOT / "docs/recipes.rst").read_text()
    block = text.split(".. code-block:: yaml\n")[1].split("\n\nParameters are")[0]
    recipe = Recipe.from_mapping(yaml.safe_load(textwrap.dedent(block)))
    assert recipe.stages[0].auxiliary == ("T2", "B0", "B1")


@pytest.mark.parametrize("make", [lambda: make_parser(["voxelwise"]), make_tools_parser])
def test_every_option_has_help(make):
    for action in make()._actions:
        assert action.help, action.dest


def test_every_dependency_has_a_reason():
    text = (ROOT / "setup.cfg").read_text()
    required = text.split("install_requires =")[1].split("[options")[0].split("\n")
    names = [line.split(">=")[0].strip() for line in required if line.strip()]
    reasons = (ROOT / "docs/dependencies.rst").read_text()
    assert len(names) > 8
    for name in names:
        assert name in reasons, name
