"""Promises of the engine: killed workers, signals, JAX in the parent, failing nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import sessions
from processes import alive, descendants, resident_bytes

from cestprep.engine.result import ExitCode, RunResult, SessionResult


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return sessions.write(tmp_path_factory.mktemp("dataset") / "bids", shape=(6, 6, 1))


def start(dataset, tmp_path, code="from cestprep.cli.participant import main"):
    """The program in the background, in a session of its own."""
    arguments = sessions.arguments(dataset, tmp_path / "out", tmp_path / "work")
    guarded = f"import sys\n{code}\nif __name__ == '__main__': sys.exit(main({arguments!r}))\n"
    script = tmp_path / "program.py"
    script.write_text(guarded)
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)


def worker_in_fit(process):
    """Wait until a worker has started a fit; its process."""
    for line in process.stderr:
        if "fit_mt started" in line:
            break
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in descendants(process.pid):
            if resident_bytes(pid) > 250e6 and descendants(pid) == []:
                return pid
        time.sleep(0.2)
    raise AssertionError("no worker started")


def test_killed_worker_ends_the_run_with_75(dataset, tmp_path):
    process = start(dataset, tmp_path)
    os.kill(worker_in_fit(process), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.RETRY
    assert "died abruptly" in err
    status = sessions.status(tmp_path / "out")
    assert status["exit_code"] == 75
    assert "died abruptly" in (tmp_path / "out/sub-01_ses-01.html").read_text()
    assert not list((tmp_path / "out").rglob(".tmp-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_program_and_workers(dataset, tmp_path, number):
    process = start(dataset, tmp_path)
    worker = worker_in_fit(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "the same command resumes" in err
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def test_jax_in_the_parent_neither_hangs_the_workers_nor_burns_a_core(dataset, tmp_path):
    """While they compute it waits; two thirds of a core went into garbage collection once."""
    code = (
        "import time\n"
        "from cestprep.cli.participant import main as real\n"
        "def main(arguments):\n"
        "    import jax.numpy as jnp\n"
        "    jnp.linalg.norm(jnp.ones((64, 64)) @ jnp.ones((64, 64))).block_until_ready()\n"
        "    cpu, clock = time.process_time(), time.monotonic()\n"
        "    code = real(arguments)\n"
        "    share = (time.process_time() - cpu) / (time.monotonic() - clock)\n"
        "    print('share of a core', share, file=sys.stderr)\n"
        "    return code"
    )
    process = start(dataset, tmp_path, code)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert 0 < float(err.split("share of a core")[1].split()[0]) < 0.4


def test_failing_node_is_reported_everywhere(dataset, tmp_path):
    """A map that cannot be written: the other stage goes on, all accounts agree."""
    root = tmp_path / "out/sub-01/ses-01"
    root.mkdir(parents=True)
    (tmp_path / "out/dataset_description.json").write_text(
        '{"GeneratedBy": [{"Name": "cestprep"}]}'
    )
    (root / "cest").write_text("a file where a folder belongs")
    result = sessions.run(sessions.arguments(dataset, tmp_path / "out", tmp_path / "work"))
    status = sessions.status(tmp_path / "out")
    assert result.returncode == status["exit_code"] == 1
    (session,) = status["sessions"]
    assert session["status"] == "failed"
    assert any("save_mt" in e for e in session["errors"])
    assert "save_mt" in (tmp_path / "out/sub-01_ses-01.html").read_text()
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "out/logs").rglob("crash-*.txt"))


@pytest.mark.parametrize(
    ("sessions_", "code"),
    [
        ([SessionResult("a")], 0),
        ([SessionResult("a"), SessionResult("b", errors=["x"])], 1),
        ([SessionResult("a"), SessionResult("b", errors=["x"], unusable_input=True)], 1),
        ([SessionResult("b", errors=["x"], unusable_input=True)], 65),
        ([SessionResult("a"), SessionResult("b", errors=["x"], retryable=True)], 75),
    ],
)
def test_exit_codes(sessions_, code):
    assert RunResult(sessions_).exit_code == code
