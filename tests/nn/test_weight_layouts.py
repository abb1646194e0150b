"""Weights as other libraries and training loops leave them: the same embeddings, or a refusal that names the layout."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from pgn_edge.errors import CheckpointError, DataError
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.torchscript import read_torchscript
from pgn_edge.nn.weight_file import read_weights

SIZE, WIDTH, EMBEDDING = 32, 48, 24
VISION = {"layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8, "image_size": SIZE}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
NAME = "open_clip:tiny-layouts"


@pytest.fixture(scope="module", autouse=True)
def tiny_architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    config = {"embed_dim": EMBEDDING, "vision_cfg": VISION, "text_cfg": TEXT}
    (folder / "tiny-layouts.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def randomise(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "logit" not in name:
            spread = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.data = spread + (0.5 if parameter.ndim == 1 else 0)
    return model.eval()


@pytest.fixture(scope="module")
def quick() -> Any:
    """A CLIP of open_clip with QuickGELU, as OpenAI's."""
    return randomise(open_clip.create_model("tiny-layouts", force_quick_gelu=True))


@pytest.fixture(scope="module")
def plain() -> Any:
    """A CLIP of open_clip with GELU, as LAION's."""
    return randomise(open_clip.create_model("tiny-layouts"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def same(vit: Any, expected: Tensor, images: Tensor) -> None:
    """Unit embeddings agree to 1e-5."""
    with torch.no_grad():
        got = nn.functional.normalize(vit(images), dim=-1)
    torch.testing.assert_close(got, nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-5)


def save(path: Path, state: Any) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


# Hugging Face.


def hugging_face(kind: Any, activation: str) -> Any:
    config = CLIPConfig(
        projection_dim=EMBEDDING,
        vision_config={
            **{"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3},
            **{"image_size": SIZE, "patch_size": 8, "projection_dim": EMBEDDING, "hidden_act": activation},
        },
        text_config={
            **{"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"projection_dim": EMBEDDING, "hidden_act": activation},
        },
    )
    return randomise(kind(config if kind is CLIPModel else config.vision_config))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("kind", [CLIPModel, CLIPVisionModelWithProjection], ids=["whole model", "image tower"])
def test_a_model_saved_by_hugging_face_gives_its_embeddings_with_the_activation_of_its_config(
    tmp_path: Path, images: Tensor, kind: Any, activation: str
):
    model = hugging_face(kind, activation)
    model.save_pretrained(tmp_path)
    backbone = load_backbone(NAME, tmp_path / "model.safetensors")
    tower = model.vision_model(images).pooler_output
    with torch.no_grad():
        same(backbone.vit, model.visual_projection(tower), images)
    assert backbone.vit.activation() == {"quick_gelu": "QuickGELU", "gelu": "GELU"}[activation]
    assert any("config.json says" in note for note in backbone.notes)
    if kind is not CLIPModel:
        with pytest.raises(DataError, match="got the image tower alone"):
            backbone.zero_shot.head(("cat",), "a {}")


def test_the_text_tower_of_hugging_face_makes_the_head(tmp_path: Path):
    model = hugging_face(CLIPModel, "quick_gelu")
    model.save_pretrained(tmp_path)
    head = load_backbone(NAME, tmp_path / "model.safetensors").zero_shot.head(("cat", "dog"), "a {}")
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a cat", "a dog"])
    with torch.no_grad():
        hidden = model.text_model(tokens).last_hidden_state[torch.arange(2), tokens.argmax(dim=-1)]
        expected = nn.functional.normalize(model.text_projection(hidden), dim=-1)
    torch.testing.assert_close(torch.from_numpy(head.weight), expected, rtol=0, atol=1e-5)


def test_the_normalisation_beside_a_hugging_face_model_is_taken(tmp_path: Path):
    hugging_face(CLIPVisionModelWithProjection, "gelu").save_pretrained(tmp_path)
    about = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    preprocess = load_backbone(NAME, tmp_path / "model.safetensors").vit.spec.preprocess
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_another_activation_of_hugging_face_is_refused(tmp_path: Path):
    hugging_face(CLIPVisionModelWithProjection, "relu").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"expected hidden_act gelu or quick_gelu.*got relu"):
        load_backbone(NAME, tmp_path / "model.safetensors")


# OpenAI's TorchScript.


@pytest.fixture(scope="module")
def script(quick: Any, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as OpenAI publishes its own: a program with its weights, traced."""
    path = tmp_path_factory.mktemp("script") / "ViT-tiny.pt"
    tokens = open_clip.get_tokenizer("tiny-layouts")(["a cat", "a dog"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what OpenAI's files were made with
        torch.jit.trace(quick, (images, tokens), check_trace=False).save(path)
    return path


def test_openais_own_file_is_read_without_running_its_program_and_tells_its_activation(
    script: Path, quick: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    for module, name in ((torch.jit, "load"), (pickle, "Unpickler"), (pickle, "loads")):
        monkeypatch.setattr(module, name, lambda *arguments, **options: pytest.fail("the file was executed"))
    backbone = load_backbone(NAME, script)
    with torch.no_grad():
        same(backbone.vit, quick.visual(images), images)
    assert backbone.vit.activation() == "QuickGELU"
    assert any("QuickGELU as ViT-tiny.pt says" in note for note in backbone.notes)
    assert backbone.zero_shot.head(("cat", "dog"), "a {}").weight.shape == (2, EMBEDDING)


def test_a_tag_that_contradicts_the_program_is_refused(script: Path):
    with pytest.raises(CheckpointError, match=r"expected QuickGELU, as ViT-tiny\.pt says, got GELU by the tag"):
        load_backbone(f"{NAME}/gelu", script)


def rewrite(script: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of the archive with another index."""
    with zipfile.ZipFile(script) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename.endswith("/data.pkl") else data)
    return target


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from the file ran",)


HOSTILE = {
    "code": lambda data: pickle.dumps(Code(), 2),
    "nothing": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "a tensor beyond its storage": lambda data: data.replace(b"(K\x18K0", b"(K\x18M\xff\x7f", 1).replace(
        b"K0K\x01", b"M\xff\x7fK\x01"
    ),
    "an operation of other writers": lambda data: b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R\x8c\x01a\x94.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_run_nothing_and_end_in_one_line(script: Path, tmp_path: Path, capsys: Any, case: str):
    path = rewrite(script, tmp_path / "hostile.pt", HOSTILE[case])
    with pytest.raises(CheckpointError) as caught:
        load_backbone(NAME, path)
    assert len(str(caught.value).splitlines()) == 1
    assert "ran" not in capsys.readouterr().out


def test_a_tensor_that_claims_more_numbers_than_are_stored_is_refused(tmp_path: Path):
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x0atQ"
    five_by_five = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(K\5K\5t(K\1K\1t\x89}tR"
    with zipfile.ZipFile(tmp_path / "greedy.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\2c__torch__\nM\n)\x81}X\1\0\0\0w" + five_by_five + b"sb.")
        archive.writestr("a/data/0", bytes(40))
        archive.writestr("a/code/m.py", "")
    with pytest.raises(CheckpointError, match=r"got a tensor of \(5, 5\) in 10 stored numbers"):
        read_torchscript(tmp_path / "greedy.pt")


def test_every_tensor_of_an_archive_is_the_models_own_to_the_bit(script: Path, quick: Any):
    read, state = read_torchscript(script).tensors, quick.state_dict()
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor), name


# Training loops.

WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "torch.compile": lambda s: {f"_orig_mod.{key}": value for key, value in s.items()},
    "torch.compile of the image tower": lambda s: {k.replace("visual.", "visual._orig_mod."): v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {**{f"model.{k}": v for k, v in s.items()}, "loss.weight": torch.ones(2)}},
    "Lightning, parallel and compiled": lambda s: {
        "state_dict": {f"model._orig_mod.module.{key}": value for key, value in s.items()}
    },
    "the image tower": lambda s: {key: value for key, value in s.items() if key.startswith("visual.")},
    "the image tower on its own": lambda s: {
        key.removeprefix("visual."): value for key, value in s.items() if key.startswith("visual.")
    },
    "an encoder of another model": lambda s: {
        **{f"encoder.{k.removeprefix('visual.')}": v for k, v in s.items() if k.startswith("visual.")},
        "classifier.weight": torch.ones(3, 3),
    },
}


@pytest.mark.parametrize("case", WRAPPED)
def test_files_of_training_loops_give_the_embeddings_of_the_model(
    tmp_path: Path, plain: Any, images: Tensor, case: str
):
    backbone = load_backbone(f"{NAME}/gelu", save(tmp_path / "last.ckpt", WRAPPED[case](plain.state_dict())))
    with torch.no_grad():
        same(backbone.vit, plain.visual(images), images)
    left_out = any("outside" in note for note in backbone.notes)
    assert left_out == (case in ("Lightning", "an encoder of another model"))


def test_two_models_in_one_file_are_refused_until_one_is_chosen(tmp_path: Path, plain: Any, images: Tensor):
    state = {key: value for key, value in plain.state_dict().items() if key.startswith("visual.")}
    both = {f"student.{k}": v + 1 for k, v in state.items()} | {f"teacher.{k}": v for k, v in state.items()}
    path = save(tmp_path / "last.ckpt", both)
    with pytest.raises(CheckpointError, match=r"'student\.' and 'teacher\.'; .*--weights-key student"):
        load_backbone(f"{NAME}/gelu", path)
    with torch.no_grad():
        same(load_backbone(f"{NAME}/gelu", f"{path}#teacher").vit, plain.visual(images), images)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("torchvision:vit_b_32", "open_clip"), (NAME, "timm"), ("torchvision:vit_b_32", "timm")],
)
def test_a_file_of_another_library_is_named(tmp_path: Path, plain: Any, name: str, layout: str):
    state = plain.state_dict() if layout == "open_clip" else timm.create_model("test_vit").state_dict()
    with pytest.raises(CheckpointError, match=f"names of {layout}; name the backbone {layout}:"):
        load_backbone(name, save(tmp_path / "weights.pt", state))


# Averaged weights.


@pytest.fixture(scope="module")
def averaged(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = plain.state_dict()
    ema = {f"module.{key}": value for key, value in state.items()} | {"n_averaged": torch.tensor(7)}
    plainly = {key: value + 0.1 for key, value in state.items()}
    return save(tmp_path_factory.mktemp("ema") / "last.pth", {"model": plainly, "model_ema": ema, "epoch": 3})


def test_averaged_weights_are_taken_before_plain_ones_and_a_note_says_so(averaged: Path, plain: Any, images: Tensor):
    backbone = load_backbone(f"{NAME}/gelu", averaged)
    with torch.no_grad():
        same(backbone.vit, plain.visual(images), images)
    assert any("(EMA) weights under 'model_ema' are taken; --weights-key model takes" in n for n in backbone.notes)


def test_a_file_of_timms_own_training_gives_its_averaged_weights(tmp_path: Path):
    state = timm.create_model("test_vit").state_dict()
    data = {
        **{"epoch": 3, "arch": "test_vit", "version": 2, "metric": 0.5, "args": argparse.Namespace(lr=0.1)},
        **{"state_dict": state, "state_dict_ema": {key: value + 1 for key, value in state.items()}},
    }
    file = read_weights(save(tmp_path / "model_best.pth.tar", data))
    assert torch.equal(file.state["norm.weight"], state["norm.weight"] + 1)
    assert file.notes == (
        "model_best.pth.tar: the averaged (EMA) weights under 'state_dict_ema' are taken; "
        "--weights-key state_dict takes the plain ones",
    )


def test_a_key_takes_the_plain_weights(averaged: Path, plain: Any):
    file = read_weights(f"{averaged}#model")
    assert torch.equal(file.state["visual.proj"], plain.visual.proj + 0.1)
    assert not file.notes


def test_a_key_that_the_file_lacks_is_refused_with_those_it_has(averaged: Path):
    with pytest.raises(CheckpointError, match="expected weights under the key 'other', got 'model', 'model_ema'"):
        read_weights(f"{averaged}#other")


# Activation and normalisation.


@pytest.mark.parametrize(("tag", "activation"), [("quickgelu", "QuickGELU"), ("gelu", "GELU"), ("", "GELU")])
def test_the_activation_of_bare_weights_is_the_tags_or_said_to_be_assumed(
    tmp_path: Path, plain: Any, caplog: pytest.LogCaptureFixture, tag: str, activation: str
):
    path = save(tmp_path / "weights.pt", plain.state_dict())
    with caplog.at_level(logging.INFO, "pgn_edge"):
        backbone = load_backbone(f"{NAME}/{tag}".rstrip("/"), path)
    assert backbone.vit.activation() == activation
    said = caplog.text
    assert f"{activation}; normalisation mean 0.4815 0.4578 0.4082, std 0.2686 0.2613 0.2758" in said
    assert ("GELU is assumed" in said) == (not tag)
    assert (f"name {NAME}/quickgelu" in said) == (not tag)


def test_a_config_of_open_clip_beside_the_weights_says_activation_and_normalisation(tmp_path: Path, quick: Any):
    about = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    vit = load_backbone(NAME, save(tmp_path / "open_clip_pytorch_model.bin", quick.state_dict())).vit
    assert vit.activation() == "QuickGELU"
    assert (vit.spec.preprocess.mean, vit.spec.preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_without_a_tag_weights_of_siglip_get_the_normalisation_that_all_its_published_weights_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plain: Any
):
    published = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash", "url": "x"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-layouts", {"one": published, "two": published})
    preprocess = load_backbone(NAME, save(tmp_path / "weights.pt", plain.state_dict())).vit.spec.preprocess
    assert (preprocess.mean, preprocess.fit) == ((0.5, 0.5, 0.5), "squash")


def test_suggested_tags_put_openais_last_where_no_file_is_given():
    with pytest.raises(CheckpointError) as caught:
        load_backbone("open_clip:ViT-B-32")
    assert caught.value.do.endswith(" or open_clip:ViT-B-32/openai")


def test_weights_for_a_published_architecture_need_no_tag(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_backbone("open_clip:ViT-B-32", tmp_path / "missing.pt")
