"""Speed and memory of the simulator: signals, Jacobians and gradients in voxels per second.

python benchmarks/forward.py [--quick] [--baseline] [--prototype DIR] [--chunk-sizes 32,64,...]

Two problems of 31 volumes with spin-locked trains (13 x 100 ms): water and a semisolid pool, and
an amide pool besides.  Every case runs in a process of its own; these answer in turn, round by
round, and ratios are medians over rounds, so that a busy machine does not decide them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SOLVERS, POOLS = ("reduced", "general"), (2, 3)
TASKS = {
    "forward": "signal",
    "jacobian2": "signal and Jacobian in 2 parameters",
    "jacobian6": "the same in 6 parameters",
    "gradient": "sum of squares and its gradient in 2, reverse mode",
}
FREQUENCY_MHZ = 3 * 42.5764
SATURATED, FEW_SATURATED = 30, 2
MEMORY_VOXELS, MOST_MEMORY_GB = 180_000, 1.0
COMPILE_S, MEMORY_S = 600.0, 1800.0
#: For --quick, where programs are compiled and hardly run.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
BASELINE_VOXELS, BASELINE_COMPILE_S = 200, 180.0
Rounds = dict[tuple[str, int, str], list[float]]


def protocol_of(pools: int, n_saturated: int):  # type: ignore[no-untyped-def]
    """Offsets and amplitudes in the published ranges; nothing is copied."""
    from cestprep.phantom.protocols import fingerprinting_protocol

    offsets = (6.0, 14.0) if pools == 2 else (3.5, 3.5)
    return fingerprinting_protocol(offsets, FREQUENCY_MHZ, True, n_saturated)


def model_of(pools: int):  # type: ignore[no-untyped-def]
    from cestprep.physics.pools import ExchangingPool, PoolModel

    semisolid, amide = ExchangingPool("semisolid", "mt"), ExchangingPool("amide", "cest")
    pools_besides = (semisolid,) if pools == 2 else (amide, semisolid)
    return PoolModel(pools_besides, b1_scales_readout=False)  # nor does the prototype


def varied(pools: int, count: int) -> tuple[str, ...]:
    """Parameters that derivatives are taken by."""
    pool = "semisolid" if pools == 2 else "amide"
    names = (f"{pool}.fraction", f"{pool}.k_exchange", "t1", "t2", "b0_ppm", "b1_scale")
    return names[:count]


def voxels_of(pools: int, n: int) -> dict[str, np.ndarray]:
    """Random tissue; without amide its fraction and rate are 0."""
    rng = np.random.default_rng(0)

    def between(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, n)

    amide = 1.0 if pools == 3 else 0.0
    return {
        "t1": between(0.8, 2.5),
        "t2": between(0.03, 0.15),
        "b0_ppm": between(-0.3, 0.3),
        "b1_scale": between(0.8, 1.2),
        "m0": np.ones(n),
        "semisolid.fraction": between(0.02, 0.3),
        "semisolid.k_exchange": between(5.0, 100.0),
        "semisolid.t2": np.full(n, 40e-6),
        "semisolid.offset_ppm": np.zeros(n),
        "amide.fraction": amide * between(1e-3, 1e-2),
        "amide.k_exchange": amide * between(5.0, 500.0),
        "amide.t2": np.full(n, 0.04),
        "amide.offset_ppm": np.full(n, 3.5),
    }


# ---- what runs in the processes of the cases


def ours(solver: str, pools: int, n_saturated: int) -> Callable[..., Any]:
    from cestprep.physics import simulate

    protocol, model = protocol_of(pools, n_saturated), model_of(pools)
    names = model.parameter_names
    return lambda p: simulate.signal(protocol, model, {k: p[k] for k in names}, solver)


def baseline(pools: int, n_saturated: int) -> Callable[..., Any]:
    sys.path.insert(0, str(HERE))
    import expm_baseline

    b1, offset = schedule(pools, n_saturated)
    return lambda p: expm_baseline.signal(b1, offset, FREQUENCY_MHZ, p)


def prototype(folder: str, pools: int, n_saturated: int) -> Callable[..., Any]:
    sys.path.insert(0, folder)
    import fast_bloch_mcconnell as fast  # type: ignore[import-not-found]

    b1, offset = schedule(pools, n_saturated)
    played = {"b1": b1, "off": offset}

    def signal(p: dict[str, Any]) -> Any:
        renamed = {
            "R1": 1 / p["t1"],
            "R2": 1 / p["t2"],
            "B0": -p["b0_ppm"],
            "B1": p["b1_scale"],
            "fc": p["semisolid.fraction"],
            "kc": p["semisolid.k_exchange"],
            "R2c": 1 / p["semisolid.t2"],
            "fb": p["amide.fraction"],
            "kb": p["amide.k_exchange"],
            "R2b": 1 / p["amide.t2"],
        }
        return fast.forward(renamed, played, pools, "m7", nit=0)

    return signal


def schedule(pools: int, n_saturated: int) -> tuple[np.ndarray, np.ndarray]:
    found = [v.saturation for v in protocol_of(pools, n_saturated).volumes if v.saturation]
    return np.array([s.b1_ut for s in found]), np.array([s.offset_ppm for s in found])


def task_of(signal: Callable[..., Any], pools: int, task: str) -> Callable[..., Any]:
    """Function of a mapping of parameters."""
    import jax
    import jax.numpy as jnp

    from cestprep.physics.simulate import value_and_tangents

    if task == "forward":
        return signal
    names = varied(pools, 6 if task == "jacobian6" else 2)

    def at(p: dict[str, Any], theta: Any) -> Any:
        return signal({**p, **dict(zip(names, theta, strict=True))})

    def stacked(p: dict[str, Any]) -> Any:
        return jnp.stack([p[k] for k in names])

    def loss(theta: Any, p: dict[str, Any]) -> Any:
        return jnp.sum((at(p, theta) - 0.5) ** 2)

    if task == "gradient":
        return lambda p: jax.value_and_grad(loss)(stacked(p), p)[1]
    return lambda p: value_and_tangents(lambda t: at(p, t), stacked(p))


def default_size(solver: str, pools: int, n_free: int, n_saturated: int) -> int:
    """Voxels per chunk as the package chooses them."""
    from cestprep.inference.chunks import voxels_per_chunk
    from cestprep.inference.problem import InverseProblem
    from cestprep.inference.recipe import FreeParameter

    model, names = model_of(pools), varied(pools, n_free)
    rest = tuple(k for k in model.parameter_names if k not in names)
    problem = InverseProblem(
        protocol=protocol_of(pools, n_saturated),
        model=model,
        free=tuple(FreeParameter(k.replace(".", ""), k, 0.0, 1.0, "1") for k in names),
        constants=(),
        known_parameters=rest,
        normalization="free-scale",
        solver=solver,
    )
    return voxels_per_chunk(problem, None, np.dtype(np.float32))


def peak_gb() -> float:
    """Largest resident memory of this process so far (Linux), else NaN."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) * 1024 / 1e9


def work(job: dict[str, Any]) -> None:
    """Answer requests on stdin, a JSON object a line, until it is closed."""
    import jax

    from cestprep.inference.chunks import over_chunks

    kind, pools, n, n_saturated = (job[k] for k in ("kind", "pools", "voxels", "saturated"))
    if kind == "prototype":
        signal = prototype(job["folder"], pools, n_saturated)
    elif kind == "baseline":
        signal = baseline(pools, n_saturated)
    else:
        signal = ours(kind, pools, n_saturated)
    compiled: dict[tuple[str, int], tuple[Callable[..., Any], Any, int]] = {}

    def size_of(task: str) -> int:
        if kind in SOLVERS:
            return min(n, default_size(kind, pools, 6 if task == "jacobian6" else 2, n_saturated))
        return min(n, 256 if kind == "prototype" else BASELINE_VOXELS)

    def compile_task(task: str, size: int) -> float:
        """Time (s) of the first call over that of the second."""
        one = task_of(signal, pools, task)
        fun = jax.jit(lambda chunks: jax.lax.map(one, chunks))
        count = max(1, n // size) * size
        chunks = {
            k: jax.numpy.asarray(v.reshape(-1, size), np.float32)
            for k, v in voxels_of(pools, count).items()
        }
        start = time.perf_counter()
        jax.block_until_ready(fun(chunks))
        first = time.perf_counter() - start
        compiled[task, size] = fun, chunks, count
        return max(0.0, first - count / rate(task, size))

    def rate(task: str, size: int) -> float:
        fun, chunks, count = compiled[task, size]
        start, rounds = time.perf_counter(), 0
        while not rounds or time.perf_counter() - start < job["least_s"]:
            jax.block_until_ready(fun(chunks))
            rounds += 1
        return rounds * count / (time.perf_counter() - start)

    def memory(voxels: int) -> dict[str, float]:
        """Jacobians of a whole brain, chunk by chunk."""
        task = "jacobian2"
        size = min(voxels, size_of(task))
        p = {k: v.astype(np.float32) for k, v in voxels_of(pools, voxels).items()}
        one = task_of(signal, pools, task)
        fun = jax.jit(lambda *values: one(dict(zip(p, values, strict=True))))
        start = time.perf_counter()
        over_chunks(fun, list(p.values()), size)
        return {"peak_gb": peak_gb(), "seconds": time.perf_counter() - start, "chunk": size}

    for line in sys.stdin:
        request = json.loads(line)
        task = request["task"]
        answer: dict[str, float]
        if task == "memory":
            answer = memory(request["voxels"])
        else:
            size = request.get("chunk") or size_of(task)
            answer = {"chunk": size}
            if (task, size) not in compiled:
                answer["compile_s"] = compile_task(task, size)
            answer["rate"] = rate(task, size)
        print(json.dumps(answer), flush=True)


# ---- what asks them


class Worker:
    """A process that measures one case when asked."""

    def __init__(self, job: dict[str, Any], **environment: str) -> None:
        if job["quick"]:
            environment = {"XLA_FLAGS": FAST_COMPILATION, **environment}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, limit_s: float, **request: Any) -> dict[str, float] | None:
        """Its answer; None, and its end, if it takes too long or dies."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        if self.process.poll() is not None:
            return None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            line = stdout.readline() if selector.select(limit_s) else ""
        if not line:
            self.close()
            return None
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    # at once only where times do not matter
    with ThreadPoolExecutor(len(POOLS) if options.quick else 1) as executor:
        problems = list(executor.map(lambda pools: _one_problem(options, pools), POOLS))
    result: dict[str, Any] = {"voxels": options.voxels, "memory_voxels": options.memory_voxels}
    for name in ("speed", "memory", "chunks"):
        result[name] = [row for problem in problems for row in problem[name]]
    return result


def _one_problem(options: argparse.Namespace, pools: int) -> dict[str, list[dict[str, Any]]]:
    workers = {solver: Worker(_job(options, solver, pools)) for solver in SOLVERS}
    if options.prototype:
        flags = "--xla_cpu_use_fusion_emitters=false"
        workers["prototype"] = Worker(_job(options, "prototype", pools), XLA_FLAGS=flags)
    if options.baseline:
        workers["baseline"] = Worker(_job(options, "baseline", pools), NPROC="1")
    speed = _speed(options, pools, workers)
    if not options.quick:  # memory is measured in processes that have done nothing else
        for worker in workers.values():
            worker.close()
        workers = {solver: Worker(_job(options, solver, pools)) for solver in SOLVERS}
    memory = []
    for solver in SOLVERS:
        answer = workers[solver].ask(MEMORY_S, task="memory", voxels=options.memory_voxels)
        memory.append({"pools": pools, "solver": solver, **(answer or {})})
    for worker in workers.values():
        worker.close()
    chunks = _scan(options, pools) if options.chunk_sizes else []
    return {"speed": speed, "memory": memory, "chunks": chunks}


def _job(options: argparse.Namespace, kind: str, pools: int) -> dict[str, Any]:
    few = kind == "baseline"
    return {
        "kind": kind,
        "pools": pools,
        "voxels": min(options.voxels, BASELINE_VOXELS) if few else options.voxels,
        "folder": options.prototype,
        "least_s": 0.0 if options.quick else 0.3,
        "quick": options.quick,
        "saturated": FEW_SATURATED if options.quick else SATURATED,
    }


def _speed(
    options: argparse.Namespace, pools: int, workers: dict[str, Worker]
) -> list[dict[str, Any]]:
    """Rates of all solvers and yardsticks, in turn."""
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        answers: dict[str, list[dict[str, float]]] = {}
        late = set()
        for _ in range(1 + options.rounds):
            for kind, worker in workers.items():
                if kind in late or (kind not in SOLVERS and task == "gradient"):
                    continue
                if kind == "baseline" and task == "jacobian6":
                    continue
                limit = BASELINE_COMPILE_S if kind == "baseline" else COMPILE_S
                answer = worker.ask(limit, task=task)
                if answer is None:
                    late.add(kind)
                    if kind in SOLVERS:
                        raise SystemExit(f"{kind}, {pools} pools, {task}: no answer")
                else:
                    answers.setdefault(kind, []).append(answer)
        rates = {k: [a["rate"] for a in v[1:]] for k, v in answers.items() if len(v) > 1}
        for solver in SOLVERS:
            first = answers[solver][0]
            row: dict[str, Any] = {
                "pools": pools,
                "solver": solver,
                "task": task,
                "voxels_per_s": statistics.median(rates[solver]),
                "fastest": max(rates[solver]),
                "compile_s": first["compile_s"],
                "chunk": first["chunk"],
            }
            for other in ("prototype", "baseline"):
                if other in late:
                    row[f"over_{other}"] = "timed out"
                elif other in rates:
                    pairs = zip(rates[solver], rates[other], strict=False)
                    row[f"over_{other}"] = statistics.median(a / b for a, b in pairs)
            rows.append(row)
        for other in ("prototype", "baseline"):
            if other in rates:
                rows.append(
                    {
                        "pools": pools,
                        "solver": other,
                        "task": task,
                        "voxels_per_s": statistics.median(rates[other]),
                        "fastest": max(rates[other]),
                        "compile_s": answers[other][0]["compile_s"],
                        "chunk": answers[other][0]["chunk"],
                    }
                )
    return rows


def _scan(options: argparse.Namespace, pools: int) -> list[dict[str, Any]]:
    """Rates over the size of a chunk, rounds in turn."""
    found = []
    for solver in SOLVERS:
        worker = Worker(_job(options, solver, pools))
        for task in ("forward", "jacobian2"):
            rates: dict[int, list[float]] = {size: [] for size in options.chunk_sizes}
            for _ in range(1 + options.rounds):
                for size, of_size in rates.items():
                    answer = worker.ask(COMPILE_S, task=task, chunk=size)
                    if answer is not None:
                        of_size.append(answer["rate"])
            medians = {k: statistics.median(v[1:]) for k, v in rates.items() if v[1:]}
            found.append({"pools": pools, "solver": solver, "task": task, "rates": medians})
        worker.close()
    return found


def table_of(result: dict[str, Any]) -> str:
    lines = [
        f"{'pools':5} {'solver':10} {'task':10} {'voxels/s':>10} {'fastest':>10} {'compile s':>9} "
        f"{'chunk':>5} {'/prototype':>10} {'/baseline':>10}"
    ]
    for row in result["speed"]:
        ratios = [row.get(f"over_{other}", "-") for other in ("prototype", "baseline")]
        shown = [r if isinstance(r, str) else f"{r:.3g}" for r in ratios]
        lines.append(
            f"{row['pools']:5} {row['solver']:10} {row['task']:10} {row['voxels_per_s']:10.0f} "
            f"{row['fastest']:10.0f} {row['compile_s']:9.1f} {row['chunk']:5.0f} "
            f"{shown[0]:>10} {shown[1]:>10}"
        )
    lines += [f"  {name}: {meaning}" for name, meaning in TASKS.items()]
    lines.append(
        f"\nPeak memory, 2-parameter Jacobian of {result['memory_voxels']} voxels in chunks "
        f"(at most {MOST_MEMORY_GB:g} GB)"
    )
    for row in result["memory"]:
        if "peak_gb" not in row:
            lines.append(f"{row['pools']:5} {row['solver']:10} no answer")
            continue
        verdict = "too much" if row["peak_gb"] > MOST_MEMORY_GB else "ok"
        lines.append(
            f"{row['pools']:5} {row['solver']:10} {row['peak_gb']:.2f} GB {row['seconds']:8.1f} s  "
            f"{verdict}"
        )
    for row in result["chunks"]:
        rates = "  ".join(f"{k}: {v:.0f}" for k, v in row["rates"].items())
        lines.append(f"{row['pools']:5} {row['solver']:10} {row['task']:10} {rates}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed and memory of the simulator.")
    parser.add_argument("--voxels", type=int, default=4096, help="voxels per call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="one unoptimised round, to see that it runs"
    )
    parser.add_argument("--memory-voxels", type=int, help=f"default: {MEMORY_VOXELS}")
    parser.add_argument("--prototype", metavar="DIR", help="folder of fast_bloch_mcconnell.py")
    parser.add_argument("--baseline", action="store_true", help="compare with expm_baseline.py")
    parser.add_argument(
        "--chunk-sizes",
        type=lambda text: [int(t) for t in text.split(",")],
        metavar="N,N,...",
        help="also scan the size of a chunk",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(json.loads(options.worker))
        return 0
    if options.quick:
        options.rounds = 1
    if options.memory_voxels is None:
        options.memory_voxels = options.voxels if options.quick else MEMORY_VOXELS
    if options.prototype:
        options.prototype = str(Path(options.prototype).resolve())
    result = measure(options)
    print(table_of(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(row.get("peak_gb", 0.0) > MOST_MEMORY_GB for row in result["memory"]))


if __name__ == "__main__":
    sys.exit(main())
