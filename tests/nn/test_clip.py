"""Image towers and text heads from open_clip, against open_clip itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file

from pgn_edge.errors import CheckpointError, DataError, GeometryError, PgnEdgeError
from pgn_edge.export.frozen import vit_graph
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.clip import clip_backbone

VISION = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
SIGLIP = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
ARCHITECTURES = {
    "tiny-clip": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-timm": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": SIGLIP,
        "text_cfg": SIGLIP_TEXT,
    },
    "tiny-hub": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": {**TEXT, "hf_tokenizer_name": "no/such"}},
}


@pytest.fixture(scope="module", autouse=True)
def tiny_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names for tiny models, through open_clip's own door for new architectures."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def randomise(model: Any) -> Any:
    """No parameter is left at a value, such as zero or one, under which a missing part would not show."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if name not in ("logit_scale", "logit_bias"):
            spread = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.data = spread + (0.5 if parameter.ndim == 1 else 0)
    return model.eval()


def tiny(kind: type = CLIP, embed_dim: int = 24, text: dict[str, Any] = TEXT, **vision: Any) -> Any:
    config = CLIPVisionCfg(**(vision if "timm_model_name" in vision else {**VISION, **vision}))
    model = kind(embed_dim, config, CLIPTextCfg(**text), quick_gelu=bool(vision.get("quick_gelu")))
    open_clip.model.set_model_preprocess_cfg(model, {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)})
    return randomise(model)


def siglip(**vision: Any) -> CustomTextCLIP:
    return tiny(CustomTextCLIP, 96, SIGLIP_TEXT, **{**SIGLIP, **vision})


def without_projection() -> CLIP:
    model = tiny()
    model.visual.proj = None
    return model


MODELS = {
    "as CLIP": tiny,
    "a wide image": lambda: tiny(image_size=(16, 40)),
    "without pre-norm": lambda: tiny(no_ln_pre=True),
    "without projection": without_projection,
    "with layer scale": lambda: tiny(ls_init_value=0.1),
    "CLIPA: average, sine positions": lambda: tiny(pool_type="avg", pos_embed_type="sin_cos_2d", no_ln_pre=True),
    "average, then the norm": lambda: tiny(pool_type="avg", final_ln_after_pool=True),
    "class token, then the norm": lambda: tiny(final_ln_after_pool=True),
    "SigLIP: timm's tower with attention pooling": siglip,
    "timm's tower with a projection behind it": lambda: siglip(timm_proj="linear", timm_proj_bias=True),
    "timm's tower with an MLP behind it": lambda: siglip(timm_proj="mlp"),
    "timm's tower that projects itself": lambda: siglip(timm_proj=""),
}


def images_for(vit: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, *vit.spec.image_hw, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("name", MODELS)
def test_the_frozen_vit_is_open_clips_tower(name: str):
    model = MODELS[name]().double()
    vit = clip_backbone(model, "open_clip:any", None).vit
    images = images_for(vit)
    with torch.no_grad():
        expected = model.visual(images)
        torch.testing.assert_close(vit(images), expected, rtol=1e-10, atol=1e-11)
    assert expected.std() > 0.1
    assert vit.spec.image_hw == tuple(model.visual.image_size)


@pytest.mark.parametrize("name", MODELS)
def test_prompts_enter_between_the_positions_and_the_pre_norm_and_get_open_clips_gradients(name: str):
    model = MODELS[name]().double()
    vit = clip_backbone(model, "open_clip:any", None).vit
    images = images_for(vit)
    prompts = torch.randn(2, 5, vit.width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = vit(images, prompts.requires_grad_())
    pre_norm = model.visual.trunk.norm_pre if hasattr(model.visual, "trunk") else model.visual.ln_pre
    pre_norm.register_forward_pre_hook(lambda module, inputs: torch.cat([inputs[0], prompts], dim=1))
    expected = model.visual(images)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)
    gradients = [torch.autograd.grad(each.square().sum(), prompts)[0] for each in (got, expected)]
    assert gradients[1].abs().amax(dim=-1).min() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9 * float(gradients[1].abs().max()))


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("as CLIP", 1), ("class token, then the norm", 1), ("average, then the norm", 1 + 16)],
    ids=["the class token is pooled", "and then normalised", "all other tokens are pooled"],
)
def test_the_last_block_computes_the_tokens_that_are_pooled(name: str, tokens: int):
    vit = clip_backbone(MODELS[name](), "open_clip:any", None).vit
    assert tokens_in_mlps(vit, vit.body) == [1 + 16, tokens]


def tokens_in_mlps(vit: Any, body: Any) -> list[int]:
    seen: list[int] = []
    for block in body.blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    vit(images_for(vit, torch.float32))
    return seen


def test_the_tower_of_timm_keeps_the_tokens_that_siglip_pools():
    vit = clip_backbone(siglip(), "open_clip:any", None).vit
    assert set(tokens_in_mlps(vit, vit.body[0])) == {len(vit.prefix) + len(vit.position)}


def test_the_image_part_of_the_table_is_open_clips_own_to_the_bit():
    model = tiny()
    assert torch.equal(clip_backbone(model, "open_clip:any", None).vit.position, model.visual.positional_embedding[1:])


def test_in_float32_it_is_open_clips_tower_to_rounding():
    torch.manual_seed(0)
    model = CLIP(24, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT)).eval()
    open_clip.model.set_model_preprocess_cfg(model, {"mean": (0, 0, 0), "std": (1, 1, 1)})
    vit = clip_backbone(model, "open_clip:any", None).vit
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), model.visual(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("mode", "fit"), [("shortest", "crop"), ("squash", "squash")])
def test_its_preprocessing_is_the_models_own(mode: str, fit: str):
    model = tiny()
    model.visual.preprocess_cfg["resize_mode"] = mode
    preprocess = clip_backbone(model, "open_clip:any", None).vit.spec.preprocess
    assert (preprocess.size_hw, preprocess.fit) == ((32, 32), fit)
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("kind", [tiny, siglip], ids=["CLIP", "SigLIP, less the bias that all logits share"])
def test_the_text_head_gives_the_models_scores(kind: Any):
    model, tokenizer = kind(), open_clip.get_tokenizer("ViT-B-32")
    backbone = clip_backbone(model, "open_clip:any", tokenizer)
    head = backbone.zero_shot.head(("Cat", "hot_dog"), "a photo of a {}.")
    images = images_for(backbone.vit, torch.float32)
    with torch.no_grad():
        expected, _ = model.get_logits(images, tokenizer(["a photo of a cat.", "a photo of a hot dog."]))
        scores = head.scores(backbone.vit(images).numpy())
    np.testing.assert_allclose(scores, expected.softmax(dim=-1).numpy(), rtol=0, atol=1e-4)
    assert head.labels == ("Cat", "hot_dog")


def test_a_template_without_a_place_for_the_class_is_refused():
    backbone = clip_backbone(tiny(), "open_clip:any", open_clip.get_tokenizer("ViT-B-32"))
    with pytest.raises(PgnEdgeError, match=r"put {} in it"):
        backbone.zero_shot.head(("cat",), "a photo")


@pytest.mark.parametrize(
    ("visual", "message"),
    [
        pytest.param(
            {"attentional_pool": True, "attn_pooler_heads": 2}, "got AttentionalPooler", id="attention pooling"
        ),
        pytest.param({"pool_type": "none"}, "tok or avg, got 'none'", id="no pooling"),
        pytest.param({"qk_norm": True}, "got CustomResidualAttentionBlock", id="other blocks"),
        pytest.param({"patch_size": (8, 4)}, "RGB, square", id="oblong patches"),
        pytest.param({"layers": [1, 1, 1, 1], "width": 16, "head_width": 8}, "got ModifiedResNet", id="a ResNet"),
        pytest.param({**SIGLIP, "timm_model_name": "test_vit4"}, "got RmsNorm", id="a ViT that timm alone knows"),
        pytest.param({**SIGLIP, "timm_model_name": "test_vit", "timm_pool": "max"}, "global_pool", id="maximum"),
        pytest.param({**SIGLIP, "timm_model_name": "test_resnet", "timm_pool": "avg"}, "got ResNet", id="timm's CNN"),
    ],
)
def test_towers_of_another_kind_are_refused(visual: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        clip_backbone(SimpleNamespace(visual=tiny(**visual).visual), "open_clip:other", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coca_ViT-B-32/laion2b_s13b_b90k", "CLIP or CustomTextCLIP of open_clip, got CoCa"),
        ("RN50/openai", "ModifiedResNet"),
        ("convnext_base/laion400m_s13b_b51k", "ConvNeXt"),
        ("EVA02-B-16/merged2b_s8b_b131k", "Eva"),
    ],
)
def test_they_are_refused_before_their_weights_are_fetched(name: str, message: str):
    with pytest.raises(CheckpointError, match=message):
        load_backbone(f"open_clip:{name}")


@pytest.mark.parametrize(
    "name", ["", "ViT-B-32", "ViT-B-32/", "NoSuchNet/openai", "/openai", "ViT-B-32/no_such_tag", "tiny-clip/any"]
)
def test_names_that_are_refused(name: str):
    with pytest.raises(CheckpointError, match="ARCHITECTURE/TAG"):
        load_backbone(f"open_clip:{name}")


@pytest.mark.parametrize("name", ["ViT-B-32/openai@100", "ViT-B-32/openai@0", "ViT-B-16-SigLIP/webli@100"])
def test_sizes_that_the_patch_does_not_divide(name: str):
    with pytest.raises(GeometryError, match=r"that patch size (32|16) divides"):
        load_backbone(f"open_clip:{name}")


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def stock(architecture: str, **options: Any) -> Any:
    return randomise(open_clip.create_model(architecture, **options))


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("architecture", ["tiny-clip", "tiny-timm"])
def test_weights_from_a_file_are_the_models_to_the_bit(tmp_path: Path, architecture: str, file: str):
    model = stock(architecture)
    path = save(tmp_path / file, model.state_dict())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    backbone = load_backbone(f"open_clip:{architecture}/any", path)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was initialised only to be overwritten
    expected = clip_backbone(model, "open_clip:any", open_clip.get_tokenizer(architecture))
    assert backbone.vit.state_dict().keys() == expected.vit.state_dict().keys()
    for key, tensor in expected.vit.state_dict().items():
        assert torch.equal(backbone.vit.state_dict()[key], tensor), key
    heads = [each.zero_shot.head(("cat", "dog"), "a {}") for each in (backbone, expected)]  # masks are in no file
    assert np.array_equal(heads[0].weight, heads[1].weight)
    assert heads[0].scale == heads[1].scale
    assert backbone.vit.spec.backbone == f"open_clip:{architecture}/any"


def test_half_precision_weights_become_float32(tmp_path: Path):
    state = {key: tensor.half() for key, tensor in stock("tiny-clip").state_dict().items()}
    vit = load_backbone("open_clip:tiny-clip/any", save(tmp_path / "weights.pt", state)).vit
    assert {tensor.dtype for tensor in vit.state_dict().values()} == {torch.float32}
    assert torch.equal(vit.position, state["visual.positional_embedding"][1:].float())


@pytest.mark.parametrize(
    ("tag", "quick_gelu"), [("openai", True), ("any", False)], ids=["openai: QuickGELU", "any other: GELU"]
)
def test_weights_from_a_file_get_the_activation_of_their_tag(tmp_path: Path, tag: str, quick_gelu: bool):
    model = stock("tiny-clip", force_quick_gelu=quick_gelu)
    vit = load_backbone(f"open_clip:tiny-clip/{tag}", save(tmp_path / "weights.pt", model.state_dict())).vit
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), model.visual(images), rtol=1e-4, atol=1e-4)


def test_the_tag_says_normalisation_and_activation_and_where_the_download_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = stock("tiny-clip", force_quick_gelu=True)
    published = {
        **{"mean": (0.5, 0.6, 0.7), "std": (0.1, 0.2, 0.3), "resize_mode": "squash", "interpolation": "bicubic"},
        **{"quick_gelu": True, "file": str(save(tmp_path / "published.safetensors", model.state_dict()))},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"tuned": published})
    vit = load_backbone("open_clip:tiny-clip/tuned").vit
    preprocess = vit.spec.preprocess
    assert (preprocess.mean, preprocess.std, preprocess.fit) == ((0.5, 0.6, 0.7), (0.1, 0.2, 0.3), "squash")
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), model.visual(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="leave the tag out, or say the activation of the file") as caught:
        load_backbone("open_clip:tiny-clip/other", published["file"])
    assert "tuned" not in str(caught.value)  # a published tag would decide the activation in silence


@pytest.mark.parametrize("architecture", ["tiny-clip", "tiny-timm"], ids=["open_clip's tower", "timm's tower"])
@pytest.mark.parametrize("new", [False, True], ids=["saved at the stock size", "saved at the new size"])
def test_a_size_resamples_the_positions_once_as_open_clip_does(tmp_path: Path, architecture: str, new: bool):
    path = save(tmp_path / "stock.pt", stock(architecture).state_dict())
    model = open_clip.create_model(architecture, pretrained=str(path), force_image_size=96).eval()
    if new:
        path = save(tmp_path / "new.pt", model.state_dict())
    vit = load_backbone(f"open_clip:{architecture}/any@96", path).vit
    assert vit.spec.image_hw == vit.spec.preprocess.size_hw == (96, 96)
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), model.visual(images), rtol=1e-4, atol=1e-4)
    trunk = getattr(model.visual, "trunk", None)
    table = model.visual.positional_embedding[1:] if trunk is None else trunk.pos_embed[0, 1:]
    assert torch.equal(vit.position, table)


def test_without_a_size_positions_of_another_are_refused(tmp_path: Path):
    path = save(tmp_path / "weights.pt", stock("tiny-clip", force_image_size=48).state_dict())
    with pytest.raises(CheckpointError, match=r"size mismatch for visual\.positional_embedding.*NAME@SIZE"):
        load_backbone("open_clip:tiny-clip/any", path)


def test_positions_that_cannot_be_resampled_are_refused(tmp_path: Path):
    state = {**stock("tiny-clip").state_dict(), "visual.positional_embedding": torch.zeros(4, 48)}
    with pytest.raises(CheckpointError, match="expected the weights of open_clip:tiny-clip/any@48"):
        load_backbone("open_clip:tiny-clip/any@48", save(tmp_path / "weights.pt", state))


def test_a_tokenizer_that_cannot_be_had_stops_only_the_text_head(tmp_path: Path):
    backbone = load_backbone("open_clip:tiny-hub/any", save(tmp_path / "weights.pt", stock("tiny-hub").state_dict()))
    with pytest.raises(DataError, match=r"the tokenizer of its text tower, got .*--head linear"):
        backbone.zero_shot.head(("cat",), "a {}")


def test_it_exports():
    vit = clip_backbone(tiny(layers=1, pool_type="avg"), "open_clip:any", None).vit
    graph = vit_graph(vit, 6, "append", "fp32")
    assert all(rung.passed for rung in graph.parity)
    kinds = [node.op_type for node in graph.model.graph.node]
    assert (kinds.count("LayerNormalization"), kinds.count("Softmax")) == (4, 1)
