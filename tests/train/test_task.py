"""From data to a checkpoint that exports, and to a runtime that gives the answers of training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pgn_edge.train.task as task_module
from pgn_edge.bundle import read_bundle
from pgn_edge.errors import CheckpointError, DataError, GeometryError, OutputError, PgnEdgeError, TrainingError
from pgn_edge.export.task import export_task
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.nn.generator import make_generator
from pgn_edge.nn.vit import Backbone
from pgn_edge.runtime import Runtime
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.table import load_data
from pgn_edge.train.loader import read_all
from pgn_edge.train.loop import Listeners, accuracy, predict
from pgn_edge.train.model import HeadModule
from pgn_edge.train.task import Remap, build_model, train_task

QUICK = Schedule(epochs=2, warm_start=1, batch=8, lr=0.01)


@pytest.fixture(autouse=True)
def _tiny(use_tiny_backbone: Backbone) -> None:
    """`builtin` is the tiny backbone in this file."""


@pytest.fixture
def config(bar_folder: Path) -> TrainConfig:
    return TrainConfig(str(bar_folder), resolution=32)


class KilledError(Exception):
    """Stands for a kill."""


class Told:
    """A listener that keeps what it hears, and interrupts the run after step `stop` of `at`."""

    def __init__(self, stop: int | None = None, at: str = "training") -> None:
        self.stop, self.at = stop, at
        self.steps: list[tuple[str, int]] = []

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        self.steps.append((step, done))
        if (step, done) == (self.at, self.stop):
            raise KilledError


def pgn_state(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).pgn.state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "choice",
    [
        ("resnet10", "append", "zero-shot"),
        ("resnet10", "inset", "linear"),
        ("constant", "append", "linear"),
        ("constant", "inset", "zero-shot"),
        ("resnet10", "append", "tuned"),
        ("mlp", "append", "iterative"),
    ],
    ids=", ".join,
)
def test_a_trained_task_exports_and_answers_as_it_did(
    config: TrainConfig, tiny_pair, tiny_backbone: Backbone, tmp_path: Path, choice: tuple[Any, Any, Any]
):
    generator, layout, head = choice
    vit = tiny_backbone.vit
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    config = replace(config, generator=generator, layout=layout, head=head)
    report = train_task(config, QUICK, tmp_path / "ckpt.pt")
    assert equal(before, vit.state_dict()), "the frozen ViT has changed"
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt.pt", "ckpt.resume.pt"}

    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    assert checkpoint.head.labels == ("0", "1", "2")
    assert checkpoint.head.kind == ("linear" if head == "linear" else "text")
    assert checkpoint.geometry == vit.geometry(16, layout)
    assert checkpoint.fingerprint == vit.fingerprint()
    assert checkpoint.pgn.config.library == (16 if generator == "constant" else 256)
    assert checkpoint.provenance["config"] == config.to_json()
    assert checkpoint.provenance["sizes"] == {"train": 15, "validation": 3, "test": 6}
    assert checkpoint.provenance["training"]["validation_accuracy"] == max(report.history.validation)
    assert checkpoint.provenance["facts"]["source"] == config.data
    assert report.model.pgn is not None
    assert equal(checkpoint.pgn.state_dict(), report.model.pgn.state_dict())

    exported = export_task(tmp_path / "ckpt.pt", tmp_path / "task.pgn")
    assert exported.parity
    assert all(rung.passed for rung in exported.parity)
    shipped = {**config.to_json(), "data": Path(config.data).name}
    assert read_bundle(tmp_path / "task.pgn").provenance["config"] == shipped
    if layout == "append":
        with Runtime(tiny_pair.vit, {"bars": tmp_path / "task.pgn"}) as runtime:
            frames_bgr = [
                np.ascontiguousarray(image[..., ::-1]) for image in read_all(report.data.test, report.preprocess)
            ]
            answers = [int(runtime.infer("bars", frame).scores.argmax()) for frame in frames_bgr]
        assert answers == predict(report.model, report.data.test, report.preprocess).tolist()


def test_a_pgn_and_a_linear_head_learn(config: TrainConfig, tmp_path: Path):
    schedule = Schedule(epochs=6, warm_start=6, batch=8, lr=0.01, augment="none")
    report = train_task(replace(config, head="linear"), schedule, tmp_path / "ckpt.pt")
    assert accuracy(report.model, report.data.train, report.preprocess) >= 0.9
    assert report.history.loss[-1] < 0.8 * report.history.loss[0]


def test_an_interrupted_task_goes_on_as_if_nothing_had_happened(config: TrainConfig, tmp_path: Path):
    train_task(config, QUICK, tmp_path / "smooth.pt")
    path, first, second = tmp_path / "broken.pt", Told(stop=3), Told()
    with pytest.raises(KilledError):
        train_task(config, QUICK, path, progress=first)
    assert ("warm start", 1) in first.steps
    report = train_task(config, QUICK, path, resume=True, progress=second)
    trained = [step for step in second.steps if step[0] != "held-out images"]
    assert trained == [("training", 3), ("training", 4)], "no warm start, and no epoch twice"
    assert equal(pgn_state(path), pgn_state(tmp_path / "smooth.pt"))
    assert len(report.history.loss) == 2


def test_a_finished_run_keeps_what_its_best_epoch_makes_of_validation_images(config: TrainConfig, tmp_path: Path):
    report = train_task(config, QUICK, tmp_path / "ckpt.pt")
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    held_out, validation = checkpoint.held_out, report.data.validation
    assert held_out is not None
    assert len(held_out.embeddings) == len(held_out.scores) == len(validation)
    images = np.stack([report.preprocess(validation.read(index)) for index in range(len(validation))])
    with torch.no_grad():
        embeddings = report.model.embed(torch.from_numpy(report.preprocess.normalise(images))).numpy()
    assert held_out.embeddings == pytest.approx(embeddings, abs=1e-5)
    assert held_out.scores == pytest.approx(checkpoint.head.scores(embeddings).max(axis=1), abs=1e-5)


def test_resume_brings_a_lost_checkpoint_back(config: TrainConfig, tmp_path: Path):
    config = replace(config, generator="constant")
    train_task(config, QUICK, tmp_path / "ckpt.pt")
    before = pgn_state(tmp_path / "ckpt.pt")
    (tmp_path / "ckpt.pt").unlink()
    train_task(config, QUICK, tmp_path / "ckpt.pt", resume=True)
    assert equal(pgn_state(tmp_path / "ckpt.pt"), before)


def test_the_generator_starts_out_from_what_the_warm_start_learned(
    config: TrainConfig, use_tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    made: list[torch.nn.Module] = []

    def kept(*arguments: object) -> torch.nn.Module:
        made.append(make_generator(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(task_module, "make_generator", kept)
    data, vit = load_data(config.data), use_tiny_backbone.vit
    model = build_model(config, use_tiny_backbone, vit.geometry(config.prompts, config.layout), data, 0)
    assert model.pgn is not None
    before = {name: tensor.clone() for name, tensor in model.pgn.state_dict().items()}
    task_module._warm_start(model.pgn, data, vit.spec.preprocess, QUICK, Listeners(), Execution("cpu"))
    (net,) = made
    after, learned = model.pgn.generator.state_dict(), net.features()  # type: ignore[union-attr,operator]
    assert learned
    for name, tensor in learned.items():
        assert torch.equal(after[name], tensor), name
    assert any(not torch.equal(before[f"generator.{name}"], tensor) for name, tensor in learned.items())


def test_an_interrupted_warm_start_goes_on_as_if_nothing_had_happened(config: TrainConfig, tmp_path: Path):
    schedule = replace(QUICK, warm_start=3)
    train_task(config, schedule, tmp_path / "smooth.pt")
    path, first, second = tmp_path / "broken.pt", Told(stop=4, at="warm start"), Told()
    with pytest.raises(KilledError):
        train_task(config, schedule, path, progress=first)
    train_task(config, schedule, path, resume=True, progress=second)
    warm = [done for step, done in second.steps if step == "warm start"]
    assert warm == [3, 4, 5, 6], "two steps an epoch: the second epoch begins anew, the first does not"
    assert equal(pgn_state(path), pgn_state(tmp_path / "smooth.pt"))
    assert not (tmp_path / "broken.warm.pt").exists()


@pytest.mark.parametrize("head", ["frequency", "iterative"])
def test_an_iterative_mapping_looks_with_the_prompts_and_a_frequency_mapping_without(
    config: TrainConfig, head: str, use_tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(HeadModule, "remap", lambda self, embeddings, labels: seen.append(embeddings))
    data, vit = load_data(config.data), use_tiny_backbone.vit
    geometry = vit.geometry(config.prompts, config.layout)
    model = build_model(replace(config, head=head), use_tiny_backbone, geometry, data, 0)
    preprocess = vit.spec.preprocess
    Remap(model, data, preprocess, 0)(0)
    images = np.stack([preprocess(data.train.read(index)) for index in range(len(data.train))])
    x = torch.from_numpy(preprocess.normalise(images))
    with torch.no_grad():
        own, other = model.vit(x), model.embed(x)
    if head == "iterative":
        own, other = other, own
    torch.testing.assert_close(seen[0], own, rtol=0, atol=1e-5)
    assert not torch.allclose(seen[0], other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", ["frequency", "iterative"])
def test_a_mapping_is_chosen_as_often_as_its_head_says(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: Any
):
    chosen = []
    remap = HeadModule.remap

    def counted(self: HeadModule, embeddings: torch.Tensor, labels: torch.Tensor) -> bool:
        chosen.append((len(embeddings), sorted(set(labels.tolist()))))
        return remap(self, embeddings, labels)

    monkeypatch.setattr(HeadModule, "remap", counted)
    report = train_task(replace(config, head=head), QUICK, tmp_path / "ckpt.pt")
    assert chosen == [(15, [0, 1, 2])] * (1 if head == "frequency" else 2)
    assert load_checkpoint(tmp_path / "ckpt.pt").head.labels == report.data.labels == ("0", "1", "2")


def test_two_data_sets_share_one_pgn(config: TrainConfig, cats_and_dogs: Path, tmp_path: Path):
    both = replace(config, data=f"{config.data},{cats_and_dogs}", head="linear", generator="constant")
    report = train_task(both, QUICK, tmp_path / "ckpt.pt")
    labels = load_checkpoint(tmp_path / "ckpt.pt").head.labels
    assert labels == report.data.labels
    assert len(labels) == 5
    assert labels[3:] == ("pets/cat", "pets/dog")


@pytest.mark.parametrize("augment", ["none", "light", "paper"])
def test_images_that_cannot_be_read_are_counted(bar_folder: Path, tmp_path: Path, augment: Any):
    folder = tmp_path / "bars"
    shutil.copytree(bar_folder, folder)
    for label in "012":
        (folder / label / "torn.png").write_bytes(sorted((folder / label).glob("*.png"))[0].read_bytes()[:-40])
    config, schedule = TrainConfig(str(folder), generator="constant"), replace(QUICK, augment=augment)
    report = train_task(config, schedule, tmp_path / "ckpt.pt")
    names = {
        name for split in (report.data.train, report.data.validation) for name in map(split.name, range(len(split)))
    }
    torn = [name for name in names if name.endswith("torn.png")]
    assert torn, "all of them went to the test split: this test proves nothing"
    assert len(report.left_out) == len(torn)
    with pytest.raises(DataError, match=r"torn\.png"):
        train_task(config, schedule, tmp_path / "ckpt.pt", execution=Execution(strict=True))


def test_nothing_before_the_prompts_keeps_a_graph(config: TrainConfig, tmp_path: Path):
    model = train_task(replace(config, head="linear"), QUICK, tmp_path / "ckpt.pt").model.train()
    image = torch.rand(2, 3, 64, 64)
    assert model.vit.patch_tokens(image).grad_fn is None
    assert model.vit(image).grad_fn is None
    assert model(image).grad_fn is not None


def test_without_resume_an_old_state_is_not_read(config: TrainConfig, tmp_path: Path):
    (tmp_path / "ckpt.resume.pt").write_bytes(b"of something else")
    report = train_task(replace(config, generator="constant"), QUICK, tmp_path / "ckpt.pt")
    assert len(report.history.loss) == 2


def test_resume_refuses_another_run(config: TrainConfig, tmp_path: Path):
    config = replace(config, generator="constant")
    train_task(config, QUICK, tmp_path / "ckpt.pt")
    with pytest.raises(TrainingError, match="leave --resume out"):
        train_task(config, replace(QUICK, lr=0.5), tmp_path / "ckpt.pt", resume=True)
    for changes in ({"prompts": 8}, {"layout": "inset"}, {"head": "linear"}, {"resolution": 16}):
        with pytest.raises(TrainingError, match="leave --resume out"):
            train_task(replace(config, **changes), QUICK, tmp_path / "ckpt.pt", resume=True)


# What is refused, before anything is trained or written.


@pytest.fixture
def cats_and_dogs(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (16, 16), (index, len(name), 9)).save(folder / name / f"{index}.png")
    return folder


def test_names_that_builtin_does_not_know_need_a_linear_head(cats_and_dogs: Path, tmp_path: Path):
    config, out = TrainConfig(str(cats_and_dogs), generator="constant", head="zero-shot"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=r"got 'cat'.*--head linear"):
        train_task(config, QUICK, out / "ckpt.pt")
    assert list(out.iterdir()) == []
    train_task(replace(config, head="linear"), QUICK, out / "ckpt.pt")
    assert load_checkpoint(out / "ckpt.pt").head.labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        pytest.param(
            {"generator": "constant", "library": 8}, CheckpointError, "leave --library out", id="library of constants"
        ),
        pytest.param({"generator": "vit"}, CheckpointError, "resnet18 or mlp or constant", id="unknown generator"),
        pytest.param({"resolution": 128}, GeometryError, "at most the image width 64", id="more than there is"),
        pytest.param({"mixing": "sigmoid", "library_space": "pixel"}, CheckpointError, "legal RGB", id="sums of RGB"),
        pytest.param({"rounded": True}, CheckpointError, "--library-space pixel", id="rounded tokens"),
        pytest.param({"template": "no place"}, DataError, "template", id="a template without a place"),
        pytest.param({"layout": "inset", "prompts": 64}, GeometryError, "at most 56", id="no room for the image"),
        pytest.param({"backbone": "resnet50"}, CheckpointError, "expected builtin, open_clip", id="unknown backbone"),
        pytest.param({"data": "nowhere"}, DataError, "folder of classes", id="no such data"),
    ],
)
def test_configurations_that_are_refused(
    config: TrainConfig, tmp_path: Path, changes: dict[str, Any], error: type[PgnEdgeError], says: str
):
    told = Told()
    with pytest.raises(error, match=says):
        train_task(replace(config, **changes), QUICK, tmp_path / "ckpt.pt", progress=told)
    assert told.steps == []
    assert list(tmp_path.iterdir()) == []


def in_no_folder(folder: Path) -> Path:
    return folder / "missing" / "ckpt.pt"


def in_a_file(folder: Path) -> Path:
    (folder / "file").write_text("no folder")
    return folder / "file" / "ckpt.pt"


def onto_a_folder(folder: Path) -> Path:
    (folder / "ckpt.pt").mkdir()
    return folder / "ckpt.pt"


@pytest.mark.parametrize("place", [in_no_folder, in_a_file, onto_a_folder], ids=lambda p: p.__name__.replace("_", " "))
def test_an_output_that_cannot_be_written_costs_no_training(config: TrainConfig, tmp_path: Path, place: Any):
    output, told = place(tmp_path), Told()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as caught:
        train_task(config, QUICK, output, progress=told)
    assert str(caught.value).startswith(f"{output}: ")
    assert told.steps == []
    assert sorted(tmp_path.rglob("*")) == before
