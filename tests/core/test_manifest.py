"""One strict schema: manifests, heads and golden pairs that are wrong although every hash is right."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.bundle import MOST_GOLDEN, Bundle, read_bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError, EngineError
from pgn_edge.heads import Head, check_labels, distinct_labels
from pgn_edge.npz import npz_arrays, npz_bytes
from pgn_edge.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar
from tests.hostile import pack, zipped

Edit = Callable[[dict[str, Any]], object]


def put(*path: str | int, value: Any) -> Edit:
    def edit(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return edit


WRONG: dict[str, Edit] = {
    "labels that are numbers": put("labels", value=[1, 2]),
    "labels that are null": put("labels", value=[None, "dog"]),
    "a label twice": put("labels", value=["cat", "cat"]),
    "an empty label": put("labels", value=["cat", ""]),
    "a label of spaces": put("labels", value=["cat", "  "]),
    "a label of 16,000 characters": put("labels", value=["cat", "o" * 16_000]),
    "a label with a line break": put("labels", value=["cat", "a\nb"]),
    "a label that is half a character": put("labels", value=["cat", "\ud800"]),
    "labels as one text": put("labels", value="ab"),
    "a name that is a number": put("name", value=3),
    "no name": put("name", value=""),
    "a size as a text": put("engine", "geometry", "patch", value="8"),
    "a size as a float": put("engine", "geometry", "patch", value=8.0),
    "a size that is true": put("engine", "geometry", "prompts", value=True),
    "an image of three sizes": put("engine", "geometry", "image_hw", value=[16, 16, 3]),
    "an enormous image": put("engine", "geometry", "image_hw", value=[1 << 30, 1 << 30]),
    "a mean as a text": put("engine", "preprocess", "mean", value=["0", "0", "0"]),
    "a std that is true": put("engine", "preprocess", "std", value=[True, True, True]),
    "an opset as a text": put("engine", "opset", value="20"),
    "another opset": put("engine", "opset", value=21),
    "precision int8": put("engine", "precision", value="int8"),
    "another precision": put("engine", "precision", value="fp16"),
    "another backbone": put("engine", "backbone", value="timm:vit_base_patch16_224"),
    "another preprocessing": put("engine", "preprocess", "fit", value="squash"),
    "the role of a ViT": put("engine", "role", value="vit"),
    "a field that nobody knows": put("surprise", value=1),
    "a fact that nobody knows": put("engine", "surprise", value=1),
    "a part that nobody knows": put("engine", "geometry", "surprise", value=1),
    "a member that is not there": put("members", "more.npz", value={"sha256": "0" * 64, "bytes": 0}),
    "a member of another size": put("members", "pgn.onnx", "bytes", value=1),
    "a size of a member as a float": put("members", "pgn.onnx", "bytes", value=1.5),
    "a hash in capitals": put("members", "pgn.onnx", "sha256", value="A" * 64),
    "parity as an object": put("parity", value={}),
    "a rung that is a text": put("parity", value=["passed"]),
    "a schema that is true": put("schema", value=True),
    "frames of a profile as a float": put("profile", "frames", value=32.0),
    "a usage of texts": put("profile", "usage", value=["0.5", "0.5"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_manifest_is_read_by_one_strict_schema(refusal: Callable[[bytes], str], parts: dict[str, bytes], what: str):
    message = refusal(pack(parts, WRONG[what]))
    assert len(message) < 900


@pytest.mark.parametrize(
    "text",
    [
        b'{"format": "pgn-edge task", "format": "pgn-edge task", ',
        b'{"labels": ["a", "b"], ',
    ],
    ids=["a key twice", "other labels first"],
)
def test_a_key_that_stands_twice_is_refused(refusal: Callable[[bytes], str], parts: dict[str, bytes], text: bytes):
    manifest = text + parts["manifest.json"].lstrip()[1:]
    assert "twice" in refusal(zipped({**parts, "manifest.json": manifest}))


HEADS: dict[str, dict[str, Any]] = {
    "boolean weights": {"weight": np.ones((2, 4), bool)},
    "complex weights": {"weight": np.ones((2, 4), np.complex64)},
    "weights of 64 bits": {"weight": np.ones((2, 4))},
    "whole weights": {"weight": np.ones((2, 4), np.int64)},
    "weights that are texts": {"weight": np.full((2, 4), "1")},
    "a boolean bias": {"bias": np.ones(2, bool)},
    "a scale of 64 bits": {"scale": np.ones(1)},
    "two scales": {"scale": np.ones(2, np.float32)},
    "an index of floats": {"index": np.ones(2, np.float32)},
    "two kinds": {"kind": np.array(["linear", "text"])},
    "an array that nobody knows": {"surprise": np.ones(3)},
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_has_the_types_that_export_writes(
    refusal: Callable[[bytes], str], parts: dict[str, bytes], bundle: Bundle, what: str
):
    refusal(pack({**parts, "head.npz": npz_bytes({**bundle.head.to_arrays(), **HEADS[what]})}))


def many(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.repeat(array, MOST_GOLDEN, axis=0) for name, array in golden.items()}


GOLDENS: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "more frames than a device should run": many,
    "a class that the head has not": lambda golden: {**golden, "top1": golden["top1"] + 2},
    "a class below 0": lambda golden: {**golden, "top1": golden["top1"] - 2},
    "embeddings of another width": lambda golden: {**golden, "embedding": golden["embedding"][:, :3].copy()},
    "embeddings that are NaN": lambda golden: {**golden, "embedding": golden["embedding"] * np.float32("nan")},
    "prompts that are infinite": lambda golden: {**golden, "prompt_rows": golden["prompt_rows"] * np.float32("inf")},
    "an array that nobody knows": lambda golden: {**golden, "surprise": np.ones(3)},
}


@pytest.mark.parametrize("what", GOLDENS)
def test_a_golden_pair_fits_the_head_and_is_small(refusal: Callable[[bytes], str], parts: dict[str, bytes], what: str):
    golden = GOLDENS[what](npz_arrays(parts["golden.npz"], "golden"))
    refusal(pack({**parts, "golden.npz": npz_bytes(golden)}))


def test_export_refuses_a_label_that_a_device_would_refuse(tmp_path: Path, bundle: Bundle):
    head = dataclasses.replace(bundle.head, labels=("cat", "cat"))
    with pytest.raises(BundleError, match="got label 1 a second time: 'cat'"):
        write_bundle(tmp_path / "task.pgn", dataclasses.replace(bundle, head=head))


def test_numbers_that_json_does_not_have_are_written_as_null(tmp_path: Path, bundle: Bundle):
    provenance = {"accuracy": float("nan"), "steps": [{"loss": float("inf")}, (1, -float("inf"))]}
    write_bundle(tmp_path / "task.pgn", dataclasses.replace(bundle, provenance=provenance))
    assert read_bundle(tmp_path / "task.pgn").provenance == {"accuracy": None, "steps": [{"loss": None}, [1, None]]}


def test_labels_of_every_script_are_taken():
    check_labels(["Ελλάδα", "中国", "नेपाल", "👩‍🚀", "a" * 256], "here")


def test_classes_that_a_data_set_names_alike_are_told_apart():
    assert distinct_labels(["crane", "dog", "crane", "crane (2)", "crane"]) == (
        "crane",
        "dog",
        "crane (3)",
        "crane (2)",
        "crane (4)",
    )
    assert Head.mapping(np.arange(2), distinct_labels(["a", "b"])).labels == ("a", "b")


# The brothers of the manifest: sidecars and metadata.


@pytest.fixture
def plan(tmp_path: Path, bundle: Bundle) -> Path:
    plan = tmp_path / "task.plan"
    plan.write_bytes(b"plan")
    digest = "5d1be7e9dda1ee8896be5b7e34a85ee16452a7b477b0d4f0e0a1d1a3d5b3d2b0"
    write_sidecar(plan, Sidecar(digest, "ab" * 32, "tensorrt-rtx", "1.2", ("sm_86",), (1, 1, 8), bundle.facts))
    return plan


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(put("batch", value=["1", "1", "8"]), id="sizes as texts"),
        pytest.param(put("batch", value=[1, 8]), id="two sizes"),
        pytest.param(put("version_compatible", value="no"), id="a text for a switch"),
        pytest.param(put("targets", value="sm_86"), id="a text for a list"),
        pytest.param(put("surprise", value=1), id="an unknown field"),
        pytest.param(put("plan_sha256", value="0"), id="a hash that is none"),
        pytest.param(put("facts", "geometry", "patch", value=8.0), id="a size as a float"),
    ],
)
def test_a_sidecar_is_read_by_the_same_schema(plan: Path, edit: Edit):
    path = sidecar_path(plan)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(EngineError, match=r"task\.plan\.json"):
        read_sidecar(plan)


def test_metadata_are_read_by_the_same_schema(bundle: Bundle):
    metadata = bundle.facts.to_metadata()
    assert EngineFacts.from_metadata({**metadata, "pgn_edge.numerics": "{}"}, "here") == bundle.facts
    for key, value in (("opset", "20.0"), ("opset", "true"), ("canvas", '{"a": 1, "a": 2}'), ("surprise", "1")):
        with pytest.raises(EngineError):
            EngineFacts.from_metadata({**metadata, f"pgn_edge.{key}": value}, "here")
