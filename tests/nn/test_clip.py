"""CLIP's image tower from open_clip, against open_clip itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from pgn_edge.errors import CheckpointError, PgnEdgeError
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.clip import clip_backbone

TEXT = CLIPTextCfg(context_length=77, vocab_size=49408, width=32, heads=2, layers=1)


def tiny(**vision: Any) -> CLIP:
    torch.manual_seed(0)
    config = CLIPVisionCfg(**{"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32, **vision})
    model = CLIP(24, config, TEXT, quick_gelu=bool(vision.get("quick_gelu"))).eval()
    open_clip.model.set_model_preprocess_cfg(model, {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)})
    return model


def b32() -> CLIP:
    torch.manual_seed(0)
    return open_clip.create_model("ViT-B-32", pretrained=None, force_quick_gelu=True).eval()


MODELS = {
    "the paper's ViT-B-32": b32,
    "tiny": tiny,
    "wide image": lambda: tiny(image_size=(16, 40)),
    "without pre-norm": lambda: tiny(no_ln_pre=True),
    "with layer scale": lambda: tiny(ls_init_value=0.1),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_frozen_vit_is_open_clips_tower(name: str):
    model = MODELS[name]()
    vit = clip_backbone(model, "open_clip:any", None).vit
    images = torch.randn(2, 3, *vit.spec.image_hw, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(vit(images), model.visual(images), rtol=0, atol=1e-5)
    assert vit.spec.image_hw == tuple(model.visual.image_size)
    assert vit.width == model.visual.conv1.out_channels


def test_its_preprocessing_is_the_models_own():
    preprocess = clip_backbone(tiny(), "open_clip:any", None).vit.spec.preprocess
    assert preprocess.size_hw == (32, 32)
    assert preprocess.mean == (0.1, 0.2, 0.3)
    assert preprocess.std == (0.4, 0.5, 0.6)


def test_the_text_head_gives_clips_logits():
    model, tokenizer = tiny(), open_clip.get_tokenizer("ViT-B-32")
    backbone = clip_backbone(model, "open_clip:any", tokenizer)
    head = backbone.zero_shot.head(("Cat", "hot_dog"), "a photo of a {}.")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image = F.normalize(model.encode_image(images), dim=-1)
        text = F.normalize(model.encode_text(tokenizer(["a photo of a cat.", "a photo of a hot dog."])), dim=-1)
        expected = model.logit_scale.exp() * image @ text.T
        logits = head.logits(backbone.vit(images).numpy())
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)
    assert head.labels == ("Cat", "hot_dog")


def test_a_template_without_a_place_for_the_class_is_refused():
    backbone = clip_backbone(tiny(), "open_clip:any", open_clip.get_tokenizer("ViT-B-32"))
    with pytest.raises(PgnEdgeError, match=r"put {} in it"):
        backbone.zero_shot.head(("cat",), "a photo")


@pytest.mark.parametrize(
    "visual",
    [
        pytest.param(
            lambda: tiny(attentional_pool=True, attn_pooler_heads=2).visual, id="attention pooling, as in CoCa"
        ),
        pytest.param(lambda: tiny(pool_type="avg").visual, id="average pooling"),
        pytest.param(lambda: tiny(final_ln_after_pool=True).visual, id="norm after the pooling"),
        pytest.param(
            lambda: (
                tiny(timm_model_name="vit_tiny_patch16_224", timm_pool="map", timm_proj="none", image_size=224).visual
            ),
            id="a timm tower, as in SigLIP",
        ),
        pytest.param(lambda: tiny(layers=[1, 1, 1, 1], width=16, head_width=8).visual, id="a ResNet"),
    ],
)
def test_towers_of_another_kind_are_refused(visual: Any):
    with pytest.raises(CheckpointError, match="pools the class token"):
        clip_backbone(SimpleNamespace(visual=visual()), "open_clip:other", None)


@pytest.mark.parametrize(
    "name",
    ["open_clip:", "open_clip:ViT-B-32", "open_clip:ViT-B-32/", "open_clip:NoSuchNet/openai", "open_clip:/openai"],
)
def test_names_that_are_refused(name: str):
    with pytest.raises(CheckpointError, match="ARCHITECTURE/TAG"):
        load_backbone(name)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="no such file"),
        pytest.param(b"not a checkpoint", id="text"),
    ],
)
def test_weights_that_cannot_be_read(tmp_path: Path, content: bytes | None):
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        load_backbone("open_clip:ViT-S-32-alt/openai", path)


@pytest.mark.parametrize(
    ("tag", "quick_gelu"),
    [("openai", True), ("laion2b_s34b_b79k", False)],
    ids=["openai: QuickGELU", "any other: GELU"],
)
def test_weights_from_a_file_get_the_activation_of_their_tag(tmp_path: Path, tag: str, quick_gelu: bool):
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None, force_quick_gelu=quick_gelu).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    vit = load_backbone(f"open_clip:ViT-S-32-alt/{tag}", tmp_path / "weights.pt").vit
    images = torch.randn(1, 3, *vit.spec.image_hw, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(vit(images), model.visual(images), rtol=0, atol=1e-5)


OFFLINE = """
import socket

def refuse(*arguments, **options):
    raise OSError("no network here")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pgn_edge.errors import CheckpointError
from pgn_edge.nn.backbones import load_backbone
try:
    load_backbone("open_clip:ViT-B-32/openai")
except CheckpointError as exc:
    print(exc)
"""


def test_without_a_network_it_says_how_to_pass_a_file(tmp_path: Path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment["HOME"] = str(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    lines = child.stdout.splitlines()
    assert len(lines) == 1, child
    assert lines[0].startswith("open_clip:ViT-B-32/openai: expected weights")
    assert "--weights FILE" in lines[0]
