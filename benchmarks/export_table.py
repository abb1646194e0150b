"""Every backbone, layout, library space and precision, exported at true size: does it agree, and does it build?

Weights are random, saved in each library's own format and read back with `--weights`, so that the real loading code
runs; `builtin` has its own. PGNs are untrained. Each row is one task on one engine: prompts as tokens in torch against
PGN graph and ViT graph, both in the row's precision, with every rounding that a GPU makes; the certificate of its
inversion; and whether TensorRT-RTX builds both plans. A refusal is a result too. Under random weights and a random head
the classes of four frames lie close together, so one flip of them says little; the cosine is the figure to read.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import environment_table, markdown_table, parser, write_results

import pgn_edge.export.task
from pgn_edge.agreement import compare
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import Precision
from pgn_edge.errors import InversionError, PgnEdgeError
from pgn_edge.export.compile import compile_plan
from pgn_edge.export.frozen import VitGraph, vit_graphs
from pgn_edge.export.parity import run_onnx
from pgn_edge.export.synthetic import pictures
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.files import write_text
from pgn_edge.geometry import Layout
from pgn_edge.heads import Head
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, LibrarySpace, PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.runtime.environment import describe_environment

BACKBONES = (
    "builtin",
    "open_clip:ViT-B-32/openai",
    "open_clip:ViT-B-16/openai",
    "open_clip:ViT-L-14/openai",
    "open_clip:ViT-B-16-SigLIP/webli",
    "timm:vit_base_patch32_224.augreg_in21k_ft_in1k",
    "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    "timm:vit_small_patch16_224.dino",
    "timm:vit_small_patch14_reg4_dinov2.lvd142m@224",
    "torchvision:vit_b_32",
)
LAYOUTS: tuple[Layout, ...] = ("append", "inset")
SPACES: tuple[LibrarySpace, ...] = ("token", "pixel")
# The PGN has no int8 form: its float32 engine goes with an int8 ViT.
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
PROMPTS, LIBRARY, CLASSES, FRAMES = 16, 256, 10, 4
HEADER = (
    "backbone", "layout", "K", "library", "precision", "max abs", "cosine", "flips", "within limits",
    "condition", "residual", "pixels", "kept fp32", "TensorRT-RTX: PGN", "ViT",
)  # fmt: skip

Row = dict[str, Any]


def random_weights(name: str, folder: Path) -> Path | None:
    """A file of random weights for `name`, as its library saves them; None for `builtin`."""
    family, _, rest = name.partition(":")
    rest = rest.partition("@")[0]
    if family == "builtin":
        return None
    torch.manual_seed(0)
    if family == "open_clip":
        import open_clip

        model = open_clip.create_model(rest.partition("/")[0], pretrained=None)
    elif family == "timm":
        import timm

        model = timm.create_model(rest, pretrained=False)
    else:
        import torchvision

        model = getattr(torchvision.models, rest)()
    for key, parameter in model.named_parameters():
        if key.endswith("gamma"):  # LayerScale starts near zero, which would leave the blocks without a say
            torch.nn.init.ones_(parameter)
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def random_task(vit: FrozenViT, layout: Layout, space: LibrarySpace, path: Path) -> Checkpoint:
    """An untrained task: tokens as large as the ViT's positions, golden pictures, a random head."""
    torch.manual_seed(1)
    geometry = vit.geometry(PROMPTS if layout == "append" else None, layout)
    width = vit.width if space == "token" else 3 * geometry.patch**2
    preprocess = vit.spec.preprocess.with_size(geometry.content_hw)
    config = PgnConfig("resnet10", geometry.prompts, LIBRARY, width, geometry.content_hw[1], space)
    pgn = PGN(config, float(vit.position.std()) if space == "token" else 1.0, preprocess).eval()
    images = pictures(FRAMES, geometry.content_hw, seed=0)
    with torch.no_grad():
        outputs = vit(torch.from_numpy(preprocess.normalise(images[:1]))).shape[1]
    rows = np.random.default_rng(0).standard_normal((CLASSES, outputs)).astype(np.float32)
    labels = tuple(f"class {index}" for index in range(CLASSES))
    head = Head.linear(rows, np.zeros(CLASSES, np.float32), labels)
    identity = vit.fingerprint(), vit.weights_sha256()
    task = Checkpoint("random", vit.spec.backbone, *identity, geometry, preprocess, pgn, head, images)
    save_checkpoint(path, task)
    return load_checkpoint(path)


def rows_of(name: str, folder: Path) -> Iterator[Row]:
    """All rows of one backbone."""
    weights = random_weights(name, folder)
    # The real loader, once instead of once for each row.
    pgn_edge.export.task.load_backbone = functools.cache(load_backbone)
    vit = pgn_edge.export.task.load_backbone(name, weights).vit
    for layout in LAYOUTS:
        tasks = {space: random_task(vit, layout, space, folder / f"{space}.pt") for space in SPACES}
        references = {space: _reference(vit, task) for space, task in tasks.items()}
        prompts = tasks["token"].geometry.prompts
        for graph in vit_graphs(vit, prompts, layout, PRECISIONS):
            engine, precision = _engine(graph, folder / "vit.onnx"), graph.facts.precision
            for space, task in tasks.items():
                row = {"backbone": name, "layout": layout, "K": prompts, "space": space, "precision": precision}
                exported = _export(folder / f"{space}.pt", folder / "task.pgn", precision, weights)
                if "refused" not in exported:
                    exported |= _chain(task, references[space], folder / "task.pgn", graph)
                yield {**row, **engine, **exported}


def _engine(graph: VitGraph, path: Path) -> Row:
    """Build the ViT engine."""
    path.write_bytes(graph.model.SerializeToString())
    kept = [entry["node"] for entry in graph.numerics.get("kept_float32", ())]
    plan = None if graph.facts.precision == "int8" else _build(path)
    return {"vit": [rung.to_json() for rung in graph.parity], "vit_plan": plan, "vit_kept": kept}


def _export(checkpoint: Path, bundle: Path, precision: Precision, weights: Path | None) -> Row:
    """Export the task and build its plan."""
    options = ExportOptions("fp32" if precision == "int8" else precision, weights, allow_drift=True)
    try:
        report = export_task(checkpoint, bundle, options)
    except InversionError as exc:
        return {"refused": f"{exc.expected}, got {exc.got}"}
    return {
        "certificate": report.certificate.to_json(),
        "ladder": [rung.to_json() for rung in report.parity],
        "pgn_kept": [entry["node"] for entry in report.numerics.get("kept_float32", ())],
        "pgn_plan": _build(bundle),
    }


def _reference(vit: FrozenViT, task: Checkpoint) -> np.ndarray:
    """Embeddings from torch with the prompts as tokens."""
    image = torch.from_numpy(task.preprocess.normalise(task.golden_images))
    with torch.no_grad():
        return embed(vit, task.pgn, task.geometry, image).numpy()


def _chain(task: Checkpoint, reference: np.ndarray, bundle: Path, engine: VitGraph) -> Row:
    """PGN graph, then ViT graph, against the reference."""
    pgn = onnx.load_model_from_string(read_bundle(bundle).pgn_onnx)
    embedding = run_onnx(engine.model, run_onnx(pgn, task.golden_images))
    agreement = compare(reference, embedding, task.head)
    return {"chain": asdict(agreement), "within": agreement.within(engine.facts.precision)}


def _build(source: Path) -> str:
    """Size of the plan that TensorRT-RTX builds, or why it does not."""
    try:
        return f"{compile_plan(source, source.with_suffix('.plan')).size_bytes / 1e6:.1f} MB"
    except PgnEdgeError as exc:
        return f"failed: {exc.got}"


def cells(row: Row) -> tuple[str, ...]:
    """One row under `HEADER`."""
    first = (row["backbone"], row["layout"], str(row["K"]), row["space"], row["precision"])
    if "refused" in row:
        return (*first, f"refused: {row['refused']}", *[""] * (len(HEADER) - 7), row["vit_plan"] or "-")
    certificate, chain = row["certificate"], row["chain"]
    condition = certificate["condition"]
    return (
        *first,
        f"{chain['max_abs']:.1e}",
        f"{chain['cosine']:.6f}",
        f"{chain['top1_flips']} of {chain['frames']}",
        "yes" if row["within"] else "NO",
        "infinite" if condition is None else f"{condition:.3g}",
        f"{certificate['residual']:.0e}" if row["space"] == "token" else "none",
        f"{certificate['pixel_min']:.2f} to {certificate['pixel_max']:.2f}",
        str(len(row["pgn_kept"]) + len(row["vit_kept"])),
        row["pgn_plan"],
        row["vit_plan"] or "not built",
    )


def one_backbone(name: str, output: Path) -> None:
    """Measure one backbone and write its rows as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in rows_of(name, Path(folder)):
            rows.append(row)
            print(" | ".join(cells(row)), file=sys.stderr, flush=True)
        write_text(output, json.dumps(rows))


def main() -> None:
    """Each backbone in a process of its own, so that one that runs out of memory takes no other with it."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbone", action="append", choices=BACKBONES, help="only this one; repeat for several")
    arguments.add_argument("--parts", type=Path, help="folder that keeps finished backbones, for a run that goes on")
    arguments.add_argument("--part", type=Path, help="write the rows of one backbone there, as the parts of a run do")
    options = arguments.parse_args()
    names = options.backbone or BACKBONES
    if options.part:
        one_backbone(names[0], options.part)
        return
    environment = describe_environment()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            part = (options.parts or Path(folder)) / f"{re.sub(r'[^0-9A-Za-z]+', '-', name)}.json"
            if not part.exists():
                subprocess.run([sys.executable, __file__, "--backbone", name, "--part", part], check=True)
            rows += json.loads(part.read_text())
    about = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    text = f"# Exports at true size\n\n{about}\n\n`python benchmarks/export_table.py`\n\n"
    text += markdown_table(HEADER, [cells(row) for row in rows]) + "\n" + environment_table(environment)
    write_results(options.output, "export_table", {"environment": environment, "rows": rows}, text)


if __name__ == "__main__":
    main()
