"""nipype interfaces that make maps and anatomy from scans on the grid of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from cestprep.interfaces.scans import AgainstReferenceInputSpec, place_of


class MapOutputSpec(TraitedSpec):
    """A map with its SD."""

    value = File(exists=True, desc="map in package units, 0 where there is none")
    sd = File(exists=True, desc="its standard deviation")
    rsquared = File(exists=True, desc="share of the signals' variance that the fit explains")
    record = File(exists=True, desc="how good the fit is (.json)")


def _saved(interface: Any, folder: Path, like: Any, found: dict[str, Any]) -> None:
    """Keep volumes as images beside the record, as results of an interface."""
    from cestprep.bids.files import write_image, write_json

    record = found.pop("record", None)
    for name, volume in found.items():
        interface._results[name] = str(write_image(folder / f"{name}.nii.gz", volume, like))
    if record is not None:
        interface._results["record"] = str(write_json(folder / "record.json", record))


class BroughtInputSpec(BaseInterfaceInputSpec):
    """A scan on the grid of the reference."""

    scan = traits.Any(mandatory=True, desc="cestprep.bids.scans.Scan")
    series = File(exists=True, mandatory=True, desc="of BringScan")
    brought = File(exists=True, mandatory=True, desc="record of BringScan")


class MapScan(SimpleInterface):
    """T1, T2, B0 by WASSR or B1 by two angles, whichever the scan is for."""

    input_spec = BroughtInputSpec
    output_spec = MapOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.files import image_data, load_image, read_json
        from cestprep.bids.mapping import map_scan

        volumes = image_data(self.inputs.series)
        noise = read_json(Path(self.inputs.brought))
        found = map_scan(self.inputs.scan, volumes, noise)
        _saved(self, Path(runtime.cwd), load_image(self.inputs.series), found)
        return runtime


class FitFieldsInputSpec(AgainstReferenceInputSpec):
    """Inputs of `FitFields`."""

    alignment = File(exists=True, desc="of RegisterScan; without it headers count")
    t1 = File(exists=True, mandatory=True, desc="T1 in s")
    t1_sd = File(exists=True, desc="its SD")
    t2 = File(exists=True, mandatory=True, desc="T2 in s")
    t2_sd = File(exists=True, desc="its SD")
    mask = File(exists=True, mandatory=True, desc="voxels to fit")
    effort = traits.Any(desc="cestprep.imaging.registration.Effort; None: the head lay still")


class FitFieldsOutputSpec(TraitedSpec):
    """What `FitFields` leaves."""

    b0 = File(exists=True, desc="B0 in ppm")
    b0_sd = File(exists=True, desc="its SD")
    b1 = File(exists=True, desc="B1 over nominal")
    b1_sd = File(exists=True, desc="its SD")
    rsquared = File(exists=True, desc="share of the signals' variance that the fit explains")
    motion = File(exists=True, desc="transforms from the reference to each volume (.npz)")
    record = File(exists=True, desc="residuals before and after (.json)")


class FitFields(SimpleInterface):
    """B0 and B1 from WASABI, and the motion within it."""

    input_spec = FitFieldsInputSpec
    output_spec = FitFieldsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.files import image_data, load_image
        from cestprep.bids.mapping import fit_fields
        from cestprep.progress import ProgressLine

        asked = self.inputs
        relaxation = [
            image_data(getattr(asked, name)) if isdefined(getattr(asked, name)) else None
            for name in ("t1", "t1_sd", "t2", "t2_sd")
        ]
        reference = load_image(asked.mask)
        found = fit_fields(
            asked.scan,
            place_of(asked.alignment),
            reference,
            relaxation,
            ProgressLine("B0 and B1"),
            asked.effort,
        )
        folder = Path(runtime.cwd)
        path = folder / "motion.npz"
        np.savez(path, transforms=found.pop("transforms"))
        self._results["motion"] = str(path)
        _saved(self, folder, reference, found)
        return runtime


class FindBrainInputSpec(BaseInterfaceInputSpec):
    """Inputs of `FindBrain`."""

    t1 = File(exists=True, mandatory=True, desc="T1 in s")
    anchor = File(exists=True, mandatory=True, desc="series whose first unsaturated volume shows")
    volume = traits.Int(0, usedefault=True, desc="that volume")
    effort = traits.Any(mandatory=True, desc="cestprep.imaging.registration.Effort")


class FindBrainOutputSpec(TraitedSpec):
    """What `FindBrain` leaves."""

    brain = File(exists=True, desc="mask")
    priors = File(exists=True, desc="of white matter, grey matter, CSF (4D)")
    displacement = File(exists=True, desc="to the template, mm (x, y, z, 3)")


class FindBrain(SimpleInterface):
    """The template in this head, and with it the brain."""

    input_spec = FindBrainInputSpec
    output_spec = FindBrainOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.files import image_data, load_image
        from cestprep.data.template import brain_template
        from cestprep.imaging.anatomy import normalize
        from cestprep.imaging.tissue import rough_brain

        like = load_image(self.inputs.t1)
        shown = image_data(self.inputs.anchor)[..., self.inputs.volume]
        t1, rough = image_data(self.inputs.t1), rough_brain(shown)
        found = normalize(t1, rough, like.affine, brain_template(), self.inputs.effort)
        volumes = {
            "brain": found.brain.astype(np.uint8),
            "priors": np.moveaxis(found.priors, 0, -1).astype(np.float32),
            "displacement": found.displacement,
        }
        _saved(self, Path(runtime.cwd), like, volumes)
        return runtime


class BringAnatomyInputSpec(AgainstReferenceInputSpec):
    """Inputs of `BringAnatomy`."""

    alignment = File(exists=True, mandatory=True, desc="of RegisterScan")
    mask = File(exists=True, mandatory=True, desc="brain on the grid of the anatomy")
    tissues = InputMultiObject(
        File(exists=True), mandatory=True, desc="white matter, grey matter, CSF"
    )


class BringAnatomyOutputSpec(TraitedSpec):
    """What `BringAnatomy` leaves."""

    brain = File(exists=True, desc="mask")
    tissues = File(exists=True, desc="probabilities of white matter, grey matter, CSF (4D)")


class BringAnatomy(SimpleInterface):
    """Brain and tissues of a segmented anatomy, on the grid of the reference."""

    input_spec = BringAnatomyInputSpec
    output_spec = BringAnatomyOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.files import image_data, load_image
        from cestprep.imaging.grid import Grid
        from cestprep.imaging.resampling import resample

        asked = self.inputs
        like = load_image(asked.reference.images[0])
        grid = Grid(like.shape[:3], like.affine)
        matrix = place_of(asked.alignment)
        brought = [
            resample(image_data(f), load_image(f).affine, grid, [matrix], "linear")
            for f in (asked.mask, *asked.tissues)
        ]
        brain = brought[0] > 0.5
        tissues = np.stack(brought[1:], axis=-1) * brain[..., None]
        volumes = {"brain": brain.astype(np.uint8), "tissues": tissues}
        _saved(self, Path(runtime.cwd), like, volumes)
        return runtime


class SegmentInputSpec(BaseInterfaceInputSpec):
    """Inputs of `SegmentTissues`."""

    t1 = File(exists=True, mandatory=True, desc="T1 in s")
    brain = File(exists=True, mandatory=True, desc="mask")
    priors = File(exists=True, mandatory=True, desc="of FindBrain")


class SegmentOutputSpec(TraitedSpec):
    """What `SegmentTissues` leaves."""

    tissues = File(exists=True, desc="probabilities of white matter, grey matter, CSF (4D)")


class SegmentTissues(SimpleInterface):
    """White matter, grey matter and CSF."""

    input_spec = SegmentInputSpec
    output_spec = SegmentOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.files import image_data, load_image
        from cestprep.imaging.tissue import segment

        priors = np.moveaxis(image_data(self.inputs.priors), -1, 0)
        found = segment(image_data(self.inputs.t1), image_data(self.inputs.brain) > 0, priors)
        like = load_image(self.inputs.t1)
        _saved(self, Path(runtime.cwd), like, {"tissues": np.moveaxis(found, 0, -1)})
        return runtime
