"""What an NVIDIA GPU can reach at all: large square products in torch, fp32 and fp16, and copying on the device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # of `common`

from common import (
    RESULTS,
    Rounds,
    Series,
    environment_table,
    interleave,
    markdown_table,
    parser,
    write_results,
)

from pgn_edge.errors import EngineError
from pgn_edge.gpu import require_architectures

SIDES = (1024, 4096, 8192)
COPY_BYTES = 2**30
COPY = "copy"


def calls_of(copy_bytes: int) -> dict[str, Callable[[], Any]]:
    """Synchronised calls by name: products of each size and type, and one copy of `copy_bytes`."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    calls: dict[str, Callable[[], Any]] = {}

    def synchronised(work: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            work()
            torch.cuda.synchronize()

        return call

    for side in SIDES:
        for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            left, right = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
            out = torch.empty_like(left)
            calls[f"{name} {side}"] = synchronised(partial(torch.matmul, left, right, out=out))
    source = torch.ones(copy_bytes, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    calls[COPY] = synchronised(lambda: target.copy_(source))
    return calls


def rows(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, median and rate of each call."""
    made = []
    for name, series in document["samples_ms"].items():
        p50 = float(np.median(series))
        if name == COPY:
            rate = f"{document['copy_bytes'] / p50 / 1e6:.0f} GB/s"
        else:
            rate = f"{int(name.split()[1]) ** 3 / p50 / 1e9:.1f} 10¹² multiply-adds/s"
        made.append((name, f"{p50:.3f}", rate))
    return made


def main() -> int:
    """Measure and write; exit status 1 where there is no GPU."""
    arguments = parser("What an NVIDIA GPU can reach at all.")
    arguments.set_defaults(output=RESULTS / "gpu")
    arguments.add_argument("--samples", type=int, default=100, help="timed calls of each; default: %(default)s")
    arguments.add_argument("--warmup", type=int, default=10, help="rounds before them; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    try:
        require_architectures("benchmarks/gpu/roofline.py", "run it on a machine with an NVIDIA GPU")
    except EngineError as exc:
        print(exc, file=sys.stderr)
        return 1
    from pgn_edge.runtime.bench_machine import describe_bench_environment

    environment, samples = describe_bench_environment(), Series()
    for name, elapsed_ms, _ in interleave(calls_of(COPY_BYTES), Rounds(given.samples, given.warmup, given.seed)):
        samples.setdefault(name, []).append(elapsed_ms)
    document = {
        "benchmark": "gpu/roofline",
        "environment": environment,
        "copy_bytes": COPY_BYTES,
        "samples_ms": samples,
    }
    table = markdown_table(("side of the square", "p50, ms", "rate"), rows(document))
    text = [f"# What the GPU can reach\n\n{__doc__}\n", table, environment_table(environment)]
    write_results(given.output, "roofline", document, "\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
