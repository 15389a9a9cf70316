"""Settings: file and command line agree, what is typed wins, defaults never override a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cestprep import resources
from cestprep.cli.parser import make_parser, settings_of
from cestprep.errors import UsageError
from cestprep.settings import ALL_STAGES, SOLVER_CHOICES, Settings, read_toml

METHODS = ("psvae", "voxelwise", "other")


@pytest.fixture
def folders(tmp_path):
    for name in ("bids", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path


def parse(folders, *extra):
    arguments = [str(folders / "bids"), str(folders / "out"), "participant", *map(str, extra)]
    return settings_of(make_parser(METHODS).parse_args(arguments), METHODS)


EVERYTHING = (
    "--participant-label", "sub-01", "02", "--session-label", "a", "--recipe", "mouse-7t",
    "--method", "other", "--assume-nominal", "B1", "B0", "--random-seed", "7", "--nprocs", "3",
    "--mem", "2.5", "--device", "cpu", "--solver", "general", "-vv",
    "--noise-sd", "mt=12.5", "3", "--no-propagate", "--no-motion", "--stop-after", "preproc",
    "--method-option", "steps=9", "paper=true",
    "--mode", "transfer+refine", "--checkpoint", "networks",
    "--output-spaces", "MNI152NLin2009aSym:res-2", "--sloppy",
)  # fmt: skip


def everything(folders):
    return (*EVERYTHING, "-w", folders / "work", "--derivatives", f"masks={folders / 'masks'}")


def test_round_trip(folders):
    settings = parse(folders, *everything(folders))
    file = folders / "cestprep.toml"
    file.write_text(settings.to_toml())
    assert Settings(**read_toml(file)) == settings
    assert parse(folders, "--config-file", file) == settings


def test_every_setting_differs_from_its_default_in_the_round_trip(folders):
    """Otherwise the round trip could lose a setting unnoticed."""
    settings, default = parse(folders, *everything(folders)), parse(folders)
    for name in Settings.__dataclass_fields__:
        if name not in ("bids_dir", "out_dir"):
            assert getattr(settings, name) != getattr(default, name), name


def test_typed_options_win_and_untyped_ones_never_do(folders):
    file = folders / "cestprep.toml"
    file.write_text('method = "other"\nrandom_seed = 7\nnprocs = 5\nverbose = 1\n')
    settings = parse(folders, "--config-file", file, "--random-seed", "1")
    assert (settings.random_seed, settings.method) == (1, "other")
    assert (settings.nprocs, settings.verbose) == (5, 1)


def test_noise_by_stage_or_for_all(folders):
    assert parse(folders).noise_sd == {}
    given = parse(folders, "--noise-sd", "7", "--noise-sd", "mt=1e-3", "amide=2").noise_sd
    assert given == {ALL_STAGES: 7, "mt": 0.001, "amide": 2}


def test_typed_propagation_wins(folders):
    file = folders / "cestprep.toml"
    file.write_text("propagate = false\n[noise_sd]\nmt = 4\n")
    settings = parse(folders, "--config-file", file)
    assert (settings.propagate, settings.noise_sd) == (False, {"mt": 4})
    settings = parse(folders, "--config-file", file, "--propagate", "--noise-sd", "5")
    assert (settings.propagate, settings.noise_sd) == (True, {ALL_STAGES: 5})


FAULTS = {
    "unknown key": ("colour = 1", "unknown setting 'colour'"),
    "wrong kind": ('nprocs = "two"', "expected a whole number"),
    "flag for a number": ("nprocs = true", "expected a whole number"),
    "wrong list": ("participants = [1]", "expected a list of texts"),
    "unknown method": ('method = "magic"', "Choose from psvae, voxelwise, other"),
    "unknown nominal": ('assume_nominal = ["T1"]', "Choose from B0, B1"),
    "unknown device": ('device = "tpu"', "Choose from auto, cpu, gpu"),
    "no device": ("device = 1", "device is 1, expected text"),
    "nothing to run on": ("nprocs = 0", "must be positive"),
    "empty path": ('work_dir = ""', "expected a path"),
    "empty name": ('[derivatives]\n"" = "/tmp"', "letters and digits"),
    "dataset called raw": ('[derivatives]\nraw = "/tmp"', "and not 'raw'"),
    "noise of zero": ("[noise_sd]\nmt = 0", "mt=0: is no standard deviation"),
    "endless noise": ("[noise_sd]\nmt = inf", "finite number above 0"),
    "noise that is no number": ("[noise_sd]\nmt = nan", "finite number above 0"),
    "noise beyond numbers": (f"[noise_sd]\nmt = 1{400 * '0'}", "finite number above 0"),
    "noise in words": ('[noise_sd]\nmt = "five"', "expected a table of names and numbers"),
    "noise for a flag": ("[noise_sd]\nmt = true", "expected a table of names and numbers"),
    "noise without a table": ("noise_sd = 5", "expected a table of names and numbers"),
    "number for a flag": ("propagate = 1", "propagate is 1, expected true or false"),
    "number for a list": ("participants = 3", "expected a list of texts"),
    "endless memory": ("memory_gb = inf", "must be positive"),
    "nested without end": ("a = " + 5000 * "[", "cannot be read as TOML"),
    "no TOML": ("a = [", "cannot be read as TOML"),
}


@pytest.mark.parametrize(("text", "says"), FAULTS.values(), ids=FAULTS)
def test_faulty_files_are_refused_in_words(folders, text, says):
    file = folders / "cestprep.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says):
        parse(folders, "--config-file", file)


def test_absent_file(folders):
    with pytest.raises(UsageError, match="cannot be read"):
        parse(folders, "--config-file", folders / "absent.toml")


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, 4, None),
        ({"cpu.max": "150000 100000", "memory.max": str(2 * 2**30)}, 1, 1.8),
        ({"cpu.max": "max 100000", "memory.max": "max"}, 4, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4, None),
        ({"memory/memory.limit_in_bytes": str(2**30)}, 4, 0.9),
        ({"cpu.max": "10000 100000"}, 1, None),
    ],
)
def test_resources_follow_the_control_group(tmp_path, monkeypatch, files, cores, memory):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(resources, "CGROUP", Path(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    assert resources.usable_cores() == cores
    whole = resources.usable_memory_gb()
    assert whole == memory if memory else whole > 0
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
    assert resources.usable_memory_gb() == pytest.approx(0.45)
    for nothing in ("0", "²", "all"):
        monkeypatch.setenv("SLURM_MEM_PER_NODE", nothing)
        assert resources.usable_memory_gb() == whole


def test_solver_choices_are_the_solvers_that_exist():
    from cestprep.physics.solvers import SOLVERS

    assert ("auto", *SOLVERS) == SOLVER_CHOICES
