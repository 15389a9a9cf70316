"""nipype interfaces that find the place of scans and bring them to the reference."""

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


class ScanInputSpec(BaseInterfaceInputSpec):
    """A scan, its images, and the scan that all are brought to."""

    scan = traits.Any(mandatory=True, desc="cestprep.bids.scans.Scan")
    in_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="images of the scans, so that changes count"
    )


class MotionInputSpec(ScanInputSpec):
    """Inputs of `FindMotion`."""

    effort = traits.Any(mandatory=True, desc="cestprep.imaging.registration.Effort")


class AgainstReferenceInputSpec(ScanInputSpec):
    """A scan and the reference."""

    reference = traits.Any(mandatory=True, desc="scan whose anchor is the reference")


class MotionOutputSpec(TraitedSpec):
    """What `FindMotion` leaves."""

    motion = File(exists=True, desc="transforms from the anchor to each volume (.npz)")


class FindMotion(SimpleInterface):
    """Rigid motion of every volume of a scan from its anchor."""

    input_spec = MotionInputSpec
    output_spec = MotionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.scans import scan_affine, scan_data
        from cestprep.imaging.motion import estimate_motion
        from cestprep.imaging.tissue import head_of
        from cestprep.progress import ProgressLine

        scan = self.inputs.scan
        data, affine = scan_data(scan), scan_affine(scan)
        head = head_of(data[..., scan.anchor])
        line = ProgressLine(scan.name).phase("motion", "volumes")
        found = estimate_motion(data, affine, head, scan.anchor, self.inputs.effort, line)
        path = Path(runtime.cwd) / "motion.npz"
        np.savez(path, transforms=found.transforms, gated=found.gated, lost=found.lost)
        self._results["motion"] = str(path)
        return runtime


class RegisterInputSpec(AgainstReferenceInputSpec, MotionInputSpec):
    """Inputs of `RegisterScan`."""


class RegisterOutputSpec(TraitedSpec):
    """What `RegisterScan` leaves."""

    alignment = File(exists=True, desc="transform from the reference to the anchor (.npz)")


class RegisterScan(SimpleInterface):
    """Place of a scan, by its anchor, seen from the reference."""

    input_spec = RegisterInputSpec
    output_spec = RegisterOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.scans import scan_affine, scan_data
        from cestprep.imaging.alignment import align
        from cestprep.imaging.tissue import head_of

        scan, reference = self.inputs.scan, self.inputs.reference
        fixed = scan_data(reference)[..., reference.anchor]
        anchor = scan_data(scan)[..., scan.anchor]
        images = (fixed, scan_affine(reference)), (anchor, scan_affine(scan))
        found = align(*images, head_of(fixed), self.inputs.effort)
        path = Path(runtime.cwd) / "alignment.npz"
        np.savez(path, matrix=found.matrix, moved_mm=found.moved_mm, failed=found.failed)
        self._results["alignment"] = str(path)
        return runtime


class BringInputSpec(AgainstReferenceInputSpec):
    """Inputs of `BringScan`."""

    motion = File(exists=True, desc="of FindMotion; without it the scan has one place")
    alignment = File(exists=True, desc="of RegisterScan; without it headers count")


class BringOutputSpec(TraitedSpec):
    """What `BringScan` leaves."""

    series = File(exists=True, desc="volumes on the grid of the reference")
    record = File(exists=True, desc="lost volumes and noise (.json)")


class BringScan(SimpleInterface):
    """Resample every volume of a scan once, on the grid of the reference."""

    input_spec = BringInputSpec
    output_spec = BringOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.files import load_image, same_grid, write_image, write_json
        from cestprep.bids.noise import scan_noise
        from cestprep.bids.scans import scan_affine, scan_data
        from cestprep.imaging.grid import Grid
        from cestprep.imaging.series import bring

        scan, reference = self.inputs.scan, load_image(self.inputs.reference.images[0])
        data, grid = scan_data(scan), Grid(reference.shape[:3], reference.affine)
        within, lost = motion_of(self.inputs.motion, data.shape[3])
        transforms = within @ place_of(self.inputs.alignment)
        gain, own = 1.0, Grid(data.shape[:3], scan_affine(scan))
        noise = scan_noise(scan, data)
        if not same_grid(own, grid) or (transforms != np.eye(4)).any():
            gone = np.flatnonzero(lost).tolist()
            partly = bool(scan.times_s)  # curves can do without some of their volumes
            brought = bring(data, own.affine, grid, transforms, gone, partly=partly)
            data, gain = brought.volumes, brought.noise_gain
        folder = Path(runtime.cwd)
        record: dict[str, Any] = {"LostVolumes": np.flatnonzero(lost).tolist(), "NoiseGain": gain}
        if noise is not None:
            record |= {"NoiseSD": noise.sd * gain, "NoiseSource": noise.source}
        self._results["series"] = str(write_image(folder / "series.nii.gz", data, reference))
        self._results["record"] = str(write_json(folder / "record.json", record))
        return runtime


def place_of(alignment: Any) -> Any:
    """Matrix from the reference to a scan's anchor; without an alignment headers count."""
    import numpy as np

    return dict(np.load(alignment))["matrix"] if isdefined(alignment) else np.eye(4)


def motion_of(motion: Any, count: int) -> tuple[Any, Any]:
    """Transforms from a scan's anchor to each volume ``(count, 4, 4)``, and which are lost."""
    import numpy as np

    if isdefined(motion):
        stored = dict(np.load(motion))
        return stored["transforms"], stored["lost"]
    return np.broadcast_to(np.eye(4), (count, 4, 4)), np.zeros(count, bool)
