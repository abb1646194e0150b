"""Between two files, a difference is one line, and all else is left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.export.inspection import inspect_file
from pgn_edge.export.inspection_diff import ABSENT, Difference, diff
from pgn_edge.fingerprint import sha256_file
from tests.hostile import restated


def test_a_copy_is_the_same_file(tiny_pair, tmp_path: Path):
    shutil.copy(tiny_pair.task, tmp_path / "copy.pgn")
    assert diff(inspect_file(tiny_pair.task), inspect_file(tmp_path / "copy.pgn")) == ()


@pytest.fixture
def changed(tiny_pair, tmp_path: Path) -> Callable[..., dict[str, Difference]]:
    """Differences between the task and one that was changed, by path; the file's own size and hash aside."""

    def run(**changes: object) -> dict[str, Difference]:
        write_bundle(tmp_path / "changed.pgn", replace(read_bundle(tiny_pair.task), **changes))
        found = {one.path: one for one in diff(inspect_file(tiny_pair.task), inspect_file(tmp_path / "changed.pgn"))}
        assert "sha256" in found
        return {path: one for path, one in found.items() if path not in ("sha256", "size_bytes")}

    return run


def test_only_what_differs(changed, tiny_pair):
    provenance = {**read_bundle(tiny_pair.task).provenance, "seed": 2, "note": "again"}
    assert changed(provenance=provenance) == {
        "provenance.seed": Difference("provenance.seed", 1, 2),
        "provenance.note": Difference("provenance.note", ABSENT, "again"),
    }


def test_another_profile_shows_although_its_numbers_do_not(changed, tiny_pair):
    profile = read_bundle(tiny_pair.task).profile
    found = changed(profile=replace(profile, usage=profile.usage[::-1], frames=25))
    assert set(found) == {"pgn.profile.usage_sha256", "pgn.profile.frames"}
    assert set(changed(profile=None)) == {"pgn.profile"}


def test_one_rung_more_is_one_difference(changed, tiny_pair):
    first, last = read_bundle(tiny_pair.task).parity
    found = changed(parity=(first, {"rung": "between", "cosine": 1.0}, {**last, "cosine": 0.5}))
    assert set(found) == {"parity[between]", "parity[onnxruntime fp32].cosine"}
    assert (found["parity[between]"].a, found["parity[onnxruntime fp32].cosine"].b) == (ABSENT, 0.5)


def test_rungs_of_one_name_hide_nothing(changed, tiny_pair):
    first, last = read_bundle(tiny_pair.task).parity
    assert set(changed(parity=(first, {**last, "rung": first["rung"]}))) == {"parity[1].rung"}


def test_lists_of_names_go_name_by_name_and_shapes_as_one(changed, tiny_pair):
    bundle = read_bundle(tiny_pair.task)
    head = replace(bundle.head, labels=("zero", *bundle.head.labels[1:]))
    other = restated(bundle, preprocess=replace(bundle.facts.preprocess, mean=(0.5, 0.5, 0.25)))
    found = changed(head=head, facts=other.facts, pgn_onnx=other.pgn_onnx)
    assert (found["labels[0]"].a, found["labels[0]"].b) == ("0", "zero")
    assert found["facts.preprocess.mean"].b == [0.5, 0.5, 0.25]
    graph = {"pgn.onnx_bytes", "pgn.onnx_sha256"}
    assert set(found) <= {"labels[0]", "facts.preprocess.mean", *graph, *(f"golden.top1[{i}]" for i in range(4))}


def test_precision_shows_in_facts_graph_and_ladder(tiny_pair):
    found = {one.path: one for one in diff(inspect_file(tiny_pair.task), inspect_file(tiny_pair.task_fp16))}
    assert found["facts.precision"] == Difference("facts.precision", "fp32", "fp16")
    assert found["graph.arithmetic.Conv.float16"].a is ABSENT
    assert found["parity[onnxruntime fp16]"].a is ABSENT
    assert not [path for path in found if path.startswith(("certificate", "labels", "provenance"))]


def test_what_one_side_lacks_is_no_null_in_json():
    assert Difference("a.b", ABSENT, None).to_json() == {"path": "a.b", "b": None}


def beside(folder: Path, value: float, name: str = "vit.onnx.data") -> Path:
    """A graph whose weights are in a file beside it."""
    folder.mkdir(exist_ok=True)
    weight = numpy_helper.from_array(np.full((64, 64), value, np.float32), "weight")
    given, got = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "g", [given], [got], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, folder / "vit.onnx", save_as_external_data=True, location="vit.onnx.data", size_threshold=0)
    if name != "vit.onnx.data":
        data = (folder / "vit.onnx").read_bytes().replace(b"vit.onnx.data", name.encode())
        (folder / "vit.onnx").write_bytes(data)
    return folder / "vit.onnx"


def test_two_graphs_that_differ_in_the_weights_beside_them_alone_are_not_the_same(tmp_path: Path):
    first, second = (inspect_file(beside(tmp_path / f"{value}", value)) for value in (1.0, 2.0))
    assert first.sha256 == second.sha256
    [difference] = diff(first, second)
    assert difference.path == "external.vit.onnx.data.sha256"
    assert difference.a == sha256_file(tmp_path / "1.0" / "vit.onnx.data")
    assert any("weights of 16384 bytes are in other files" in note for note in first.notes)
    assert diff(first, inspect_file(beside(tmp_path / "again", 1.0))) == ()


def test_missing_weights_beside_a_graph_are_a_difference(tmp_path: Path):
    whole = inspect_file(beside(tmp_path / "a", 1.0))
    path = beside(tmp_path / "b", 1.0)
    path.with_name("vit.onnx.data").unlink()
    assert "external.vit.onnx.data.state" in {one.path for one in diff(whole, inspect_file(path))}


def test_weights_outside_the_folder_of_the_graph_are_not_read(tmp_path: Path):
    (tmp_path / "secret.dat").write_text("secret")
    found = inspect_file(beside(tmp_path / "a", 1.0, "../secret.dat"))
    assert found.sections["external"] == {"../secret.dat": {"state": "outside the folder of the graph: not read"}}
