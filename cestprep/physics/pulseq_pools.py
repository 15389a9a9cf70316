"""Pool models of Pulseq-CEST: the parsed YAML document that goes with a sequence.

Format: https://pulseq-cest.github.io; what is accepted beyond the documented keys (R1 and R2 for T1
and T2, a second spelling of three keys) follows BMCTool 1.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cestprep.physics.constants import GAMMA_RAD_PER_S_UT
from cestprep.physics.lineshapes import LINESHAPES
from cestprep.physics.pools import ExchangingPool, PoolModel, finite_number

#: gamma in rad/(s uT) of a document without one.
DEFAULT_GAMMA = 267.5153
#: Relative difference of gamma from the package's up to which nothing is said.
GAMMA_TOLERANCE = 1e-6
#: Keys without effect here; how finely shaped pulses are cut is up to the reader of the sequence.
IGNORED = ("verbose", "max_pulse_samples")
ALIASES = {
    "b0_inhomogeneity": "b0_inhom",
    "relb1": "rel_b1",
    "max_samples": "max_pulse_samples",
}
RELAXATION = frozenset({"t1", "t2", "r1", "r2"})
KEYS_OF_WATER = RELAXATION | {"f"}
KEYS_OF_CEST = RELAXATION | {"f", "k", "dw"}
KEYS_OF_MT = KEYS_OF_CEST | {"lineshape"}
KEYS = frozenset(
    {"water_pool", "cest_pool", "mt_pool", "b0", "gamma", "b0_inhom", "rel_b1"}
    | {"reset_init_mag", "scale", *IGNORED, *ALIASES}
)


@dataclass(frozen=True)
class PoolSimulation:
    """What a Pulseq-CEST document says, in the terms of the package.

    Attributes
    ----------
    model : PoolModel
        CEST pools in the order of the file, then the semisolid pool; they exchange all the time.
    parameters : mapping of str to float
        Every parameter of the model and every pool's T1, in package units.
    frequency_mhz : float
        Water's frequency without inhomogeneity: B0 times the document's gamma over 2 pi.
    reset : float or None
        Each readout leaves every pool at this fraction of its equilibrium; so the first volume
        starts.  None: the magnetisation is carried on.
    notes : tuple of str
        What was ignored, or is understood differently by other simulators.
    """

    model: PoolModel
    parameters: Mapping[str, float]
    frequency_mhz: float
    reset: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Section:
    """One mapping of the document; faults found in it go to the common list."""

    raw: Mapping[str, Any]
    where: str
    faults: list[str]

    @classmethod
    def of(cls, raw: Any, where: str, known: frozenset[str], faults: list[str]) -> _Section | None:
        """Section with its unknown keys among the faults; None if it is not a mapping.

        Where ``known`` is empty any key will do.
        """
        if not isinstance(raw, Mapping):
            faults.append(f"{where or 'document'}: expected a mapping of keys, found {raw!r}")
            return None
        section = cls(raw, where, faults)
        for key in raw:
            if known and key not in known:
                section.fault(key, f"unknown key; known are {', '.join(sorted(known))}")
        return section

    def place(self, key: Any) -> str:
        return f"{self.where}.{key}" if self.where else str(key)

    def fault(self, key: Any, text: str) -> None:
        self.faults.append(f"{self.place(key)}: {text}")

    def number(
        self,
        key: str,
        least: float = -math.inf,
        above: float = -math.inf,
        default: float | None = None,
    ) -> float:
        """Finite number with ``least`` <= number > ``above``; NaN once a fault is noted."""
        if key not in self.raw:
            if default is None:
                self.fault(key, "missing")
            return math.nan if default is None else default
        number = finite_number(self.raw[key])
        if number is None:
            self.fault(key, f"expected a finite number, found {self.raw[key]!r}")
        elif number < least:
            self.fault(key, f"expected at least {least:g}, found {number:g}")
        elif number <= above:
            self.fault(key, f"expected a number above {above:g}, found {number:g}")
        else:
            return number
        return math.nan

    def flag(self, key: str, default: bool) -> bool:
        """True or false, also as 1, 0 or text."""
        words = {"true": True, "false": False, "1": True, "0": False}
        value = words.get(str(self.raw.get(key, default)).lower())
        if value is None:
            self.fault(key, f"expected true or false, found {self.raw[key]!r}")
        return bool(value)

    def relaxation_time(self, number: int) -> float:
        """T1 or T2 in s, from the time or from the rate, whichever the section has."""
        time, rate = f"t{number}", f"r{number}"
        if time in self.raw and rate in self.raw:
            self.fault(time, f"given together with {rate}; give one of them")
            return math.nan
        if rate in self.raw:
            return 1 / self.number(rate, above=0.0)
        return self.number(time, above=0.0)


def read_pools(document: Mapping[str, Any]) -> PoolSimulation:
    """Pool model, parameters and conditions of a parsed Pulseq-CEST document.

    Chemical shifts are positive downfield in both vocabularies.  Fractions are relative to water;
    where water's own is not 1, the others are divided by it and it becomes ``m0``.

    Parameters
    ----------
    document : mapping
        T1, T2 in s (or R1, R2 in 1/s), k in 1/s, dw and b0_inhom in ppm, b0 in T, gamma in
        rad/(s uT).

    Raises
    ------
    ValueError
        With all faults, a line each, that begins with the place (``cest_pool.amide.k: ...``).
    """
    faults: list[str] = []
    notes: list[str] = []
    section = _Section.of(document, "", KEYS, faults)
    if section is None:
        raise ValueError("\n".join(faults))
    top = _with_canonical_keys(section)
    parameters = _water(top)
    pools = _cest_pools(top, parameters, notes) + _mt_pool(top, parameters)
    frequency_mhz = _frequency(top, notes)
    parameters["b0_ppm"] = top.number("b0_inhom", default=0.0)
    parameters["b1_scale"] = top.number("rel_b1", least=0.0, default=1.0)
    reset = _reset(top, notes)
    if faults:
        raise ValueError("\n".join(faults))
    if parameters["b0_ppm"]:
        notes.append(
            f"b0_inhom {parameters['b0_ppm']:g} ppm: water and all pools move by it together; "
            "BMCTool moves CEST pools the other way"
        )
    notes += [f"{key} is ignored" for key in IGNORED if key in top.raw]
    model = PoolModel(pools, mt="z", pools_rebalance=False)
    return PoolSimulation(model, parameters, frequency_mhz, reset, tuple(notes))


def _with_canonical_keys(section: _Section) -> _Section:
    for alias, key in ALIASES.items():
        if alias in section.raw and key in section.raw:
            section.fault(alias, f"given together with {key}; give one of them")
    raw = {ALIASES.get(key, key): value for key, value in section.raw.items()}
    return _Section(raw, section.where, section.faults)


def _water(top: _Section) -> dict[str, float]:
    if "water_pool" not in top.raw:
        top.fault("water_pool", "missing")
        return {"m0": math.nan}
    water = _Section.of(top.raw["water_pool"], "water_pool", KEYS_OF_WATER, top.faults)
    if water is None:
        return {"m0": math.nan}
    return {
        "t1": water.relaxation_time(1),
        "t2": water.relaxation_time(2),
        "m0": water.number("f", above=0.0, default=1.0),
    }


def _cest_pools(
    top: _Section, parameters: dict[str, float], notes: list[str]
) -> tuple[ExchangingPool, ...]:
    if top.raw.get("cest_pool") is None:
        return ()
    group = _Section.of(top.raw.get("cest_pool"), "cest_pool", frozenset(), top.faults)
    if group is None:
        return ()
    pools: list[ExchangingPool] = []
    taken = {"mt_pool"} & set(top.raw)
    for key, raw in group.raw.items():
        name = _unique_name(str(key), taken)
        if name != key:
            notes.append(f"{group.place(key)} is called {name}")
        taken.add(name)
        pools.append(ExchangingPool(name, "cest"))
        pool = _Section.of(raw, group.place(key), KEYS_OF_CEST, top.faults)
        if pool is not None:
            parameters |= _pool_parameters(pool, name, parameters["m0"])
    return tuple(pools)


def _unique_name(key: str, taken: set[str]) -> str:
    """``key`` in letters, digits and underscores, numbered where another pool has that name."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", key) or "pool"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    return name


def _mt_pool(top: _Section, parameters: dict[str, float]) -> tuple[ExchangingPool, ...]:
    if top.raw.get("mt_pool") in (None, {}):
        return ()
    pool = _Section.of(top.raw["mt_pool"], "mt_pool", KEYS_OF_MT, top.faults)
    if pool is None:
        return ()
    parameters |= _pool_parameters(pool, "mt_pool", parameters["m0"])
    lineshape = str(pool.raw.get("lineshape")).lower()
    match lineshape:
        case "lorentzian" | "superlorentzian" | "gaussian":
            return (ExchangingPool("mt_pool", "mt", lineshape),)
    if "lineshape" not in pool.raw:
        pool.fault("lineshape", "missing")
    else:
        pool.fault(
            "lineshape",
            f"expected one of {', '.join(LINESHAPES)}, found {pool.raw['lineshape']!r}"
            + ("; a pool that is never saturated is not offered" if lineshape == "none" else ""),
        )
    return ()


def _pool_parameters(pool: _Section, name: str, water: float) -> dict[str, float]:
    return {
        f"{name}.fraction": pool.number("f", least=0.0) / water,
        f"{name}.k_exchange": pool.number("k", least=0.0),
        f"{name}.t1": pool.relaxation_time(1),
        f"{name}.t2": pool.relaxation_time(2),
        f"{name}.offset_ppm": pool.number("dw"),
    }


def _frequency(top: _Section, notes: list[str]) -> float:
    gamma = top.number("gamma", above=0.0, default=DEFAULT_GAMMA)
    if abs(gamma / GAMMA_RAD_PER_S_UT - 1) > GAMMA_TOLERANCE:
        notes.append(
            f"gamma {gamma:.8g} rad/(s uT) sets the frequency only; B1 is turned into rad/s with "
            f"{GAMMA_RAD_PER_S_UT:.8g}"
        )
    return top.number("b0", above=0.0) * gamma / (2 * math.pi)


def _reset(top: _Section, notes: list[str]) -> float | None:
    scale = top.number("scale", least=0.0, default=1.0)
    if scale > 1:
        top.fault("scale", f"expected at most 1, found {scale:g}")
    if top.flag("reset_init_mag", default=True):
        return scale
    if scale != 1:
        notes.append(f"scale {scale:g} is ignored: without reset the start is equilibrium")
    return None
