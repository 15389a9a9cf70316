"""Structure: imports point one way, and the wheel holds the package and nothing else."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cestprep"

#: Layers from below; a module may import its own layer and those below it.
LAYERS = (
    ("documents", "errors", "physics", "progress", "resources", "settings"),
    ("data", "diagnostics", "imaging", "inference", "phantom"),
    ("bids",),
    ("report",),
    ("engine", "interfaces"),
    ("workflows",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
SCIENCE = ("physics", "inference", "imaging", "phantom", "diagnostics")
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path):
    """Full names of everything a module imports, function-level imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = RANK[part(path)]
    for name in imported(path):
        pieces = name.split(".")
        if pieces[0] == "cestprep" and len(pieces) > 1 and pieces[1] in RANK:
            assert RANK[pieces[1]] <= own, f"{part(path)} must not import {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) in SCIENCE], ids=lambda p: p.stem)
def test_science_knows_no_files_and_no_workflows(path):
    foreign = {"nipype", "bids", "nibabel", "pathlib", "os", "pandas", "matplotlib", "yaml"}
    assert not foreign & {name.split(".")[0] for name in imported(path)}


def test_workflows_only_build_graphs():
    for path in (PACKAGE / "workflows").glob("*.py"):
        assert not {"numpy", "jax", "nibabel"} & {n.split(".")[0] for n in imported(path)}


def test_layers_are_complete():
    assert {part(p) for p in MODULES} == set(RANK)


@pytest.mark.parametrize("name", ["interfaces", "workflows", "bids_spec"])
def test_top_level_names_are_links(name):
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).resolve().is_relative_to(PACKAGE)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_heavy(option):
    code = (
        "import sys; from cestprep.cli.participant import main\n"
        f"try: main([{option!r}])\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'nipype', 'bids', 'numpy', 'nibabel'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / "cestprep", ignore=ignore)  # a build folder would remember
    for name in ("interfaces", "workflows", "bids_spec"):
        (source / name).symlink_to((ROOT / name).readlink())
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_wheel_holds_every_module_and_data_file(wheel):
    expected = {
        str(p.relative_to(ROOT))
        for p in PACKAGE.rglob("*")
        if p.is_file() and p.suffix in (".py", ".yaml", ".j2", ".json", ".md", ".typed")
    }
    assert expected <= wheel
    assert "cestprep/data/report/session.html.j2" in expected
    assert "cestprep/bids/spec/pybids_cest.json" in expected


def test_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"cestprep"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_spec_is_generated():
    command = [sys.executable, "-m", "cestprep.bids.spec.pybids_config", "--check"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
