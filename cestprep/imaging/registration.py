"""Rigid, affine and B-spline registration by elastix (mutual information)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from cestprep.imaging.resampling import geometry
from cestprep.imaging.transforms import LPS


@dataclass(frozen=True)
class Options:
    """How hard to search.

    Attributes
    ----------
    levels : int
        Of the pyramid, each with twice the voxels' size of the next.
    iterations : int
        Per level.
    samples : int
        Random places of each iteration, at most every fourth voxel.
    bins : int
        Of the joint histogram.
    cubic : bool
        Whether the moving image is interpolated by cubic splines: linear ones blur, which draws
        grids onto each other.
    seed : int
        Of the samples; the same seed gives the same transform.
    """

    levels: int = 2
    iterations: int = 100
    samples: int = 2048
    bins: int = 32
    cubic: bool = False
    seed: int = 121212


@dataclass(frozen=True)
class Effort:
    """How hard to search for what.

    Attributes
    ----------
    volume : Options
        Place of a volume within its series.
    near : Options
        The same from a start that is nearly right.
    series : Options
        Place of a series.
    template : Options
        Another head.
    rounds : int
        Fits of WASABI, each followed by a registration of all volumes to what it says.
    """

    volume: Options = Options()
    near: Options = Options(levels=1, samples=8192, bins=64, cubic=True)
    series: Options = Options(levels=3, iterations=200)
    template: Options = Options(levels=3, iterations=300, samples=4096)
    rounds: int = 2


THOROUGH = Effort()
#: For trials of the whole pipeline: a few times quicker, less exact.
SLOPPY = Effort(
    volume=Options(iterations=60),
    near=Options(levels=1, iterations=50, samples=4096, cubic=True),
    series=Options(levels=3, iterations=80),
    template=Options(levels=3, iterations=80, samples=2048),
    rounds=1,
)

_FEWEST_SAMPLES = 1024


def register_rigid(
    fixed: tuple[np.ndarray, np.ndarray],
    moving: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray | None = None,
    start: np.ndarray | None = None,
    options: Options = THOROUGH.volume,
) -> np.ndarray:
    """Rigid transform from points of the fixed to points of the moving image.

    Parameters
    ----------
    fixed, moving : (ndarray (x, y, z), affine)
    mask : ndarray of bool, shape of the fixed image
        Where the images are compared; give more than the brain, whose edge is what aligns.
    start : ndarray, shape (4, 4)
        Where to begin; None: where the headers put them.
    options : Options, optional

    Returns
    -------
    ndarray, shape (4, 4)
        In mm, RAS.
    """
    parameters = _map(options, "EulerTransform", _compared(fixed, mask))
    initial = np.eye(4) if start is None else start
    method = _run(fixed, moving, mask, [parameters], initial)
    found = method.GetTransformParameterObject()
    last = found.GetParameterMap(found.GetNumberOfParameterMaps() - 1)
    total: np.ndarray = _rigid_matrix(last) @ initial  # elastix composes: new, then start
    return total


def register_template(
    fixed: tuple[np.ndarray, np.ndarray],
    template: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray | None = None,
    start: np.ndarray | None = None,
    spacing_mm: float = 15.0,
    options: Options = THOROUGH.template,
) -> np.ndarray:
    """Affine, then B-spline registration of a template, by Mattes' MI.

    Parameters
    ----------
    fixed : (ndarray (x, y, z), affine)
        Image of the subject whose tissues differ as the template's do, such as R1.
    template : (ndarray, affine)
    mask : ndarray of bool, optional
        Roughly the brain in the fixed image.
    start : ndarray, shape (4, 4), optional
        Rigid transform to begin with.
    spacing_mm : float
        Between control points.
    options : Options, optional

    Returns
    -------
    ndarray, shape (x, y, z, 3)
        What to add to the place of each voxel (mm, RAS) to be in the template.
    """
    import itk

    voxels = _compared(fixed, mask)
    spline = _map(options, "BSplineTransform", voxels)
    spline["FinalGridSpacingInPhysicalUnits"] = [str(spacing_mm)]
    maps = [_map(options, "AffineTransform", voxels), spline]
    method = _run(fixed, template, mask, maps, np.eye(4) if start is None else start)
    moving = _image(*template, np.float32)
    mover = itk.TransformixFilter[type(moving)].New(moving)
    mover.SetTransformParameterObject(method.GetTransformParameterObject())
    mover.SetComputeDeformationField(True)
    with tempfile.TemporaryDirectory(prefix="cestprep-elastix-") as folder:
        mover.SetOutputDirectory(folder)
        mover.UpdateLargestPossibleRegion()
    field = np.array(itk.array_view_from_image(mover.GetOutputDeformationField()), np.float32)
    displacement: np.ndarray = field.transpose(2, 1, 0, 3) * np.array([-1, -1, 1], np.float32)
    return displacement


def _compared(fixed: tuple[np.ndarray, np.ndarray], mask: np.ndarray | None) -> int:
    """Voxels in which images are compared."""
    return int(fixed[0].size if mask is None else np.count_nonzero(mask))


def _map(options: Options, transform: str, voxels: int) -> dict[str, list[str]]:
    schedule = [str(2 ** (options.levels - 1 - level)) for level in range(options.levels)]
    settings: dict[str, Any] = {
        "Registration": "MultiResolutionRegistration",
        # those that smooth without shrinking smooth the last level too, across the slab's ends
        "FixedImagePyramid": "FixedRecursiveImagePyramid",
        "MovingImagePyramid": "MovingRecursiveImagePyramid",
        "ImagePyramidSchedule": [s for s in schedule for _ in range(3)],
        "Interpolator": "BSplineInterpolator" if options.cubic else "LinearInterpolator",
        "BSplineInterpolationOrder": 3,
        "ResampleInterpolator": "FinalBSplineInterpolator",
        "Resampler": "DefaultResampler",
        "Metric": "AdvancedMattesMutualInformation",
        "NumberOfHistogramBins": options.bins,
        "Optimizer": "AdaptiveStochasticGradientDescent",
        "MaximumNumberOfIterations": options.iterations,
        "MaximumStepLength": 1.0,
        "AutomaticParameterEstimation": "true",
        "AutomaticScalesEstimation": "true",
        "Transform": transform,
        "AutomaticTransformInitialization": "false",
        "HowToCombineTransforms": "Compose",
        "UseDirectionCosines": "true",
        "ImageSampler": "RandomCoordinate",
        "NewSamplesEveryIteration": "true",
        "NumberOfSpatialSamples": min(options.samples, max(_FEWEST_SAMPLES, voxels // 4)),
        "NumberOfResolutions": options.levels,
        "CheckNumberOfSamples": "true",
        "RequiredRatioOfValidSamples": 0.05,
        "ErodeMask": "false",
        "RandomSeed": options.seed,
        "WriteResultImage": "false",
    }
    return {k: [str(x) for x in v] if isinstance(v, list) else [str(v)]
            for k, v in settings.items()}  # fmt: skip


def _run(
    fixed: tuple[np.ndarray, np.ndarray],
    moving: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray | None,
    maps: list[dict[str, list[str]]],
    initial: np.ndarray,
) -> Any:
    """What elastix found, with each transform composed with those before it."""
    import itk  # takes a second, so only where it is used

    # for so few samples threads cost more than they give; registrations go on side by side instead
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    parameters = itk.ParameterObject.New()
    for settings in maps:
        parameters.AddParameterMap(settings)
    method = itk.ElastixRegistrationMethod.New(
        _image(*fixed, np.float32), _image(*moving, np.float32)
    )
    method.SetParameterObject(parameters)
    method.SetLogToConsole(False)
    if mask is not None:
        method.SetFixedMask(_image(mask, fixed[1], np.uint8))
    if not np.array_equal(initial, np.eye(4)):
        start = itk.ParameterObject.New()
        start.AddParameterMap(_rigid_map(initial))
        method.SetInitialTransformParameterObject(start)
    with tempfile.TemporaryDirectory(prefix="cestprep-elastix-") as folder:
        method.SetOutputDirectory(folder)  # it writes files into the current folder otherwise
        method.UpdateLargestPossibleRegion()
    return method


def _image(data: np.ndarray, affine: np.ndarray, kind: type) -> Any:
    import itk

    spacing, direction, origin = geometry(affine)
    image = itk.image_from_array(np.ascontiguousarray(np.asarray(data, kind).T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetOrigin(origin.tolist())
    return image


def _rigid_map(matrix: np.ndarray) -> dict[str, list[str]]:
    """What elastix calls a rigid transform, about the origin."""
    lps = LPS @ matrix @ LPS
    # ITK turns about z, x, y: R = Rz Rx Ry
    z, x, y = Rotation.from_matrix(lps[:3, :3]).as_euler("ZXY")
    numbers = [x, y, z, *lps[:3, 3]]
    return {
        "Transform": ["EulerTransform"],
        "NumberOfParameters": ["6"],
        "TransformParameters": [repr(float(n)) for n in numbers],
        "CenterOfRotationPoint": ["0.0", "0.0", "0.0"],
        "ComputeZYX": ["false"],
        "HowToCombineTransforms": ["Compose"],
        "InitialTransformParameterFileName": ["NoInitialTransform"],
    }


def _rigid_matrix(found: Any) -> np.ndarray:
    """Matrix between RAS points of elastix' rigid transform."""
    x, y, z, *shift = (float(n) for n in found["TransformParameters"])
    centre = np.array([float(n) for n in found["CenterOfRotationPoint"]])
    turn = Rotation.from_euler("ZXY", [z, x, y]).as_matrix()
    lps = np.eye(4)
    lps[:3, :3] = turn
    lps[:3, 3] = np.array(shift) + centre - turn @ centre
    matrix: np.ndarray = LPS @ lps @ LPS
    return matrix
