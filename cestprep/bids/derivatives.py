"""Names, sidecars and atomic writing of derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cestprep.bids.description import write_description
from cestprep.bids.files import copy_file, load_image, read_json, write_image, write_json
from cestprep.bids.naming import derivative_path
from cestprep.bids.observe import Record
from cestprep.bids.plan import SessionPlan, StagePlan
from cestprep.bids.sidecars import companion
from cestprep.bids.spec import (
    MAP,
    MASK,
    NETWORK,
    REFERENCE,
    SERIES,
    SPACE,
)
from cestprep.errors import Fault, InputError, UsageError
from cestprep.inference import methods
from cestprep.inference.estimate import LEVELS, Estimate, Meaning, Validity
from cestprep.inference.measured import CREDIBLE_LEVEL, MISFIT_P
from cestprep.inference.noise import RESIDUAL


@dataclass(frozen=True)
class Sink:
    """Where derivatives go and what they come from.

    Attributes
    ----------
    out_dir : Path
    datasets : mapping of str to Path
        Roots of the input datasets by name.
    method : str
        Estimation method, ``desc-<method>``.
    mode : str
        One of `cestprep.settings.MODES`.
    options : mapping of str to value
        Options of the method, all of them.
    seed : int
    """

    out_dir: Path
    datasets: Mapping[str, Path]
    method: str
    mode: str = "fit"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def meaning(self) -> Meaning:
        """What means and intervals are."""
        method = methods.load(self.method)
        return method.meaning(method.Options(**self.options))

    def path(
        self, session: SessionPlan, suffix: str, extension: str = ".nii.gz", **entities: str
    ) -> Path:
        """Path of a derivative (see `cestprep.bids.naming.derivative_path`)."""
        return derivative_path(self.out_dir, session, suffix, extension, **entities)

    def map_path(
        self, session: SessionPlan, plan: StagePlan, suffix: str = MAP, **entities: str
    ) -> Path:
        """Path of an estimated map of a stage."""
        shared = {**plan.entities, "space": SPACE, "model": plan.stage.model}
        return self.path(session, suffix, **shared, desc=self.method, **entities)

    def region_path(self, session: SessionPlan, plan: StagePlan, segmentation: str) -> Path:
        """Path of a stage's region table (tables carry no ``space-``)."""
        shared = {**plan.entities, "segmentation": segmentation, "model": plan.stage.model}
        return self.path(session, MAP, ".tsv", **shared, desc=self.method)

    def reference_path(self, session: SessionPlan) -> Path:
        """Path of the session's ``cestref``."""
        return self.path(session, REFERENCE, desc="coreg")

    def uri(self, path: Path) -> str:
        """``bids:<dataset>:<path>`` of a file in one of the datasets (longest root wins)."""
        roots = {**self.datasets, "": self.out_dir}
        for name, root in sorted(roots.items(), key=lambda item: -len(str(item[1]))):
            if path.is_relative_to(root):
                return f"bids:{name}:{path.relative_to(root).as_posix()}"
        return path.as_uri()


#: What the description of a dataset says once a run with ``--sloppy`` wrote into it.
_SLOPPY = "with --sloppy, for trials only: registrations and training were cut short in a session"


def write_dataset(out_dir: Path, links: Mapping[str, Path], *, sloppy: bool = False) -> None:
    """``dataset_description.json`` and ``.bidsignore``, before anything else is written.

    Links of earlier runs into the same folder are kept, and that one of them was sloppy.

    Raises
    ------
    UsageError
        If the folder belongs to another program or to another raw dataset.
    """
    path = out_dir / "dataset_description.json"
    uris = {name: p.resolve().as_uri() for name, p in links.items()}
    earlier, was_sloppy = _earlier(path)
    for name in uris.keys() & earlier.keys():
        if earlier[name] != uris[name]:
            raise UsageError(
                Fault(
                    path,
                    f"was made with {name}={earlier[name]}, but now it is {uris[name]}",
                    "Choose another output folder" + (" or name" if name != "raw" else ""),
                )
            )
    uris = earlier | uris
    sources = [{"URL": uri} for uri in uris.values()]
    links_of = {"SourceDatasets": sources, "DatasetLinks": uris}
    how = _SLOPPY if sloppy or was_sloppy else None
    write_description(out_dir, "cestprep derivatives", "derivative", "cestprep", how, **links_of)


def _earlier(path: Path) -> tuple[dict[str, str], bool]:
    """Links in an existing description by this program, and whether it says `_SLOPPY`."""
    if not path.exists():
        if path.parent.is_dir() and any(path.parent.iterdir()):
            raise UsageError(
                Fault(
                    path.parent,
                    "is not empty and no output folder of cestprep",
                    "Choose a new or empty folder",
                )
            )
        return {}, False
    try:
        content = read_json(path)
        makers = {g.get("Name"): g.get("Description") for g in content.get("GeneratedBy", [])}
        links: dict[str, str] = dict(content.get("DatasetLinks", {}))
    except (InputError, AttributeError, TypeError, ValueError):
        makers, links = {}, {}
    if "cestprep" not in makers:
        raise UsageError(
            Fault(path, "the output folder was not made by cestprep", "Choose another folder")
        )
    return links, makers["cestprep"] == _SLOPPY


@dataclass(frozen=True)
class Output:
    """One image to write: entities beyond those of the stage, values of the voxels, fields."""

    entities: Mapping[str, str]
    values: np.ndarray
    fields: Mapping[str, Any]
    suffix: str = MAP


def levels(noise_source: str) -> dict[Validity, str]:
    """Meaning of the validity codes; what counts as misfit depends on where the noise is from."""
    if noise_source == RESIDUAL:
        return LEVELS
    chance = (
        "noise and errors of the maps explain so large a residual, as a whole or along what an "
        f"error of one map causes, with a probability below {MISFIT_P:g}"
    )
    return LEVELS | {Validity.MISFIT: f"misfit: {chance}, or R² below 0"}


_ENDS = {"cilower": "lower end of the credible interval", "ciupper": "upper end of it"}


def stage_outputs(
    plan: StagePlan, estimate: Estimate, record: Record, meaning: Meaning
) -> Iterator[Output]:
    """Maps of a stage in file units, values voxels last (4D images have one row per volume)."""
    free = plan.stage.free
    to_file = np.array([1 / f.to_si for f in free])[:, None]
    mean, sd = estimate.mean * to_file, estimate.sd * to_file
    ends = {"cilower": estimate.lower * to_file, "ciupper": estimate.upper * to_file}
    for i, f in enumerate(free):
        what = f.meaning or f.parameter
        about = {"Units": f.unit, "Description": f"{what}: {meaning.centre}"}
        spread = {"Units": f.unit, "Description": f"{what}: standard deviation of the estimate"}
        interval = {"CredibleLevel": CREDIBLE_LEVEL, "Interval": meaning.interval}
        yield Output({"param": f.name}, mean[i], about)
        yield Output({"param": f.name, "stat": "std"}, sd[i], spread)
        for stat, edges in ends.items():
            end = {"Units": f.unit, "Description": f"{what}: {_ENDS[stat]}"}
            yield Output({"param": f.name, "stat": stat}, edges[i], end | interval)
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
    meanings = {str(int(code)): text for code, text in levels(record.noise_source).items()}
    validity = {"Units": "arbitrary", "Levels": meanings}
    yield Output({"stat": "validity"}, estimate.validity, validity)
    yield Output({"label": "valid"}, estimate.valid.astype(np.uint8), {"Type": "ROI"}, MASK)
    yield Output(
        {},
        estimate.fitted,
        {
            "Units": "arbitrary",
            "Description": "model signal at the "
            "estimated parameters, on the scale of the measured series",
        },
        SERIES,
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
    if not session.propagate:
        return []
    names = [a.parameter for a in session.auxiliary if a.sd is not None]
    names += [parameter for parameter, _, _ in plan.stage.inherited]
    return [name for name in names if name in plan.problem.known_parameters]


def _sources(sink: Sink, session: SessionPlan, plan: StagePlan) -> list[str]:
    """URIs of everything a stage's maps are made from."""
    used = [a for a in session.auxiliary if a.parameter in plan.problem.known_parameters]
    sources = [plan.series.image, session.mask, *([plan.sequence] if plan.sequence else [])]
    sources += [path for a in used for path in (a.image, a.sd) if path is not None]
    for name in plan.inputs_from:
        earlier = session.stage(name)
        sources += [sink.map_path(session, earlier, param=f.name) for f in earlier.stage.free]
        if session.propagate:
            sources.append(sink.map_path(session, earlier, stat="cov"))
    return [sink.uri(path) for path in sources]


def _known(**fields: float | None) -> dict[str, float]:
    return {name: value for name, value in fields.items() if value is not None}


def stage_fields(
    sink: Sink,
    session: SessionPlan,
    plan: StagePlan,
    voxels_by_solver: Mapping[str, int],
    record: Record,
    algorithm: str,
) -> dict[str, Any]:
    """Sidecar fields that all maps of a stage share; ``algorithm`` says the method in words."""
    stage, problem = plan.stage, plan.problem
    copied = ("MagneticFieldStrength", "SpectrometerFrequency", "SaturationTarget", "FlipAngle")
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
            "B1ScalesReadout": problem.model.b1_scales_readout,
            "Solver": "+".join(voxels_by_solver),
            "SolverVoxels": voxels_by_solver,
            "Normalization": problem.normalization,
            "NoiseSource": record.noise_source,
            **_known(NoiseSD=record.noise_sd, ResidualSD=record.residual_sd),
            "Propagated": propagated_parameters(session, plan),
            "AssumedNominal": [a.quantity for a in session.auxiliary if not a.image],
        },
        "Estimator": estimator_fields(sink, session, plan),
        "EstimationAlgorithm": algorithm,
        "ParameterBounds": {f.name: [f.low, f.high] for f in stage.free},
        "Sources": _sources(sink, session, plan),
        "SpatialReference": sink.uri(sink.reference_path(session)),
        "SkullStripped": True,
        **{key: plan.series.fields[key] for key in copied if key in plan.series.fields},
    }


def estimator_fields(sink: Sink, session: SessionPlan, plan: StagePlan) -> dict[str, Any]:
    """How the numbers were found: method, mode, options, and the network that was reused."""
    fields: dict[str, Any] = {"Name": sink.method, "Mode": sink.mode}
    fields |= {"Recipe": session.recipe.name, "Options": dict(sink.options), "Seed": sink.seed}
    if plan.network is not None:
        record = read_json(plan.network)
        fields["Network"] = {
            "File": sink.uri(plan.network),
            "WeightsSHA256": record["WeightsSHA256"],
            "SubjectsSeen": record["SubjectsSeen"],
            "Version": record["Version"],
        }
    return fields


def copy_network(
    sink: Sink, session: SessionPlan, plan: StagePlan, files: Sequence[Path]
) -> list[Path]:
    """Keep a trained network beside the maps; returns the paths of weights and record."""
    shared = {**plan.entities, "model": plan.stage.model, "desc": sink.method}
    model = {"Name": plan.stage.model}
    about = {"Model": model, "Estimator": estimator_fields(sink, session, plan)}
    written = []
    for file in files:
        path = sink.path(session, NETWORK, file.suffix, **shared)
        if file.suffix == ".json":
            written.append(write_json(path, {**about, **read_json(file)}))
            continue
        written.append(copy_file(file, path))
    return written


def write_stage(
    sink: Sink,
    session: SessionPlan,
    plan: StagePlan,
    estimate: Estimate,
    record: Record,
) -> list[Path]:
    """Write all maps of a stage with sidecars; returns the paths of all files."""
    like = load_image(session.mask)
    inside = np.asarray(like.dataobj) > 0
    title = methods.load(sink.method).TITLE
    fields = stage_fields(sink, session, plan, estimate.voxels_by_solver, record, title)
    written = []
    for output in stage_outputs(plan, estimate, record, sink.meaning):
        path = sink.map_path(session, plan, output.suffix, **output.entities)
        blank = Validity.OUTSIDE_MASK if output.entities.get("stat") == "validity" else 0
        dtype = np.uint8 if output.values.dtype == np.uint8 else np.float32
        image = np.full((*inside.shape, *output.values.shape[:-1]), blank, dtype)
        image[inside] = output.values.T
        written.append(write_image(path, image, like))
        written.append(write_json(companion(path, ".json"), {**fields, **output.fields}))
    return written


def write_reference(sink: Sink, session: SessionPlan) -> list[Path]:
    """``cestref``: the M0 (else first) volume of the first stage's series, on its own grid."""
    first = session.stages[0]
    path = sink.reference_path(session)
    image = load_image(first.series.image)
    volume = first.reference_volume
    fields = {
        "Sources": [sink.uri(first.found)],
        "Volume": volume,
        "SkullStripped": False,
        "MotionCorrected": first.raw is not None,
    }
    return [
        write_image(path, image.get_fdata(dtype=np.float32)[..., volume], image),
        write_json(companion(path, ".json"), fields),
    ]
