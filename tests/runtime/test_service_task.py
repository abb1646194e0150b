"""A task behind a service that runs a stock ViT: as with the local engine, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pgn_edge.bundle import Bundle, read_bundle, write_bundle
from pgn_edge.cli import cli
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.heads import Head
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import Engine, ServiceEngine, open_engine
from pgn_edge.runtime.engines.service_client import ServiceError
from tests.hostile import restated, toy_graph
from tests.runtime.embedding_server import FORM_PATH, JSON_PATH, SIDE, WIDTH, EmbeddingServer, write_config

PROMPTS, LIBRARY = 4, 8
BACKBONE = "open_clip:tower/any"


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(12, 24, 32, 3) uint8: noise about a colour of its own."""
    rng = np.random.default_rng(2)
    colour = rng.integers(0, 128, (12, 1, 1, 3))
    return (colour + rng.integers(0, 128, (12, 24, SIDE, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tower: Path, frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `vit.onnx`, which reads 8 bits, `task.pgn`, and `jpeg`, `float`, `append.pgn`, whose facts differ."""
    folder = tmp_path_factory.mktemp("service")
    weights = tower / "tower.pt"
    vit = load_backbone(BACKBONE, weights).vit
    torch.manual_seed(3)
    geometry = vit.geometry(PROMPTS, "inset")
    config = PgnConfig("resnet10", PROMPTS, LIBRARY, 3 * 8**2, 16, "pixel", rounded=True)
    rows = np.random.default_rng(4).standard_normal((5, WIDTH)).astype(np.float32)
    checkpoint = Checkpoint(
        name="tower",
        backbone=BACKBONE,
        fingerprint=vit.fingerprint(),
        weights_sha256=vit.weights_sha256(),
        geometry=geometry,
        preprocess=vit.spec.preprocess.with_size(geometry.content_hw),
        pgn=PGN(config, 1.0, vit.spec.preprocess).eval(),
        head=Head.text(rows / np.linalg.norm(rows, axis=1, keepdims=True), tuple("abcde"), 10.0),
        golden_images=frames,
    )
    save_checkpoint(folder / "ckpt.pt", checkpoint)
    export_vit(BACKBONE, folder / "vit.onnx", VitOptions(PROMPTS, "inset", canvas="uint8", weights=weights))
    export_task(folder / "ckpt.pt", folder / "task.pgn", ExportOptions(weights=weights, uint8=True))
    task = read_bundle(folder / "task.pgn")
    write_bundle(folder / "jpeg.pgn", restated(task, transport="jpeg:75"))
    write_bundle(folder / "float.pgn", with_facts(task, canvas="float32"))
    write_bundle(folder / "append.pgn", with_facts(task, geometry=replace(geometry, layout="append")))
    return folder


def with_facts(task: Bundle, **changes: Any) -> Bundle:
    """It with other facts, and the least graph and a golden pair of zeros that fit them."""
    facts = replace(task.facts, **changes)
    geometry, count = facts.geometry, len(task.golden.images)
    facts = replace(facts, preprocess=facts.preprocess.with_size(geometry.content_hw))
    rows = geometry.rows * geometry.patch, geometry.canvas_hw[1]
    shape = (count, *rows, 3) if facts.canvas == "uint8" else (count, 3, *rows)
    images, prompts = np.zeros((count, *geometry.content_hw, 3), np.uint8), np.zeros(shape, facts.canvas)
    golden = replace(task.golden, images=images, prompt_rows=prompts)
    return replace(task, facts=facts, pgn_onnx=toy_graph(facts), golden=golden)


@pytest.fixture(scope="module")
def local(files: Path) -> Iterator[Engine]:
    engine = open_engine(files / "vit.onnx")
    yield engine
    engine.close()


def config(files: Path, url: str, more: str = "", task: str = "task.pgn") -> Path:
    return write_config(files / "service.toml", url, f'task = "{task}"\n{more}')


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / norms)


# As with the local engine.


@pytest.mark.parametrize(("path", "batch"), [(JSON_PATH, 1), (JSON_PATH, 5), (FORM_PATH, 5)])
def test_a_task_answers_through_a_service_as_through_the_local_engine(
    tower_server: EmbeddingServer, files: Path, frames: np.ndarray, path: str, batch: int
):
    key = f"{path}-{batch}"
    service = config(files, tower_server.url(path, key=key), f"batch = {batch}")
    asked = [("task", frame[..., ::-1]) for frame in frames]
    with (
        Runtime(files / "vit.onnx", {"task": files / "task.pgn"}) as near,
        Runtime(service, {"task": files / "task.pgn"}) as far,
    ):
        assert far.vit.device == f"service at http://127.0.0.1:{tower_server.port}, png"
        golden = len(tower_server.seen(key))
        ours, theirs = far.infer_batch(asked), near.infer_batch(asked)
    assert len(tower_server.seen(key)) - golden == -(-len(frames) // batch)
    assert [each.label for each in ours] == [each.label for each in theirs]
    assert len({each.label for each in ours}) > 1
    both = [np.stack([each.embedding for each in results]) for results in (ours, theirs)]
    assert cosines(*both).min() >= 0.9999


def test_the_engine_by_itself(tower_server: EmbeddingServer, files: Path, local: Engine):
    canvases = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    engine = open_engine(config(files, tower_server.url(), "batch = 3"))
    assert isinstance(engine, ServiceEngine)
    wanted = local.infer({"canvas": canvases})["embedding"]
    feeds = {"canvas": canvases.copy()}
    pending = engine.infer_async(feeds)
    feeds["canvas"][:] = 0  # read already
    np.testing.assert_allclose(pending.result(), wanted, rtol=1e-3, atol=1e-4)
    outputs = {"embedding": np.zeros((3, WIDTH), np.float32)}
    run = engine.bind(feeds, outputs)
    feeds["canvas"][:] = canvases
    run()
    np.testing.assert_allclose(outputs["embedding"], wanted, rtol=1e-3, atol=1e-4)
    for wrong in (
        {},
        {"canvas": canvases[:, :8]},
        {"canvas": np.concatenate([canvases] * 2)},
        {"canvas": canvases[:0]},
    ):
        with pytest.raises(EngineError):
            engine.infer(wrong)
    with pytest.raises(EngineError, match="as many embeddings as canvases"):
        engine.bind(feeds, {"embedding": np.zeros((1, WIDTH), np.float32)})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(feeds)


def test_predict_takes_a_config(tower_server: EmbeddingServer, files: Path, frames: np.ndarray, tmp_path: Path):
    Image.fromarray(frames[0]).save(tmp_path / "frame.png")
    service = config(files, tower_server.url())
    command = ("predict", tmp_path / "frame.png", "--vit", service, "--task", files / "task.pgn", "--json")
    done = CliRunner().invoke(cli, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)["images"]
    assert answer["label"] in "abcde"


# Refused, with the reason.


@pytest.mark.parametrize("fault", ["resize", "reencode", "another"])
def test_a_service_that_changes_its_images_or_runs_another_vit_does_not_reproduce_the_golden_pair(
    tower_server: EmbeddingServer, files: Path, fault: str
):
    with pytest.raises(
        PairingError, match=r"golden embedding.*likely resizes, crops or re-encodes.*another ViT.*pgn-edge probe"
    ):
        Runtime(config(files, tower_server.url(fault=fault)), {"task": files / "task.pgn"})


@pytest.mark.parametrize(
    ("cue", "says"),
    [
        ({"fault": "narrow"}, r"vectors of 24 numbers.*got \[23\]"),
        ({"status": 422, "said": "expected 224 x 224"}, "rejects the size of the image: 'expected 224 x 224'"),
    ],
    ids=["another dimension", "another size"],
)
def test_a_service_that_cannot_be_an_engine(
    tower_server: EmbeddingServer, files: Path, cue: dict[str, object], says: str
):
    with pytest.raises(ServiceError, match=says):
        Runtime(config(files, tower_server.url(**cue)), {"task": files / "task.pgn"})


def test_null_is_a_degraded_frame(tower_server: EmbeddingServer, files: Path, frames: np.ndarray):
    proof = len(read_bundle(files / "task.pgn").golden.images) + 1  # and a frame of another size
    service = config(files, tower_server.url(key="null-frame", fault="null", after=proof))
    with Runtime(service, {"task": files / "task.pgn"}) as runtime:
        result = runtime.infer("task", frames[0])
        assert (result.label, result.degraded) == ("", "embedding")


@pytest.mark.parametrize(
    ("more", "task", "says"),
    [
        ("transport = 'jpeg:75'", "task.pgn", "transport: expected lossless .* got jpeg:75"),
        ("", "jpeg.pgn", "transport: expected jpeg:75 .* got lossless"),
    ],
    ids=["the service loses more", "the task was made for loss"],
)
def test_task_and_service_must_agree_on_the_transport(
    tower_server: EmbeddingServer, files: Path, more: str, task: str, says: str
):
    with pytest.raises(PairingError, match=says):
        Runtime(config(files, tower_server.url(), more, task), {"task": files / task})


def test_what_no_service_can_answer(tower_server: EmbeddingServer, files: Path):
    with pytest.raises(EngineError, match=r"layout inset.*train the task with --layout inset"):
        open_engine(config(files, tower_server.url(), task="append.pgn"))
    with pytest.raises(EngineError, match=r"8 bits.*--uint8"):
        open_engine(config(files, tower_server.url(), task="float.pgn"))


def test_another_task_than_the_config_names_is_checked_too(tower_server: EmbeddingServer, files: Path, tmp_path: Path):
    bundle = read_bundle(files / "task.pgn")
    write_bundle(tmp_path / "other.pgn", restated(bundle, fingerprint="ab" * 32))
    with pytest.raises(PairingError, match="ab" * 32):
        Runtime(config(files, tower_server.url()), {"other": tmp_path / "other.pgn"})
