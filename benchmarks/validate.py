"""Run the studies behind docs/validation.rst and write its measured part anew.

    python benchmarks/validate.py [SECTION ...]

Results are kept in ``build/validate``; sections not named are rendered from there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.validation import agreement, cases, coverage, faults, mice, transfer

DATA = cases.ROOT.parent / "shared" / "data" / "mice7t"
PAGE = cases.ROOT / "docs" / "validation.rst"
START = ".. measured by make validate; what follows is generated\n"


def _agreement() -> dict[str, Any]:
    rows = {}
    for stage, count in (("mt", 1000), ("amide", 300)):
        for mode, numbers in agreement.simulated(stage, count).items():
            rows[f"{stage}, {mode}"] = numbers
    return rows


def _mice() -> dict[str, Any]:
    return mice.study(DATA) if DATA.exists() else {}


def _coverage() -> dict[str, Any]:
    rows = {}
    for stage, count, with_grid in (("mt", 4000, 4000), ("amide", 4000, 1000)):
        for snr in (25, 50, 100, 200):
            found = coverage.study(stage, snr, count, with_grid)
            seen = found.pop("visible")
            for name, numbers in found.items():
                shares = numbers.get("visible", numbers["all"])
                rows[f"{stage}, SNR {snr}, {name}"] = {
                    "50 %": shares[0],
                    "80 %": shares[1],
                    "95 %": shares[2],
                    "least p of ranks": min(numbers.get("p of ranks", [float("nan")])),
                    "voxels that count": seen if "visible" in numbers else 1.0,
                }
    return rows


def _transfer() -> dict[str, Any]:
    return transfer.study("mt") | transfer.study("amide")


def _faults() -> dict[str, Any]:
    return {
        f"{stage}, {kind}": row
        for stage in ("mt", "amide")
        for kind, row in faults.study(stage).items()
    }


#: Sections in order: title, what is published and asked for, study.
SECTIONS: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {
    "agreement": (
        "Network and reference grid, simulated brain",
        "Held-out voxels at 3 T, SNR 100, signals of the independent oracle, maps exact. "
        "Mahalanobis distances of 10 samples, both ways (ideal 1.18; published 1.4 to 2.6 with 0.2 "
        "to 21 % above 4); NRMSE over the grid's (published 1.03 to 1.12).",
        _agreement,
    ),
    "mice": (
        "Network and reference grid, real mice",
        "Trained on m01 to m03, asked about m04, both sessions, without propagation. Published for "
        "mice: median 2.17 and 2.02 (MT), 1.39 and 1.86 (amide), 3 to 13 % above 4.",
        _mice,
    ),
    "coverage": (
        "Coverage",
        "Share of truths inside regions of 50, 80 and 95 %; truths from the prior, signals of the "
        "independent oracle, errors of the maps drawn from their SDs and propagated. Of psvae the "
        "voxels whose f k lies above the detection limit count.",
        _coverage,
    ),
    "transfer": (
        "Transfer between two simulated subjects",
        "Maps of another subject's network against those of the subject's own fit. Published: ICC "
        "0.87, 0.82, 0.86, 0.86; NRMSE 7, 12, 7, 18 %; SSIM 0.93, 0.87, 0.94, 0.90 for f_ss, "
        "k_ssw, f_s, k_sw.",
        _transfer,
    ),
    "faults": (
        "Injected faults",
        "AUC of the misfit of psvae fits and share of voxels flagged, SNR 100.",
        _faults,
    ),
}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A list table; a row each, columns from the first row's keys onwards."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * -",
        *(f"     - {c}" for c in columns),
    ]
    for name, row in rows.items():
        lines += [f"   * - {name}", *(f"     - {_shown(row.get(c))}" for c in columns)]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def render() -> None:
    """Write the measured part of the page from what is kept."""
    text = PAGE.read_text(encoding="utf-8").split(START)[0].rstrip() + f"\n\n{START}\n"
    for name, (title, about, _) in SECTIONS.items():
        path = cases.BUILD / f"{name}.json"
        if path.exists():
            rows = json.loads(path.read_text())
            text += f"{title}\n{'-' * len(title)}\n\n{about}\n\n{table(rows)}\n"
    PAGE.write_text(text.rstrip() + "\n", encoding="utf-8")


def main() -> None:
    """Run the sections asked for and render the page."""
    cases.BUILD.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or SECTIONS:
        started = time.monotonic()
        rows = SECTIONS[name][2]()
        if rows:
            (cases.BUILD / f"{name}.json").write_text(json.dumps(rows, indent=1))
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    render()


if __name__ == "__main__":
    main()
