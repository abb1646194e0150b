"""Published checkpoints: the same prompts as upstream computes, heads, golden images, and options that are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import pgn_edge.export.upstream as upstream_module
from pgn_edge.bundle import read_bundle
from pgn_edge.errors import CheckpointError, DataError, OutputError
from pgn_edge.export.synthetic import pictures
from pgn_edge.export.task import export_task
from pgn_edge.export.upstream import MEAN, STD, ImportOptions, ImportReport, import_upstream
from pgn_edge.heads import Head
from pgn_edge.nn.checkpoint import GOLDEN_FRAMES, Checkpoint, load_checkpoint, spread
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec, ZeroShot
from pgn_edge.preprocess import Preprocess

ROOT = Path(__file__).parents[2]
PUBLISHED = Path(os.environ.get("PGN_EDGE_UPSTREAM", ROOT.parent / "shared" / "upstream"))
PROMPTS, LIBRARY, WIDTH = 5, 6, 128
DIGITS = ImportOptions(labels="svhn")  # the names that `builtin` knows


def upstream_prompts(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """What upstream computes, (B, K, d): from the raw file in float64, without a line of ours."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    x = F.conv2d(image, state["model.input_net.0.weight"], stride=2, padding=1)
    x = F.max_pool2d(norm(x, "model.input_net.1").clamp(min=0), 3, 2, 1)
    for index in range(4):
        block, stride = f"model.blocks.{index}", 2 if index else 1
        y = norm(F.conv2d(x, state[f"{block}.net.0.weight"], stride=stride, padding=1), f"{block}.net.1").clamp(min=0)
        y = norm(F.conv2d(y, state[f"{block}.net.3.weight"], padding=1), f"{block}.net.4")
        if index:
            x = F.conv2d(x, state[f"{block}.downsample.weight"], state[f"{block}.downsample.bias"], stride=2)
        x = (x + y).clamp(min=0)
    library, last = state["tl_vectors"], state["model.output_net.2.weight"]
    logits = torch.einsum("bchw,oc->bo", x / math.prod(x.shape[2:]), last) + state["model.output_net.2.bias"]
    power = logits.unflatten(1, (-1, len(library))).exp()
    return (power / power.sum(-1, keepdim=True)) @ library


def use(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    monkeypatch.setattr(upstream_module, "load_backbone", lambda name, weights: backbone)


def imported(
    path: Path, output: Path, options: ImportOptions = DIGITS, backbone: str = "builtin"
) -> tuple[ImportReport, Checkpoint]:
    report = import_upstream(path, output, backbone=backbone, options=options)
    return report, load_checkpoint(output)


# The mapping.


def test_prompts_are_upstreams(upstream_state, upstream: Path, tmp_path: Path, use_tiny_backbone):
    _, checkpoint = imported(upstream, tmp_path / "ckpt.pt")
    image = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        ours = checkpoint.pgn.double()(image)
    theirs = upstream_prompts(upstream_state(), image)
    assert ours.shape == (3, PROMPTS, WIDTH)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_report_and_the_checkpoint_say_what_was_found(
    upstream_state, upstream: Path, tmp_path: Path, use_tiny_backbone
):
    report, checkpoint = imported(upstream, tmp_path / "ckpt.pt")
    config, geometry = report.config, report.geometry
    assert (config.generator, config.prompts, config.library, config.width) == ("resnet10", PROMPTS, LIBRARY, WIDTH)
    assert config.resolution == 64
    assert config == checkpoint.pgn.config
    assert (geometry.layout, geometry.rows, geometry.spare) == ("append", 1, 3)
    assert geometry == checkpoint.geometry
    weights = [tensor for name, tensor in upstream_state().items() if "running" not in name and "tracked" not in name]
    assert report.parameters == sum(tensor.numel() for tensor in weights)
    assert (report.head, report.classes) == ("text", 10)
    assert (checkpoint.name, checkpoint.backbone) == ("svhn", "builtin")
    assert checkpoint.fingerprint == use_tiny_backbone.vit.fingerprint()
    assert checkpoint.head.labels == tuple("0123456789")
    assert checkpoint.provenance["upstream"] == {
        "file": "upstream.pt",
        "sha256": hashlib.sha256(upstream.read_bytes()).hexdigest(),
        "prompts": PROMPTS,
        "library": LIBRARY,
        "width": WIDTH,
    }


def test_normalisation_is_upstreams_whatever_the_backbones(upstream: Path, tmp_path: Path, use_tiny_backbone):
    _, checkpoint = imported(upstream, tmp_path / "ckpt.pt")
    own = use_tiny_backbone.vit.spec.preprocess
    assert own.mean != MEAN
    assert checkpoint.preprocess == dataclasses.replace(own, mean=MEAN, std=STD)


def test_a_half_precision_file_becomes_float32(upstream_state, write, tmp_path: Path, use_tiny_backbone):
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in upstream_state().items()}
    _, checkpoint = imported(write(tmp_path, state), tmp_path / "ckpt.pt")
    assert checkpoint.pgn.library.dtype == torch.float32
    assert torch.equal(checkpoint.pgn.library, state["tl_vectors"].float())


def test_the_checkpoint_exports(upstream: Path, tmp_path: Path, use_tiny_backbone):
    imported(upstream, tmp_path / "ckpt.pt")
    export_task(tmp_path / "ckpt.pt", tmp_path / "task.pgn")
    bundle = read_bundle(tmp_path / "task.pgn")
    assert all(rung["passed"] for rung in bundle.parity)
    assert bundle.facts.preprocess.mean == MEAN
    assert bundle.provenance["golden"] == "synthetic"
    assert bundle.profile is None, "of pictures made by arithmetic"


# The published files.


class FirstToken(nn.Module):
    """The least that can stand behind a patch projection."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class OwnHead(ZeroShot):
    """The rows of a frozen classifier with 1000 outputs, or none at all."""

    def __init__(self, width: int, outputs: int = 1000) -> None:
        self.weight = np.random.default_rng(0).standard_normal((outputs, width)).astype(np.float32)

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        if len(labels) > len(self.weight):
            got, expected = str(len(labels)), f"at most {len(self.weight)} labels"
            raise DataError("fake", expected=expected, got=got, do="train with --head linear")
        return Head.linear(self.weight[: len(labels)], np.zeros(len(labels)), labels)


def fake_backbone(width: int, patch: int, outputs: int = 1000) -> Backbone:
    spec = VitSpec("fake", (224, 224), patch, Preprocess((224, 224), mean=(0.485, 0.456, 0.406)))
    projection = nn.Conv2d(3, width, patch, stride=patch)
    table = torch.zeros((224 // patch) ** 2, width)
    vit = FrozenViT(spec, projection, torch.zeros(1, width), table, FirstToken(), None)
    return Backbone(vit, OwnHead(width, outputs))


def published(name: str) -> Path:
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip(f"no published checkpoint at {path}: set PGN_EDGE_UPSTREAM to their folder")
    return path


class Published(NamedTuple):
    """What is known of a published file.

    Args:
        name: of the file.
        labels: the data set it was trained on.
        library: N.
        width: d.
        patch: P of its backbone.
        slots: rows, and slots to spare in the last one.
        parameters: as the paper counts them.
    """

    name: str
    labels: str
    library: int
    width: int
    patch: int
    slots: tuple[int, int]
    parameters: int


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(Published("pgn_clip_cifar100.pt", "cifar100", 256, 768, 32, (3, 5), 1_032_304), id="CLIP B/32"),
        pytest.param(Published("pgn_dino_eurosat.pt", "eurosat", 128, 384, 16, (2, 12), 620_656), id="DINO S/16"),
        pytest.param(Published("pgn_vit_sun397.pt", "sun397", 128, 768, 32, (3, 5), 669_808), id="supervised B/32"),
    ],
)
def test_a_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Published):
    path = published(known.name)
    use(monkeypatch, fake_backbone(known.width, known.patch))
    options = ImportOptions(labels=known.labels, prompts=16, library=known.library)
    report, checkpoint = imported(path, tmp_path / "ckpt.pt", options)
    config, geometry = report.config, report.geometry
    assert (config.prompts, config.library, config.width, config.resolution) == (16, known.library, known.width, 224)
    assert (geometry.rows, geometry.spare) == known.slots
    assert report.parameters == known.parameters
    raw = torch.load(path, weights_only=True)
    assert len(checkpoint.pgn.state_dict()) == len(raw)
    image = torch.from_numpy(checkpoint.preprocess.normalise(pictures(2, (224, 224), 1))).double()
    with torch.no_grad():
        ours = checkpoint.pgn.double()(image)
    torch.testing.assert_close(ours, upstream_prompts(raw, image), rtol=0, atol=1e-9)


def test_a_published_file_for_another_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, fake_backbone(384, 16))
    with pytest.raises(CheckpointError, match=r"width 384.*got 768.*looks like ViT-B/32"):
        imported(published("pgn_clip_cifar100.pt"), tmp_path / "ckpt.pt", ImportOptions(labels="cifar100"))


# Heads.


def classes(folder: Path, count: int) -> str:
    path = folder / "names.txt"
    path.write_text("".join(f"class {index}\n" for index in range(count)))
    return str(path)


def test_a_supervised_backbone_brings_its_own_rows(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    backbone = fake_backbone(WIDTH, 16)
    use(monkeypatch, backbone)
    report, checkpoint = imported(upstream, tmp_path / "ckpt.pt", ImportOptions(labels=classes(tmp_path, 45)))
    assert report.head == "linear"
    assert isinstance(backbone.zero_shot, OwnHead)
    np.testing.assert_array_equal(checkpoint.head.weight, backbone.zero_shot.weight[:45])
    assert checkpoint.name == "upstream"
    assert checkpoint.provenance["template"] is None


@pytest.mark.parametrize(
    ("outputs", "count"),
    [pytest.param(0, 3, id="a backbone without a classifier"), pytest.param(1000, 1001, id="more labels than outputs")],
)
def test_no_head_to_be_had(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: int, count: int):
    use(monkeypatch, fake_backbone(WIDTH, 16, outputs))
    with pytest.raises(DataError, match=rf"at most {outputs} labels, got {count}; .*not in an upstream file: --head"):
        imported(upstream, tmp_path / "ckpt.pt", ImportOptions(labels=classes(tmp_path, count)))
    assert not (tmp_path / "ckpt.pt").exists()


def test_a_trained_head_goes_before_the_backbones(
    write, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, fake_backbone(WIDTH, 16))
    weight, bias = torch.randn(3, WIDTH), torch.randn(3)
    head = write(tmp_path, {"weight": weight, "bias": bias}, "head.pt")
    _, checkpoint = imported(upstream, tmp_path / "ckpt.pt", ImportOptions(labels=classes(tmp_path, 3), head=head))
    assert checkpoint.head.kind == "linear"
    np.testing.assert_array_equal(checkpoint.head.weight, weight)
    np.testing.assert_array_equal(checkpoint.head.bias, bias)
    digest = hashlib.sha256(head.read_bytes()).hexdigest()
    assert checkpoint.provenance["head"] == {"file": head.name, "sha256": digest}


def test_a_head_for_other_embeddings(write, upstream: Path, tmp_path: Path, use_tiny_backbone):
    head = write(tmp_path, {"weight": torch.ones(10, 64)}, "head.pt")
    with pytest.raises(DataError, match=r"weight \(C, 128\).*got \(10, 64\)"):
        imported(upstream, tmp_path / "ckpt.pt", ImportOptions(labels="svhn", head=head))


# Golden images.


def test_without_images_they_are_synthetic(upstream: Path, tmp_path: Path, use_tiny_backbone):
    report, checkpoint = imported(upstream, tmp_path / "ckpt.pt")
    assert report.golden == checkpoint.provenance["golden"] == "synthetic"
    np.testing.assert_array_equal(checkpoint.golden_images, pictures(GOLDEN_FRAMES, (64, 64), 0))


def photographs(folder: Path, count: int, side: int = 8) -> np.ndarray:
    """Images a level apart in several folders, and files that are none; returns them in the order of their paths."""
    (folder / "b").mkdir(parents=True)
    (folder / "a").mkdir()
    (folder / "a" / "notes.txt").write_text("no image")
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, 3))
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / ("a" if index < count // 2 else "b") / f"{index:03}.png")
    return images


def test_ones_own_images_go_through_the_preprocessing(upstream: Path, tmp_path: Path, use_tiny_backbone):
    images = photographs(tmp_path / "images", 4)
    options = dataclasses.replace(DIGITS, images=tmp_path / "images")
    report, checkpoint = imported(upstream, tmp_path / "ckpt.pt", options)
    assert report.golden == checkpoint.provenance["golden"] == 4
    assert checkpoint.golden_images.shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(checkpoint.golden_images[:, 0, 0], images[:, 0, 0])


def test_of_many_images_some_are_spread_over_all(upstream: Path, tmp_path: Path, use_tiny_backbone):
    photographs(tmp_path / "images", 150)
    options = dataclasses.replace(DIGITS, images=tmp_path / "images")
    _, checkpoint = imported(upstream, tmp_path / "ckpt.pt", options)
    levels = checkpoint.golden_images[:, 0, 0, 0].astype(int)
    assert len(levels) == GOLDEN_FRAMES
    assert (levels[0], levels[-1]) == (0, 149)
    assert set(np.diff(levels)) == {4, 5}


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [
        pytest.param(5, 9, [0, 1, 2, 3, 4], id="fewer than wanted"),
        pytest.param(4, 4, [0, 1, 2, 3], id="as many as wanted"),
        pytest.param(9, 3, [0, 4, 8], id="first, middle and last"),
        pytest.param(11, 4, [0, 3, 7, 10], id="gaps that differ by one at the most"),
        pytest.param(1, 4, [0], id="one"),
        pytest.param(0, 4, [], id="none"),
    ],
)
def test_a_spread_over_all(count: int, most: int, chosen: list[int]):
    assert spread(count, most).tolist() == chosen
    assert np.arange(count)[spread(count, most)].tolist() == chosen, "not usable as indices"


@pytest.mark.parametrize("what", ["an empty folder", "no folder", "a file"])
def test_no_images(upstream: Path, tmp_path: Path, use_tiny_backbone, what: str):
    folder = tmp_path / "images"
    if what == "an empty folder":
        folder.mkdir()
    elif what == "a file":
        folder.write_text("no folder")
    with pytest.raises(DataError, match="a folder with images"):
        imported(upstream, tmp_path / "ckpt.pt", dataclasses.replace(DIGITS, images=folder))


def test_an_image_that_does_not_decode(upstream: Path, tmp_path: Path, use_tiny_backbone):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"bad\.png"):
        imported(upstream, tmp_path / "ckpt.pt", dataclasses.replace(DIGITS, images=tmp_path))
    assert not (tmp_path / "ckpt.pt").exists()


# Refusals.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"prompts": 16}, "expected 16, as --prompts says, got 5", id="K"),
        pytest.param({"library": 256}, "expected 256, as --library says, got 6", id="N"),
        pytest.param({"labels": None}, "cifar100", id="no labels"),
        pytest.param({"labels": "imagenet"}, "got 'imagenet'", id="labels of no known data set"),
        pytest.param({"labels": "cifar10"}, "not in an upstream file: --head FILE", id="names the backbone lacks"),
        pytest.param({"template": "a photo"}, "one {} for the class", id="a template without a place"),
        pytest.param({"head": Path("missing.npz")}, "missing.npz", id="no head file"),
    ],
)
def test_options_that_are_refused(refused, upstream: Path, tmp_path: Path, use_tiny_backbone, options: dict, says: str):
    assert says in refused(upstream, tmp_path / "ckpt.pt", dataclasses.replace(DIGITS, **options))


def test_k_and_n_that_agree_with_the_file_are_welcome(upstream: Path, tmp_path: Path, use_tiny_backbone):
    options = dataclasses.replace(DIGITS, prompts=PROMPTS, library=LIBRARY)
    assert imported(upstream, tmp_path / "ckpt.pt", options)[0].config.prompts == PROMPTS


@pytest.mark.parametrize("name", ["missing/ckpt.pt", "."], ids=["no such folder", "a folder"])
def test_an_output_that_cannot_be_written_is_seen_before_the_work(tmp_path: Path, name: str):
    # The input does not exist either: nobody got as far as to open it.
    with pytest.raises(OutputError):
        import_upstream(tmp_path / "upstream.pt", tmp_path / name, backbone="builtin", options=DIGITS)


def test_the_input_is_not_overwritten(upstream: Path, use_tiny_backbone):
    before = upstream.read_bytes()
    with pytest.raises(OutputError, match="another file than the input"):
        import_upstream(upstream, upstream, backbone="builtin", options=DIGITS)
    assert upstream.read_bytes() == before


def test_a_backbone_that_does_not_load(upstream: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="backbone"):
        import_upstream(upstream, tmp_path / "ckpt.pt", backbone="resnet50", options=DIGITS)


def test_the_weights_are_handed_to_the_backbone(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    backbone = fake_backbone(WIDTH, 16)
    monkeypatch.setattr(upstream_module, "load_backbone", lambda *arguments: asked.append(arguments) or backbone)
    import_upstream(upstream, tmp_path / "ckpt.pt", backbone="fake:one", weights="vit.pt", options=DIGITS)
    assert asked == [("fake:one", "vit.pt")]
