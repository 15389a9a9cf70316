"""The report page and the quality tables of a session."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from cestprep import __version__
from cestprep.bids.auxiliary import UNITS, auxiliary_values
from cestprep.bids.derivatives import Sink, levels, propagated_parameters
from cestprep.bids.files import image_data, write_json, write_text
from cestprep.bids.observe import Record
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.bids.regions import region_voxels
from cestprep.bids.spec import QUALITY
from cestprep.inference import methods
from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.measured import MISFIT_P
from cestprep.report import figures, statistics
from cestprep.report.display import Display
from cestprep.report.preparation import preparation_section


def report_path(label: str, out_dir: Path) -> Path:
    """Where the page of a session is written."""
    return out_dir / f"{label}.html"


def render(context: Mapping[str, Any]) -> str:
    """The page as HTML text."""
    folder = files("cestprep.data") / "report"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["digits"] = lambda value: f"{value:#.3g}".rstrip(".")
    return environment.get_template("session.html.j2").render(version=__version__, **context)


def write_failure(label: str, errors: list[str], out_dir: Path, command: str) -> Path:
    """Page of a session that could not be processed: what went wrong."""
    context = {"label": label, "command": command, "errors": errors, "session": None}
    return write_text(report_path(label, out_dir), render(context))


def write_report(
    sink: Sink,
    session: SessionPlan,
    estimates: Mapping[str, Estimate],
    records: Mapping[str, Record],
    command: str,
) -> Path:
    """Write the page of a session from what was found in each stage; returns its path."""
    display = Display.of(session.mask)
    first = session.stages[0]
    reference = image_data(first.series.image)[..., first.reference_volume]
    context = {
        "label": session.label,
        "command": command,
        "errors": [],
        "session": session,
        "method": sink.method,
        "method_title": methods.load(sink.method).TITLE,
        "meaning": sink.meaning,
        "estimation": _estimation_rows(sink, session),
        "n_mask": int(display.mask.sum()),
        "reference": figures.reference_figure(
            display.show(reference), display.show(display.mask), display.aspect
        ),
        "auxiliary": _auxiliary_figure(session, display),
        "preparation": (
            preparation_section(sink, session, display) if session.preparation else None
        ),
        "stages": [
            _stage(session, plan, estimates[plan.stage.name], records[plan.stage.name], display)
            for plan in _fitted(session, estimates)
        ],
        "normalizations": _normalization_rows(session, records),
        "regions": _region_rows(session, estimates, display),
    }
    return write_text(report_path(session.label, sink.out_dir), render(context))


def _fitted(session: SessionPlan, found: Mapping[str, Any]) -> list[StagePlan]:
    """Stages that something was found of; none where the run stopped before."""
    return [plan for plan in session.stages if plan.stage.name in found]


def write_tables(sink: Sink, session: SessionPlan, estimates: Mapping[str, Estimate]) -> list[Path]:
    """Write ``_qc.tsv`` and region tables of each stage, with descriptions; returns the paths."""
    regions = region_voxels(session.regions, image_data(session.mask) > 0)
    written = []
    for plan in _fitted(session, estimates):
        estimate = estimates[plan.stage.name]
        table = statistics.parameter_table(estimate, plan.stage.free)
        table.insert(0, "method", sink.method)
        table.insert(0, "model", plan.stage.model)
        table["median_nrmse_percent"] = statistics.median_nrmse(estimate)
        path = sink.path(session, QUALITY, ".tsv", **plan.entities)
        written += _write_table(path, table, statistics.COLUMNS)
        for name, voxels in regions.items():
            table = statistics.region_table(estimate, plan.stage.free, voxels)
            path = sink.region_path(session, plan, name)
            written += _write_table(path, table, statistics.REGION_COLUMNS)
    return written


def _write_table(path: Path, table: pd.DataFrame, columns: Mapping[str, str]) -> list[Path]:
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    described = {name: {"Description": what} for name, what in columns.items()}
    return [write_text(path, text), write_json(path.with_suffix(".json"), described)]


def _estimation_rows(sink: Sink, session: SessionPlan) -> list[tuple[str, str]]:
    """How was estimated, and by which network if one was reused."""
    options = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {str(v).lower()}"
                        for k, v in sink.options.items() if v is not None)  # fmt: skip
    rows = [
        ("Method", f"{sink.method} ({methods.load(sink.method).TITLE}), mode {sink.mode}"),
        ("Settings", f"{options}, seed {sink.seed}" if options else f"seed {sink.seed}"),
    ]
    for plan in session.stages:
        if plan.network is not None:
            rows += [
                (f"Network of stage {plan.stage.name}", str(plan.network)),
                ("trained on", session.seen_by(plan)),
            ]
    return rows


def _normalization_rows(
    session: SessionPlan, records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    rows = []
    for plan in _fitted(session, records):
        compared = records[plan.stage.name].normalization
        for i, f in enumerate(plan.stage.free):
            medians = compared.get("medians", {})
            rows.append(
                {
                    "stage": plan.stage.name,
                    "parameter": f.name,
                    "unit": f.unit,
                    "used": plan.problem.normalization,
                    "n_voxels": compared.get("n_voxels", 0),
                    "medians": {name: values[i] / f.to_si for name, values in medians.items()},
                }
            )
    return rows


def _region_rows(
    session: SessionPlan, estimates: Mapping[str, Estimate], display: Display
) -> list[dict[str, Any]]:
    rows = []
    for segmentation, voxels in region_voxels(session.regions, display.mask).items():
        for plan in _fitted(session, estimates):
            table = statistics.region_table(estimates[plan.stage.name], plan.stage.free, voxels)
            table.insert(0, "segmentation", segmentation)
            rows += table.to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _auxiliary_figure(session: SessionPlan, display: Display) -> str | None:
    panels = []
    for source in session.auxiliary:
        if source.image is not None:
            values, _ = auxiliary_values(source, display.mask)
            shown = display.spread(values, np.isfinite(values))
            title = f"{source.quantity} ({UNITS[source.quantity]})"
            panels.append(figures.Panel(title, shown, "cividis"))
    return figures.maps_figure(panels, display.aspect) if panels else None


def _stage(
    session: SessionPlan, plan: StagePlan, estimate: Estimate, record: Record, display: Display
) -> dict[str, Any]:
    meanings = levels(record.noise_source)
    valid = estimate.valid
    panels = []
    for i, f in enumerate(plan.stage.free):
        mean, sd = estimate.mean[i] / f.to_si, estimate.sd[i] / f.to_si
        panels += [
            figures.Panel(f"{f.name} ({f.unit})", display.spread(mean, valid)),
            figures.Panel(f"SD of {f.name} ({f.unit})", display.spread(sd, valid), "magma"),
        ]
    table = statistics.parameter_table(estimate, plan.stage.free)
    table["meaning"] = [f.meaning for f in plan.stage.free]
    computed = estimate.nrmse > 0
    fidelity = [
        figures.Panel("NRMSE (percent)", display.spread(100 * estimate.nrmse, computed), "inferno"),
        figures.Panel("R²", display.spread(estimate.r_squared, computed), "cividis"),
    ]
    return {
        "plan": plan,
        "rows": table.to_dict("records"),
        "validity": statistics.validity_counts(estimate, meanings),
        "noise": _noise_sentence(record),
        "nrmse": statistics.median_nrmse(estimate),
        "propagated": propagated_parameters(session, plan),
        "solver": _solver_sentence(estimate.voxels_by_solver),
        "maps": figures.maps_figure(panels, display.aspect),
        "fidelity": figures.maps_figure(fidelity, display.aspect),
        "validity_map": _validity_figure(estimate, meanings, display),
        "signal": _signal_figure(plan, estimate, display) if valid.any() else None,
        "training": figures.training_figure(record.curve) if record.curve else None,
    }


#: What the report says of a solver's exactness.
_EXACTNESS = {"general": "exact", "reduced": "within 1e-4 of exact", "isar2": "approximate, biased"}


def _solver_sentence(voxels: Mapping[str, int]) -> str:
    """Solvers of a stage in words, with their voxels where there are several."""
    parts = [f"“{name}” ({_EXACTNESS[name]})" for name in voxels]
    if len(parts) > 1:
        counts = [f"{n} voxels" for n in voxels.values()]
        parts = [f"{part} in {count}" for part, count in zip(parts, counts, strict=True)]
    return " and ".join(parts)


#: What the report calls the sources of noise that are independent of the fit.
_NOISE_SOURCES = {
    "option": "was given by the option --noise-sd",
    "background": "was found in the air at the corners of the images (Rician-corrected)",
    "repeated M0": "was found in repeated unsaturated volumes",
}


def _noise_sentence(record: Record) -> str:
    """Where the noise level of a stage is from, and what follows for the test of misfit."""
    if record.noise_sd is None:
        return (
            "The noise level was taken from the fit's own residual, so a p-value of misfit is n/a; "
            "voxels are flagged by high NRMSE."
        )
    return (
        f"The SD of the noise of one volume, {record.noise_sd:.4g} in arbitrary units of the "
        f"series, {_NOISE_SOURCES[record.noise_source]}, independently of the fit; voxels whose "
        "residual, as a whole or along what an error of one map would cause, it explains with a "
        f"probability below {MISFIT_P:g} are flagged as misfit. {record.doubt}"
    )


def _validity_figure(estimate: Estimate, meanings: Mapping[Validity, str], display: Display) -> str:
    codes = np.full(display.mask.shape, Validity.OUTSIDE_MASK)
    codes[display.mask] = estimate.validity
    short = {int(code): text.split(":")[0].split(",")[0] for code, text in meanings.items()}
    return figures.validity_figure(display.show(codes), short, display.aspect)


def _signal_figure(plan: StagePlan, estimate: Estimate, display: Display) -> str:
    measured = image_data(plan.series.image)[display.mask].T[:, estimate.valid]
    fitted = estimate.fitted[:, estimate.valid]
    return figures.signal_figure(
        measured / np.linalg.norm(measured, axis=0),
        fitted / np.linalg.norm(fitted, axis=0),
        plan.problem.protocol.is_m0,
    )
