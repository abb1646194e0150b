"""From a checkpoint to a bundle, and every way in which export must say no."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import pgn_edge.export.pgn_graph as graph_module
import pgn_edge.export.task as task_module
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import CheckpointError, OutputError, ParityError
from pgn_edge.export.precision import to_half
from pgn_edge.export.task import DISTANCE_FRAMES, GOLDEN_FRAMES, ExportOptions, export_task
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.vit import Backbone

RUNGS = ["torch canvas", "onnxruntime fp32", "onnxruntime fp16"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_rung_is_green(tiny_pair, precision: str):
    bundle = read_bundle(tiny_pair.task if precision == "fp32" else tiny_pair.task_fp16)
    assert bundle.facts.precision == precision
    assert [rung["rung"] for rung in bundle.parity] == (RUNGS if precision == "fp16" else RUNGS[:2])
    assert all(rung["passed"] for rung in bundle.parity)
    frames = {rung["rung"]: rung["frames"] for rung in bundle.parity}
    assert frames == {rung: 24 if rung == RUNGS[2] else DISTANCE_FRAMES for rung in frames}


def test_the_bundle_says_where_it_comes_from(tiny_pair, tiny_checkpoint: Path, tiny_backbone: Backbone):
    bundle = read_bundle(tiny_pair.task)
    assert bundle.name == "tiny"
    assert bundle.facts.fingerprint == tiny_backbone.vit.fingerprint()
    assert bundle.facts.role == "pgn"
    assert bundle.provenance["seed"] == 1
    assert bundle.provenance["checkpoint_sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert bundle.certificate["rank"] == bundle.certificate["width"] == 128
    assert bundle.certificate["residual"] < 1e-9


def test_the_facts_in_the_graph_are_those_in_the_manifest(tiny_pair):
    for path in (tiny_pair.task, tiny_pair.task_fp16):
        bundle = read_bundle(path)
        model = onnx.load_model_from_string(bundle.pgn_onnx)
        assert EngineFacts.from_metadata({p.key: p.value for p in model.metadata_props}, "here") == bundle.facts


def test_the_golden_pair_is_torchs_answer(tiny_pair, tiny_checkpoint: Path, tiny_backbone: Backbone):
    golden, checkpoint = read_bundle(tiny_pair.task).golden, load_checkpoint(tiny_checkpoint)
    assert len(golden.images) == GOLDEN_FRAMES
    image = torch.from_numpy(checkpoint.preprocess.normalise(golden.images))
    with torch.no_grad():
        embedding = tiny_backbone.vit(image, checkpoint.pgn(image)).numpy()
    np.testing.assert_allclose(golden.embedding, embedding, rtol=0, atol=1e-5)
    assert golden.top1.tolist() == checkpoint.head.logits(embedding).argmax(axis=1).tolist()
    stored = {frame.tobytes() for frame in checkpoint.golden_images}
    assert all(frame.tobytes() in stored for frame in golden.images)


def test_the_same_checkpoint_gives_the_same_bytes(tiny_pair, tiny_checkpoint, use_tiny_backbone, tmp_path: Path):
    export_task(tiny_checkpoint, tmp_path / "again.pgn", ExportOptions(onnx_path=tmp_path / "pgn.onnx"))
    assert (tmp_path / "again.pgn").read_bytes() == tiny_pair.task.read_bytes()
    assert (tmp_path / "pgn.onnx").read_bytes() == read_bundle(tiny_pair.task).pgn_onnx


# What export must refuse. The graph comes from the good bundle, since making it is slow, and is then damaged.


@dataclasses.dataclass
class Saboteur:
    """Stands where export makes its graph, and damages what it hands on."""

    patch: pytest.MonkeyPatch
    good: onnx.ModelProto

    def spoil(self, rung: str) -> None:
        """Damage the step before `rung`."""
        self.patch.setattr(graph_module, "to_onnx", lambda *arguments: self._copy(rung == "onnxruntime fp32"))
        if rung == "onnxruntime fp16":
            self.patch.setattr(graph_module, "to_half", lambda graph, *rest: to_half(self._copy(damaged=True), *rest))
        if rung == "torch canvas":
            deployed = task_module.DeployedPGN

            def off_by_one_token(*arguments: Any) -> torch.nn.Module:
                module = deployed(*arguments)
                module.pixels = module.pixels.roll(1, dims=1)
                return module

            self.patch.setattr(task_module, "DeployedPGN", off_by_one_token)

    def _copy(self, damaged: bool) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.good)
        if damaged:
            pixels = next(tensor for tensor in model.graph.initializer if tensor.name == "pixels")
            pixels.CopyFrom(numpy_helper.from_array(-1000 * numpy_helper.to_array(pixels), pixels.name))
        return model


@pytest.fixture
def saboteur(tiny_pair, use_tiny_backbone, monkeypatch: pytest.MonkeyPatch) -> Saboteur:
    return Saboteur(monkeypatch, onnx.load_model_from_string(read_bundle(tiny_pair.task).pgn_onnx))


def test_the_saboteur_is_harmless_when_told_so(saboteur: Saboteur, tiny_checkpoint, tiny_pair, tmp_path: Path):
    saboteur.spoil("nothing")
    for precision, good in (("fp32", tiny_pair.task), ("fp16", tiny_pair.task_fp16)):
        export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(precision=precision))
        assert (tmp_path / "task.pgn").read_bytes() == good.read_bytes()


@pytest.mark.parametrize("rung", RUNGS)
def test_the_first_failing_rung_is_named_and_nothing_is_written(
    saboteur: Saboteur, tiny_checkpoint: Path, tmp_path: Path, rung: str
):
    saboteur.spoil(rung)
    with pytest.raises(ParityError, match=f"'{rung}'"):
        export_task(
            tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(precision="fp16", onnx_path=tmp_path / "pgn.onnx")
        )
    assert not list(tmp_path.iterdir())


def test_drift_is_written_where_it_is_allowed(saboteur: Saboteur, tiny_checkpoint: Path, tmp_path: Path):
    saboteur.spoil("onnxruntime fp32")
    report = export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(allow_drift=True))
    assert [rung.passed for rung in report.parity] == [True, False]
    assert [rung["passed"] for rung in read_bundle(tmp_path / "task.pgn").parity] == [True, False]


def change(folder: Path, checkpoint_path: Path, **fields: Any) -> Path:
    """A copy of the checkpoint with other fields."""
    path = folder / "changed.pt"
    save_checkpoint(path, dataclasses.replace(load_checkpoint(checkpoint_path), **fields))
    return path


def test_a_foreign_backbone_is_refused_with_both_fingerprints(
    tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    path = change(tmp_path, tiny_checkpoint, fingerprint="cd" * 32)
    with pytest.raises(CheckpointError) as caught:
        export_task(path, tmp_path / "task.pgn")
    assert "cd" * 32 in str(caught.value)
    assert use_tiny_backbone.vit.fingerprint() in str(caught.value)
    assert not (tmp_path / "task.pgn").exists()


def test_pixels_beyond_fp16_stay_float32(tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    pgn = load_checkpoint(tiny_checkpoint).pgn
    with torch.no_grad():
        pgn.library.mul_(1e8)
    path = change(tmp_path, tiny_checkpoint, pgn=pgn)
    report = export_task(path, tmp_path / "task.pgn", ExportOptions(precision="fp16"))
    assert report.certificate.fp16_overflow
    assert all(rung.passed for rung in report.parity)
    kept = read_bundle(tmp_path / "task.pgn").numerics["kept_float32"]
    assert [(node["reason"], node["rounding"]) for node in kept if node["node"] == "pgn/MatMul"] == [
        ("prompt pixels", None)
    ]


def test_an_output_that_cannot_be_written(saboteur: Saboteur, tiny_checkpoint: Path, tmp_path: Path):
    saboteur.spoil("nothing")
    with pytest.raises(OutputError):
        export_task(tiny_checkpoint, tmp_path / "missing" / "task.pgn")
