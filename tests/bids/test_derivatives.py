"""Fields of sidecars that depend on what a run was asked."""

from __future__ import annotations

import json

import pytest
import sessions

from cestprep.bids.derivatives import Sink, levels, stage_fields, write_dataset
from cestprep.bids.observe import Record
from cestprep.inference.estimate import LEVELS, Validity
from cestprep.inference.noise import RESIDUAL


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = sessions.write(tmp_path_factory.mktemp("dataset") / "bids", shape=(4, 4, 1))
    sessions.sd_of_t1(lambda d: d)(root)
    return root


def fields(root, stage, source=RESIDUAL, **options):
    planned = sessions.plan(root, **options)
    sink = Sink(root / "out", {"raw": root}, "voxelwise")
    record = Record(source, None if source == RESIDUAL else 12.5, 13.5, {})
    return stage_fields(sink, planned, planned.stage(stage), {"reduced": 1}, record, "fit")


def test_a_dataset_keeps_saying_that_a_sloppy_run_wrote_into_it(tmp_path):
    links = {"raw": tmp_path / "raw"}

    def says(sloppy):
        write_dataset(tmp_path / "out", links, sloppy=sloppy)
        (maker,) = json.loads((tmp_path / "out/dataset_description.json").read_text())[
            "GeneratedBy"
        ]
        return maker.get("Description", "")

    assert says(False) == ""
    assert "--sloppy" in says(True)
    assert "--sloppy" in says(False)


def test_propagated_uncertainty_is_listed(dataset):
    assert fields(dataset, "mt")["Model"]["Propagated"] == ["t1"]
    stage_one = ["semisolid.fraction", "semisolid.k_exchange"]
    assert fields(dataset, "amide")["Model"]["Propagated"] == ["t1", *stage_one]
    for stage in ("mt", "amide"):
        assert fields(dataset, stage, propagate=False)["Model"]["Propagated"] == []


def test_sources_are_what_was_used(dataset):
    carried, exact = (set(fields(dataset, "amide", propagate=p)["Sources"]) for p in (True, False))
    assert exact < carried
    left_out = sorted(uri.rsplit("_", 2)[-2:] for uri in carried - exact)
    assert left_out == [["desc-voxelwise", "cestmap.nii.gz"], ["stat-std", "T1map.nii.gz"]]
    assert any("stat-cov" in uri for uri in carried - exact)


def test_source_of_noise(dataset):
    for source in ("option", "background", "repeated M0", RESIDUAL):
        model = fields(dataset, "mt", source)["Model"]
        assert (model["NoiseSource"], model["ResidualSD"]) == (source, 13.5)
        assert model.get("NoiseSD") == (None if source == RESIDUAL else 12.5)


def test_meaning_of_misfit_depends_on_the_noise():
    assert levels(RESIDUAL) == LEVELS
    for source in ("option", "background", "repeated M0"):
        changed = {code for code in Validity if levels(source)[code] != LEVELS[code]}
        assert changed == {Validity.MISFIT}
        assert "probability below 0.001" in levels(source)[Validity.MISFIT]
