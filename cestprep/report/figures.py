"""Figures of the report, as PNG data URIs; arrays in, text out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

MAX_SLICES = 12
VALIDITY_COLOURS = (
    "#2a9d8f",
    "#f0f0f0",
    "#264653",
    "#e9c46a",
    "#d1495b",
    "#7b2d8b",
    "#457b9d",
    "#8d99ae",
    "#000000",
)


@dataclass(frozen=True)
class Panel:
    """One map to show.

    Attributes
    ----------
    title : str
    volume : ndarray, shape (x, y, z)
        NaN where there is nothing to show.
    unit : str
    colours : str
        Name of a perceptual colour map.
    limits : (low, high) or None
        Colour range; None takes the 2nd and 98th percentile.
    """

    title: str
    volume: np.ndarray
    unit: str
    colours: str = "viridis"
    limits: tuple[float, float] | None = None


def bounding_box(mask: np.ndarray, margin: int = 2) -> tuple[slice, slice, slice]:
    """Smallest box around a mask, in-plane with a margin."""
    box = []
    for axis in range(3):
        places = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        grow = margin if axis < 2 else 0
        box.append(slice(max(places[0] - grow, 0), places[-1] + 1 + grow))
    return box[0], box[1], box[2]


def mosaic(volume: np.ndarray) -> np.ndarray:
    """Evenly spaced axial slices in one image, first axis to the right, second upwards."""
    n = volume.shape[2]
    chosen = np.unique(np.linspace(0, n - 1, min(n, MAX_SLICES)).round().astype(int))
    columns = int(np.ceil(np.sqrt(len(chosen))))
    rows = -(-len(chosen) // columns)
    height, width = volume.shape[1], volume.shape[0]
    image = np.full((rows * height, columns * width), np.nan)
    for i, z in enumerate(chosen):
        r, c = divmod(i, columns)
        image[r * height : (r + 1) * height, c * width : (c + 1) * width] = volume[:, ::-1, z].T
    return image


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def maps_figure(panels: Sequence[Panel], columns: int = 4) -> str:
    """Maps side by side, each with a colour bar that carries its unit."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.9 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        finite = panel.volume[np.isfinite(panel.volume)]
        low, high = panel.limits or (np.percentile(finite, [2, 98]) if finite.size else (0, 1))
        colours = mpl.colormaps[panel.colours].with_extremes(bad="#ffffff")
        shown = axis.imshow(
            mosaic(panel.volume),
            cmap=colours,
            vmin=low,
            vmax=max(high, low + 1e-9),
            interpolation="nearest",
        )
        axis.set_title(panel.title, fontsize=10)
        bar = figure.colorbar(shown, ax=axis, fraction=0.05, pad=0.02, extend="both")
        bar.set_label(panel.unit, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    for axis in axes:
        axis.set_axis_off()
    return _png(figure)


def validity_figure(codes: np.ndarray, names: dict[int, str]) -> str:
    """Map of validity codes with a legend of those that occur."""
    figure = Figure(figsize=(6.4, 2.9), dpi=110, layout="constrained")
    axis = figure.subplots()
    n = len(VALIDITY_COLOURS)
    norm = BoundaryNorm(np.arange(n + 1) - 0.5, n)
    axis.imshow(
        mosaic(codes.astype(float)),
        cmap=ListedColormap(list(VALIDITY_COLOURS)),
        norm=norm,
        interpolation="nearest",
    )
    axis.set_axis_off()
    present = [int(c) for c in np.unique(codes)]
    handles = [
        Patch(facecolor=VALIDITY_COLOURS[c], edgecolor="#999999", label=f"{c}  {names[c]}")
        for c in present
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    return _png(figure)


def signal_figure(measured: np.ndarray, fitted: np.ndarray) -> str:
    """Mean measured and fitted signal with residual; inputs ``(n_volumes, V)`` of unit norm."""
    figure = Figure(figsize=(8.5, 3.6), dpi=110, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    volumes = np.arange(1, measured.shape[0] + 1)
    low, high = np.percentile(measured, [16, 84], axis=1)
    top.fill_between(volumes, low, high, color="#b8c4d6", label="measured, 16-84 % of voxels")
    top.plot(volumes, measured.mean(axis=1), "o", ms=4, color="#1d3557", label="measured, mean")
    top.plot(volumes, fitted.mean(axis=1), "-", color="#d1495b", label="fitted, mean")
    top.set_ylabel("signal / norm")
    top.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    bottom.axhline(0, color="#999999", lw=0.8)
    bottom.plot(volumes, (measured - fitted).mean(axis=1), "o-", ms=3, lw=0.8, color="#1d3557")
    bottom.set_ylabel("residual")
    bottom.set_xlabel("volume")
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return _png(figure)


def reference_figure(reference: np.ndarray, mask: np.ndarray) -> str:
    """Reference image with the outline of the mask."""
    figure = Figure(figsize=(3.4, 3.1), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.imshow(mosaic(reference), cmap="gray", interpolation="nearest")
    axis.contour(mosaic(mask.astype(float)), levels=[0.5], colors="#e9c46a", linewidths=1)
    axis.set_axis_off()
    return _png(figure)
