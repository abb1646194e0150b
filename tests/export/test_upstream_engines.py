"""The paper's three published PGNs, at true size: imported, exported, and held against float64 and against torch.

The backbones' weights are random, which is the harder case: nothing about them is tuned to the prompts. Their patch
projections are as initialised, and with singular values that decay over three decades, since nobody has published those
of the real ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

import pgn_edge.export.task as task_module
import pgn_edge.export.upstream as upstream_module
from pgn_edge.agreement import compare
from pgn_edge.bundle import Bundle, read_bundle
from pgn_edge.export.compile import compile_plan
from pgn_edge.export.frozen import vit_graph
from pgn_edge.export.parity import run_onnx, run_torch
from pgn_edge.export.synthetic import pictures
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.export.upstream import ImportOptions, import_upstream
from pgn_edge.geometry import Geometry
from pgn_edge.nn.clip import clip_backbone
from pgn_edge.nn.timm_vit import timm_backbone
from pgn_edge.nn.torchvision_vit import torchvision_backbone
from pgn_edge.nn.vit import Backbone, CanvasViT, FrozenViT

UPSTREAM = Path(os.environ.get("PGN_EDGE_UPSTREAM", Path(__file__).parents[3] / "shared" / "upstream"))
FRAMES = 6

pytestmark = pytest.mark.skipif(not UPSTREAM.is_dir(), reason=f"no published checkpoints in {UPSTREAM}")


def clip_b32() -> Backbone:
    """CLIP ViT-B/32 as open_clip builds it, with a text tower that is small and of no consequence here."""
    import open_clip

    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    model = open_clip.CLIP(512, vision, text, quick_gelu=True).eval()
    model.visual.preprocess_cfg = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    return clip_backbone(model, "open_clip:ViT-B-32/openai", open_clip.get_tokenizer("ViT-B-32"))


def dino_s16() -> Backbone:
    import timm

    return timm_backbone(timm.create_model("vit_small_patch16_224", num_classes=0), "timm:vit_small_patch16_224.dino")


def supervised_b32() -> Backbone:
    import torchvision

    return torchvision_backbone(torchvision.models.vit_b_32(), "torchvision:vit_b_32")


class Published(NamedTuple):
    """One published checkpoint.

    Args:
        file: its name.
        backbone: builds the ViT that it was trained for.
        labels: its data set.
        geometry: rows, columns and spare slots of its prompts.
    """

    file: str
    backbone: object
    labels: str
    geometry: tuple[int, int, int]


PUBLISHED = {
    "CLIP B/32, cifar100": Published("pgn_clip_cifar100.pt", clip_b32, "cifar100", (3, 7, 5)),
    "DINO S/16, eurosat": Published("pgn_dino_eurosat.pt", dino_s16, "eurosat", (2, 14, 12)),
    "supervised B/32, sun397": Published("pgn_vit_sun397.pt", supervised_b32, "sun397", (3, 7, 5)),
}


def decay(vit: FrozenViT) -> None:
    """Give the patch projection singular values from 1 to 1/1000 of its own scale, in directions of its own."""
    weight = vit.patch_embed.weight.data
    left, sigma, right = np.linalg.svd(weight.double().flatten(1).numpy(), full_matrices=False)
    decayed = np.geomspace(1, 1e-3, len(sigma))
    decayed *= np.linalg.norm(sigma) / np.linalg.norm(decayed)
    weight.copy_(torch.from_numpy((left * decayed) @ right).view_as(weight))


class Exported(NamedTuple):
    """One checkpoint, exported in both precisions.

    Args:
        state: the published file's tensors.
        vit: the frozen ViT.
        images: (M, 224, 224, 3) uint8.
        fp32, fp16: the bundles.
        folder: where they lie.
        published: what was exported.
        decayed: whether the patch projection's singular values decay.
    """

    state: dict[str, np.ndarray]
    vit: FrozenViT
    images: np.ndarray
    fp32: Bundle
    fp16: Bundle
    folder: Path
    published: Published
    decayed: bool


@pytest.fixture(
    scope="module", params=[(name, kind) for name in PUBLISHED for kind in ("initialised", "decayed")], ids=str
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, kind = request.param
    published = PUBLISHED[name]
    torch.manual_seed(0)
    backbone = published.backbone()
    if kind == "decayed":
        decay(backbone.vit)
    folder, source = tmp_path_factory.mktemp("published"), UPSTREAM / published.file
    options = ImportOptions(labels=published.labels)
    if published.labels == "eurosat":  # whose trained head is not in the file
        np.savez(folder / "head.npz", weight=np.random.default_rng(0).standard_normal((10, 384)).astype(np.float32))
        options = ImportOptions(labels=published.labels, head=folder / "head.npz")
    with pytest.MonkeyPatch.context() as patch:
        for module in (upstream_module, task_module):
            patch.setattr(module, "load_backbone", lambda name, weights: backbone)
        patch.setattr(upstream_module, "GOLDEN_FRAMES", FRAMES)
        import_upstream(source, folder / "ckpt.pt", backbone=backbone.vit.spec.backbone, options=options)
        for precision in ("fp32", "fp16"):
            export_task(folder / "ckpt.pt", folder / f"{precision}.pgn", ExportOptions(precision=precision))
    state = {key: value.numpy() for key, value in torch.load(source, weights_only=True).items()}
    bundles = [read_bundle(folder / f"{precision}.pgn") for precision in ("fp32", "fp16")]
    return Exported(
        state, backbone.vit, pictures(FRAMES, (224, 224), seed=1), *bundles, folder, published, kind == "decayed"
    )


# The whole PGN in numpy and float64, from the published tensors alone.


def conv(x: np.ndarray, weight: np.ndarray, stride: int = 1, pad: int = 0) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)


def norm(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].astype(np.float64)[:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def coefficients(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Mixture coefficients (B, K, N) of normalised images (B, 3, H, W), as upstream's forward computes them."""
    x = np.maximum(norm(conv(x, state["model.input_net.0.weight"], 2, 1), state, "model.input_net.1"), 0)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(-2, -1))
    for block in range(4):
        name = f"model.blocks.{block}"
        widens = f"{name}.downsample.weight" in state
        y = np.maximum(norm(conv(x, state[f"{name}.net.0.weight"], 2 if widens else 1, 1), state, f"{name}.net.1"), 0)
        y = norm(conv(y, state[f"{name}.net.3.weight"], 1, 1), state, f"{name}.net.4")
        if widens:
            x = conv(x, state[f"{name}.downsample.weight"], 2) + state[f"{name}.downsample.bias"][:, None, None]
        x = np.maximum(x + y, 0)
    logits = x.mean(axis=(2, 3)) @ state["model.output_net.2.weight"].T.astype(np.float64)
    logits = (logits + state["model.output_net.2.bias"]).reshape(len(x), -1, len(state["tl_vectors"]))
    power = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return power / power.sum(axis=-1, keepdims=True)


def prompt_tokens(case: Exported) -> np.ndarray:
    """(M, K, d) float64, from the published tensors."""
    preprocess = case.fp32.facts.preprocess
    mean, std = (np.asarray(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    x = (case.images.transpose(0, 3, 1, 2) / 255 - mean) / std
    return coefficients(case.state, x) @ case.state["tl_vectors"].astype(np.float64)


def test_prompts_take_the_rows_that_the_paper_says(exported: Exported):
    rows, columns, spare = exported.published.geometry
    geometry = exported.fp32.facts.geometry
    assert (geometry.prompts, geometry.rows, geometry.grid_hw[1], geometry.spare) == (16, rows, columns, spare)
    assert exported.fp32.facts.preprocess.size_hw == (224, 224)


def test_the_canvas_is_what_float64_computes(exported: Exported):
    weight, bias = exported.vit.projection()
    patches = np.linalg.lstsq(weight, (prompt_tokens(exported) - bias).reshape(-1, len(weight)).T, rcond=None)[0].T
    wanted = place(patches.reshape(FRAMES, 16, -1), exported.fp32.facts.geometry)
    canvas = run_onnx(onnx.load_model_from_string(exported.fp32.pgn_onnx), exported.images)[:, :, 224:]
    assert np.abs(canvas - wanted).max() <= 1e-4 * np.abs(wanted).max()


def place(patches: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Patches (B, K, 3P²) in their slots: the prompt rows of the canvas."""
    top, side = geometry.content_hw[0], geometry.patch
    rows = np.zeros((len(patches), 3, geometry.rows * side, geometry.canvas_hw[1]))
    for slot in range(geometry.prompts):
        x0, y0, x1, y1 = geometry.slot_box(slot)
        rows[:, :, y0 - top : y1 - top, x0:x1] = patches[:, slot].reshape(-1, 3, side, side)
    return rows


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_embedding_is_torchs_with_the_tokens_concatenated(exported: Exported, precision: str):
    bundle: Bundle = getattr(exported, precision)
    image = torch.from_numpy(bundle.facts.preprocess.normalise(exported.images))
    with torch.no_grad():
        reference = exported.vit(image, torch.from_numpy(prompt_tokens(exported)).float()).numpy()
    canvas = run_onnx(onnx.load_model_from_string(bundle.pgn_onnx), exported.images)
    embedding = run_torch(CanvasViT(exported.vit, bundle.facts.geometry), canvas)
    agreement = compare(reference, embedding, bundle.head)
    assert agreement.max_abs <= 1e-4 if precision == "fp32" else agreement.cosine >= 0.999


def test_both_engines_in_fp16(exported: Exported):
    # As they ship, with every rounding that a GPU makes; only what must is float32.
    image = torch.from_numpy(exported.fp16.facts.preprocess.normalise(exported.images))
    with torch.no_grad():
        reference = exported.vit(image, torch.from_numpy(prompt_tokens(exported)).float()).numpy()
    engine = vit_graph(exported.vit, 16, "append", "fp16")
    canvas = run_onnx(onnx.load_model_from_string(exported.fp16.pgn_onnx), exported.images)
    assert compare(reference, run_onnx(engine.model, canvas), exported.fp16.head).cosine >= 0.999
    pixels, projection = (
        [entry["node"] for entry in numerics["kept_float32"] if entry["reason"] == reason]
        for numerics, reason in ((exported.fp16.numerics, "prompt pixels"), (engine.numerics, "patch projection"))
    )
    assert pixels == (["pgn/MatMul"] if exported.decayed else [])
    assert projection == (["vit.patch_embed/Conv"] if exported.decayed else [])


def test_fp16_pixels_alone_would_spoil_the_tokens_of_a_decayed_projection(exported: Exported):
    weight, bias = exported.vit.projection()
    tokens = prompt_tokens(exported)
    pixels = np.linalg.lstsq(weight, (tokens - bias).reshape(-1, len(weight)).T, rcond=None)[0].T
    rounded = pixels.astype(np.float16).astype(np.float64) @ weight.T + bias
    error = np.linalg.norm(rounded - tokens.reshape(rounded.shape)) / np.linalg.norm(tokens)
    assert error > 3e-3 if exported.decayed else error < 1e-3


def test_tensorrt_builds_both(exported: Exported):
    for precision in ("fp32", "fp16"):
        assert compile_plan(exported.folder / f"{precision}.pgn", exported.folder / f"{precision}.plan").size_bytes > 0
