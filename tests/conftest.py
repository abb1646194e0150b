"""One tiny frozen ViT and one tiny task, exported once and shared by every test that needs real files."""

from __future__ import annotations

import os

# Toy matrices: threads would only wait for each other, most of all on a busy machine. Read when numpy is imported.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
# Some tests import onnxruntime themselves, and the first import decides.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings

import pgn_edge.nn.backbones
import pgn_edge.redact
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.nn.builtin import CharacterNet
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone

PROMPTS, LIBRARY, GOLDEN_FRAMES = 16, 32, 24
LABELS = tuple("0123456789")

# Modules whose tests wait for servers, cameras, signals or clocks. They run one after another on an idle machine,
# because a neighbour that computes would make their deadlines a matter of luck. All others share the cores.
WAITING = (
    *("cli/test_display.py", "cli/test_run.py", "cli/test_standard_output.py", "core/test_host.py"),
    *("export/test_build_process.py", "runtime/live/", "runtime/probe/test_probe_services.py", "runtime/web/"),
    *("runtime/test_app.py", "runtime/test_cameras.py", "runtime/test_deadlines.py", "runtime/test_events.py"),
    *("runtime/test_hostile_bundles.py", "runtime/test_http_server.py", "runtime/test_metrics.py"),
    *(
        "runtime/test_redaction.py",
        "runtime/test_scheduler.py",
        "runtime/test_service.py",
        "runtime/test_service_task.py",
    ),
    *("runtime/test_sinks", "runtime/test_tasks.py", "runtime/test_triton.py", "runtime/test_video_file.py"),
    *("test_examples.py", "test_no_telemetry.py", "test_readme.py", "test_swaps.py"),
)
TESTS = Path(__file__).parent

# The same examples on every machine, no time limit that a busy machine could miss, nothing left on disk.
settings.register_profile("house", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need an idle machine, so that `make unit` runs them apart."""
    for item in items:
        if item.path.relative_to(TESTS).as_posix().startswith(WAITING):
            item.add_marker(pytest.mark.waits)


@pytest.fixture(autouse=True)
def _forget_secrets() -> Iterator[None]:
    """Forget the passwords of a test after it: a process knows secrets for as long as it lives, and hides them."""
    before = pgn_edge.redact._REGISTRY._secrets
    yield
    pgn_edge.redact._REGISTRY._secrets = before


class TinyPair(NamedTuple):
    """Files that belong together, all made from `tiny_backbone` and `tiny_checkpoint`.

    Args:
        vit: ViT engine, fp32, 16 prompt slots appended.
        stock: ViT engine, fp32, no prompt slots.
        task: bundle with an fp32 PGN engine.
        task_fp16: the same task with an fp16 PGN engine.
    """

    vit: Path
    stock: Path
    task: Path
    task_fp16: Path


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    """`builtin` cut to two blocks with random weights: every code path, a third of the export time."""
    torch.manual_seed(0)
    net = CharacterNet()
    net.body.blocks = net.body.blocks[:2]
    return net.backbone()


@pytest.fixture
def use_tiny_backbone(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """For this test, the name `builtin` means `tiny_backbone`."""
    monkeypatch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
    return tiny_backbone


@pytest.fixture(scope="session")
def golden_images() -> np.ndarray:
    """(24, 64, 64, 3) uint8: a colour for each frame under some noise, so that embeddings differ."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 128, (GOLDEN_FRAMES, 1, 1, 3))
    return (colour + rng.integers(0, 128, (GOLDEN_FRAMES, 64, 64, 3))).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_backbone: Backbone, golden_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of an untrained PGN, K = 16 and N = 32, that looks at 16 x 16 pixels."""
    torch.manual_seed(1)
    vit = tiny_backbone.vit
    pgn = PGN(PgnConfig("resnet10", PROMPTS, LIBRARY, vit.width, 16)).eval()
    checkpoint = Checkpoint(
        name="tiny",
        backbone="builtin",
        fingerprint=vit.fingerprint(),
        weights_sha256=vit.weights_sha256(),
        geometry=vit.geometry(PROMPTS),
        preprocess=vit.spec.preprocess,
        pgn=pgn,
        head=tiny_backbone.zero_shot.head(LABELS, "{}"),
        golden_images=golden_images,
        provenance={"data": "noise", "seed": 1},
    )
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def tiny_pair(tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A ViT engine, its stock twin, and one task in both precisions."""
    folder = tmp_path_factory.mktemp("pair")
    pair = TinyPair(*(folder / name for name in ("vit.onnx", "stock.onnx", "task.pgn", "task_fp16.pgn")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
        export_vit("builtin", pair.vit, VitOptions(prompts=PROMPTS))
        export_vit("builtin", pair.stock, VitOptions(prompts=0))
        export_task(tiny_checkpoint, pair.task)
        export_task(tiny_checkpoint, pair.task_fp16, ExportOptions(precision="fp16"))
    return pair


@pytest.fixture(scope="session")
def tiny_vit_fp16(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`TinyPair.vit` in fp16."""
    path = tmp_path_factory.mktemp("fp16") / "vit_fp16.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
        export_vit("builtin", path, VitOptions(prompts=PROMPTS, precision="fp16"))
    return path


class PixelPair(NamedTuple):
    """Files of a task whose canvas is of 8 bits.

    Args:
        checkpoint: of an untrained PGN with a pixel library, as `tiny_checkpoint` but for that; not trained rounded.
        vit: ViT engine, fp32, 16 prompt slots appended, that normalises itself.
        task: bundle with an fp32 PGN engine.
    """

    checkpoint: Path
    vit: Path
    task: Path


@pytest.fixture(scope="session")
def pixel_pair(tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PixelPair:
    """A ViT engine and a task with a canvas of uint8."""
    folder = tmp_path_factory.mktemp("pixels")
    pair = PixelPair(*(folder / name for name in ("pixels.pt", "vit.onnx", "task.pgn")))
    checkpoint = load_checkpoint(tiny_checkpoint)
    torch.manual_seed(2)
    config = PgnConfig("resnet10", PROMPTS, LIBRARY, 3 * checkpoint.geometry.patch**2, 16, "pixel")
    pgn = PGN(config, 1.0, checkpoint.preprocess).eval()
    save_checkpoint(pair.checkpoint, dataclasses.replace(checkpoint, name="pixels", pgn=pgn))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
        export_vit("builtin", pair.vit, VitOptions(prompts=PROMPTS, canvas="uint8"))
        export_task(pair.checkpoint, pair.task, ExportOptions(uint8=True))
    return pair
