"""nipype interfaces that write what was made of raw scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, isdefined, traits

from cestprep.interfaces.outputs import SavedOutputSpec, SessionInputSpec, sink_of


class SaveScanInputSpec(SessionInputSpec):
    """Inputs of `SaveScan`."""

    scan = traits.Any(mandatory=True, desc="cestprep.bids.scans.Scan")
    series = File(exists=True, desc="of BringScan")
    record = File(exists=True, desc="of BringScan")
    motion = File(exists=True, desc="of FindMotion, or of FitFields")
    alignment = File(exists=True, desc="of RegisterScan")


class SaveScan(SimpleInterface):
    """Write the motion and place of a scan, and the series if a stage starts from it."""

    input_spec = SaveScanInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.files import read_json
        from cestprep.bids.prepared import Found, write_scan

        asked = self.inputs
        motion, place = (
            dict(np.load(path)) if isdefined(path) else None
            for path in (asked.motion, asked.alignment)
        )
        if motion and place and asked.scan.banded:  # from the anchor, as for other scans
            motion["transforms"] = motion["transforms"] @ np.linalg.inv(place["matrix"])
        series = Path(asked.series) if isdefined(asked.series) else None
        record = read_json(Path(asked.record)) if isdefined(asked.record) else {}
        found = Found(series, record, motion, place)
        written = write_scan(sink_of(asked), asked.plan, asked.scan, found)
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveMapInputSpec(SessionInputSpec):
    """Inputs of `SaveMap`."""

    quantity = traits.Str(mandatory=True, desc="T1, T2, B0 or B1")
    value = File(exists=True, mandatory=True, desc="map in package units")
    sd = File(exists=True, mandatory=True, desc="its SD")
    rsquared = File(exists=True, desc="share of variance that its fit explains")
    record = File(exists=True, mandatory=True, desc="how good the fit is (.json)")
    after = File(exists=True, desc="the mask, so that it is written first")


class SaveMap(SimpleInterface):
    """Write a map and its SD."""

    input_spec = SaveMapInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.files import read_json
        from cestprep.bids.prepared import write_map

        asked = self.inputs
        images = {"": Path(asked.value), "std": Path(asked.sd)}
        if isdefined(asked.rsquared):
            images["rsquared"] = Path(asked.rsquared)
        record = read_json(Path(asked.record))
        written = write_map(sink_of(asked), asked.plan, asked.quantity, images, record)
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveAnatomyInputSpec(SessionInputSpec):
    """Inputs of `SaveAnatomy`."""

    brain = File(exists=True, mandatory=True, desc="mask")
    tissues = File(exists=True, mandatory=True, desc="of SegmentTissues")
    displacement = File(exists=True, desc="of FindBrain")


class SaveAnatomyOutputSpec(SavedOutputSpec):
    """What `SaveAnatomy` leaves."""

    mask = File(exists=True, desc="the brain")


class SaveAnatomy(SimpleInterface):
    """Write brain, tissues and the transform to the template."""

    input_spec = SaveAnatomyInputSpec
    output_spec = SaveAnatomyOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.prepared import write_mask, write_tissues, write_warp
        from cestprep.data.template import SPACE

        asked, sink, session = self.inputs, sink_of(self.inputs), self.inputs.plan
        written = []
        if isdefined(asked.displacement):
            written.append(write_warp(sink, session, Path(asked.displacement), SPACE))
        if session.mask in session.made:
            written += write_mask(sink, session, Path(asked.brain))
        if any(r.image in session.made for r in session.regions):
            written += write_tissues(sink, session, Path(asked.tissues))
        self._results["out_files"] = [str(p) for p in written]
        self._results["mask"] = str(session.mask)
        return runtime
