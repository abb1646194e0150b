"""Pre-trains `builtin` on printed characters: a small CNN first, a learning-rate search, then the ViT.

A ViT of this size stays at chance for long on fully augmented glyphs. So both nets start on plain glyphs, the
augmentation grows epoch by epoch, and the ViT also learns from the CNN, which is quick to train on the same
renderings.
"""

from __future__ import annotations

import hashlib
import json
import platform
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from pgn_edge.extras import cv2
from pgn_edge.files import write_bytes, write_text
from pgn_edge.nn.builtin import CHARACTERS, IMAGE, PATCH, WIDTH, CharacterNet
from pgn_edge.train.curriculum import CONSOLE, Journal, Recipe, Stage, normalise, train
from pgn_edge.train.glyphs import load_bank, render_batch

VALIDATION = 2048  # images per figure
TEACHER_RATE = 3e-3
TEMPERATURE = 2.0  # of the distillation
MATCHED_BLOCK = 3  # of six; the two after it are free to gather what the class token needs
SEARCHED_RATES = (5e-4, 1e-3, 2e-3)
TEACHER_BATCH, STUDENT_BATCH = 128, 64
TEACHER_CURRICULUM, STUDENT_CURRICULUM = (0.1, 0.0), (0.05, 0.5)
# Alike once a character fills its box: they differ in size alone, or are the same stroke in some fonts.
ALIKE = ("0Oo", "1Il", "Cc", "Ss", "Vv", "Ww", "Xx", "Zz")
Model = Callable[[Tensor], Tensor]  # normalised (B, 3, 64, 64) -> logits (B, 62)


class Teacher(nn.Module):
    """Small CNN whose feature map has one position per patch of the ViT."""

    def __init__(self) -> None:
        super().__init__()
        plan = ((3, 32, 2), (32, 64, 2), (64, 64, 1), (64, WIDTH, 2), (WIDTH, WIDTH, 1))
        self.features = nn.Sequential(*(self._layer(*sizes) for sizes in plan))
        self.top = self._layer(WIDTH, 256, 2)
        self.classify = nn.Linear(256, len(CHARACTERS))
        self.to(memory_format=torch.channels_last)  # as the renderings come

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised (B, 3, 64, 64) -> logits (B, 62), and features (B, 64, 128) patch by patch."""
        features = self.features(image)
        return self.classify(self.top(features).mean(dim=(2, 3))), features.flatten(2).transpose(1, 2)

    def objective(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and the logits."""
        logits = self(images)[0].float()
        return F.cross_entropy(logits, labels), logits


class Student(nn.Module):
    """A `CharacterNet` that learns from the labels, and from the teacher's logits and features.

    The features, patch by patch, are what gets a small ViT off its plateau: 64 targets per image.

    Args:
        net: the net to train.
        teacher: a trained teacher; it does not change.
    """

    def __init__(self, net: CharacterNet, teacher: Teacher) -> None:
        super().__init__()
        self.net = net
        self.match = nn.Linear(WIDTH, WIDTH)
        self._teacher = [teacher]  # in a list: its parameters are none of the student's
        self._seen = threading.local()  # shards of a batch pass through the net at the same time
        net.body.blocks[MATCHED_BLOCK].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.tokens = output

    def objective(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Half cross-entropy, half divergence from the teacher, plus the features' distance; logits."""
        with torch.no_grad():
            target, features = self._teacher[0](images)
        logits = self.net(images).float()
        soft = F.log_softmax(logits / TEMPERATURE, dim=-1)
        sure = F.log_softmax(target.float() / TEMPERATURE, dim=-1)
        # T² keeps the gradient's size: Hinton et al., "Distilling the knowledge in a neural network", 2015.
        divergence = F.kl_div(soft, sure, reduction="batchmean", log_target=True) * TEMPERATURE**2
        guess = self.match(self._seen.tokens[:, 1:]).float()
        distance = F.mse_loss(guess, F.layer_norm(features.float(), (WIDTH,)))
        return 0.5 * F.cross_entropy(logits, labels) + 0.5 * divergence + distance, logits


def new_net(seed: int) -> CharacterNet:
    """A `CharacterNet` whose start suits a short training.

    The patch projection starts orthogonal, so that it is well conditioned for prompt inversion. Positions start
    as 2-D sines of about the tokens' size, and head rows short: the shorter, the faster a cosine head turns.
    """
    torch.manual_seed(seed)
    net = CharacterNet()
    nn.init.orthogonal_(net.patch_embed.weight)
    side, bands = IMAGE // PATCH, WIDTH // 4
    angles = torch.outer(torch.arange(side), 100.0 ** (-torch.arange(bands) / bands))
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, d / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    with torch.no_grad():
        net.position.copy_(0.3 * torch.cat([rows, columns], dim=-1).reshape(side * side, WIDTH))
        net.head.mul_(0.1)
    for layer in net.body.blocks.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


@torch.no_grad()
def predict(model: Model, images: np.ndarray) -> np.ndarray:
    """Logits (B, 62) float32 in full precision for (B, 64, 64, 3) uint8 RGB."""
    parts = [model(normalise(images[i : i + 256])) for i in range(0, len(images), 256)]
    return torch.cat(parts).numpy()


def validate(model: Model, strength: float) -> dict[str, float]:
    """Accuracies on renderings from a seed that no stage trains on.

    Args:
        model: what to measure.
        strength: of the augmentation, 0..1.

    Returns:
        for the `seen` and the `held_out` fonts: 62-way, 62-way with characters that look alike counted as one,
        and ten-way on digits (the ten digit rows alone).
    """
    group = np.arange(len(CHARACTERS))
    for alike in ALIKE:
        members = [CHARACTERS.index(character) for character in alike]
        group[members] = members[0]
    scores = {}
    for split, held_out in (("seen", False), ("held_out", True)):
        bank, rng = load_bank(held_out), np.random.default_rng((2**31, held_out))
        images, labels = render_batch(bank, rng, VALIDATION, strength)
        guesses = predict(model, images).argmax(1)
        scores[f"{split}_62_way"] = float((guesses == labels).mean())
        scores[f"{split}_62_way_merged"] = float((group[guesses] == group[labels]).mean())
        images, labels = render_batch(bank, rng, VALIDATION, strength, classes=10)
        scores[f"{split}_ten_way"] = float((predict(model, images)[:, :10].argmax(1) == labels).mean())
    return scores


def search_rate(recipe: Recipe, teacher: Teacher, journal: Journal) -> float:
    """Short runs from one start over the same batches; the rate with the best accuracy on plain glyphs."""
    table: dict[str, float] = journal.data.get("search", {})
    images, labels = render_batch(load_bank(), np.random.default_rng(2**31 + 1), 2 * VALIDATION, 0.0)
    for rate in SEARCHED_RATES:
        if str(rate) in table:
            continue
        student = Student(new_net(recipe.seed), teacher)
        title = f"search {rate:g}"
        stage = Stage(2, title, recipe.search_steps, rate, STUDENT_BATCH, STUDENT_CURRICULUM)
        train(student, student.objective, stage, recipe.seed, None)
        table[str(rate)] = float((predict(student.net, images).argmax(1) == labels).mean())
        CONSOLE.print(f"search {rate:g}: accuracy {table[str(rate)]:.3f}")
        journal.save("search", table)
    return max(SEARCHED_RATES, key=lambda rate: table[str(rate)])


def pretrain(output: Path, recipe: Recipe) -> dict[str, Any]:
    """Run or go on with all stages; write the weights, and the measured facts beside them as JSON.

    Args:
        output: the safetensors file; its JSON and its state file lie beside it under the same stem.
        recipe: seed and lengths.

    Returns:
        the facts that the JSON holds.
    """
    torch.set_num_threads(1)  # `Gradients` brings its own threads, and two kinds would fight for the cores
    journal = Journal(output.with_suffix(".state.pt"), recipe)
    torch.manual_seed(recipe.seed)
    teacher = Teacher()
    stage = Stage(1, "teacher", recipe.teacher_steps, TEACHER_RATE, TEACHER_BATCH, TEACHER_CURRICULUM)
    train(teacher, teacher.objective, stage, recipe.seed, journal)
    rate = recipe.rate or search_rate(recipe, teacher, journal)
    student = Student(new_net(recipe.seed), teacher)
    stage = Stage(3, "student", recipe.steps, rate, STUDENT_BATCH, STUDENT_CURRICULUM)
    train(student, student.objective, stage, recipe.seed, journal)
    rounded = {name: tensor.half() for name, tensor in student.net.state_dict().items()}
    data = save(rounded)
    write_bytes(output, data)
    facts = {
        "recipe": asdict(recipe),
        "rate": rate,
        "rate_search": journal.data.get("search"),
        "wall_seconds": round(journal.data["seconds"]),
        "last_strength": journal.data["student"]["strength"],
        "teacher": validate(lambda images: teacher(images)[0], 1.0),
        **_measure(rounded),
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": _versions(),
    }
    write_text(output.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
    return facts


def _measure(rounded: dict[str, Tensor]) -> dict[str, Any]:
    """Figures of the weights as they are shipped, after the rounding to fp16."""
    net = CharacterNet()
    net.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
    return {
        "half_strength": validate(net, 0.5),
        "full_strength": validate(net, 1.0),
        "patch_condition_number": float(np.linalg.cond(net.backbone().vit.projection()[0])),
        "fonts": list(load_bank().fonts),
        "held_out_fonts": list(load_bank(held_out=True).fonts),
        "parameters": sum(tensor.numel() for tensor in rounded.values()),
    }


def _versions() -> dict[str, str]:
    import matplotlib
    import sklearn

    modules = {"torch": torch, "numpy": np, "opencv": cv2, "matplotlib": matplotlib, "scikit-learn": sklearn}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": platform.python_version(), **versions}


@click.command()
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Weights to write."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the weights and of every batch.")
@click.option("--steps", default=3100, show_default=True, help="Steps of the ViT, 64 renderings each.")
@click.option("--teacher-steps", default=1000, show_default=True, help="Steps of the CNN, 128 renderings each.")
@click.option("--search-steps", default=150, show_default=True, help="Steps of each run of the rate search.")
@click.option("--lr", type=float, default=None, help="Peak learning rate of the ViT; searched when left out.")
def main(output: Path, seed: int, steps: int, teacher_steps: int, search_steps: int, lr: float | None) -> None:
    """Pre-train the embedded backbone; run it again with the same options to go on after an interruption."""
    facts = pretrain(output, Recipe(seed, steps, teacher_steps, search_steps, lr))
    CONSOLE.print_json(data=facts)


if __name__ == "__main__":
    main()
