"""Packaged data: recipes and the report template."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from cestprep.errors import Fault, UsageError


def recipe_names() -> tuple[str, ...]:
    """Names of the packaged recipes."""
    folder = files(__package__) / "recipes"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def recipe_targets() -> tuple[str, ...]:
    """Pools that stages of the packaged recipes look for in ``SaturationTarget``."""
    from cestprep.inference.recipe import Recipe

    recipes = [Recipe.from_mapping(load_recipe(name)) for name in recipe_names()]
    return tuple(sorted({stage.target for recipe in recipes for stage in recipe.stages}))


def recipe_text(name_or_path: str) -> str:
    """YAML text of a packaged recipe or of a file.

    Raises
    ------
    UsageError
        If there is neither.
    """
    if name_or_path in recipe_names():
        return (files(__package__) / "recipes" / f"{name_or_path}.yaml").read_text("utf-8")
    try:
        return Path(name_or_path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(
            Fault(
                f"--recipe {name_or_path}",
                f"neither a packaged recipe nor a readable file ({exc})",
                f"Choose one of {', '.join(recipe_names())} or give the path of a YAML file",
            )
        ) from None


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """Parsed and checked recipe as plain data.

    Raises
    ------
    UsageError
        If it cannot be read or does not make sense.
    """
    from cestprep.documents import parse_yaml
    from cestprep.inference.recipe import Recipe, RecipeError

    where = f"--recipe {name_or_path}"
    mend = "See the packaged recipes for the expected layout"
    try:
        raw = parse_yaml(recipe_text(name_or_path), whole_aliases=True)
    except ValueError as exc:
        raise UsageError(Fault(where, f"not valid YAML: {exc}", mend)) from None
    if not isinstance(raw, dict):
        raise UsageError(Fault(where, "expected a mapping of keys to values", mend))
    try:
        Recipe.from_mapping(raw)
    except RecipeError as exc:
        raise UsageError(Fault(where, str(exc), mend)) from None
    return raw
