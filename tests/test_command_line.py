"""Command line: faults of usage are sentences with exit code 2; nothing is written before."""

from __future__ import annotations

import os

import pytest
import sessions

from cestprep.cli import tools
from cestprep.cli.participant import main
from cestprep.resources import NoDeviceError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return sessions.write(tmp_path_factory.mktemp("dataset") / "bids", shape=(4, 4, 1))


def call(capsys, *arguments):
    """Exit code and standard error of the program, in this process."""
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as exc:
        code = exc.code
    return code, capsys.readouterr().err


def base(dataset, tmp_path):
    return sessions.arguments(dataset, tmp_path / "out", tmp_path / "work", "--dry-run")


def test_dry_run_writes_nothing(dataset, tmp_path, capsys):
    assert main(base(dataset, tmp_path)) == 0
    assert "sub-01_ses-01: recipe mouse-7t" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()


def test_sloppy_trains_for_a_tenth_unless_told_and_says_so(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    given = [*base(dataset, tmp_path), "--sloppy", "--method", "psvae"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "method psvae, mode fit, steps=600, own_steps=40, seed 0" in out
    assert "cut short (--sloppy): for trials only" in out
    assert main([*given, "--method-option", "steps=80", "paper=true"]) == 0
    assert ", steps=80, paper=true, seed 0" in capsys.readouterr().out
    assert main([*base(dataset, tmp_path), "--sloppy", "--method", "grid"]) == 0
    assert "mode fit, seed 0" in capsys.readouterr().out
    assert "--xla_backend_optimization_level=1" in os.environ.pop("XLA_FLAGS")


@pytest.mark.parametrize("labels", [["01"], ["sub-01"], ["sub-01", "01"]])
def test_prefixes_are_optional(dataset, tmp_path, capsys, labels):
    assert main([*base(dataset, tmp_path), "--participant-label", *labels]) == 0
    assert capsys.readouterr().out.count("sub-01_ses-01: recipe") == 1


USAGE = {
    "unknown participant": (["--participant-label", "99"], "There are 01"),
    "one known, one not": (["--participant-label", "99", "--participant-label", "01"], "99"),
    "unknown session": (["--session-label", "9"], "no such session"),
    "unknown recipe": (["--recipe", "pork-3t"], "neither a packaged recipe nor a readable file"),
    "unknown method": (["--method", "magic"], "invalid choice"),
    "unknown nominal": (["--assume-nominal", "T1"], "invalid choice"),
    "no name": (["--derivatives", "/tmp"], "is not NAME=PATH"),
    "no folder": (["--derivatives", "x=/nowhere"], "is not a folder"),
    "name twice": (["--derivatives", "masks=/tmp"], "'masks' was given before"),
    "taken name": (["--derivatives", "raw=/tmp"], "and not 'raw'"),
    "noise of no stage": (
        ["--noise-sd", "amid=3"],
        "--noise-sd amid=3.0: recipe mouse-7t has no stage 'amid'. Choose from mt, amide",
    ),
    "noise below zero": (["--noise-sd", "mt=-1"], "--noise-sd mt=-1.0: is no standard deviation"),
    "no noise": (["--noise-sd", "0"], "is a finite number above 0"),
    "endless noise": (["--noise-sd", "mt=inf"], "is a finite number above 0"),
    "noise in words": (["--noise-sd", "mt=much"], "neither STAGE=VALUE nor VALUE"),
    "noise that is no number": (["--noise-sd", "nan"], "neither STAGE=VALUE nor VALUE"),
    "noise of a nameless stage": (["--noise-sd", "=3"], "neither STAGE=VALUE nor VALUE"),
    "noise twice": (["--noise-sd", "mt=3", "--noise-sd", "mt=4"], "was given before, as 3.0"),
    "no processes": (["--nprocs", "0"], "above 0"),
    "unknown device": (["--device", "tpu"], "invalid choice"),
}


@pytest.mark.parametrize(("extra", "says"), USAGE.values(), ids=USAGE)
def test_usage_faults(dataset, tmp_path, capsys, extra, says):
    code, err = call(capsys, *base(dataset, tmp_path), *extra)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_bad_folders(dataset, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {
        (tmp_path / "absent", tmp_path / "out", tmp_path / "w"): "is not a folder",
        (empty, tmp_path / "out", tmp_path / "w"): "holds no folder sub-",
        (dataset, dataset, tmp_path / "w"): "inside the input dataset",
        (dataset, dataset / "sub-01", tmp_path / "w"): "inside the input dataset",
        (dataset, dataset / "derivatives", tmp_path / "w"): "inside the input dataset",
        (dataset, tmp_path / "out", dataset / "w"): "inside the input dataset",
        (dataset, tmp_path / "out", tmp_path / "out"): "both -w and the output",
        (dataset, file, tmp_path / "w"): "is a file",
        (dataset, tmp_path / "out", file / "w"): "is a file",
    }
    for (bids, out, work), says in places.items():
        code, err = call(capsys, bids, out, "participant", "--recipe", "mouse-7t", "-w", work)
        assert code == 2, (bids, out, work)
        assert says in err
    assert not (dataset / "w").exists()


@pytest.mark.parametrize("content", [None, "{}", '{"GeneratedBy": null}', "[]", "{"])
def test_foreign_output_folder_is_left_alone(dataset, tmp_path, capsys, content):
    out = tmp_path / "out"
    out.mkdir()
    name = "mine.txt" if content is None else "dataset_description.json"
    (out / name).write_text(content or "")
    arguments = [a for a in base(dataset, tmp_path) if a != "--dry-run"]
    code, err = call(capsys, *arguments)
    assert code == 2
    assert "cestprep" in err
    assert [p.name for p in out.iterdir()] == [name]


def test_broken_recipe_file(dataset, tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    for text, says in (("a: [", "not valid YAML"), ("[]", "a mapping"), ("name: x", "missing")):
        recipe.write_text(text)
        code, err = call(capsys, *base(dataset, tmp_path), "--recipe", recipe)
        assert code == 2
        assert says in err


def test_internal_error_keeps_the_traceback_in_a_file(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cestprep.cli.participant.plan_run", lambda settings: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, err = call(capsys, *base(dataset, tmp_path))
    assert code == 70
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err
    assert "Traceback" in next(tmp_path.glob("cestprep-crash-*")).read_text()


@pytest.fixture
def no_gpu(monkeypatch):
    def find_gpu():
        raise NoDeviceError("Unknown backend")

    monkeypatch.setattr("cestprep.resources.find_gpu", find_gpu)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("by_file", [False, True])
def test_without_a_gpu_nothing_is_begun(dataset, tmp_path, capsys, monkeypatch, by_file):
    monkeypatch.setattr("cestprep.cli.participant.plan_run", lambda settings: 1 / 0)
    file = tmp_path / "settings.toml"
    file.write_text('device = "gpu"')
    asked = ["--config-file", file] if by_file else ["--device", "gpu"]
    arguments = [a for a in base(dataset, tmp_path) if a != "--dry-run"]
    code, err = call(capsys, *arguments, *asked)
    assert code == 2
    assert "--device gpu: JAX" in err
    assert "use --device cpu or auto" in err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_there_is_no_demo(tmp_path, capsys):
    assert tools.main(["demo", str(tmp_path / "demo"), "--device", "gpu"]) == 2
    assert "--device gpu: JAX" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_platform_that_jax_does_not_know(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    code, err = call(capsys, *[a for a in base(dataset, tmp_path) if a != "--dry-run"])
    assert code == 2
    assert "JAX_PLATFORMS=abacus: JAX starts no device" in err
    assert not list(tmp_path.iterdir())


def test_demo_does_not_overwrite(dataset, capsys):
    assert tools.main(["demo", str(dataset)]) == 2
    assert "exists already" in capsys.readouterr().err
