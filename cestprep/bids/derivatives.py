"""Names, sidecars and atomic writing of derivatives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cestprep import __version__
from cestprep.bids.files import load_image, write_image, write_json, write_text
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.bids.spec import DERIVATIVE_BIDSIGNORE, PYBIDS_CONFIG
from cestprep.errors import Fault, UsageError
from cestprep.inference.estimate import LEVELS, Estimate
from cestprep.physics.simulate import SOLVER

CREDIBLE_LEVEL = 0.95
#: Two-sided Gaussian quantile of `CREDIBLE_LEVEL`.
GAUSSIAN_QUANTILE = 1.959964


@cache
def _patterns() -> list[str]:
    patterns: list[str] = json.loads(PYBIDS_CONFIG.read_text())["default_path_patterns"]
    return patterns


def derivative_path(
    out_dir: Path,
    subject: str,
    session: str | None,
    datatype: str,
    suffix: str,
    extension: str = ".nii.gz",
    **entities: str | None,
) -> Path:
    """Path of a derivative by the patterns of CEST-BIDS.

    Raises
    ------
    ValueError
        If no pattern takes all the entities.
    """
    from bids.layout.writing import build_path

    wanted = {"subject": subject, "session": session, "datatype": datatype, "suffix": suffix}
    wanted |= {"extension": extension, **entities}
    path = build_path({k: v for k, v in wanted.items() if v}, _patterns(), strict=True)
    if path is None:
        raise ValueError(f"no CEST-BIDS path pattern takes {wanted}")
    return out_dir / str(path)


def write_dataset(out_dir: Path, links: Mapping[str, Path]) -> None:
    """``dataset_description.json`` and ``.bidsignore``, before anything else is written.

    Raises
    ------
    UsageError
        If the folder belongs to another program.
    """
    path = out_dir / "dataset_description.json"
    if path.exists():
        try:
            names = [g.get("Name") for g in json.loads(path.read_text()).get("GeneratedBy", [])]
        except (OSError, ValueError, AttributeError):
            names = []
        if "cestprep" not in names:
            raise UsageError(
                Fault(path, "the output folder was not made by cestprep", "Choose another folder")
            )
    description = {
        "Name": "cestprep derivatives",
        "BIDSVersion": "1.11.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "cestprep", "Version": __version__}],
        "SourceDatasets": [{"URL": links["raw"].resolve().as_uri()}],
        "DatasetLinks": {name: p.resolve().as_uri() for name, p in links.items()},
    }
    write_json(path, description)
    write_text(out_dir / ".bidsignore", "\n".join(DERIVATIVE_BIDSIGNORE) + "\n")


def bids_uri(path: Path, datasets: Mapping[str, Path]) -> str:
    """``bids:<dataset>:<path>`` of a file in one of the named datasets (longest root wins)."""
    for name, root in sorted(datasets.items(), key=lambda item: -len(str(item[1]))):
        if path.is_relative_to(root):
            return f"bids:{name}:{path.relative_to(root).as_posix()}"
    return path.as_uri()


@dataclass(frozen=True)
class Output:
    """One image to write: entities beyond those of the stage, values of the voxels, fields."""

    entities: Mapping[str, str]
    values: np.ndarray
    fields: Mapping[str, Any]
    suffix: str = "cestmap"


def stage_outputs(plan: StagePlan, estimate: Estimate) -> Iterator[Output]:
    """Maps of a stage in file units, values voxels last (4D images have one row per volume)."""
    free = plan.stage.free
    to_file = np.array([1 / f.to_si for f in free])[:, None]
    mean, sd = estimate.mean * to_file, estimate.sd * to_file
    for i, f in enumerate(free):
        units = {"Units": f.unit}
        interval = {
            **units,
            "CredibleLevel": CREDIBLE_LEVEL,
            "Interval": "Gaussian, cut at the bounds",
        }
        reach = GAUSSIAN_QUANTILE * sd[i]
        computed = sd[i] > 0
        yield Output({"param": f.name}, mean[i], units)
        yield Output({"param": f.name, "stat": "std"}, sd[i], units)
        for stat, edge in (("cilower", mean[i] - reach), ("ciupper", mean[i] + reach)):
            values = np.where(computed, np.clip(edge, f.low, f.high), 0)
            yield Output({"param": f.name, "stat": stat}, values, interval)
    yield from _joint_outputs(plan, estimate, to_file[:, 0])
    yield Output({"stat": "rsquared"}, estimate.r_squared, {"Units": "arbitrary"})
    yield Output(
        {"stat": "nrmse"},
        100 * estimate.nrmse,
        {
            "Units": "percent",
            "Description": "distance of measured and fitted signal, both of unit norm",
        },
    )
    levels = {str(int(code)): text for code, text in LEVELS.items()}
    yield Output({"stat": "validity"}, estimate.validity, {"Units": "arbitrary", "Levels": levels})
    yield Output({"label": "valid"}, estimate.valid.astype(np.uint8), {"Type": "ROI"}, "mask")
    yield Output(
        {},
        estimate.fitted,
        {
            "Units": "arbitrary",
            "Description": "model signal at the "
            "estimated parameters, on the scale of the measured series",
        },
        "cest",
    )


def _joint_outputs(plan: StagePlan, estimate: Estimate, to_file: np.ndarray) -> Iterator[Output]:
    free = plan.stage.free
    pairs = [(i, j) for i in range(len(free)) for j in range(i, len(free))]
    covariance = estimate.covariance * to_file[:, None, None] * to_file[None, :, None]
    labels = [f"cov({free[i].name},{free[j].name})" for i, j in pairs]
    units = [f"{free[i].unit} * {free[j].unit}" for i, j in pairs]
    yield Output(
        {"stat": "cov"},
        np.stack([covariance[i, j] for i, j in pairs]),
        {"Units": ", ".join(units), "VolumeLabels": labels},
    )
    cross = [(i, j) for i, j in pairs if i != j]
    if cross:
        sd = np.maximum(np.sqrt(np.einsum("iiv->iv", covariance)), 1e-30)
        values = np.stack([covariance[i, j] / (sd[i] * sd[j]) for i, j in cross])
        names = [f"corr({free[i].name},{free[j].name})" for i, j in cross]
        values = values[0] if len(cross) == 1 else values
        yield Output({"stat": "corr"}, values, {"Units": "arbitrary", "VolumeLabels": names})


def propagated_parameters(session: SessionPlan, plan: StagePlan) -> list[str]:
    """Known parameters whose uncertainty enters the covariance of a stage."""
    names = [a.parameter for a in session.auxiliary if a.sd is not None]
    names += [parameter for parameter, _, _ in plan.stage.inherited]
    return [name for name in names if name in plan.problem.known_parameters]


def stage_fields(
    session: SessionPlan, plan: StagePlan, method: str, title: str, datasets: Mapping[str, Path]
) -> dict[str, Any]:
    """Sidecar fields that all maps of a stage share."""
    stage, problem = plan.stage, plan.problem
    sources = [plan.series.image, session.mask]
    sources += [
        a.image for a in session.auxiliary if a.image and a.parameter in problem.known_parameters
    ]
    nominal = [a.quantity for a in session.auxiliary if not a.image]
    copied = ("MagneticFieldStrength", "SpectrometerFrequency", "SaturationTarget")
    return {
        "Model": {
            "Name": stage.model,
            "Pools": ["water", *(pool.name for pool in stage.pools)],
            "Parameters": {f.name: f.parameter for f in stage.free},
            "Constants": {
                name: {"Value": c.value, "Units": c.unit, "Source": c.source}
                for name, c in stage.constants
            },
            "MTConvention": problem.model.mt,
            "PoolsRebalance": problem.model.pools_rebalance,
            "Solver": SOLVER,
            "Normalization": problem.normalization,
            "NoiseSource": "residual",
            "Propagated": propagated_parameters(session, plan),
            "AssumedNominal": nominal,
        },
        "Estimator": {"Name": method, "Mode": "fit", "Recipe": session.recipe.name},
        "EstimationAlgorithm": title,
        "ParameterBounds": {f.name: [f.low, f.high] for f in stage.free},
        "Sources": [bids_uri(path, datasets) for path in sources],
        "SkullStripped": True,
        **{key: plan.series.fields[key] for key in copied if key in plan.series.fields},
    }


def write_stage(
    session: SessionPlan,
    plan: StagePlan,
    estimate: Estimate,
    method: str,
    fields: Mapping[str, Any],
    out_dir: Path,
    reference: Path,
) -> list[Path]:
    """Write all maps of a stage with sidecars; returns the paths of the images."""
    like = load_image(session.mask)
    inside = np.asarray(like.dataobj) > 0
    written = []
    for output in stage_outputs(plan, estimate):
        path = derivative_path(
            out_dir,
            session.subject,
            session.session,
            "cest",
            output.suffix,
            acquisition=plan.acquisition,
            space="cestref",
            model=plan.stage.model,
            desc=method,
            **output.entities,
        )
        blank = 1 if output.entities.get("stat") == "validity" else 0  # 1: outside the mask
        volumes = output.values.shape[:-1]
        image = np.full((*inside.shape, *volumes), blank, _dtype(output.values))
        image[inside] = output.values.T
        sidecar = {
            **fields,
            **output.fields,
            "SpatialReference": bids_uri(reference, {"": out_dir}),
        }
        write_image(path, image, like)
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        written.append(path)
    return written


def _dtype(values: np.ndarray) -> type:
    return np.uint8 if values.dtype == np.uint8 else np.float32


def write_reference(session: SessionPlan, out_dir: Path, datasets: Mapping[str, Path]) -> Path:
    """``cestref``: the M0 (else first) volume of the first stage's series, on its own grid."""
    first = session.stages[0]
    path = reference_path(session, out_dir)
    image = load_image(first.series.image)
    is_m0 = first.problem.protocol.is_m0
    volume = is_m0.index(True) if True in is_m0 else 0
    write_image(path, image.get_fdata(dtype=np.float32)[..., volume], image)
    sources = [bids_uri(first.series.image, datasets)]
    write_json(
        path.with_name(path.name.replace(".nii.gz", ".json")),
        {"Sources": sources, "Volume": volume, "SkullStripped": False, "MotionCorrected": False},
    )
    return path


def reference_path(session: SessionPlan, out_dir: Path) -> Path:
    """Name of the session's ``cestref``."""
    return derivative_path(
        out_dir, session.subject, session.session, "cest", "cestref", desc="coreg"
    )
