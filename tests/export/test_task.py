"""From a checkpoint to a bundle, and every way in which export must say no."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from onnx import numpy_helper

import pgn_edge.agreement
import pgn_edge.export.pgn_graph as graph_module
import pgn_edge.export.task as task_module
import pgn_edge.nn.backbones
from pgn_edge.agreement import FP32_MAX_ABS
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import CheckpointError, DataError, ExportError, InversionError, OutputError, ParityError
from pgn_edge.export.legality import PROOF
from pgn_edge.export.parity import run_all
from pgn_edge.export.precision import to_half
from pgn_edge.export.task import ExportOptions, _shipped, export_task
from pgn_edge.export.task_ladder import DISTANCE_FRAMES, EIGHT_BITS, GOLDEN_FRAMES
from pgn_edge.nn.builtin import PREPROCESS, CharacterNet
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec, ZeroShot

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


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_profile_is_that_of_all_golden_images(tiny_pair, tiny_checkpoint: Path, precision: str):
    bundle = read_bundle(tiny_pair.task if precision == "fp32" else tiny_pair.task_fp16)
    checkpoint = load_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        images = torch.from_numpy(checkpoint.preprocess.normalise(checkpoint.golden_images))
        mixtures = checkpoint.pgn.coefficients(images).double().numpy()
    profile = bundle.profile
    assert profile.frames == 24
    np.testing.assert_allclose(profile.usage, mixtures.mean(axis=(0, 1)), rtol=0, atol=1e-6)
    entropy = -(mixtures * np.log(mixtures)).sum(axis=2).mean(axis=1) / np.log(32)
    assert profile.entropy_mean == pytest.approx(entropy.mean(), abs=1e-6)
    assert profile.entropy_std == pytest.approx(max(entropy.std(), 1e-3), abs=1e-6)
    assert 0 <= profile.halves < 0.01


def test_the_mixtures_are_the_second_output_in_every_precision(tiny_pair, tiny_checkpoint: Path):
    checkpoint, found = load_checkpoint(tiny_checkpoint), {}
    for path in (tiny_pair.task, tiny_pair.task_fp16):
        bundle = read_bundle(path)
        model = onnx.load_model_from_string(bundle.pgn_onnx)
        _, found[bundle.facts.precision] = run_all(model, bundle.golden.images)
    with torch.no_grad():
        image = torch.from_numpy(checkpoint.preprocess.normalise(bundle.golden.images))
        expected = checkpoint.pgn.coefficients(image).numpy()
    np.testing.assert_allclose(found["fp32"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["fp16"], expected, rtol=0, atol=1e-3)
    assert found["fp16"].dtype == np.float32
    np.testing.assert_allclose(found["fp16"].sum(axis=-1), 1, rtol=0, atol=1e-6)  # rounded to fp16 it would be 1e-3


def test_prompts_that_do_not_look_at_the_image_have_no_profile(
    tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    pgn = PGN(PgnConfig("constant", 16, 16, use_tiny_backbone.vit.width, 16)).eval()
    export_task(change(tmp_path, tiny_checkpoint, pgn=pgn), tmp_path / "task.pgn")
    bundle = read_bundle(tmp_path / "task.pgn")
    model = onnx.load_model_from_string(bundle.pgn_onnx)
    assert ([value.name for value in model.graph.output], bundle.profile) == (["canvas"], None)


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
        self.patch.setattr(graph_module, "to_onnx", lambda *arguments: self.copy(rung == "onnxruntime fp32"))
        if rung == "onnxruntime fp16":
            self.patch.setattr(graph_module, "to_half", lambda graph, *rest: to_half(self.copy(damaged=True), *rest))
        if rung == "torch canvas":
            deployed = task_module.DeployedPGN

            def off_by_one_token(*arguments: Any) -> torch.nn.Module:
                module = deployed(*arguments)
                module.pixels = module.pixels.roll(1, dims=1)
                return module

            self.patch.setattr(task_module, "DeployedPGN", off_by_one_token)

    def copy(self, damaged: bool) -> onnx.ModelProto:
        """The good graph, or one whose pixels are far off."""
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


def identity(vit: FrozenViT) -> dict[str, str]:
    """Fields of a checkpoint that say which frozen ViT it belongs to."""
    return {"fingerprint": vit.fingerprint(), "weights_sha256": vit.weights_sha256()}


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


def test_a_bundle_names_data_and_weights_without_the_folders_of_the_machine(
    tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    config = {"data": "/home/anna/pets,digits", "root": "/home/anna/sets", "weights": None}
    provenance = {"config": config, "facts": {"source": "/home/anna/pets"}, "seed": 1}
    export_task(change(tmp_path, tiny_checkpoint, provenance=provenance), tmp_path / "task.pgn")
    found = read_bundle(tmp_path / "task.pgn").provenance
    assert found["config"] == {"data": "pets,digits", "root": "sets", "weights": None}
    assert found["facts"] == {"source": "pets"}
    assert found["seed"] == 1
    assert b"anna" not in (tmp_path / "task.pgn").read_bytes()


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        pytest.param({"weights": "/home/anna/vit.pt#ema"}, {}, id="weights with a key"),
        pytest.param({}, {"source": "https://archive.ics.uci.edu/dataset/80"}, id="the address of a data set"),
    ],
)
def test_names_of_files_and_addresses_are_kept(config: dict[str, Any], facts: dict[str, Any]):
    shipped = _shipped({"config": config, "facts": facts})
    assert shipped["config"] == ({"weights": "vit.pt#ema"} if config else {})
    assert shipped["facts"] == facts


def test_another_epoch_of_a_backbone_whose_patch_projection_was_locked_is_refused(
    tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    later = copy.deepcopy(tiny_backbone)
    with torch.no_grad():
        later.vit.body.blocks[0].mlp[0].bias[0] += 0.01
    assert later.vit.fingerprint() == tiny_backbone.vit.fingerprint()
    monkeypatch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: later)
    with pytest.raises(CheckpointError) as caught:
        export_task(tiny_checkpoint, tmp_path / "task.pgn")
    for digest in (tiny_backbone.vit.weights_sha256(), later.vit.weights_sha256()):
        assert digest in str(caught.value)
    assert "not another epoch of the model: --weights FILE" in caught.value.do
    assert not (tmp_path / "task.pgn").exists()


@pytest.mark.parametrize(
    ("case", "read"),
    [((True, None), "vit.pt#ema"), ((True, "other.pt"), "other.pt"), ((False, None), None)],
    ids=["that of training", "another that is given", "gone: the download"],
)
def test_export_reads_the_weights_that_the_training_read(
    tiny_backbone: Backbone,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[bool, str | None],
    read: str | None,
):
    kept, given = case
    monkeypatch.chdir(tmp_path)
    path = change(tmp_path, tiny_checkpoint, provenance={"config": {"weights": "vit.pt#ema"}}, weights_sha256="ab" * 32)
    if kept:
        (tmp_path / "vit.pt").touch()
    asked = []
    monkeypatch.setattr(task_module, "load_backbone", lambda name, weights: asked.append(weights) or tiny_backbone)
    with pytest.raises(CheckpointError, match="weights of sha256"):  # the end of what this test looks at
        export_task(path, tmp_path / "task.pgn", ExportOptions(weights=given))
    assert asked == [read]


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


# The ways out for projections that cannot be inverted.


def with_projection(backbone: Backbone, condition: float) -> Backbone:
    """The same ViT with a patch projection of that condition."""
    changed = copy.deepcopy(backbone)
    weight = changed.vit.patch_embed.weight
    left, sigma, right = np.linalg.svd(weight.double().flatten(1).numpy(), full_matrices=False)
    spread = np.geomspace(1, 1 / condition, len(sigma)) * sigma[0]
    weight.copy_(torch.from_numpy((left * spread) @ right).view_as(weight))
    return changed


@pytest.fixture
def ill(tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint for a ViT whose projection is just too ill-conditioned, which `builtin` means for this test."""
    backbone = with_projection(tiny_backbone, 2e4)
    monkeypatch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: backbone)
    return change(tmp_path, tiny_checkpoint, **identity(backbone.vit))


def test_an_ill_conditioned_projection_is_refused(ill: Path, tmp_path: Path):
    with pytest.raises(InversionError, match=r"condition at most 10000, got 2e\+04; export with --ridge"):
        export_task(ill, tmp_path / "task.pgn")
    assert not (tmp_path / "task.pgn").exists()


def test_a_ridge_that_costs_too_much_is_not_blamed_on_weights(
    tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    backbone = with_projection(tiny_backbone, 1e16)
    monkeypatch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: backbone)
    worse = change(tmp_path, tiny_checkpoint, **identity(backbone.vit))
    with pytest.raises(ParityError, match=r"the ridge changes the prompts.*--library-space pixel, .*--allow-drift"):
        export_task(worse, tmp_path / "task.pgn", ExportOptions(ridge=True))


def test_ridge_gets_it_through_the_ladder_and_is_recorded(ill: Path, tmp_path: Path):
    report = export_task(ill, tmp_path / "task.pgn", ExportOptions(ridge=True))
    assert all(rung.passed for rung in report.parity)
    certificate = read_bundle(tmp_path / "task.pgn").certificate
    assert certificate["condition"] == pytest.approx(2e4, rel=1e-2)
    assert certificate["ridge"] == report.certificate.ridge
    assert 0 <= certificate["ridge"] < 1e-6


def test_ridge_does_not_overrule_the_ladder(
    tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    backbone = with_projection(tiny_backbone, 1e12)
    monkeypatch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: backbone)
    path = change(tmp_path, tiny_checkpoint, **identity(backbone.vit))
    with pytest.raises(ParityError, match="'torch canvas'"):
        export_task(path, tmp_path / "task.pgn", ExportOptions(ridge=True))
    assert not (tmp_path / "task.pgn").exists()


def wide_vit() -> FrozenViT:
    """Tokens of 128 entries from patches of 4 x 4 x 3 = 48 pixels: L/14 in small, without an inverse."""
    torch.manual_seed(0)
    net = CharacterNet()
    net.body.blocks = net.body.blocks[:1]
    spec = VitSpec("builtin", (32, 32), 4, dataclasses.replace(PREPROCESS, size_hw=(32, 32)))
    projection = torch.nn.Conv2d(3, 128, 4, stride=4)
    return FrozenViT(spec, projection, net.prefix, 0.02 * torch.randn(64, 128), net.body, net.body.pre_norm)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("layout", ["append", "inset"])
def test_tokens_wider_than_patches_need_the_pixel_space(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, precision: str
):
    vit = wide_vit()
    backbone = Backbone(vit, ZeroShot())
    monkeypatch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: backbone)
    geometry = vit.geometry(8, layout)
    preprocess = vit.spec.preprocess.with_size(geometry.content_hw)
    images = np.random.default_rng(0).integers(0, 256, (20, *geometry.content_hw, 3), np.uint8)

    def save(space: str, width: int) -> Path:
        pgn = PGN(PgnConfig("resnet10", 8, 16, width, 32, space), 1.0, preprocess).eval()
        fields = {"geometry": geometry, "preprocess": preprocess, "pgn": pgn, "golden_images": images}
        return change(tmp_path, tiny_checkpoint, **identity(vit), **fields)

    options = ExportOptions(precision=precision)
    with pytest.raises(InversionError, match=r"rank 128.*got rank 48.*--library-space pixel"):
        export_task(save("token", 128), tmp_path / "task.pgn", options)
    report = export_task(save("pixel", 48), tmp_path / "task.pgn", options)
    assert all(rung.passed for rung in report.parity)
    assert (report.certificate.library_space, report.certificate.proven_legal) == ("pixel", True)
    assert np.abs(read_bundle(tmp_path / "task.pgn").golden.prompt_rows).max() <= 1 + 1e-6  # mean and std of 0.5


# onnxsim.


def test_simplify_changes_no_output(tiny_pair, tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(simplify=True))
    images = read_bundle(tiny_pair.task).golden.images
    before, after = (
        run_all(onnx.load_model_from_string(read_bundle(path).pgn_onnx), images)
        for path in (tiny_pair.task, tmp_path / "task.pgn")
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_simplifier_that_changes_an_output_is_refused(
    saboteur: Saboteur, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saboteur.spoil("nothing")
    monkeypatch.setattr(onnxsim, "simplify", lambda model: (saboteur.copy(damaged=True), True))
    with pytest.raises(ExportError, match="without --simplify"):
        export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(simplify=True))
    assert not list(tmp_path.iterdir())


def test_a_pgn_has_no_int8_form(saboteur: Saboteur, tiny_checkpoint: Path, tmp_path: Path):
    saboteur.spoil("nothing")
    with pytest.raises(ExportError, match="export-vit --int8"):
        export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(precision="int8"))
    assert not list(tmp_path.iterdir())


# Canvases of 8 bits.


def rounded(checkpoint_path: Path, folder: Path, **config: Any) -> Path:
    """The checkpoint with another PGN of pixels."""
    checkpoint = load_checkpoint(checkpoint_path)
    torch.manual_seed(3)
    shape = dataclasses.replace(PgnConfig("mlp", 16, 8, 192, 10, "pixel"), **config)
    return change(folder, checkpoint_path, pgn=PGN(shape, 1.0, checkpoint.preprocess).eval())


def test_bytes_of_a_library_that_was_not_trained_for_them_are_held_to_the_limits_of_fp16(pixel_pair):
    bundle = read_bundle(pixel_pair.task)
    assert (bundle.facts.canvas, bundle.facts.transport) == ("uint8", "lossless")
    assert [rung["rung"] for rung in bundle.parity] == [EIGHT_BITS, "torch canvas", "onnxruntime fp32"]
    loss, *exact = bundle.parity
    assert (loss["frames"], loss["top1_flips"]) == (24, 0)
    assert max(rung["max_abs"] for rung in exact) < 1e-6, "nothing is lost but in the rounding"
    assert loss["max_abs"] > FP32_MAX_ABS
    assert bundle.certificate["rounded"]
    assert bundle.certificate["proven_legal"]
    assert bundle.certificate["proof"] == f"fp32: {PROOF}"
    golden = bundle.golden
    assert (golden.prompt_rows.dtype, golden.prompt_rows.shape) == (np.uint8, (4, 16, 64, 3))
    found = run_all(onnx.load_model_from_string(bundle.pgn_onnx), golden.images)[0]
    np.testing.assert_array_equal(found, np.concatenate([golden.images, golden.prompt_rows], axis=1))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_bytes_of_a_library_that_was_trained_for_them(
    tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path, precision: str
):
    source = rounded(tiny_checkpoint, tmp_path, rounded=True)
    options = ExportOptions(precision=precision, uint8=True, simplify=precision == "fp16")
    report = export_task(source, tmp_path / "task.pgn", options)
    assert [rung.name for rung in report.parity] == ["torch canvas", "onnxruntime fp32", f"onnxruntime {precision}"]
    assert all(rung.passed for rung in report.parity)
    assert report.certificate.proof == f"fp32 and {precision}: {PROOF}"
    model = onnx.load_model_from_string(read_bundle(tmp_path / "task.pgn").pgn_onnx)
    assert {tensor.data_type for tensor in model.graph.initializer} & {10, 16}, "nothing runs in 16 bits"


def test_a_rounding_that_costs_too_much_is_refused(
    pixel_pair, use_tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(pgn_edge.agreement, "FP16_COSINE", 1.0)  # no rounding at all is that good
    with pytest.raises(ParityError, match=f"'{EIGHT_BITS}'.*train with --rounded, or export without --uint8"):
        export_task(pixel_pair.checkpoint, tmp_path / "task.pgn", ExportOptions(uint8=True))
    assert not list(tmp_path.iterdir())


def test_tokens_do_not_fit_into_bytes(tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    with pytest.raises(InversionError, match=r"--uint8: .*got a token library.*train with --library-space pixel"):
        export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(uint8=True))
    assert not list(tmp_path.iterdir())


def test_a_normalisation_that_is_not_the_vits_is_refused(pixel_pair, use_tiny_backbone: Backbone, tmp_path: Path):
    preprocess = dataclasses.replace(load_checkpoint(pixel_pair.checkpoint).preprocess, mean=(0.4, 0.5, 0.5))
    path = change(tmp_path, pixel_pair.checkpoint, preprocess=preprocess)
    with pytest.raises(ExportError, match=r"the ViT's own mean .*got mean \(0\.4.*without --uint8"):
        export_task(path, tmp_path / "task.pgn", ExportOptions(uint8=True))


def test_a_transport_is_for_bytes():
    with pytest.raises(ExportError, match=r"--transport: .*export with --uint8 too"):
        ExportOptions(transport="jpeg:75")
    with pytest.raises(DataError, match="jpeg:QUALITY"):
        ExportOptions(uint8=True, transport="jpeg")
    for transport in ("png", "webp"):
        assert ExportOptions(uint8=True, transport=transport).codec().loss == "lossless"
