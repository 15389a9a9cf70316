"""Auxiliary quantities (T1, T2, B0, B1): where they come from, their units and their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cestprep.bids.files import image_data
from cestprep.bids.protocols import frequency_mhz
from cestprep.bids.session import MapFile, Series, SessionFiles
from cestprep.bids.spec import (
    ANGLES,
    ECHOES,
    MAP_SUFFIXES,
    SATURATION_RECOVERY,
    T2_PREPARED,
    WASABI,
    WASSR,
)
from cestprep.errors import Fault, InputError
from cestprep.inference.recipe import AUXILIARY, Recipe

UNITS = {"T1": "s", "T2": "s", "B0": "ppm", "B1": "of nominal"}
NOMINAL = {"B0": 0.0, "B1": 1.0}
#: Scans each can be made from.
MADE_FROM = {
    "T1": (SATURATION_RECOVERY,),
    "T2": (T2_PREPARED, ECHOES),
    "B0": (WASABI, WASSR),
    "B1": (WASABI, ANGLES),
}
#: Plausible values in package units; voxels outside count as missing.
PLAUSIBLE = {"T1": (0.05, 10.0), "T2": (0.001, 5.0), "B0": (-5.0, 5.0), "B1": (0.2, 2.0)}


@dataclass(frozen=True)
class AuxiliarySource:
    """Where an auxiliary quantity comes from.

    Attributes
    ----------
    quantity : {"T1", "T2", "B0", "B1"}
    image, sd : Path or None
        Map and its SD map; no map means the nominal value.
    to_si : float
        Factor from file units to package units.
    dataset : str
        Name of the dataset the map is from, or "nominal".
    """

    quantity: str
    image: Path | None
    sd: Path | None
    to_si: float
    dataset: str

    @property
    def parameter(self) -> str:
        """Name in the simulator."""
        return AUXILIARY[self.quantity]

    @property
    def nominal(self) -> float:
        """Value used without a map."""
        return NOMINAL[self.quantity]


def plan_auxiliary(
    files: SessionFiles,
    recipe: Recipe,
    assume_nominal: Sequence[str],
    made: Sequence[str],
    faults: list[Fault],
) -> list[AuxiliarySource]:
    """Source of every quantity the recipe needs, less those that are made from raw scans.

    What is wrong is added to ``faults``.
    """
    sources = []
    needed = dict.fromkeys(q for stage in recipe.stages for q in stage.auxiliary)
    for quantity in needed:
        found = files.maps.get(quantity)
        if quantity in made:
            continue
        if quantity in assume_nominal:
            if found is not None:
                faults.append(
                    Fault(
                        f"--assume-nominal {quantity}",
                        f"contradicts the map {found.image}",
                        "Leave the option out, or take the map out of the dataset",
                    )
                )
            sources.append(AuxiliarySource(quantity, None, None, 1.0, "nominal"))
        elif found is None:
            suffix = MAP_SUFFIXES[quantity]
            choice = f", or accept the nominal value: --assume-nominal {quantity}"
            scans = " or ".join(MADE_FROM[quantity])
            faults.append(
                Fault(
                    files.folder,
                    f"no {quantity} map ({suffix}) was found{_elsewhere(files, suffix)}",
                    f"Add {suffix} or a scan to make it from ({scans}) to the dataset, or give "
                    "--derivatives NAME=PATH with one" + (choice if quantity in NOMINAL else ""),
                )
            )
        else:
            factor = _unit_factor(quantity, found, files.series, faults)
            sources.append(AuxiliarySource(quantity, found.image, found.sd, factor, found.dataset))
    return sources


def _elsewhere(files: SessionFiles, suffix: str) -> str:
    """Where the participant has such a map outside of the session, as a remark."""
    others = sorted((files.root / f"sub-{files.subject}").rglob(f"*_{suffix}.nii*"))
    return f" in this session, though there is {others[0]}" if others else ""


def _unit_factor(
    quantity: str, found: MapFile, series: Sequence[Series], faults: list[Fault]
) -> float:
    """Factor from the map's unit to s, ppm or 1."""
    unit = found.fields.get("Units")
    sd_unit = found.sd_fields.get("Units", unit)
    if found.sd is not None and sd_unit != unit:
        what = f"Units is {sd_unit!r}, but {found.image.name} is in {unit!r}"
        faults.append(Fault(found.sd, what, "Give both maps in one unit"))
    # without a frequency the series itself is at fault, which is said elsewhere
    frequencies = [f for f in (frequency_mhz(s.fields) for s in series) if f] or [1.0]
    try:
        return unit_factor(quantity, found.image, found.fields, frequencies[0])
    except InputError as exc:
        faults.extend(exc.faults)
        return 1.0


def unit_factor(
    quantity: str, image: Path, fields: Mapping[str, Any], frequency_mhz: float
) -> float:
    """Factor from the unit a map's sidecar states to package units.

    Raises
    ------
    InputError
        If there is none or it is no unit of the quantity.
    """
    accepted: dict[str | None, float]
    if quantity in ("T1", "T2"):
        accepted = {"s": 1.0, None: 1.0}  # BIDS: these maps are in seconds
    elif quantity == "B0":
        accepted = {"ppm": 1.0, "Hz": 1 / frequency_mhz}
    else:
        accepted = {"percent": 0.01, "%": 0.01, "arbitrary": 1.0, "1": 1.0}
    unit = fields.get("Units")
    if (isinstance(unit, str) or unit is None) and unit in accepted:
        return accepted[unit]
    what = f"Units is {unit!r}, expected {' or '.join(str(u) for u in accepted if u)}"
    mend = "State the unit in the sidecar, converting the map if need be"
    raise InputError(Fault(image, what, mend))


def written_unit(quantity: str, frequency_mhz: float) -> tuple[str, float]:
    """Unit in which maps are written, and the factor to it from package units."""
    units = {"B0": ("Hz", frequency_mhz), "B1": ("percent", 100.0)}
    return units.get(quantity, ("s", 1.0))


def usable_auxiliary(quantity: str, values: np.ndarray) -> np.ndarray:
    """Voxels whose auxiliary value (package units) is finite and physically plausible."""
    low, high = PLAUSIBLE[quantity]
    usable: np.ndarray = np.isfinite(values) & (values >= low) & (values <= high)
    return usable


def auxiliary_values(source: AuxiliarySource, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and SDs in the mask, in package units; the SD is 0 where none is known."""
    zeros = np.zeros(mask.sum(), np.float32)
    if source.image is None:
        return zeros + source.nominal, zeros
    values = image_data(source.image)[mask] * source.to_si
    sd = zeros if source.sd is None else image_data(source.sd)[mask] * source.to_si
    return values, sd
