"""Graphs that make aligned series, maps and anatomy of raw scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from cestprep.bids.plan import SessionPlan
from cestprep.bids.scans import Scan
from cestprep.bids.spec import WASABI
from cestprep.engine.nodes import SafeNode
from cestprep.interfaces.maps import BringAnatomy, FindBrain, FitFields, MapScan, SegmentTissues
from cestprep.interfaces.prepared import SaveAnatomy, SaveMap, SaveScan
from cestprep.interfaces.scans import BringScan, FindMotion, RegisterScan
from cestprep.workflows.joining import join

#: Memory that registration and resampling of a series are expected to take.
SCAN_MEMORY_GB = 1.5


def init_scan_wf(scan: Scan, plan: SessionPlan, shared: Mapping[str, Any]) -> pe.Workflow:
    """Graph of a scan: motion within it, its place, one resampling, and files of these.

    Outputs of ``outputnode``: ``series``, ``record``, ``out_files``.
    """
    preparation = plan.preparation
    assert preparation is not None
    workflow = pe.Workflow(name=f"scan_{scan.name}")
    reference = preparation.series[0]
    files = list(dict.fromkeys(str(p) for p in (*scan.images, *reference.images)))
    given = {"scan": scan, "in_files": files}
    outputs = pe.Node(IdentityInterface(["series", "record", "out_files"]), name="outputnode")
    save = SafeNode(SaveScan(**shared, scan=scan), name="save_scan")
    workflow.connect(save, "out_files", outputs, "out_files")
    moves = scan in preparation.moving
    if moves and scan != reference:
        place = _node(RegisterScan(**given, reference=reference, effort=plan.effort), "register")
        workflow.connect(place, "alignment", save, "alignment")
    bring = _node(BringScan(**given, reference=reference), "bring")
    for name in ("series", "record"):
        workflow.connect(bring, name, save, name)
        workflow.connect(bring, name, outputs, name)
    if moves and scan != reference:
        workflow.connect(place, "alignment", bring, "alignment")
    if moves and not scan.banded:
        motion = _node(FindMotion(**given, effort=plan.effort), "motion")
        workflow.connect(motion, "motion", bring, "motion")
        workflow.connect(motion, "motion", save, "motion")
    return workflow


def _node(interface: Any, name: str) -> pe.Node:
    return SafeNode(interface, name=name, mem_gb=SCAN_MEMORY_GB)


def init_fields_wf(
    scan: Scan, quantities: Sequence[str], plan: SessionPlan, shared: Mapping[str, Any]
) -> pe.Workflow:
    """Graph of B0 and B1 by WASABI, which is fitted where it was measured, volume by volume."""
    preparation = plan.preparation
    assert preparation is not None
    workflow = pe.Workflow(name="fields")
    names = ["mask", "t1", "t1_sd", "t2", "t2_sd"]
    inputs = pe.Node(IdentityInterface(names), name="inputnode")
    reference, moves = preparation.series[0], scan in preparation.moving
    given = {
        "scan": scan,
        "in_files": [str(p) for p in (*scan.images, *reference.images)],
        "reference": reference,
    }
    fit = _node(FitFields(**given, effort=plan.effort if moves else None), "fit")
    workflow.connect([(inputs, fit, [(n, n) for n in names])])
    saved = []
    if moves:
        place = _node(RegisterScan(**given, effort=plan.effort), "register")
        motion = SafeNode(SaveScan(**shared, scan=scan), name="save_scan")
        workflow.connect([
            (place, fit, [("alignment", "alignment")]),
            (place, motion, [("alignment", "alignment")]),
            (fit, motion, [("motion", "motion")]),
        ])  # fmt: skip
        saved.append(motion)
    for quantity in quantities:
        save = SafeNode(SaveMap(**shared, quantity=quantity), name=f"save_{quantity}")
        name = quantity.lower()
        workflow.connect([(inputs, save, [("mask", "after")]),
                          (fit, save, [(name, "value"), (f"{name}_sd", "sd"), ("record", "record"),
                                       ("rsquared", "rsquared")])])  # fmt: skip
        saved.append(save)
    _collect(workflow, [(node, "out_files") for node in saved])
    return workflow


def init_anatomy_wf(plan: SessionPlan, shared: Mapping[str, Any]) -> pe.Workflow:
    """Graph of the brain and its tissues, from ``t1`` and the ``series`` of the first stage."""
    workflow = pe.Workflow(name="anatomy")
    inputs = pe.Node(IdentityInterface(["t1", "series"]), name="inputnode")
    outputs = pe.Node(IdentityInterface(["mask", "out_files"]), name="outputnode")
    brain = _node(FindBrain(volume=plan.stages[0].reference_volume, effort=plan.effort), "brain")
    tissues = _node(SegmentTissues(), "tissues")
    save = SafeNode(SaveAnatomy(**shared), name="save")
    workflow.connect([
        (inputs, brain, [("t1", "t1"), ("series", "anchor")]),
        (inputs, tissues, [("t1", "t1")]),
        (brain, tissues, [("priors", "priors")]),
        (tissues, save, [("tissues", "tissues")]),
        (brain, save, [("displacement", "displacement")]),
        (save, outputs, [("mask", "mask"), ("out_files", "out_files")]),
    ])  # fmt: skip
    if plan.mask in plan.made:
        workflow.connect(brain, "brain", tissues, "brain")
        workflow.connect(brain, "brain", save, "brain")
    else:
        tissues.inputs.brain = save.inputs.brain = str(plan.mask)
    return workflow


def init_given_anatomy_wf(plan: SessionPlan, shared: Mapping[str, Any]) -> pe.Workflow:
    """Graph of brain and tissues from an anatomy that was segmented before."""
    preparation = plan.preparation
    assert preparation is not None
    files, reference = preparation.given, preparation.series[0]
    assert files is not None
    scan = Scan("T1w", (files.t1w,))
    given = {
        "scan": scan,
        "in_files": [str(p) for p in (*scan.images, *reference.images)],
        "reference": reference,
    }
    workflow = pe.Workflow(name="anatomy")
    outputs = pe.Node(IdentityInterface(["mask", "out_files"]), name="outputnode")
    place = _node(RegisterScan(**given, effort=plan.effort), "register")
    tissues = [str(p) for p in files.tissues]
    bring = _node(BringAnatomy(**given, mask=str(files.mask), tissues=tissues), "bring")
    save_place = SafeNode(SaveScan(**shared, scan=scan), name="save_scan")
    save = SafeNode(SaveAnatomy(**shared), name="save")
    written = join(workflow, [(save, "out_files"), (save_place, "out_files")], "files")
    workflow.connect([
        (place, bring, [("alignment", "alignment")]),
        (place, save_place, [("alignment", "alignment")]),
        (bring, save, [("brain", "brain"), ("tissues", "tissues")]),
        (written, outputs, [("out", "out_files")]),
        (save, outputs, [("mask", "mask")]),
    ])  # fmt: skip
    return workflow


def _collect(workflow: pe.Workflow, ends: Sequence[tuple[Any, str]]) -> None:
    """Add an ``outputnode`` whose ``out_files`` are all files of some ends."""
    outputs = pe.Node(IdentityInterface(["out_files"]), name="outputnode")
    workflow.connect(join(workflow, ends, "files"), "out", outputs, "out_files")


def init_preparation_wf(plan: SessionPlan, shared: Mapping[str, Any]) -> pe.Workflow:
    """Graph of everything before the estimation; ``outputnode.out_files`` are what it writes."""
    preparation = plan.preparation
    assert preparation is not None
    workflow = pe.Workflow(name="preparation")
    scans = {
        scan.name: init_scan_wf(scan, plan, shared)
        for scan in (*preparation.series, *preparation.scans)
        if scan.name != WASABI
    }
    ends = [(wf, "outputnode.out_files") for wf in scans.values()]
    maps = {q: name for q, name in preparation.maps.items() if name != WASABI}
    fits = {q: _node(MapScan(scan=preparation.scan_of(q)), f"fit_{q}") for q in maps}
    for quantity, name in maps.items():
        workflow.connect([(scans[name], fits[quantity], [
            ("outputnode.series", "series"), ("outputnode.record", "brought")])])  # fmt: skip
    anatomy = None
    if preparation.anatomy:
        if preparation.given is not None:
            anatomy = init_given_anatomy_wf(plan, shared)
            workflow.add_nodes([anatomy])
        else:
            anatomy = init_anatomy_wf(plan, shared)
            first = scans[preparation.series[0].name]
            workflow.connect(first, "outputnode.series", anatomy, "inputnode.series")
            _supply(workflow, fits, plan, "T1", [("value", "t1")], anatomy)
        ends.append((anatomy, "outputnode.out_files"))
    for quantity, fit in fits.items():
        save = SafeNode(SaveMap(**shared, quantity=quantity), name=f"save_{quantity}")
        fields = ("value", "sd", "rsquared", "record")
        workflow.connect([(fit, save, [(name, name) for name in fields])])
        if anatomy is not None:
            workflow.connect(anatomy, "outputnode.mask", save, "after")
        ends.append((save, "out_files"))
    both = [q for q, name in preparation.maps.items() if name == WASABI]
    if both:
        fields = init_fields_wf(preparation.scan_of(both[0]), both, plan, shared)
        for quantity in ("T1", "T2"):
            name = quantity.lower()
            wanted = [("value", name), ("sd", f"{name}_sd")][: 1 + plan.propagate]
            _supply(workflow, fits, plan, quantity, wanted, fields)
        if anatomy is None:
            fields.inputs.inputnode.mask = str(plan.mask)
        else:
            workflow.connect(anatomy, "outputnode.mask", fields, "inputnode.mask")
        ends.append((fields, "outputnode.out_files"))
    _collect(workflow, ends)
    return workflow


def _supply(
    workflow: pe.Workflow,
    fits: Mapping[str, pe.Node],
    plan: SessionPlan,
    quantity: str,
    wanted: Sequence[tuple[str, str]],
    to: pe.Workflow,
) -> None:
    """Give a graph a map, and its SD where that is wanted: made, or the one there is."""
    for end, field in wanted:
        if quantity in fits:
            workflow.connect(fits[quantity], end, to, f"inputnode.{field}")
            continue
        source = plan.source_of(quantity)
        path = source.image if end == "value" else source.sd
        if path is not None:
            setattr(to.inputs.inputnode, field, str(path))
