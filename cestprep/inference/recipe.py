"""Recipes: what to estimate from which series, as plain validated data.

A recipe is read from YAML (see ``cestprep/data/recipes``); this module turns the parsed mapping
into frozen objects and says in words what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Literal, TypeAlias, get_args

from cestprep.physics.lineshapes import LINESHAPES
from cestprep.physics.pools import ExchangingPool, PoolModel, finite_number, parameter_unit

Normalization: TypeAlias = Literal["unit-norm", "m0", "free-scale"]
#: Models by name in files, with the kinds of pools besides water.
MODELS = {"bm2poolmt": ["mt"], "bm2poolcest": ["cest"], "bm3pool": ["cest", "mt"]}
#: Parameters that come from maps (or the user's explicit word) unless a stage fixes or fits them.
AUXILIARY = {"T1": "t1", "T2": "t2", "B0": "b0_ppm", "B1": "b1_scale"}
#: Factor from the unit in files to the unit inside the package.
FILE_UNITS = {"percent": 0.01, "1/s": 1.0, "s": 1.0, "ppm": 1.0, "1": 1.0, "arbitrary": 1.0}


class RecipeError(ValueError):
    """A recipe that does not make sense, with the place and the remedy in its text."""


@dataclass(frozen=True)
class Constant:
    """A fixed number with its unit and where it comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class FreeParameter:
    """A parameter to estimate.

    Attributes
    ----------
    name : str
        Label in file names (``param-<name>``).
    parameter : str
        Name in the simulator, for example ``semisolid.fraction``.
    low, high : float
        Bounds in ``unit``.
    unit : str
        Unit in files.
    meaning : str
        What it is, in a few words.
    """

    name: str
    parameter: str
    low: float
    high: float
    unit: str
    meaning: str = ""

    @property
    def to_si(self) -> float:
        """Factor from ``unit`` to the unit inside the package."""
        return FILE_UNITS[self.unit]


@dataclass(frozen=True)
class Stage:
    """One series and the parameters estimated from it.

    Attributes
    ----------
    name : str
    target : str
        The series is the one whose ``SaturationTarget`` holds this word.
    model : str
        ``model-<model>`` in file names.
    pools : tuple of ExchangingPool
    constants : tuple of (parameter, Constant)
    inherited : tuple of (parameter, stage name, free-parameter name)
        Parameters taken, with their covariance, from an earlier stage.
    free : tuple of FreeParameter
    normalization : {"unit-norm", "m0", "free-scale"}
    """

    name: str
    target: str
    model: str
    pools: tuple[ExchangingPool, ...]
    constants: tuple[tuple[str, Constant], ...]
    inherited: tuple[tuple[str, str, str], ...]
    free: tuple[FreeParameter, ...]
    normalization: Normalization

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Auxiliary quantities ("T1", "B0", ...) this stage needs from outside."""
        known = {f.parameter for f in self.free} | {name for name, _ in self.constants}
        return tuple(key for key, name in AUXILIARY.items() if name not in known)


@dataclass(frozen=True)
class Recipe:
    """Stages in order, their conventions, the field in T, and whose mask (``desc-<mask>``).

    ``subject`` says what is scanned: motion, brain and tissues are a human's.
    """

    name: str
    description: str
    field_t: float
    mask: str
    mt: Literal["z", "xyz"]
    pools_rebalance: bool
    b1_scales_readout: bool
    stages: tuple[Stage, ...]
    subject: Literal["human", "animal", "phantom"] = "human"

    def pool_model(self, stage: Stage) -> PoolModel:
        """The simulator's pool model of a stage."""
        return PoolModel(stage.pools, self.mt, self.pools_rebalance, self.b1_scales_readout)

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Recipe:
        """Recipe of a parsed YAML document.

        Raises
        ------
        RecipeError
            Naming the key, what is wrong and what was expected.
        """
        _known_keys(
            raw,
            {"name", "description", "subject", "field_t", "mask", "conventions", "stages"},
            "recipe",
        )
        conventions = _mapping(raw.get("conventions", {}), "conventions")
        _known_keys(
            conventions,
            {"mt", "pools_rebalance", "b1_scales_readout", "normalization"},
            "conventions",
        )
        default = conventions.get("normalization", "unit-norm")
        stages = [_stage(s, default) for s in _list(_need(raw, "stages", "recipe"), "stages")]
        recipe = cls(
            name=_text(_need(raw, "name", "recipe"), "name"),
            description=str(raw.get("description", "")),
            field_t=_field(_need(raw, "field_t", "recipe")),
            mask=_label(raw.get("mask", "brain"), "mask"),
            mt=_choice(conventions.get("mt", "z"), ("z", "xyz"), "conventions.mt"),
            pools_rebalance=_flag(conventions, "pools_rebalance"),
            b1_scales_readout=_flag(conventions, "b1_scales_readout"),
            stages=tuple(stages),
            subject=_choice(raw.get("subject", "human"), ("human", "animal", "phantom"), "subject"),
        )
        _check_consistency(recipe)
        return recipe


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping of keys to values, found {brief(value)}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}: expected a list with at least one entry, found {brief(value)}")
    return value


def _need(raw: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in _mapping(raw, where):
        raise RecipeError(f"{where}: key '{key}' is missing")
    return raw[key]


def _known_keys(raw: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(str(key) for key in set(_mapping(raw, where)) - known)
    if unknown:
        raise RecipeError(
            f"{where}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )


def _choice(value: Any, choices: tuple[str, ...], where: str) -> Any:
    if value not in choices:
        raise RecipeError(f"{where}: found {brief(value)}, expected one of {', '.join(choices)}")
    return value


#: Of labels that go into file names.
_LONGEST_LABEL = 40
#: A range narrower than this part of its ends is no range in single precision.
_NARROWEST = 1e-4
_MOST_FIELD_T = 30.0


def _label(value: Any, where: str) -> str:
    text = isinstance(value, str) and value.isascii() and value.isalnum()
    if not text or len(value) > _LONGEST_LABEL:
        raise RecipeError(
            f"{where}: found {brief(value)}, expected at most {_LONGEST_LABEL} letters and digits, "
            "since it goes into file names"
        )
    return str(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: found {brief(value)}, expected a text")
    return value


def _field(value: Any) -> float:
    field_t = _number(value, "field_t")
    if not 0 < field_t <= _MOST_FIELD_T:
        raise RecipeError(
            f"field_t: found {field_t:g} T, expected above 0, {_MOST_FIELD_T:g} at most"
        )
    return field_t


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key, True)
    if not isinstance(value, bool):
        raise RecipeError(f"conventions.{key}: expected true or false, found {brief(value)}")
    return value


def _number(value: Any, where: str) -> float:
    number = finite_number(value)
    if number is None:
        raise RecipeError(f"{where}: expected a finite number, found {brief(value)}")
    return number


def _constant(parameter: str, raw: Any, where: str) -> Constant:
    _known_keys(raw, {"value", "unit", "source"}, where)
    unit = str(_need(raw, "unit", where))
    expected = parameter_unit(parameter)
    if unit != expected:
        raise RecipeError(f"{where}: unit is {unit!r}, expected {expected!r}")
    source = _need(raw, "source", where)
    if not isinstance(source, str) or not source.strip():
        raise RecipeError(f"{where}: source is empty; say where the number comes from")
    value = _number(_need(raw, "value", where), where)
    _check_range(parameter, value, value, where)
    return Constant(value, unit, source.strip())


#: Physical limits by the last part of a parameter's name, in package units.
LIMITS = {
    "fraction": (0.0, 1.0),
    "k_exchange": (0.0, 1e5),
    "t1": (1e-6, 100.0),
    "t2": (1e-9, 100.0),
    "b0_ppm": (-10.0, 10.0),
    "b1_scale": (0.0, 5.0),
    "offset_ppm": (-200.0, 200.0),
    "m0": (0.0, 1e3),
}


def physical_limits(parameter: str) -> tuple[float, float]:
    """Least and greatest value a parameter can have, in package units."""
    return LIMITS[_kind(parameter)]


def _kind(parameter: str) -> str:
    return parameter.rpartition(".")[2]


def _check_range(parameter: str, low: float, high: float, where: str) -> None:
    least, most = physical_limits(parameter)
    if low < least or high > most:
        raise RecipeError(
            f"{where}: {low:g} to {high:g} {parameter_unit(parameter)} is outside the physical "
            f"limits {least:g} to {most:g} of {parameter}"
        )


def _free(name: str, raw: Any, pools: set[str], where: str) -> FreeParameter:
    _known_keys(raw, {"parameter", "range", "unit", "meaning"}, where)
    unit = _choice(_need(raw, "unit", where), tuple(FILE_UNITS), f"{where}.unit")
    bounds = _list(_need(raw, "range", where), f"{where}.range")
    if len(bounds) != 2:
        raise RecipeError(f"{where}.range: expected [low, high], found {brief(bounds)}")
    low, high = (_number(b, f"{where}.range") for b in bounds)
    if not high - low > _NARROWEST * max(abs(low), abs(high)):
        raise RecipeError(f"{where}.range: low ({low}) must be well below high ({high})")
    _label(name, where)
    parameter, meaning = str(_need(raw, "parameter", where)), str(raw.get("meaning", ""))
    _known_parameter(parameter, pools, where)
    expected = parameter_unit(parameter)
    if unit != expected and not (unit == "percent" and expected == "1"):
        raise RecipeError(f"{where}: unit is {unit!r}, expected {expected!r} for {parameter}")
    free = FreeParameter(name, parameter, low, high, unit, meaning)
    _check_range(parameter, low * free.to_si, high * free.to_si, where)
    return free


def _stage(raw: Any, default_normalization: str) -> Stage:
    name = _label(str(_need(raw, "name", "stages")), "stages.name")
    where = f"stage {name}"
    _known_keys(
        raw,
        {"name", "target", "model", "pools", "constants", "inherit", "free", "normalization"},
        where,
    )
    pools = []
    constants: list[tuple[str, Constant]] = []
    pool_names = set()
    for pool in _list(_need(raw, "pools", where), f"{where}.pools"):
        pool_names.add(str(_need(pool, "name", f"{where}.pools")))
    for pool in raw["pools"]:
        made, fixed = _pool(pool, where)
        pools.append(made)
        constants += fixed
    for parameter, constant in _mapping(raw.get("constants", {}), f"{where}.constants").items():
        _known_parameter(parameter, pool_names, f"{where}.constants")
        constants.append((parameter, _constant(parameter, constant, f"{where}.{parameter}")))
    inherited = []
    for parameter, source in _mapping(raw.get("inherit", {}), f"{where}.inherit").items():
        _known_parameter(parameter, pool_names, f"{where}.inherit")
        stage, _, free_name = str(source).partition(".")
        inherited.append((parameter, stage, free_name))
    asked = _mapping(_need(raw, "free", where), f"{where}.free")
    free = [_free(str(n), spec, pool_names, f"{where}.free.{n}") for n, spec in asked.items()]
    if len({f.name.casefold() for f in free}) < max(1, len(free)):
        raise RecipeError(
            f"{where}.free: {', '.join(map(str, asked)) or 'nothing'}; expected at least one name, "
            "and no two that differ in capitals only"
        )
    return Stage(
        name=name,
        target=_text(_need(raw, "target", where), f"{where}.target"),
        model=_choice(_need(raw, "model", where), tuple(MODELS), f"{where}.model"),
        pools=tuple(pools),
        constants=tuple(constants),
        inherited=tuple(inherited),
        free=tuple(free),
        normalization=_choice(
            raw.get("normalization", default_normalization),
            get_args(Normalization),
            f"{where}.normalization",
        ),
    )


def _pool(raw: Any, where: str) -> tuple[ExchangingPool, list[tuple[str, Constant]]]:
    name = str(_need(raw, "name", f"{where}.pools"))
    where = f"{where}.pools.{name}"
    fixed = {key: value for key, value in raw.items() if key not in ("name", "kind", "lineshape")}
    pool = ExchangingPool(
        name,
        _choice(_need(raw, "kind", where), ("cest", "mt"), f"{where}.kind"),
        _choice(raw.get("lineshape", "lorentzian"), tuple(LINESHAPES), f"{where}.lineshape"),
    )
    constants = []
    for key, value in fixed.items():
        _known_parameter(f"{name}.{key}", {name}, where)
        constants.append((f"{name}.{key}", _constant(f"{name}.{key}", value, f"{where}.{key}")))
    return pool, constants


def _known_parameter(parameter: Any, pools: set[str], where: str) -> None:
    pool, _, _ = str(parameter).rpartition(".")
    try:
        parameter_unit(parameter)
    except (KeyError, TypeError):
        raise RecipeError(f"{where}: '{parameter}' is not a parameter of the model") from None
    if pool and pool not in pools:
        raise RecipeError(f"{where}: '{parameter}' names a pool this stage does not have")


def _check_consistency(recipe: Recipe) -> None:
    """Every model parameter has exactly one origin, and inheritance looks backwards only."""
    seen: dict[str, Stage] = {}
    for stage in recipe.stages:
        where = f"stage {stage.name}"
        if stage.name.casefold() in map(str.casefold, seen):
            raise RecipeError(f"{where}: stage names must be unique, whatever their capitals")
        for parameter, source, free_name in stage.inherited:
            kinds = (
                {f.name: _kind(f.parameter) for f in seen[source].free} if source in seen else {}
            )
            if kinds.get(free_name) not in (None, _kind(parameter)):
                raise RecipeError(
                    f"{where}.inherit.{parameter}: '{source}.{free_name}' is a {kinds[free_name]}"
                )
            if free_name not in kinds:
                raise RecipeError(
                    f"{where}.inherit.{parameter}: '{source}.{free_name}' is not a free parameter "
                    "of an earlier stage"
                )
        kinds_of_pools = sorted(pool.kind for pool in stage.pools)
        if kinds_of_pools != MODELS[stage.model]:
            raise RecipeError(
                f"{where}.model: {stage.model} means pools of kind {MODELS[stage.model]} besides "
                f"water, found {kinds_of_pools}"
            )
        origins = [name for name, _ in stage.constants]
        origins += [name for name, _, _ in stage.inherited]
        origins += [f.parameter for f in stage.free]
        twice = sorted({name for name in origins if origins.count(name) > 1})
        if twice:
            raise RecipeError(f"{where}: {', '.join(twice)} is given more than once")
        known = {*origins, *AUXILIARY.values()}
        if stage.normalization == "free-scale":
            if "m0" not in origins:
                raise RecipeError(f"{where}: free-scale needs m0 among the free parameters")
        elif "m0" in origins:
            raise RecipeError(f"{where}: m0 has no effect under {stage.normalization}")
        try:
            needed = recipe.pool_model(stage).parameter_names
        except ValueError as fault:
            raise RecipeError(f"{where}.pools: {fault}") from fault
        missing = sorted(set(needed) - known - {"m0"})
        if missing:
            raise RecipeError(f"{where}: no value, origin or range for {', '.join(missing)}")
        seen[stage.name] = stage
