"""Key numbers of a stage, the same in report and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cestprep.inference.estimate import Estimate, Validity
from cestprep.inference.recipe import FreeParameter

#: Columns of the quality table.
COLUMNS = {
    "model": "model of the stage",
    "method": "estimation method the numbers are from",
    "parameter": "estimated parameter",
    "unit": "unit of the parameter",
    "low": "lower bound of the estimate",
    "high": "upper bound of the estimate",
    "n_mask": "voxels in the mask",
    "n_valid": "voxels with a usable estimate (validity ok, at bound or not Gaussian)",
    "median": "median over valid voxels",
    "quartile1": "first quartile over valid voxels",
    "quartile3": "third quartile over valid voxels",
    "median_sd": "median standard deviation of the estimate over valid voxels",
    "share_at_bound": "share of valid voxels at a bound of this parameter",
    "median_nrmse_percent": "median NRMSE of measured and fitted signal, both of unit norm",
}


def parameter_table(estimate: Estimate, free: Sequence[FreeParameter]) -> pd.DataFrame:
    """Per parameter, over valid voxels: median, quartiles, median SD and share at a bound.

    Returns
    -------
    DataFrame
        Columns ``parameter, unit, low, high, n_mask, n_valid, median, quartile1, quartile3,
        median_sd, share_at_bound``; values in file units, ``NaN`` where no voxel is valid.
    """
    valid = estimate.valid
    rows = []
    for i, f in enumerate(free):
        values = estimate.mean[i, valid] / f.to_si
        q1, median, q3 = np.percentile(values, [25, 50, 75]) if values.size else [np.nan] * 3
        edge = 1e-3 * (f.high - f.low)
        at_bound = (values < f.low + edge) | (values > f.high - edge)
        rows.append(
            {
                "parameter": f.name,
                "unit": f.unit,
                "low": f.low,
                "high": f.high,
                "n_mask": valid.size,
                "n_valid": int(valid.sum()),
                "median": median,
                "quartile1": q1,
                "quartile3": q3,
                "median_sd": np.median(estimate.sd[i, valid]) / f.to_si if values.size else np.nan,
                "share_at_bound": at_bound.mean() if values.size else np.nan,
            }
        )
    return pd.DataFrame(rows)


#: Columns of the region tables.
REGION_COLUMNS = {
    "index": "number of the region in this table",
    "name": "region",
    "parameter": "estimated parameter",
    "unit": "unit of all statistics of the parameter",
    "n_voxels": "voxels of the region inside the mask",
    "n_valid": "of these, voxels with a usable estimate; all statistics are over them",
    "fraction_valid": "n_valid over n_voxels",
    "share_at_bound": "share of valid voxels at a bound of this parameter",
    "mean": "mean",
    "std": "standard deviation between voxels",
    "median": "median",
    "quartile1": "first quartile",
    "quartile3": "third quartile",
    "median_sd": "median standard deviation of the estimate in one voxel",
}


def region_table(
    estimate: Estimate, free: Sequence[FreeParameter], regions: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Statistics of every parameter in every region, long format, in file units.

    Parameters
    ----------
    estimate : Estimate
    free : sequence of FreeParameter
    regions : mapping of str to ndarray of bool, shape (V,)

    Returns
    -------
    DataFrame
        Columns of `REGION_COLUMNS`; NaN where a region has no valid voxel.
    """
    rows = []
    for index, (name, inside) in enumerate(regions.items(), start=1):
        part = parameter_table(estimate.take(inside), free)
        values = estimate.mean[:, inside & estimate.valid]
        for f, row, own in zip(free, part.to_dict("records"), values, strict=True):
            rows.append(
                {
                    **row,
                    "index": index,
                    "name": name,
                    "n_voxels": row["n_mask"],
                    "fraction_valid": row["n_valid"] / max(row["n_mask"], 1),
                    "mean": own.mean() / f.to_si if own.size else np.nan,
                    "std": own.std(ddof=1) / f.to_si if own.size > 1 else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=list(REGION_COLUMNS))


def validity_counts(
    estimate: Estimate, meanings: Mapping[Validity, str]
) -> list[tuple[int, str, int, float]]:
    """Code, meaning, count and share of the validity codes that occur in the mask."""
    codes, counts = np.unique(estimate.validity, return_counts=True)
    return [
        (int(code), meanings[Validity(code)], int(count), count / estimate.validity.size)
        for code, count in zip(codes, counts, strict=True)
    ]


def median_nrmse(estimate: Estimate) -> float:
    """Median NRMSE of the computed voxels, in percent (NaN if there is none)."""
    computed = estimate.nrmse[estimate.nrmse > 0]
    return float(100 * np.median(computed)) if computed.size else float("nan")
