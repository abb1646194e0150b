"""timm's vision transformers, against timm itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import GlobalResponseNormMlp, SwiGLU
from timm.models import vision_transformer as timm_vit
from timm.models.vision_transformer import VisionTransformer

from pgn_edge.errors import CheckpointError, DataError, GeometryError
from pgn_edge.export.frozen import vit_graph
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.timm_vit import timm_backbone

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7}


def randomise(model: Any) -> Any:
    """No parameter is left at a value, such as zero or one, under which a missing part would not show."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator) + (0.5 if parameter.ndim == 1 else 0)
    return model.eval()


def tiny(**options: Any) -> VisionTransformer:
    return randomise(VisionTransformer(**{**TINY, **options}))


def embedding(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def images_for(vit: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *vit.spec.image_hw, generator=generator, dtype=dtype)


MODELS = {
    "supervised: a class token": {},
    "DINOv2: layer scale": {"init_values": 0.1},
    "DINOv2: registers without position": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1},
    "registers with positions of their own": {"reg_tokens": 3},
    "DeiT-3: a class token without position": {"no_embed_class": True, "init_values": 0.1},
    "CLIP: pre-norm, no bias in the projection": {"pre_norm": True},
    "SigLIP: attention pooling, no prefix": {"class_token": False, "global_pool": "map"},
    "attention pooling behind a class token": {"global_pool": "map"},
    "attention pooling with its prefix": {"reg_tokens": 1, "global_pool": "map", "pool_include_prefix": True},
    "average of all but the prefix": {"reg_tokens": 2, "global_pool": "avg"},
    "average with the prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "average without a prefix": {"class_token": False, "global_pool": "avg"},
    "average after the norm": {"global_pool": "avg", "fc_norm": False},
    "class token, then the norm": {"fc_norm": True},
    "no norm at the end": {"final_norm": False},
    "no bias in query, key and value": {"qkv_bias": False},
    "query and key normalised": {"qk_norm": True},
    "BEiT-3: norms inside attention and MLP": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "a gated MLP": {"mlp_layer": SwiGLU},
    "sizes that may vary": {"dynamic_img_size": True},
    "a wide image": {"img_size": (16, 40)},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_frozen_vit_is_timms_model(name: str):
    model = tiny(**MODELS[name]).double()
    vit = timm_backbone(model, "timm:any").vit
    images = images_for(vit)
    with torch.no_grad():
        expected = embedding(model, images)
        torch.testing.assert_close(vit(images), expected, rtol=1e-11, atol=1e-12)
    assert expected.std() > 0.1
    assert vit.spec.image_hw == model.patch_embed.img_size
    assert vit.spec.patch == 8


@pytest.mark.parametrize("name", MODELS)
def test_prompts_enter_between_the_positions_and_the_pre_norm_and_get_timms_gradients(name: str):
    model = tiny(**MODELS[name]).double()
    vit = timm_backbone(model, "timm:any").vit
    images = images_for(vit)
    prompts = torch.randn(2, 5, vit.width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = vit(images, prompts.requires_grad_())
    model.norm_pre.register_forward_pre_hook(lambda module, inputs: torch.cat([inputs[0], prompts], dim=1))
    expected = embedding(model, images)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(each.square().sum(), prompts)[0] for each in (got, expected)]
    assert gradients[1].abs().amax(dim=-1).min() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_the_last_block_computes_the_tokens_that_are_pooled(name: str):
    vit = timm_backbone(tiny(**MODELS[name]), "timm:any").vit
    seen: list[int] = []
    for block in vit.body.blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    vit(images_for(vit, torch.float32))
    every = len(vit.prefix) + len(vit.position)
    assert seen == [every, 1 if MODELS[name].get("global_pool", "token") == "token" else every]


@pytest.mark.parametrize("name", MODELS)
def test_the_image_part_of_the_table_is_timms_own_to_the_bit(name: str):
    model = tiny(**MODELS[name])
    vit = timm_backbone(model, "timm:any").vit
    patches = model.patch_embed.num_patches
    assert torch.equal(vit.position, model.pos_embed[0, -patches:])
    assert len(vit.prefix) == model.num_prefix_tokens


def test_in_float32_it_is_timms_model_to_rounding():
    model = timm.create_model("test_vit").eval()
    vit = timm_backbone(model, "timm:any").vit
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), embedding(model, images), rtol=0, atol=1e-5)


def test_its_preprocessing_is_the_models_own():
    model = tiny()
    model.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_mode": "squash"}
    preprocess = timm_backbone(model, "timm:any").vit.spec.preprocess
    assert (preprocess.size_hw, preprocess.fit) == ((32, 32), "squash")
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_its_own_head_is_timms_classifier():
    model = tiny(global_pool="avg")
    backbone = timm_backbone(model, "timm:any")
    images = images_for(backbone.vit, torch.float32)
    head = backbone.zero_shot.head(("a", "b", "c"), "{}")
    with torch.no_grad():
        logits = head.logits(backbone.vit(images).numpy())
        np.testing.assert_allclose(logits, model(images)[:, :3].numpy(), rtol=0, atol=1e-4)
    assert (head.kind, head.labels) == ("linear", ("a", "b", "c"))


@pytest.mark.parametrize(
    ("outputs", "message"), [(2, "at most 2 classes, got 3"), (0, "a classifier of its own, got none")]
)
def test_without_enough_outputs_it_has_no_head(outputs: int, message: str):
    backbone = timm_backbone(tiny(num_classes=outputs), "timm:any")
    with pytest.raises(DataError, match=f"{message}; train with a linear head: --head linear"):
        backbone.zero_shot.head(("a", "b", "c"), "{}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"norm_layer": "rmsnorm"}, "norm: LayerNorm or Identity, got RmsNorm", id="RMS norm"),
        pytest.param({"block_fn": timm_vit.ResPostBlock}, "blocks.0: Block, got ResPostBlock", id="norm after"),
        pytest.param({"block_fn": timm_vit.ParallelScalingBlock}, "blocks.0: Block", id="parallel MLP"),
        pytest.param({"attn_layer": "diff"}, "blocks.0.attn: Attention, got DiffAttention", id="other attention"),
        pytest.param({"embed_norm_layer": "layernorm"}, "patch_embed.norm: Identity", id="norm of the patches"),
        pytest.param({"pos_embed": "none"}, "pos_embed: a position table, got none", id="no positions"),
        pytest.param({"global_pool": "max"}, "global_pool: token, avg or map, got 'max'", id="pooling by maximum"),
        pytest.param({"global_pool": ""}, "global_pool: token, avg or map, got ''", id="no pooling"),
        pytest.param({"global_pool": "prr"}, "attn_pool: .*got AttentionPoolPrr", id="another attention pooling"),
        pytest.param({"in_chans": 1}, "patch projection: RGB", id="grey images"),
        pytest.param({"patch_size": (8, 4)}, "patch projection: RGB, square", id="oblong patches"),
    ],
)
def test_parts_that_are_not_understood_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        timm_backbone(tiny(**options), "timm:any")


@pytest.mark.parametrize(
    ("part", "module", "message"),
    [
        ("patch_embed.proj", torch.nn.Conv2d(3, 48, 8, stride=4), "stride = kernel"),
        ("blocks.1.mlp", GlobalResponseNormMlp(48, 96), "blocks.1.mlp: Mlp or GluMlp or SwiGLU"),
        ("blocks.1.attn.gate", torch.nn.Linear(48, 48), "blocks.1.attn.gate: NoneType, got Linear"),
        ("blocks.1.attn.k_norm", torch.nn.RMSNorm(16), "blocks.1.attn.k_norm: LayerNorm"),
        ("blocks.1.norm2", torch.nn.RMSNorm(48), "blocks.1.norm2: LayerNorm"),
        ("blocks.0.ls1", torch.nn.Linear(48, 48), "blocks.0.ls1: LayerScale or Identity"),
        ("norm_pre", torch.nn.RMSNorm(48), "norm_pre: LayerNorm"),
        ("attn_pool", torch.nn.Linear(48, 48), "attn_pool: NoneType or AttentionPoolLatent"),
        ("attn_pool", timm_vit.AttentionPoolLatent(48, num_heads=3, latent_len=2), "one latent .*got 2"),
        ("attn_pool", timm_vit.AttentionPoolLatent(48, num_heads=3, qk_norm=True), "attn_pool.q_norm: Identity"),
    ],
    ids=[
        *("patches that overlap", "an MLP that mixes tokens", "gated attention", "a key norm", "a block's norm"),
        *("another scale", "a pre-norm", "another pooling", "two latents", "a pool that normalises"),
    ],
)
def test_parts_that_were_exchanged_are_refused(part: str, module: torch.nn.Module, message: str):
    model = tiny()
    owner, _, attribute = part.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)
    with pytest.raises(CheckpointError, match=message):
        timm_backbone(model, "timm:any")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test_resnet", "ResNet"),
        ("test_vit_relpos", "VisionTransformerRelPos"),
        ("eva02_tiny_patch14_224", "Eva"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
    ],
    ids=["no ViT", "relative positions", "rotary positions", "two class tokens", "a CNN before it"],
)
def test_other_models_are_refused_before_their_weights_are_fetched(name: str, kind: str):
    with pytest.raises(CheckpointError, match=f"got {kind}"):
        load_backbone(f"timm:{name}")


@pytest.mark.parametrize("name", ["", "no_such_vit", "test_vit.no_such_tag", "hf-hub:someone/model", "@224"])
def test_names_that_are_refused(name: str):
    with pytest.raises(CheckpointError, match=r"timm\.list_models|Invalid pretrained tag"):
        load_backbone(f"timm:{name}")


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
def test_weights_from_a_file_are_the_models_to_the_bit(tmp_path: Path, name: str, file: str):
    model = randomise(timm.create_model(name))
    path = save(tmp_path / file, model.state_dict())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    backbone = load_backbone(f"timm:{name}", path)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was initialised only to be overwritten
    expected = timm_backbone(model, "timm:any")
    state = backbone.vit.state_dict()
    assert state.keys() == expected.vit.state_dict().keys()
    for key, tensor in expected.vit.state_dict().items():
        assert torch.equal(state[key], tensor), key
    heads = [each.zero_shot.head(("a", "b"), "{}") for each in (backbone, expected)]
    assert np.array_equal(heads[0].weight, heads[1].weight)
    assert np.array_equal(heads[0].bias, heads[1].bias)
    assert backbone.vit.spec.backbone == f"timm:{name}"


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"], ids=["class token", "register"])
@pytest.mark.parametrize("saved", [160, 96], ids=["saved at the stock size", "saved at the new size"])
def test_a_size_resamples_the_positions_once_as_timm_does(tmp_path: Path, name: str, saved: int):
    state = randomise(timm.create_model(name, img_size=saved)).state_dict()
    vit = load_backbone(f"timm:{name}@96", save(tmp_path / "weights.pt", state)).vit
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, img_size=96).eval()
    assert vit.spec.image_hw == (96, 96)
    assert vit.spec.preprocess.size_hw == (96, 96)
    assert torch.equal(vit.position, model.pos_embed[0, -36:])
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), embedding(model, images), rtol=1e-4, atol=1e-4)


def test_without_a_size_positions_of_another_are_refused(tmp_path: Path):
    path = save(tmp_path / "weights.pt", timm.create_model("test_vit", img_size=96).state_dict())
    with pytest.raises(CheckpointError, match=r"size mismatch for pos_embed.*NAME@SIZE"):
        load_backbone("timm:test_vit", path)


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"], ids=["class token", "registers and a map pool"])
@pytest.mark.parametrize(
    "options",
    [{"num_classes": 3}, {"num_classes": 0}, {"num_classes": 3, "global_pool": "avg"}],
    ids=["own classes", "no head", "average pooling"],
)
def test_a_vit_fine_tuned_on_own_classes_gives_timms_embedding(tmp_path: Path, name: str, options: dict[str, Any]):
    model = randomise(timm.create_model(name, **options))
    backbone = load_backbone(f"timm:{name}", save(tmp_path / "own.pth", {"state_dict": model.state_dict()}))
    images = images_for(backbone.vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.vit(images), embedding(model, images), rtol=1e-5, atol=1e-4)
        if options["num_classes"]:
            logits = backbone.zero_shot.head(("a", "b", "c"), "{}").logits(backbone.vit(images).numpy())
            np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-4, atol=1e-4)


def clip_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, projects: bool) -> Any:
    """A small model under the name of a CLIP tower, as timm publishes it."""
    make = timm.models.create_model
    tower = "vit_base_patch32_clip_224.openai"

    def create(name: str, **options: Any) -> Any:
        model = make("test_vit", **{"num_classes": 512, **options})
        model.pretrained_cfg = timm.get_pretrained_cfg(tower).to_dict()
        return model

    model = randomise(create(tower))
    if projects:
        model.head.bias.data.zero_()
    monkeypatch.setattr(timm, "create_model", create)
    return load_backbone(f"timm:{tower}", save(tmp_path / "tower.pt", model.state_dict()))


def test_the_projection_of_a_clip_tower_is_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    backbone = clip_tower(tmp_path, monkeypatch, projects=True)
    for ask in (lambda: backbone.zero_shot.head(("a",), "{}"), backbone.zero_shot.outputs):
        with pytest.raises(DataError, match=r"projects to the space of texts; .*--head linear.*open_clip:"):
            ask()


def test_a_clip_tower_with_a_trained_classifier_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    backbone = clip_tower(tmp_path, monkeypatch, projects=False)
    assert backbone.zero_shot.head(("a", "b"), "{}").weight.shape[0] == 2


def test_openais_weights_under_a_name_with_gelu_are_noted_with_the_name_that_has_quickgelu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    notes = clip_tower(tmp_path, monkeypatch, projects=True).notes
    assert any("timm:vit_base_patch32_clip_quickgelu_224.openai" in note for note in notes)
    assert any("timm evaluates it with a crop of 0.9; here images are bicubic and uncropped" in note for note in notes)


def test_names_of_dinov2s_own_files_are_translated(tmp_path: Path):
    model = randomise(timm.create_model("test_vit", num_classes=1000))
    path = save(tmp_path / "dino.pt", {**model.state_dict(), "mask_token": torch.zeros(1, 64)})
    assert torch.equal(load_backbone("timm:test_vit", path).vit.position, model.pos_embed[0, 1:])


def test_the_download_is_timms_own(monkeypatch: pytest.MonkeyPatch):
    state = randomise(timm.create_model("test_vit")).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *arguments, **options: dict(state))
    vit = load_backbone("timm:test_vit.r160_in1k@96").vit
    assert vit.spec.image_hw == (96, 96)
    assert torch.equal(vit.state_dict()["body.blocks.4.qkv.weight"], state["blocks.4.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit@100", "patch size 16 divides, got 100 x 100; name a size, for example timm:test_vit@96"),
        ("test_vit@0", "got 0 x 0"),
        ("vit_so400m_patch14_siglip_384", "got 384 x 384; .*vit_so400m_patch14_siglip_384@378"),
    ],
    ids=["not whole patches", "nothing", "a stock size that timm rounds down"],
)
def test_sizes_that_the_patch_does_not_divide(name: str, message: str):
    with pytest.raises(GeometryError, match=message):
        load_backbone(f"timm:{name}")


def test_it_exports():
    model = tiny(depth=1, class_token=False, global_pool="map", qk_norm=True, init_values=0.1)
    graph = vit_graph(timm_backbone(model, "timm:any").vit, 6, "append", "fp32")
    assert all(rung.passed for rung in graph.parity)
    kinds = [node.op_type for node in graph.model.graph.node]
    # Two norms in the block and two in its attention, one after it, one in the pooling.
    assert (kinds.count("LayerNormalization"), kinds.count("Softmax")) == (6, 2)
