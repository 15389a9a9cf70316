"""Figures of the report, as PNG data URIs; arrays in, text out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

MAX_SLICES = 12
DPI = 110
PANEL_WIDTH = 2.3  # inches
BAR_WIDTH = 0.6
VALIDITY_COLOURS = (
    *("#2a9d8f", "#f0f0f0", "#264653", "#e9c46a", "#d1495b"),
    *("#7b2d8b", "#457b9d", "#8d99ae", "#000000"),
)


@dataclass(frozen=True)
class Panel:
    """One map to show.

    Attributes
    ----------
    title : str
        With the unit.
    volume : ndarray, shape (x, y, z)
        Towards right, anterior, superior; NaN where there is nothing to show.
    colours : str
        Name of a perceptual colour map.
    """

    title: str
    volume: np.ndarray
    colours: str = "viridis"


def mosaic(volume: np.ndarray) -> np.ndarray:
    """Evenly spaced axial slices in one image; rows count from anterior, columns from left."""
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


def _grid(
    shape: tuple[int, ...], aspect: float, count: int, columns: int
) -> tuple[Figure, list[Axes]]:
    """Figure with one axes per image of a given shape, sized so that images fill them."""
    columns = min(columns, count)
    rows = -(-count // columns)
    height = PANEL_WIDTH * aspect * shape[0] / shape[1] + 0.35
    figure = Figure((columns * (PANEL_WIDTH + BAR_WIDTH), rows * height), DPI, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def maps_figure(panels: Sequence[Panel], aspect: float, columns: int = 4) -> str:
    """Maps side by side, each with a colour bar; colours from the 2nd to the 98th percentile.

    Parameters
    ----------
    panels : sequence of Panel
        All of one shape.
    aspect : float
        Height over width of a voxel.
    columns : int
    """
    images = [mosaic(panel.volume) for panel in panels]
    figure, axes = _grid(images[0].shape, aspect, len(panels), columns)
    for axis, panel, image in zip(axes, panels, images, strict=False):
        finite = image[np.isfinite(image)]
        low, high = np.percentile(finite, [2, 98]) if finite.size else (0.0, 1.0)
        colours = mpl.colormaps[panel.colours].with_extremes(bad="#ffffff")
        shown = axis.imshow(image, cmap=colours, vmin=low, vmax=max(high, low + 1e-9),
                            interpolation="nearest", aspect=aspect)  # fmt: skip
        axis.set_title(panel.title, fontsize=9)
        bar = figure.colorbar(shown, ax=axis, fraction=0.06, pad=0.02, shrink=0.85, extend="both")
        bar.ax.tick_params(labelsize=8)
    for axis in axes:
        axis.set_axis_off()
    return _png(figure)


def validity_figure(codes: np.ndarray, names: dict[int, str], aspect: float) -> str:
    """Map of validity codes with a legend of those that occur."""
    image = mosaic(codes.astype(float))
    height = PANEL_WIDTH * aspect * image.shape[0] / image.shape[1]
    figure = Figure((PANEL_WIDTH + 3.4, max(height, 1.2)), DPI, layout="constrained")
    axis = figure.subplots()
    n = len(VALIDITY_COLOURS)
    axis.imshow(image, cmap=ListedColormap(list(VALIDITY_COLOURS)), interpolation="nearest",
                norm=BoundaryNorm(np.arange(n + 1) - 0.5, n), aspect=aspect)  # fmt: skip
    axis.set_axis_off()
    present = [int(c) for c in np.unique(codes)]
    handles = [Patch(facecolor=VALIDITY_COLOURS[c], edgecolor="#999999", label=f"{c}  {names[c]}")
               for c in present]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    return _png(figure)


def signal_figure(measured: np.ndarray, fitted: np.ndarray, is_m0: Sequence[bool]) -> str:
    """Measured and fitted signal with residual; inputs ``(n_volumes, V)`` of unit norm."""
    figure = Figure((8.5, 3.8), DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
    volumes = np.arange(1, measured.shape[0] + 1)
    for axis, values in ((top, measured), (bottom, measured - fitted)):
        low, high = np.percentile(values, [16, 84], axis=1)
        axis.fill_between(volumes, low, high, color="#b8c4d6", label="16-84 % of voxels")
        axis.plot(
            volumes, values.mean(axis=1), "o", ms=3.5, color="#1d3557", label="measured, mean"
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    top.plot(volumes, fitted.mean(axis=1), "-", color="#d1495b", label="fitted, mean")
    reference = volumes[np.array(is_m0)]
    if reference.size:
        top.plot(reference, measured.mean(axis=1)[np.array(is_m0)], "s", ms=8, mfc="none",
                 color="#1d3557", label="m0scan")  # fmt: skip
    top.set_ylabel("signal / norm")
    top.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    bottom.axhline(0, color="#999999", lw=0.8)
    bottom.set_ylabel("measured - fitted")
    bottom.set_xlabel("volume")
    return _png(figure)


def training_figure(curve: Sequence[Sequence[Any]]) -> str:
    """Loss in training and of the voxels kept aside, by step, a panel for each part."""
    parts = list(dict.fromkeys(row[0] for row in curve))
    figure = Figure((4.2 * len(parts), 2.4), DPI, layout="constrained")
    for axis, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        steps, seen, aside = zip(*(row[1:] for row in curve if row[0] == part), strict=True)
        axis.plot(steps, seen, color="#8d99ae", label="in training")
        axis.plot(steps, aside, color="#1d3557", label="voxels kept aside")
        axis.set_title(part, fontsize=9)
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=8, frameon=False)
    return _png(figure)


def motion_figure(tables: Mapping[str, pd.DataFrame]) -> str:
    """Shifts and rotations of each scan by volume; columns as in motion tables of BIDS."""
    figure = Figure((3.1 * len(tables), 3.4), DPI, layout="constrained")
    axes = figure.subplots(2, len(tables), squeeze=False, sharex="col")
    for column, (name, table) in enumerate(tables.items()):
        volumes = np.arange(1, len(table) + 1)
        kinds = (("trans", 1.0, "shift, mm"), ("rot", 180 / np.pi, "rotation, degrees"))
        for row, (kind, factor, label) in enumerate(kinds):
            axis = axes[row, column]
            for along, colour in zip("xyz", ("#d1495b", "#2a9d8f", "#1d3557"), strict=True):
                axis.plot(volumes, factor * table[f"{kind}_{along}"], color=colour, label=along)
            axis.axhline(0, color="#999999", lw=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
            if column == 0:
                axis.set_ylabel(label, fontsize=8)
        axes[0, column].set_title(name, fontsize=9)
        axes[1, column].set_xlabel("volume", fontsize=8)
    axes[0, 0].legend(fontsize=8, frameon=False, ncols=3)
    return _png(figure)


def outlines_figure(
    reference: np.ndarray, outlines: Sequence[tuple[str, str, np.ndarray]], aspect: float
) -> str:
    """Reference image with named outlines: name, colour, mask."""
    image = mosaic(reference)
    figure, axes = _grid(image.shape, aspect, 1, 1)
    width, height = figure.get_size_inches()
    figure.set_size_inches(2.2 * width, 2.2 * height)
    axes[0].imshow(image, cmap="gray", interpolation="nearest", aspect=aspect)
    handles = []
    for name, colour, mask in outlines:
        shown = mosaic(np.asarray(mask, float))
        if np.nanmax(shown) > 0:
            axes[0].contour(shown, levels=[0.5], colors=colour, linewidths=0.8)
            handles.append(Patch(facecolor=colour, label=name))
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    axes[0].set_axis_off()
    return _png(figure)


def reference_figure(reference: np.ndarray, mask: np.ndarray, aspect: float) -> str:
    """Reference image with the outline of the mask."""
    image = mosaic(reference)
    figure, axes = _grid(image.shape, aspect, 1, 1)
    axes[0].imshow(image, cmap="gray", interpolation="nearest", aspect=aspect)
    axes[0].contour(mosaic(mask.astype(float)), levels=[0.5], colors="#e9c46a", linewidths=1)
    axes[0].set_axis_off()
    return _png(figure)
