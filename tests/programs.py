"""What XLA is given, looked at as text: nothing that a GPU may lack.

A custom call is a library or host function that XLA runs as it is: it may be missing on a device,
and two batched LAPACK solves in one program can deadlock.  float64 is 64 times slower than float32
on most GPUs.
"""

from __future__ import annotations

import re

import jax

PLATFORMS = ("cpu", "cuda")
#: Custom calls that are on every device: JAX's random bits, and the largest numbers of an array.
ALLOWED = frozenset({"cu_threefry2x32_ffi", "mhlo.topk"})


def faults(program: str) -> list[str]:
    """What a GPU should not be given, in the text of a StableHLO program."""
    plain = re.sub(r'loc\("[^"]*"', "loc(", program)
    plain = re.sub(r'dense<"0x[0-9A-F]*">', "dense<>", plain)  # long words
    found = re.findall(r'custom_call"?[^\n]*?(?:@|call_target_name = ")([\w.$]+)', plain)
    faulty = [f"custom call {name}" for name in sorted(set(found) - ALLOWED)]
    faulty += [
        f"host callback {name}" for name in sorted(set(re.findall(r"\w*callback\w*", plain)))
    ]
    host = re.findall(r"stablehlo\.(?:send|recv|infeed|outfeed)\b", plain)
    faulty += [f"host transfer {name}" for name in sorted(set(host))]
    types = re.findall(r"tensor<([^>]*)>", plain)
    faulty += [
        f"double precision: {t}"
        for t in sorted(set(types))
        if re.search(r"f64|c128|complex<f64", t)
    ]
    faulty += [f"dynamic shape: {t}" for t in sorted(set(types)) if "?" in t]
    return faulty


def lowered(fun, *shapes, platforms=PLATFORMS):
    return jax.jit(fun).trace(*shapes).lower(lowering_platforms=platforms).as_text()
