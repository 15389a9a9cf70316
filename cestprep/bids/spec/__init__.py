"""CEST-BIDS: the proposal (CEST-BIDS.md) and what the program takes from it."""

from pathlib import Path

#: pybids configuration with the entities and path patterns of CEST-BIDS.
PYBIDS_CONFIG = Path(__file__).resolve().with_name("pybids_cest.json")

#: Columns every ``cestcontext.tsv`` must have.
CONTEXT_COLUMNS = (
    "volume_type",
    "saturation_offset",
    "saturation_b1",
    "saturation_duration",
    "recovery_time",
)
VOLUME_TYPES = ("saturated", "m0scan", "noRF")
B1_DEFINITIONS = ("rms", "mean", "peak", "cwpe")
M0_TYPES = ("Included", "Separate", "Estimate", "Absent")

#: Lines of the .bidsignore that make a derivative dataset pass the released standard.
DERIVATIVE_BIDSIGNORE = (
    "*.html",
    "**/figures",
    "**/cest",
    "*_xfm.*",
    "*_stat-*",
    "*_network.*",
    "*_WASABI.*",
    "*_SRT1.*",
    "*_T2PREP.*",
)
