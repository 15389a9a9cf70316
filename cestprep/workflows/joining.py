"""Nodes that join what several others give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe

from cestprep.engine.nodes import SafeNode


def join(workflow: pe.Workflow, ends: Sequence[tuple[Any, str]], name: str) -> pe.Node:
    """Add a node whose ``out`` lists the outputs (node or graph, its field) of some ends."""
    merge = SafeNode(Merge(len(ends)), name=name)
    for i, (node, field) in enumerate(ends, start=1):
        workflow.connect(node, field, merge, f"in{i}")
    return merge
