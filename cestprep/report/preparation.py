"""What the report says of motion, registration, maps and tissues that were made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cestprep.bids.derivatives import Sink
from cestprep.bids.files import image_data, read_json
from cestprep.bids.naming import auxiliary_path
from cestprep.bids.plan import SessionPlan
from cestprep.bids.prepared import motion_path, place_path
from cestprep.bids.scans import Scan
from cestprep.bids.sidecars import companion
from cestprep.bids.spec import MOTION, WASABI
from cestprep.imaging.tissue import TISSUES
from cestprep.report import figures
from cestprep.report.display import Display

_CONTOURS = {"WM": "#e9c46a", "GM": "#2a9d8f", "CSF": "#457b9d"}


def preparation_section(sink: Sink, session: SessionPlan, display: Display) -> dict[str, Any]:
    """Rows and figures of the section."""
    preparation = session.preparation
    assert preparation is not None
    moving = preparation.moving
    found = {scan.name: _motion(sink, session, scan) for scan in moving}
    tables = {name: table for name, table in found.items() if table is not None}
    return {
        "still": preparation.still,
        "motion": [_motion_row(sink, session, scan, tables.get(scan.name)) for scan in moving],
        "motion_figure": figures.motion_figure(tables) if tables else None,
        "maps": [_map_row(sink, session, quantity) for quantity in preparation.maps],
        "fields": _fields_sentence(sink, session),
        "tissues": _tissues_figure(session, display),
    }


def _motion(sink: Sink, session: SessionPlan, scan: Scan) -> pd.DataFrame | None:
    path = motion_path(sink, session, scan)
    return pd.read_csv(path, sep="\t", na_values="n/a") if path.exists() else None


def _motion_row(
    sink: Sink, session: SessionPlan, scan: Scan, table: pd.DataFrame | None
) -> dict[str, Any]:
    place = companion(place_path(sink, session, scan), ".json")
    between = read_json(place) if place.exists() else {}
    row = {
        "name": scan.name,
        "moved": between.get("MovedMM"),
        "failed": between.get("RegistrationFailed", False),
    }
    if table is None:
        return {**row, "shift": None, "turn": None, "fd": None, "lost": [], "gated": 0}
    about = read_json(motion_path(sink, session, scan).with_suffix(".json"))
    shifts, turns = table[list(MOTION[:3])].to_numpy(), table[list(MOTION[3:])].to_numpy()
    return {
        **row,
        "shift": float(np.linalg.norm(shifts, axis=1).max()),
        "turn": float(np.rad2deg(np.linalg.norm(turns, axis=1)).max()),
        "fd": float(table["framewise_displacement"].mean()),
        "lost": [i + 1 for i in about["LostVolumes"]],
        "gated": len(about["GatedVolumes"]),
    }


def _map_row(sink: Sink, session: SessionPlan, quantity: str) -> dict[str, Any]:
    assert session.preparation is not None
    about = read_json(companion(auxiliary_path(sink.out_dir, session, quantity), ".json"))
    return {
        "quantity": quantity,
        "scan": session.preparation.maps[quantity],
        "voxels": about.get("Voxels"),
        "failed": about.get("VoxelsFailed"),
        "at_bound": about.get("VoxelsAtBound"),
        "r_squared": about.get("MedianRSquared"),
    }


def _fields_sentence(sink: Sink, session: SessionPlan) -> str:
    """What became of the motion within a WASABI series."""
    assert session.preparation is not None
    if session.preparation.maps.get("B0") != WASABI:
        return ""
    about = read_json(companion(auxiliary_path(sink.out_dir, session, "B0"), ".json"))
    if "NRMSEMoving" not in about:
        return "WASABI volumes were taken as aligned with each other."
    still, moving = 100 * about["NRMSEStill"], 100 * about["NRMSEMoving"]
    change = f"median NRMSE of the WASABI fit {still:.2f} % with one place for all volumes, "
    change += f"{moving:.2f} % with each registered to what the fitted fields say of it"
    kept = "the latter was used" if about["MotionCorrected"] else "the former was used"
    return f"Motion within WASABI: {change}; {kept}."


def _tissues_figure(session: SessionPlan, display: Display) -> str | None:
    cores = {r.name: r.image for r in session.regions if r.image in session.made}
    if not cores:
        return None
    first = session.stages[0]
    reference = image_data(first.series.image)[..., first.reference_volume]
    outlines = [(name, _CONTOURS[name], display.show(image_data(cores[name]))) for name in TISSUES]
    outlines.append(("brain", "#d1495b", display.show(display.mask.astype(np.float32))))
    return figures.outlines_figure(display.show(reference), outlines, display.aspect)
