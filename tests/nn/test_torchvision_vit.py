"""torchvision's vision transformers, against torchvision itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig, interpolate_embeddings

from pgn_edge.errors import CheckpointError, DataError, GeometryError
from pgn_edge.export.frozen import vit_graph
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.torchvision_vit import torchvision_backbone

TINY = {"patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96, "num_classes": 7}


def randomise(model: Any) -> Any:
    """No parameter is left at a value, such as zero or one, under which a missing part would not show."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator) + (0.5 if parameter.ndim == 1 else 0)
    return model.eval()


def tiny(**options: Any) -> VisionTransformer:
    return randomise(VisionTransformer(**{"image_size": 32, **TINY, **options}))


def embedding(model: Any, images: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = model.heads.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(images)
    handle.remove()
    return seen[0]


def images_for(vit: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *vit.spec.image_hw, generator=generator, dtype=dtype)


@pytest.fixture
def small_vits(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's names, with two narrow layers behind each: the library has no small ViT of its own."""

    def get_model(name: str, weights: None, **options: Any) -> VisionTransformer:
        return VisionTransformer(**{**TINY, "patch_size": int(name.rpartition("_")[2]), **options})

    monkeypatch.setattr(torchvision.models, "get_model", get_model)


def test_the_frozen_vit_is_torchvisions_encoder():
    model = tiny().double()
    vit = torchvision_backbone(model, "torchvision:any").vit
    images = images_for(vit)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), embedding(model, images), rtol=1e-11, atol=1e-12)
    assert (vit.spec.image_hw, vit.spec.patch, vit.width) == ((32, 32), 8, 48)


def test_in_float32_it_is_torchvisions_encoder_to_rounding():
    torch.manual_seed(0)
    model = VisionTransformer(image_size=32, **TINY).eval()
    vit = torchvision_backbone(model, "torchvision:any").vit
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), embedding(model, images), rtol=0, atol=1e-5)


def test_prompts_enter_after_the_positions_and_get_torchvisions_gradients():
    model = tiny().double()
    vit = torchvision_backbone(model, "torchvision:any").vit
    images = images_for(vit)
    prompts = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = vit(images, prompts.requires_grad_())
    model.encoder.dropout.register_forward_pre_hook(lambda module, inputs: torch.cat([inputs[0], prompts], dim=1))
    expected = embedding(model, images)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(each.square().sum(), prompts)[0] for each in (got, expected)]
    assert gradients[1].abs().amax(dim=-1).min() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9 * float(gradients[1].abs().max()))


def test_the_image_part_of_the_table_is_torchvisions_own_to_the_bit():
    model = tiny()
    assert torch.equal(torchvision_backbone(model, "torchvision:any").vit.position, model.encoder.pos_embedding[0, 1:])


def test_the_normalisation_is_that_of_all_published_weights():
    preprocess = torchvision_backbone(tiny(), "torchvision:any").vit.spec.preprocess
    for name in torchvision.models.list_models(include="vit_*"):
        for weights in torchvision.models.get_model_weights(name):
            transforms = weights.transforms()
            assert (tuple(transforms.mean), tuple(transforms.std)) == (preprocess.mean, preprocess.std), weights


def test_its_own_head_is_torchvisions_classifier():
    model = tiny()
    backbone = torchvision_backbone(model, "torchvision:any")
    images = images_for(backbone.vit, torch.float32)
    with torch.no_grad():
        logits = backbone.zero_shot.head(("a", "b", "c"), "{}").logits(backbone.vit(images).numpy())
        np.testing.assert_allclose(logits, model(images)[:, :3].numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_classes": 2}, "at most 2 classes, got 3"), ({"representation_size": 5}, "a classifier of its own")],
    ids=["too few outputs", "a hidden layer before the classifier"],
)
def test_without_a_linear_classifier_it_has_no_head(options: dict[str, int], message: str):
    backbone = torchvision_backbone(tiny(**options), "torchvision:any")
    with pytest.raises(DataError, match=f"{message}.*--head linear"):
        backbone.zero_shot.head(("a", "b", "c"), "{}")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(lambda: tiny(conv_stem_configs=[ConvStemConfig(8, 3, 8)]), "one convolution", id="a stem"),
        pytest.param(lambda: tiny(norm_layer=partial(nn.RMSNorm, eps=1e-6)), "encoder.ln: LayerNorm", id="RMS norm"),
        pytest.param(torchvision.models.resnet18, "VisionTransformer.*got ResNet", id="a ResNet"),
    ],
)
def test_other_models_are_refused(model: Any, message: str):
    with pytest.raises(CheckpointError, match=message):
        torchvision_backbone(model(), "torchvision:any")


@pytest.mark.parametrize("name", ["", "vit", "resnet18", "swin_t", "vit_b_64", "@224"])
def test_names_that_are_refused(name: str):
    with pytest.raises(CheckpointError, match="try torchvision:vit_b_32"):
        load_backbone(f"torchvision:{name}")


@pytest.mark.parametrize("size", [100, 0, 31])
def test_sizes_that_the_patch_does_not_divide(size: int):
    with pytest.raises(GeometryError, match=f"patch size 32 divides, got {size} x {size}; .*vit_b_32@"):
        load_backbone(f"torchvision:vit_b_32@{size}")


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_weights_from_a_file_are_the_models_to_the_bit(tmp_path: Path, small_vits: None, file: str):
    model = tiny(patch_size=32, image_size=224)
    path = tmp_path / file
    save_file(model.state_dict(), path) if path.suffix == ".safetensors" else torch.save(model.state_dict(), path)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    vit = load_backbone("torchvision:vit_b_32", path).vit
    assert torch.equal(torch.get_rng_state(), before)  # nothing was initialised only to be overwritten
    expected = torchvision_backbone(model, "torchvision:any").vit.state_dict()
    assert vit.state_dict().keys() == expected.keys()
    for key, tensor in vit.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert vit.spec.backbone == "torchvision:vit_b_32"


def test_names_of_torchvisions_older_files_are_translated(tmp_path: Path, small_vits: None):
    model = tiny(patch_size=32, image_size=224)
    renamed = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for key, tensor in model.state_dict().items()
    }
    assert renamed.keys() != model.state_dict().keys()
    torch.save(renamed, tmp_path / "old.pth")
    vit = load_backbone("torchvision:vit_b_32", tmp_path / "old.pth").vit
    assert torch.equal(vit.state_dict()["body.blocks.1.mlp.3.bias"], model.encoder.layers[1].mlp[3].bias)


@pytest.mark.parametrize("saved", [224, 320], ids=["saved at the stock size", "saved at the new size"])
def test_a_size_resamples_the_positions_once_as_torchvision_does(tmp_path: Path, small_vits: None, saved: int):
    state = tiny(patch_size=32, image_size=saved).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    vit = load_backbone("torchvision:vit_b_32@320", tmp_path / "weights.pth").vit
    model = tiny(patch_size=32, image_size=320)
    model.load_state_dict(interpolate_embeddings(320, 32, dict(state)))
    assert vit.spec.image_hw == (320, 320)
    assert torch.equal(vit.position, model.encoder.pos_embedding[0, 1:])
    images = images_for(vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), embedding(model, images), rtol=1e-4, atol=1e-4)


def test_without_a_size_positions_of_another_are_refused(tmp_path: Path, small_vits: None):
    torch.save(tiny(patch_size=32, image_size=320).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"size mismatch for encoder\.pos_embedding.*NAME@SIZE"):
        load_backbone("torchvision:vit_b_32", tmp_path / "weights.pth")


def test_positions_that_cannot_be_resampled_are_refused(tmp_path: Path, small_vits: None):
    torch.save({"encoder.pos_embedding": torch.zeros(1, 4, 48)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="not a perfect square"):
        load_backbone("torchvision:vit_b_32@320", tmp_path / "weights.pth")


def test_the_stock_size_is_that_of_the_default_weights(tmp_path: Path, small_vits: None):
    torch.save(tiny(patch_size=14, image_size=518).state_dict(), tmp_path / "weights.pth")
    assert load_backbone("torchvision:vit_h_14", tmp_path / "weights.pth").vit.spec.image_hw == (518, 518)


def test_the_download_is_torchvisions_own(monkeypatch: pytest.MonkeyPatch, small_vits: None):
    state = tiny(patch_size=32, image_size=224).state_dict()
    asked = []

    def fetch(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.append((url, options))
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert torch.equal(load_backbone("torchvision:vit_b_32").vit.position, state["encoder.pos_embedding"][0, 1:])
    [(url, options)] = asked
    assert "vit_b_32" in url
    assert options["weights_only"]


@pytest.mark.parametrize("hidden", [None, 20], ids=["one layer", "a hidden layer before it"])
@pytest.mark.parametrize("classes", [3, 0], ids=["three classes", "without a head"])
def test_a_vit_fine_tuned_on_own_classes_gives_its_embedding(
    tmp_path: Path, small_vits: None, classes: int, hidden: int | None
):
    model = tiny(patch_size=32, image_size=224, num_classes=classes or 7, representation_size=hidden)
    state = {key: value for key, value in model.state_dict().items() if classes or not key.startswith("heads.")}
    torch.save(state, tmp_path / "own.pth")
    backbone = load_backbone("torchvision:vit_b_32", tmp_path / "own.pth")
    images = images_for(backbone.vit, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.vit(images), embedding(model, images), rtol=0, atol=1e-5)
        if classes and not hidden:
            logits = backbone.zero_shot.head(("a", "b", "c"), "{}").logits(backbone.vit(images).numpy())
            np.testing.assert_allclose(logits, model(images).numpy(), rtol=0, atol=1e-4)
    assert any("torchvision evaluates it with bilinear resizing and a crop" in note for note in backbone.notes)


def test_it_exports():
    graph = vit_graph(torchvision_backbone(tiny(), "torchvision:any").vit, 6, "append", "fp32")
    assert all(rung.passed for rung in graph.parity)
    kinds = [node.op_type for node in graph.model.graph.node]
    assert (kinds.count("LayerNormalization"), kinds.count("Softmax")) == (5, 2)
    inferred = onnx.shape_inference.infer_shapes(graph.model, strict_mode=True, data_prop=True).graph.value_info
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred}
    products = [f"vit.body.blocks.{layer}/MatMul" for layer in ("0.mlp.3", "1.key_value", "1.query", "1.mlp.3")]
    # Class token, patches and prompts; of the last block the class token alone is read.
    assert [sizes[name][1] for name in products] == [1 + 16 + 6, 1 + 16 + 6, 1, 1]
