"""Run the studies behind docs/validation.rst, write its measured part anew, name missed limits.

    python benchmarks/validate.py [SECTION ...]

Results are kept in ``build/validate``; sections not named are rendered from there, and stay as they
are on the page if nothing is kept.  The exit code is 1 if a number of a section that ran is beyond
its limit.
"""

from __future__ import annotations

import json
import operator
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import whole_brain
from benchmarks.validation import (
    agreement,
    cases,
    coverage,
    faults,
    human,
    mice,
    phantoms,
    spectra,
    transfer,
    unified,
)

DATA = cases.ROOT.parent / "shared" / "data"
PAGE = cases.ROOT / "docs" / "validation.rst"
START = ".. measured by make validate; what follows is generated\n"
Rows = dict[str, dict[str, Any]]


def _alone(study: Callable[..., Rows], *given: Any, **named: Any) -> Rows:
    """Rows of a study in a process of its own: a process cannot hold the programs of many."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(study, *given, **named).result()


def _agreement() -> Rows:
    rows: Rows = {}
    for stage, count in (("mt", 1000), ("amide", 300)):
        for mode, numbers in agreement.simulated(stage, count).items():
            rows[f"{stage}, {mode}"] = numbers
        for mode, numbers in agreement.propagated(stage).items():
            rows[f"{stage}, {mode}, propagated"] = numbers
    return rows


def _coverage(stage: str) -> Rows:
    rows: Rows = {}
    for snr in (25, 50, 100, 200):
        for name, row in _alone(coverage.study, stage, snr, 4000).items():
            rows[f"SNR {snr}, {name}"] = row
        print(json.dumps(rows, indent=1), flush=True)
    return rows


def _elsewhere() -> Rows:
    rows: Rows = {}
    for study in (coverage.of_bmctool, coverage.of_brain):
        for stage in ("mt", "amide"):
            rows |= {f"{stage}, {name}": row for name, row in _alone(study, stage).items()}
            print(json.dumps(rows, indent=1), flush=True)
    return rows


#: Heads on which nothing was tuned.
_HEADS = (31, 32, 33)


def _preparation(size: str) -> Rows:
    """Whole sessions; estimates are made of the first one of full size."""
    rows: Rows = {}
    for seed in _HEADS:
        whole = size == "full" and seed == _HEADS[0]
        rows |= human.study(cases.BUILD / "heads", size, seed, whole=whole)
        print(json.dumps(rows, indent=1), flush=True)
    return rows


def _faults() -> Rows:
    return {
        f"{stage}, {kind}": row
        for stage in ("mt", "amide")
        for kind, row in faults.study(stage).items()
    }


def _speed() -> Rows:
    """Each method in a process of its own, so that none finds what another compiled."""
    rows: Rows = {}
    peak = 0.0
    for method in whole_brain.METHODS:
        found = _alone(whole_brain.rows, wanted=(method,))
        peak = max(peak, found.pop("memory")["GB"])
        rows |= found
    return rows | {"memory": {"GB": peak}}


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    title, about : str
    study : callable
        Gives the rows; none where its data are missing.
    limits : tuple of (rows, column, comparison, number)
        What is asked for; ``rows`` is a pattern of `fnmatch`.
    """

    title: str
    about: str
    study: Callable[[], Rows]
    limits: tuple[tuple[str, str, str, float], ...] = ()


def _around(rows: str, column: str, level: float, within: float) -> Any:
    """Limits on both sides."""
    return (rows, column, ">=", level - within), (rows, column, "<=", level + within)


def _near(rows: str, within: float) -> Any:
    """Limits of coverage."""
    levels = (("50 %", 0.5), ("80 %", 0.8), ("95 %", 0.95))
    return tuple(limit for name, level in levels for limit in _around(rows, name, level, within))


def _maps(rows: str, bias: float | None = None) -> Any:
    """Limits of a map: coverage of its SD and, of tissue, bias."""
    limits = [*_around(rows, "68 %", 0.68, 0.05), *_around(rows, "95 %", 0.95, 0.05)]
    for tissue in ("WM", "GM") if bias is not None else ():
        limits += _around(rows, f"bias, {tissue}", 0.0, bias)
    return tuple(limits)


def _distances(rows: str, median: float, far: float, ratio: float) -> Any:
    """Limits of the agreement of posteriors."""
    return (
        (rows, "median there", "<=", median),
        (rows, "median back", "<=", median),
        (rows, "above 4 there", "<=", far),
        (rows, "above 4 back", "<=", far),
        (rows, "NRMSE ratio", "<=", ratio),
        (rows, "NRMSE correlation", ">=", 0.99),
    )


def _agreement_of(kind: str = "") -> Any:
    return (
        *_distances(f"*transfer{kind}", 1.6, 0.04, 1.04),
        *_distances(f"*refine{kind}", 1.4, 0.01, 1.005),
    )


_COVERED = (
    *_near("*, grid", 0.02),
    *_near("*, psvae fit", 0.04),
    ("*, grid, errors of maps ignored", "95 %", "<=", 0.80),
    ("*, grid", "least p of ranks", ">=", 0.01),
    ("*, psvae fit", "least p of ranks", ">=", 0.01),
)
_SIMILAR = (("fss", 0.07, 0.93), ("kssw", 0.12, 0.87), ("fs", 0.07, 0.94), ("ksw", 0.18, 0.90))

_PREPARED = (
    *((f"*, {series}", "within, mean", "<=", 0.15) for series in ("mt", "amide")),
    *((f"*, {series}", "within, max", "<=", 0.5) for series in ("mt", "amide")),
    *((f"*, {series}", "series", "<=", 0.3) for series in ("amide", "SRT1", "T2PREP")),
    ("*, WASABI", "series", "<=", 0.4),
    ("*, WASABI", "within, mean", "<=", 0.6),
    ("*, WASABI", "within over uncorrected", "<=", 1.0),
    ("*, B0", "SD", "<=", 0.006),
    ("*, B1", "SD", "<=", 0.005),
    ("*, B0", "beyond .1", "<=", 0.001),
    *_maps("*, T1", 0.01),
    *_maps("*, T2", 0.02),
    *_maps("*, B0"),
    *_maps("*, B1"),
    ("*, brain", "Dice", ">=", 0.98),
    ("*, WM", "Dice", ">=", 0.94),
    ("*, GM", "Dice", ">=", 0.92),
    ("*, template*", "mean", "<=", 1.0),
)  # fmt: skip

#: Sections in order.
SECTIONS = {
    "agreement": Section(
        "Network and reference grid, simulated brain",
        "Held-out voxels at 3 T, SNR 100, signals of the independent oracle. Mahalanobis "
        "distances of 10 samples, both ways (ideal 1.18; published 1.4 to 2.6 with 0.2 to 21 % "
        "above 4); NRMSE over the grid's (published 1.03 to 1.12). Maps are exact, as the papers' "
        "grid has them, or (propagated) have errors: then the reference is the mean of grids over "
        "500 draws of the maps, weighted by their evidence. A network without correlations, "
        "trained alike, shows what the covariance is for.",
        _agreement,
        (*_agreement_of(), *_agreement_of(", propagated")),
    ),
    "mice": Section(
        "Network and reference grid, real mice",
        "Trained on m01 to m03, asked about m04, both sessions, without propagation. Published for "
        "mice: median 2.17 and 2.02 (MT), 1.39 and 1.86 (amide), 3 to 13 % above 4.",
        lambda: mice.study(DATA / "mice7t") if DATA.exists() else {},
        _agreement_of(),
    ),
    "coverage-mt": Section(
        "Coverage, MT",
        "Share of truths inside regions of 50, 80 and 95 %; truths from the prior, signals of the "
        "independent oracle, errors of the maps drawn from their SDs and propagated. Of psvae the "
        "voxels above the detection limit count (f k of the truth above 0.25 1/s at SNR 100, in "
        "proportion to the noise); the rest is below. Ranks are those of all voxels: truths chosen "
        "by their value have no uniform ones, however good the posterior. Nothing of this is "
        "published; the papers' own methods, in paper mode, are beside it.",
        partial(_coverage, "mt"),
        _COVERED,
    ),
    "coverage-amide": Section(
        "Coverage, amide",
        "The same; detection limit 0.04 1/s at SNR 100.",
        partial(_coverage, "amide"),
        _COVERED,
    ),
    "coverage-elsewhere": Section(
        "Coverage, other truths and signals",
        "Truths of white and grey matter, which the prior does not expect to be so alike: no "
        "limits. Signals of BMCTool, truths from the prior, errors of the maps. SNR 100.",
        _elsewhere,
        _near("*, BMCTool", 0.05),
    ),
    "transfer": Section(
        "Transfer between two simulated subjects",
        "Maps of another subject's network against those of the subject's own fit. Published: ICC "
        "0.87, 0.82, 0.86, 0.86; NRMSE 7, 12, 7, 18 %; SSIM 0.93, 0.87, 0.94, 0.90 for f_ss, "
        "k_ssw, f_s, k_sw.",
        lambda: transfer.study("mt") | transfer.study("amide"),
        (
            ("*, transfer", "ICC", ">=", 0.90),
            ("*, transfer+refine", "ICC", ">=", 0.95),
            *((f"{name}, transfer", "NRMSE", "<=", most) for name, most, _ in _SIMILAR),
            *((f"{name}, transfer", "SSIM", ">=", least) for name, _, least in _SIMILAR),
        ),
    ),
    "faults": Section(
        "Injected faults",
        "AUC of the flag's score in psvae fits at SNR 100, share of voxels flagged, and what the "
        "fault does to the estimates. With all volumes at one offset (amide) a further pool is "
        "seen only where its dependence on B1 differs from the model's: a slow pool nearby biases "
        "the fraction and cannot be told from it.",
        _faults,
        (
            ("*, clean", "flagged", "<=", 0.01),
            ("*, salicylate*", "AUC", ">=", 0.95),
            ("*, fast amine pool, 3 %", "AUC", ">=", 0.95),
            ("*, B0*", "AUC", ">=", 0.95),
            ("*, T1*", "AUC", ">=", 0.95),
            ("*, spiked*", "AUC", ">=", 0.95),
        ),
    ),
    "spectra": Section(
        "Pulsed Z-spectra at three B1",
        "Amide fraction and rate from 78 volumes, signals of the independent oracle, SNR 100: "
        "errors over the posterior SD.",
        spectra.study,
        (("*", "bias in SD", "<=", 0.25), ("*", "bias in SD", ">=", -0.25)),
    ),
    "phantom-9t4": Section(
        "Phantom at 9.4 T by every method",
        "Through the program: three vials of 50 mM (published 54.0, 54.7 and 50.0 mM; 229, 374 and "
        "170 1/s; NBMF 10.8 % for its own 3 T phantom).",
        lambda: phantoms.study(DATA.parent, "larg9t4") if DATA.exists() else {},
        (
            ("*", "error of mM", "<=", 0.108),
            ("*", "f from published", "<=", 0.06),
            ("*", "k from published", "<=", 0.05),
        ),
    ),
    "phantom-3t": Section(
        "Phantom at 3 T by every method",
        "Through the program, real tips from its sequence; published maps of the dictionary, see "
        "above.",
        lambda: phantoms.study(DATA.parent, "larg3t") if DATA.exists() else {},
        (("*", "r of f", ">=", 0.97), ("*", "k from published", "<=", 0.15)),
    ),
    "preparation-small": Section(
        "Preparation of a moving head, small",
        "Digital heads with motion within and between series, masks estimated: mm that are left of "
        "motion, mean over the brain of each volume; errors of maps (ppm, of nominal, or relative) "
        "and how often their SDs cover them in inner white and grey matter; overlap of brain and "
        "tissues; distance from the true place in the template (mm). Voxels of 2.2 mm.",
        partial(_preparation, "small"),
        _PREPARED,
    ),
    "preparation-full": Section(
        "Preparation of a moving head, full size",
        "The same with voxels of 1.8 mm; of the first head also the estimates (psvae): median "
        "absolute errors over those of the same head without motion and with true maps.",
        partial(_preparation, "full"),
        (
            *_PREPARED,
            ("*", "ratio, WM", "<=", 1.3),
            ("*", "ratio, GM", "<=", 1.3),
            ("*, run", "minutes", "<=", 45.0),
            ("*, run", "GB", "<=", 8.0),
        ),
    ),
    "unified": Section(
        "All methods on one brain",
        "MT stage of 194 000 voxels on two cores, compilation included; the grid on 2000 of them. "
        "Published (one graphics card): direct fit 3 min; dictionary of 400 000 entries 25 s and "
        "matching 93 s; supervised network 25 s, 58 s of training and 1 s; NBMF 3 min and 1 s. "
        "Smoothing is the spread of k_ssw's errors in white matter over that of the direct fit: "
        "below 1 a prior takes away noise that the data have.",
        unified.study,
    ),
    "speed": Section(
        "A whole brain on two cores",
        "180 000 voxels, exact physics, errors of maps propagated; each method in its own "
        "process, seconds. Published (one graphics card): training and inference of all maps 18 "
        "min; the exact reference 1.6 s a voxel.",
        _speed,
        (
            ("*network's answers", "seconds", "<=", 2.0),
            ("mt, psvae, all", "seconds", "<=", 600.0),
            ("amide, psvae, all", "seconds", "<=", 300.0),
            ("both, voxelwise", "seconds", "<=", 480.0),
            ("mt, grid*", "ms per voxel", "<=", 20.0),
            ("amide, grid*", "ms per voxel", "<=", 150.0),
            ("memory", "GB", "<=", 4.0),
        ),
    ),
}

_COMPARE = {"<=": operator.le, ">=": operator.ge}


def misses(section: Section, rows: Rows) -> Iterator[str]:
    """Sentences about numbers beyond their limits, and limits without a number."""
    for pattern, column, comparison, limit in section.limits:
        seen = [(n, r[column]) for n, r in rows.items() if fnmatch(n, pattern) and column in r]
        if not seen:
            yield f"{pattern}: no {column}"
        for name, value in seen:
            if not _COMPARE[comparison](value, limit):
                yield f"{name}: {column} is {value:.4g}, asked is {comparison} {limit:g}"


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
        lines += [f"   * - {name}", *(f"     - {_shown(row.get(c))}".rstrip() for c in columns)]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def render() -> None:
    """Write the measured part of the page from what is kept."""
    written, _, measured = PAGE.read_text(encoding="utf-8").partition(START)
    parts = [f"{written.rstrip()}\n\n{START}"]
    for name, section in SECTIONS.items():
        path = cases.BUILD / f"{name}.json"
        if path.exists():
            parts.append(_part(section, json.loads(path.read_text())))
        else:
            parts += _standing(section, measured)
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _part(section: Section, rows: Rows) -> str:
    missed = "".join(f"* {line}\n" for line in misses(section, rows))
    missed = f"\nBeyond what is asked for:\n\n{missed}" if missed else ""
    return f"{_headed(section)}{_wrapped(section.about)}\n\n{table(rows)}{missed}"


def _headed(section: Section) -> str:
    return f"{section.title}\n{'-' * len(section.title)}\n\n"


def _standing(section: Section, page: str) -> list[str]:
    """The section as the page has it; nothing if it has none."""
    _, found, rest = page.partition(_headed(section))
    ends = [at for other in SECTIONS.values() if (at := rest.find(_headed(other))) >= 0]
    return [found + rest[: min(ends, default=len(rest))].rstrip() + "\n"] if found else []


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 100))


def main() -> int:
    """Run the sections asked for and render the page."""
    cases.BUILD.mkdir(parents=True, exist_ok=True)
    unknown = sorted(set(sys.argv[1:]) - SECTIONS.keys())
    if unknown:
        print(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    missed = []
    for name in sys.argv[1:] or SECTIONS:
        started = time.monotonic()
        rows = SECTIONS[name].study()
        if rows:
            (cases.BUILD / f"{name}.json").write_text(json.dumps(rows, indent=1))
            missed += [f"{name}: {line}" for line in misses(SECTIONS[name], rows)]
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    render()
    for line in missed:
        print(f"beyond its limit: {line}", file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
