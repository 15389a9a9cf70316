"""Graphs of a session and of a whole run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from cestprep import __version__
from cestprep.bids.plan import SessionPlan
from cestprep.bids.templates import Space
from cestprep.engine.nodes import SafeNode
from cestprep.interfaces.outputs import SaveReference, SaveReport, SaveStage
from cestprep.interfaces.quantify import FitStage
from cestprep.interfaces.spaces import SaveInSpace
from cestprep.settings import Settings
from cestprep.workflows.joining import join
from cestprep.workflows.preparation import init_preparation_wf

REPORT_NODE = "save_report"
#: Memory a fit is expected to take: JAX, its compiler, and one chunk of voxels.
FIT_MEMORY_GB = 1.5
#: And bringing maps to a standard space.
SPACE_MEMORY_GB = 1.5


def workflow_name() -> str:
    """Name with the version in it, since nipype's cache does not see changes of code."""
    return f"cestprep_{__version__.replace('.', '_')}_wf"


def init_run_wf(plans: Sequence[SessionPlan], settings: Settings, datasets: Mapping[str, Path],
                command: str) -> pe.Workflow:
    """Graph of a run: the graphs of its sessions side by side.

    Parameters
    ----------
    plans : sequence of SessionPlan
    settings : Settings
    datasets : mapping of name to root
        Input datasets, for provenance.
    command : str
        Command line shown in the reports.
    """
    workflow = pe.Workflow(name=workflow_name(), base_dir=str(settings.work_dir))
    for plan in plans:
        workflow.add_nodes([init_session_wf(plan, settings, datasets, command)])
    return workflow


def session_node_name(label: str) -> str:
    """Name of a session's graph inside a run."""
    return label.replace("-", "_")


def forget_report(work_dir: Path, label: str) -> None:
    """Make a session's report be written anew by the next run (this one wrote an error page)."""
    folder = work_dir / workflow_name() / session_node_name(label) / REPORT_NODE
    shutil.rmtree(folder, ignore_errors=True)


def init_session_wf(plan: SessionPlan, settings: Settings, datasets: Mapping[str, Path],
                    command: str) -> pe.Workflow:
    """Graph of a session: each stage is fitted and saved, then all are reported."""
    workflow = pe.Workflow(name=session_node_name(plan.label))
    shared = {
        "plan": plan,
        "in_files": [str(p) for p in plan.files],
        "out_dir": str(settings.out_dir),
        "datasets": {name: str(root) for name, root in datasets.items()},
        "method": settings.method,
        "mode": settings.mode,
        "options": settings.method_options,
        "seed": settings.random_seed,
    }
    before = None if plan.preparation is None else init_preparation_wf(plan, shared)
    reference = SafeNode(SaveReference(**shared), name="save_reference")
    workflow.add_nodes([reference])
    _follow(workflow, before, reference)
    report = SafeNode(SaveReport(**shared, command=command), name=REPORT_NODE)
    fits: dict[str, pe.Node] = {}
    saves = [reference]
    workflow.add_nodes([report])
    _follow(workflow, before, report)
    for stage_plan in plan.stages if not settings.stop_after else ():
        name = stage_plan.stage.name
        fit = FitStage(
            plan=plan,
            in_files=shared["in_files"],
            stage=name,
            method=settings.method,
            mode=settings.mode,
            options=settings.method_options,
            training_dir=str(settings.work_dir / "training"),
            seed=settings.random_seed,
        )
        fits[name] = SafeNode(fit, name=f"fit_{name}", mem_gb=FIT_MEMORY_GB)
        _follow(workflow, before, fits[name])
        save = SafeNode(SaveStage(**shared, stage=name), name=f"save_{name}")
        saves.append(save)
        for output in ("estimate", "record", "network"):
            workflow.connect(fits[name], output, save, output)
        earlier = [fits[n] for n in stage_plan.inputs_from]
        _gather(workflow, earlier, "estimate", fits[name], "earlier")
    _bring_to_spaces(workflow, plan.spaces, shared, before, saves)
    _gather(workflow, list(fits.values()), "estimate", report, "estimates")
    _gather(workflow, list(fits.values()), "record", report, "records")
    return workflow


def _bring_to_spaces(
    workflow: pe.Workflow,
    spaces: Sequence[Space],
    shared: Mapping[str, Any],
    before: pe.Workflow | None,
    saves: Sequence[pe.Node],
) -> None:
    """Write what was saved in standard spaces too."""
    if not spaces:
        return
    ends = [(node, "out_files") for node in saves]
    ends += [] if before is None else [(before, "outputnode.out_files")]
    native = join(workflow, ends, "native_files")
    for space in spaces:
        save = SafeNode(
            SaveInSpace(**shared, space=space),
            name=f"save_in_{space.name}_{space.resolution}",
            mem_gb=SPACE_MEMORY_GB,
        )
        workflow.connect(native, "out", save, "native")


def _follow(workflow: pe.Workflow, before: pe.Workflow | None, node: pe.Node) -> None:
    """Let a node wait for what is made before, and run again when that changes."""
    if before is not None:
        workflow.connect(before, "outputnode.out_files", node, "made_files")


def _gather(
    workflow: pe.Workflow, fits: Sequence[pe.Node], output: str, to: pe.Node, field: str
) -> None:
    """Connect an output of some stages, in order, to a list input."""
    if len(fits) < 2:
        for fit in fits:
            workflow.connect(fit, output, to, field)
        return
    merge = join(workflow, [(fit, output) for fit in fits], f"gather_{field}_of_{to.name}")
    workflow.connect(merge, "out", to, field)
