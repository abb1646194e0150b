"""An append engine is found to be one with the stock engine of its backbone as the only help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.runtime.probe import ProbeOptions, Report, run_probe


def answers(report: Report) -> dict[str, str]:
    return {finding.what: finding.answer for finding in report.findings}


def without_facts(path: Path, to: Path) -> Path:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, to)
    return to


def facts_of(path: Path) -> EngineFacts:
    return EngineFacts.from_metadata({prop.key: prop.value for prop in onnx.load(path).metadata_props}, "vit.onnx")


def test_our_own_append_engine_against_the_stock_engine_is_append_and_its_train_command_pairs(tiny_pair):
    report = run_probe(tiny_pair.vit, ProbeOptions(reference=tiny_pair.stock))
    found = answers(report)
    assert (found["extra patches"], found["prompt slots"], found["backbone"]) == ("read", "16", "alike")
    assert report.disagreements == ()
    geometry, wanted = facts_of(tiny_pair.vit).geometry, report.settings.options
    assert (wanted["layout"], int(wanted["prompts"])) == (geometry.layout, geometry.prompts)
    assert "--backbone builtin --layout append --prompts 16 " in report.settings.commands[0]


def test_an_append_engine_of_somebody_else_is_append_without_any_facts(tiny_pair, tmp_path: Path):
    foreign = without_facts(tiny_pair.vit, tmp_path / "foreign.onnx")
    report = run_probe(foreign, ProbeOptions(reference=tiny_pair.stock))
    assert "--backbone builtin --layout append --prompts 16 " in report.settings.commands[0]


def test_spare_slots_that_an_append_engine_drops_are_no_prompt_slots(use_tiny_backbone, tiny_pair, tmp_path: Path):
    export_vit("builtin", tmp_path / "vit.onnx", VitOptions(prompts=11))
    foreign = without_facts(tmp_path / "vit.onnx", tmp_path / "foreign.onnx")
    report = run_probe(foreign, ProbeOptions(reference=tiny_pair.stock))
    assert answers(report)["prompt slots"] == "11"
    assert report.settings.options["prompts"] == "11"


def test_an_append_engine_of_another_backbone_is_not_called_the_same(tiny_pair, tmp_path: Path):
    model, random = onnx.load(tiny_pair.vit), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.dtype == np.float32:
            noise = random.normal(0, array.std(), array.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(noise, tensor.name))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    report = run_probe(tmp_path / "other.onnx", ProbeOptions(reference=tiny_pair.stock))
    assert answers(report)["backbone"] == "unknown"
    assert report.settings.options["backbone"] == "BACKBONE"


@pytest.mark.parametrize("given", ["nothing", "task"])
def test_the_train_command_for_an_engine_with_facts_follows_its_facts(tiny_pair, given: str):
    options = ProbeOptions(task=tiny_pair.task) if given == "task" else ProbeOptions()
    report = run_probe(tiny_pair.vit, options)
    assert "--backbone builtin --layout append --prompts 16 " in report.settings.commands[0]
    assert report.disagreements == ()


def test_the_train_command_for_an_inset_engine_with_facts_has_its_number_of_prompts(
    use_tiny_backbone, tiny_pair, tmp_path: Path
):
    export_vit("builtin", tmp_path / "vit.onnx", VitOptions(prompts=24, layout="inset"))
    report = run_probe(tmp_path / "vit.onnx", ProbeOptions(reference=tiny_pair.stock))
    assert answers(report)["backbone"] == "yes"
    assert "--layout inset --prompts 24 " in report.settings.commands[0]
