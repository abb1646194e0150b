"""The whole chain on an NVIDIA GPU against its peers, fp16, batch 1 and 8, all of them in one interleaved run.

CLIP ViT-B/32 with 16 prompts and a ResNet10 PGN, seeded random weights, 224 x 224 frames. Torch gets its tensor on the
GPU, and so do ONNX Runtime and the ViT alone their canvas: favours to the peers. The chain begins with frames on the
host and ends with scores there, copies included. The ViT alone is one CUDA graph where its engine allows it. Targets,
batch 1: the fastest chain takes at most 1.10 times its ViT alone, and torch eager in float32, as the paper's code runs
it, at least 5 times as long as the chain.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # of `common`

from common import (
    HEADER,
    RESULTS,
    Rounds,
    Series,
    Target,
    environment_table,
    interleave,
    markdown_table,
    parser,
    stats_row,
    targets_table,
    write_results,
)

from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.gpu import require_architectures

EAGER, EAGER_HALF, COMPILED = "torch eager, fp32", "torch eager, fp16", "torch.compile, fp16"
BARE = "ONNX Runtime CUDA, ViT alone"
BACKENDS = ("tensorrt", "tensorrt-rtx", "cuda")  # the last is ONNX Runtime's provider, which needs no plans
BATCHES = (1, 8)
OVERHEAD, OVER_EAGER = 1.10, 5.0

Call = Callable[[], Any]


def chain_name(backend: str) -> str:
    """Of the series of a backend's chain."""
    return f"chain, {backend}"


def alone_name(backend: str) -> str:
    """Of the series of its ViT alone."""
    return f"ViT alone, {backend}"


def torch_calls(files: Any, images: np.ndarray, skipped: dict[str, str]) -> tuple[dict[str, Call], np.ndarray]:
    """The paper's way in torch, synchronised; and its float32 embeddings."""
    import torch
    from peers import load_paper_model

    from pgn_edge.nn.checkpoint import load_checkpoint

    exact = load_paper_model(files).cuda()
    half = load_paper_model(files).cuda().half()
    tensor = torch.from_numpy(load_checkpoint(files.checkpoint).preprocess.normalise(images)).cuda()

    def run(module: Any, tensor: Any) -> np.ndarray:
        with torch.inference_mode():
            embedding = module(tensor)[0]
            torch.cuda.synchronize()
        array: np.ndarray = embedding.float().cpu().numpy()
        return array

    calls: dict[str, Call] = {EAGER: partial(run, exact, tensor), EAGER_HALF: partial(run, half, tensor.half())}
    compiled = torch.compile(half)
    try:
        run(compiled, tensor.half())
    except Exception as exc:
        # A compiler that is absent, too old, or fails: every one of them raises another kind.
        skipped[COMPILED] = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
    else:
        calls[COMPILED] = partial(run, compiled, tensor.half())
    return calls, run(exact, tensor)


def bare_call(vit: Path, canvases: np.ndarray) -> Call:
    """ONNX Runtime's CUDA provider on canvases that lie on the GPU."""
    from runtimes import bare_session, onnxruntime

    session = bare_session(vit, 0, "CUDAExecutionProvider")
    binding = session.io_binding()
    binding.bind_ortvalue_input("canvas", onnxruntime.OrtValue.ortvalue_from_numpy(canvases, "cuda", 0))
    binding.bind_output("embedding", "cuda")

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def open_runtime(files: Any, backend: str) -> Any:
    """Our chain on a backend; plans are compiled first."""
    from pgn_edge.export.compile import CompileOptions, compile_plan
    from pgn_edge.runtime import Runtime

    vit = files.vit("fp16")
    if backend == "cuda":
        return Runtime(vit, {"task": files.task}, provider="cuda")
    options = CompileOptions(backend, max_batch=max(BATCHES))
    for source in (vit, files.task):
        compile_plan(source, source.with_suffix(".plan"), options)
    return Runtime(vit.with_suffix(".plan"), {"task": files.task})


def alone_call(engine: Any, canvases: np.ndarray, width: int) -> Call:
    """The ViT engine alone, from canvases on the GPU to embeddings there."""
    cuda = engine.cuda
    canvas, embedding = cuda.empty(canvases.shape, np.float32), cuda.empty((len(canvases), width), np.float32)
    cuda.upload(canvas, np.ascontiguousarray(canvases))
    run = engine.bind_device({"canvas": canvas}, {"embedding": embedding})
    run()  # what is loaded or allocated at the first run cannot be captured
    cuda.synchronize()
    launch = cuda.capture(run).launch if engine.capturable else run

    def call() -> None:
        launch()
        cuda.synchronize()

    return call


def measure(files: Any, batch: int, rounds: Rounds) -> dict[str, Any]:
    """Milliseconds of each call by name, what was skipped and why, and how far the answers are from torch's."""
    from calls import canvases_of

    from pgn_edge.agreement import compare
    from pgn_edge.export.synthetic import pictures
    from pgn_edge.nn.checkpoint import load_checkpoint

    images, head = pictures(batch, (224, 224), rounds.seed), load_checkpoint(files.checkpoint).head
    canvases, skipped = canvases_of(files, images, 0), dict[str, str]()
    calls, reference = torch_calls(files, images, skipped)
    frames = [("task", np.ascontiguousarray(image[..., ::-1])) for image in images]
    agreement, samples = {}, Series()
    with ExitStack() as stack:
        for backend in BACKENDS:
            try:
                runtime = stack.enter_context(open_runtime(files, backend))
                answer = np.stack([result.embedding for result in runtime.infer_batch(frames)])
                alone = alone_call(runtime.vit, canvases, reference.shape[1])
            except PgnEdgeError as exc:
                skipped[chain_name(backend)] = str(exc)
                continue
            found = compare(reference, answer, head)
            if found.cosine < 0.999:
                raise EngineError(
                    chain_name(backend), expected="the answers of torch", got=str(found), do="look for the fault first"
                )
            agreement[chain_name(backend)] = asdict(found)
            calls |= {chain_name(backend): partial(runtime.infer_batch, frames), alone_name(backend): alone}
        try:
            calls[BARE] = bare_call(files.vit("fp16"), canvases)
        except PgnEdgeError as exc:
            skipped[BARE] = str(exc)
        for name, elapsed_ms, _ in interleave(calls, rounds):
            samples.setdefault(name, []).append(elapsed_ms)
    return {"samples_ms": samples, "skipped": skipped, "agreement": agreement}


def targets_of(samples: Mapping[str, list[float]]) -> list[Target]:
    """The issue's targets, of the fastest chain at batch 1; nothing measured is a target missed."""
    p50 = {name: float(np.median(series)) for name, series in samples.items()}
    ran = [backend for backend in BACKENDS if chain_name(backend) in p50]
    best = min(ran, key=lambda backend: p50[chain_name(backend)], default=None)
    over, gain = float("nan"), float("nan")
    if best is not None:
        over = p50[chain_name(best)] / p50[alone_name(best)]
        gain = p50[EAGER] / p50[chain_name(best)]
    return [
        Target(f"chain / ViT alone, {best}", over, OVERHEAD, False, "x"),
        Target(f"{EAGER} / chain, {best}", gain, OVER_EAGER, True, "x"),
    ]


def sections(document: Mapping[str, Any]) -> list[str]:
    """A table for each batch, and what was skipped."""
    parts = []
    for batch, measured in document["batches"].items():
        rows = [stats_row(name, series, 3) for name, series in measured["samples_ms"].items()]
        parts += [f"Batch {batch}, milliseconds:\n", markdown_table(HEADER, rows)]
        reasons = [f"- {name}: not measured. {reason}\n" for name, reason in measured["skipped"].items()]
        parts += ["".join(reasons)] if reasons else []
    return parts


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed or there is no GPU."""
    arguments = parser("The whole chain on an NVIDIA GPU against its peers.")
    arguments.set_defaults(output=RESULTS / "gpu")
    arguments.add_argument("--samples", type=int, default=500, help="timed calls of each; default: %(default)s")
    arguments.add_argument("--warmup", type=int, default=50, help="rounds before them; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    try:
        require_architectures("benchmarks/gpu/chain.py", "run it on a machine with an NVIDIA GPU")
    except EngineError as exc:
        print(exc, file=sys.stderr)
        return 1
    from peers import Files

    from pgn_edge.runtime.bench_machine import describe_bench_environment

    rounds = Rounds(given.samples, given.warmup, given.seed)
    document: dict[str, Any] = {"benchmark": "gpu/chain", "environment": describe_bench_environment()}
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        files.make(given.seed, ("fp16",), "fp16")
        document["batches"] = {str(batch): measure(files, batch, rounds) for batch in BATCHES}
    targets = targets_of(document["batches"]["1"]["samples_ms"])
    document |= {"targets": [target.to_json() for target in targets], "passed": all(t.met for t in targets)}
    text = [f"# The chain on a GPU\n\n{(__doc__ or '').strip()}\n", targets_table(document["targets"])]
    text += [*sections(document), environment_table(document["environment"])]
    write_results(given.output, "chain", document, "\n".join(text))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
