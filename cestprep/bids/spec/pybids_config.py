"""Make ``pybids_cest.json``: pybids' own entities with those of CEST-BIDS, and path patterns.

    python -m cestprep.bids.spec.pybids_config [--check]

One configuration holds everything, because pybids cannot combine two that define the same entity,
and ``datatype`` has to be redefined.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().with_name("pybids_cest.json")
LABEL = "([a-zA-Z0-9+]+)"

NEW_ENTITIES = [
    {"name": "param", "pattern": f"[_/\\\\]+param-{LABEL}"},
    {"name": "stat", "pattern": f"[_/\\\\]+stat-{LABEL}"},
]
# pybids anchors these loosely ("desc-(...)" also matches inside another label)
ANCHORED = {"model", "desc", "label", "res", "den", "atlas", "segmentation"}
KEYS = {"segmentation": "seg"}

# --- path patterns ---------------------------------------------------------------------------
TOP = "sub-{subject}[/ses-{session}]/{datatype<%s>|%s}/sub-{subject}[_ses-{session}]"
SRC = (
    "[_task-{task}][_acq-{acquisition}][_ce-{ceagent}][_rec-{reconstruction}][_dir-{direction}]"
    "[_run-{run}][_echo-{echo}][_part-{part}]"
)
SPACE = "[_space-{space}]"
SEG = "[_atlas-{atlas}][_seg-{segmentation}]"
RES = "[_res-{res}]"
MODEL = "[_model-{model}][_param-{param}][_stat-{stat}]"
END = "[_label-{label}][_desc-{desc}]"
NII = "{extension<.nii|.nii.gz|.json>|.nii.gz}"


def _top(datatype: str) -> str:
    return TOP % (datatype, datatype.split("|")[0])


PATTERNS = [
    # raw, and the same resampled or otherwise processed
    _top("cest")
    + SRC
    + SPACE
    + RES
    + "[_model-{model}][_desc-{desc}]_{suffix<cest|m0scan|cestref>|cest}"
    "{extension<.nii|.nii.gz|.json|.seq>|.nii.gz}",
    _top("cest|fmap") + SRC + "[_desc-{desc}]_{suffix<cestcontext>}{extension<.tsv|.json>|.tsv}",
    _top("fmap")
    + SRC
    + SPACE
    + RES
    + "[_desc-{desc}]_{suffix<WASABI>}{extension<.nii|.nii.gz|.json|.seq>|.nii.gz}",
    _top("anat")
    + SRC
    + SPACE
    + RES
    + "[_desc-{desc}]_{suffix<SRT1|T2PREP>}{extension<.nii|.nii.gz|.json|.seq>|.nii.gz}",
    # maps
    _top("cest") + SRC + SPACE + RES + MODEL + "[_desc-{desc}]_{suffix<cestmap>}" + NII,
    _top("anat")
    + SRC
    + SPACE
    + RES
    + "[_stat-{stat}][_desc-{desc}]_{suffix<T1map|T2map|R1map|R2map|M0map>}"
    + NII,
    _top("fmap")
    + SRC
    + SPACE
    + RES
    + "[_stat-{stat}][_desc-{desc}]_{suffix<TB1map|fieldmap|magnitude>}"
    + NII,
    # structural images
    _top("anat") + SRC + SPACE + RES + "[_desc-{desc}]_{suffix<T1w|T2w|FLAIR>}" + NII,
    # masks and tissue classes
    _top("cest|anat") + SRC + SPACE + RES + "[_model-{model}]" + END + "_{suffix<mask>}" + NII,
    _top("anat|cest")
    + SRC
    + SPACE
    + SEG
    + RES
    + END
    + "_{suffix<dseg|probseg>}{extension<.nii|.nii.gz|.json|.tsv>|.nii.gz}",
    # tables
    _top("cest") + SRC + SPACE + SEG + MODEL + END + "_{suffix<cestmap>}{extension<.tsv>|.tsv}",
    _top("cest|anat|fmap") + SRC + "[_model-{model}][_desc-{desc}]"
    "_{suffix<timeseries|qc>}{extension<.tsv|.json>|.tsv}",
    # transforms
    _top("cest|anat|fmap")
    + SRC
    + "_from-{from}_to-{to}_mode-{mode<image|points>|image}[_desc-{desc}]"
    "_{suffix<xfm>|xfm}{extension<.txt|.h5|.x5|.json>|.txt}",
    # trained networks
    _top("cest") + SRC + "_model-{model}[_desc-{desc}]_{suffix<network>}"
    "{extension<.safetensors|.npz|.h5|.json>|.safetensors}",
    # report figures
    "sub-{subject}/{datatype<figures>|figures}/sub-{subject}[_ses-{session}]"
    + SRC
    + SPACE
    + SEG
    + RES
    + MODEL
    + END
    + "_{suffix<cest|cestref|cestmap|WASABI|SRT1|T2PREP|T1map|T2map|TB1map|"
    "fieldmap|T1w|dseg|mask|qc>}{extension<.svg|.png|.html>|.svg}",
    # sidecars and contexts higher up (inheritance principle)
    "[acq-{acquisition}_]{suffix<cest|WASABI|SRT1|T2PREP|cestmap>}{extension<.json>|.json}",
    "[acq-{acquisition}_]model-{model}[_desc-{desc}]_{suffix<network>}"
    "{extension<.safetensors|.npz|.h5|.json>|.safetensors}",
    "[acq-{acquisition}_]{suffix<cestcontext>}{extension<.tsv|.json>|.tsv}",
]


def build() -> dict[str, Any]:
    """Configuration for `bids.BIDSLayout` and `bids.layout.writing.build_path`.

    Raises
    ------
    RuntimeError
        If the installed pybids words its datatype pattern in a way not known here.
    """
    stock = files("bids.layout") / "config"
    entities: dict[str, dict[str, Any]] = {}
    for name in ("bids", "derivatives"):
        for entity in json.loads((stock / f"{name}.json").read_text())["entities"]:
            entities[entity["name"]] = dict(entity)
    for name in ANCHORED & entities.keys():
        entities[name]["pattern"] = f"[_/\\\\]+{KEYS.get(name, name)}-{LABEL}"
    known = entities["datatype"]["pattern"]
    extended = known.replace("(anat|beh|", "(anat|beh|cest|")
    extended = extended.replace("|perf|pet)", "|perf|pet|figures)")
    if "|cest|" not in extended or "|figures)" not in extended:
        raise RuntimeError(f"cannot extend pybids' datatype pattern {known!r}")
    entities["datatype"]["pattern"] = extended
    entities |= {entity["name"]: entity for entity in NEW_ENTITIES}
    return {
        "name": "cestbids",
        "entities": list(entities.values()),
        "default_path_patterns": PATTERNS,
    }


def main() -> int:
    """Write the configuration, or with ``--check`` compare it with the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    text = json.dumps(build(), indent=2) + "\n"
    if parser.parse_args().check:
        return int(not TARGET.exists() or TARGET.read_text() != text)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
