"""CEST-BIDS: the proposal (``CEST-BIDS.md``), its schema, and what the program takes from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cestprep.bids.spec.schema import overlay

#: pybids configuration with the entities and path patterns of CEST-BIDS.
PYBIDS_CONFIG = Path(__file__).resolve().with_name("pybids_cest.json")

_OBJECTS, _RULES = overlay()["objects"], overlay()["rules"]


def _columns(*levels: str) -> tuple[str, ...]:
    """Columns of ``cestcontext.tsv`` by their level."""
    rule = _RULES["tabular_data"]["cest"]["CESTContext"]["columns"]
    return tuple(_OBJECTS["columns"][key]["name"] for key, level in rule.items() if level in levels)


def _choices(kind: str, name: str) -> tuple[str, ...]:
    return tuple(_OBJECTS[kind][name]["enum"])


def _required(rule: str) -> tuple[str, ...]:
    fields: dict[str, Any] = _RULES["sidecars"]["cest"][rule]["fields"]
    levels = {k: v["level"] if isinstance(v, dict) else v for k, v in fields.items()}
    return tuple(name for name, level in levels.items() if level == "required")


#: Columns every ``cestcontext.tsv`` must have, and may have.
CONTEXT_COLUMNS = _columns("required")
OPTIONAL_COLUMNS = _columns("optional")
VOLUME_TYPES = _choices("columns", "volume_type__cest")
B1_DEFINITIONS = _choices("metadata", "SaturationB1Definition")
ACQUISITION_TYPES = _choices("metadata", "CESTAcquisitionType")
#: BIDS' own term, with the values that its schema gives.
M0_TYPES = ("Included", "Separate", "Estimate", "Absent")
#: Fields every sidecar of a series must have, and those that describe its pulses without a .seq.
SERIES_FIELDS = _required("CESTCommon")
PULSE_FIELDS = _required("CESTSaturationModuleWithoutPulseq")
#: Datatype, and suffixes by what they name.
DATATYPE = _OBJECTS["datatypes"]["cest"]["value"]
SERIES, CONTEXT, MAP, REFERENCE, NETWORK, QUALITY = (
    _OBJECTS["suffixes"][name]["value"]
    for name in ("cest", "cestcontext", "cestmap", "cestref", "network", "qc")
)
#: Space of everything on the grid of the reference.
SPACE = REFERENCE
#: Terms of BIDS that the program reads and writes: suffix and folder of each auxiliary map.
MAP_SUFFIXES = {"T1": "T1map", "T2": "T2map", "B0": "fieldmap", "B1": "TB1map"}
QUANTITIES = {suffix: quantity for quantity, suffix in MAP_SUFFIXES.items()}
MAP_FOLDERS = {"T1": "anat", "T2": "anat", "B0": "fmap", "B1": "fmap"}
MAGNITUDE, MASK, SEGMENTATION, PROBABILITY = "magnitude", "mask", "dseg", "probseg"
TRANSFORM, TIMESERIES = "xfm", "timeseries"
#: ``desc`` of a series that estimation can start from.
PREPROCESSED = "preproc"
#: The scan that maps B0 and B1, and all series with a context table.
WASABI = _OBJECTS["suffixes"]["WASABI"]["value"]
TABLED = (SERIES, WASABI)
#: What one series of prepared images is called, and the field with a number per volume.
PREPARED = {"SRT1": "SaturationRecoveryTime", "T2PREP": "T2PreparationTime"}
SATURATION_RECOVERY, T2_PREPARED = PREPARED
#: Standard suffixes of scans that maps are made from: many spin echoes, B1 by two flip angles.
ECHOES, ANGLES = "MESE", "TB1DAM"
#: What a Z-spectrum near water is called that maps B0; its images are those of a series.
WASSR = "WASSR"
#: Scans that maps are made from.
SCANS = (SATURATION_RECOVERY, T2_PREPARED, ECHOES, WASABI, ANGLES)
#: Columns of motion: mm, rad.
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")

#: Lines of the .bidsignore that make a dataset pass the released standard.
_SUFFIXES = ("*_WASABI.*", "*_SRT1.*", "*_T2PREP.*")
RAW_BIDSIGNORE = ("**/cest", "*_cest.*", "*_cestcontext.*", *_SUFFIXES)
#: The first two are of reports; the rest hides what CEST-BIDS adds.
REPORT_BIDSIGNORE = ("*.html", "**/figures")
DERIVATIVE_BIDSIGNORE = (
    *REPORT_BIDSIGNORE,
    "**/cest",
    "*_xfm.*",
    "*_stat-*",
    "*_network.*",
    *_SUFFIXES,
)
