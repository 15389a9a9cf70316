"""The report page and the quality tables of a session."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from cestprep import __version__
from cestprep.bids.derivatives import derivative_path, propagated_parameters
from cestprep.bids.files import image_data, write_text
from cestprep.bids.observe import auxiliary_values
from cestprep.bids.plan import UNITS, SessionPlan, StagePlan
from cestprep.inference import methods
from cestprep.inference.estimate import LEVELS, Estimate
from cestprep.physics.simulate import SOLVER
from cestprep.report import figures, statistics


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
    return environment.get_template("session.html.j2").render(version=__version__, **context)


def write_failure(label: str, errors: list[str], out_dir: Path, command: str) -> Path:
    """Page of a session that could not be processed: what went wrong."""
    context = {"label": label, "command": command, "errors": errors, "session": None}
    return write_text(report_path(label, out_dir), render(context))


def write_report(
    session: SessionPlan,
    estimates: Mapping[str, Estimate],
    method: str,
    out_dir: Path,
    command: str,
) -> Path:
    """Write the page of a session; returns its path."""
    mask = image_data(session.mask) > 0
    stages = [_stage(session, plan, estimates[plan.stage.name], mask) for plan in session.stages]
    first = session.stages[0].problem.protocol.is_m0
    reference = image_data(session.stages[0].series.image)[
        ..., first.index(True) if any(first) else 0
    ]
    box = figures.bounding_box(mask)
    context = {
        "label": session.label,
        "command": command,
        "errors": [],
        "session": session,
        "method": method,
        "method_title": methods.load(method).TITLE,
        "solver": SOLVER,
        "n_mask": int(mask.sum()),
        "reference": figures.reference_figure(reference[box], mask[box]),
        "auxiliary": _auxiliary_figure(session, mask),
        "stages": stages,
    }
    return write_text(report_path(session.label, out_dir), render(context))


def write_quality_table(
    session: SessionPlan, estimates: Mapping[str, Estimate], method: str, out_dir: Path
) -> list[Path]:
    """Write ``_qc.tsv`` beside each series' maps; returns the paths."""
    written = []
    for plan in session.stages:
        estimate = estimates[plan.stage.name]
        table = statistics.parameter_table(estimate, plan.stage.free)
        table.insert(0, "method", method)
        table.insert(0, "model", plan.stage.model)
        table["median_nrmse_percent"] = statistics.median_nrmse(estimate)
        path = derivative_path(
            out_dir,
            session.subject,
            session.session,
            "cest",
            "qc",
            ".tsv",
            acquisition=plan.acquisition,
        )
        text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        written.append(write_text(path, text))
    return written


def _volume(mask: np.ndarray, values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    volume = np.full(mask.shape, np.nan)
    volume[mask] = np.where(keep, values, np.nan)
    return volume[figures.bounding_box(mask)]


def _auxiliary_figure(session: SessionPlan, mask: np.ndarray) -> str | None:
    panels = []
    for source in session.auxiliary:
        if source.image is not None:
            values, _ = auxiliary_values(source, mask)
            shown = _volume(mask, values, np.isfinite(values))
            panels.append(figures.Panel(source.quantity, shown, UNITS[source.quantity], "cividis"))
    return figures.maps_figure(panels) if panels else None


def _stage(
    session: SessionPlan, plan: StagePlan, estimate: Estimate, mask: np.ndarray
) -> dict[str, Any]:
    valid = estimate.valid
    panels = []
    for i, f in enumerate(plan.stage.free):
        mean, sd = estimate.mean[i] / f.to_si, estimate.sd[i] / f.to_si
        panels += [
            figures.Panel(f.name, _volume(mask, mean, valid), f.unit),
            figures.Panel(f"SD of {f.name}", _volume(mask, sd, valid), f.unit, "magma"),
        ]
    computed = estimate.nrmse > 0
    fidelity = [
        figures.Panel("NRMSE", _volume(mask, 100 * estimate.nrmse, computed), "percent", "inferno"),
        figures.Panel("R²", _volume(mask, estimate.r_squared, computed), "1", "cividis"),
    ]
    codes = np.ones(mask.shape, int)
    codes[mask] = estimate.validity
    measured, fitted = image_data(plan.series.image)[mask].T[:, valid], estimate.fitted[:, valid]
    norms = (np.linalg.norm(measured, axis=0), np.linalg.norm(fitted, axis=0))
    return {
        "plan": plan,
        "rows": statistics.parameter_table(estimate, plan.stage.free).to_dict("records"),
        "validity": statistics.validity_counts(estimate),
        "nrmse": statistics.median_nrmse(estimate),
        "propagated": propagated_parameters(session, plan),
        "maps": figures.maps_figure(panels),
        "fidelity": figures.maps_figure(fidelity),
        "validity_map": figures.validity_figure(
            codes[figures.bounding_box(mask)],
            {int(k): v.split(":")[0].split(",")[0] for k, v in LEVELS.items()},
        ),
        "signal": figures.signal_figure(measured / norms[0], fitted / norms[1])
        if valid.any()
        else None,
    }
