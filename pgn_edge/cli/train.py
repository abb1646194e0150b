"""`pgn-edge train`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from pgn_edge.cli.console import (
    PromptCount,
    json_option,
    layout_option,
    print_json,
    progress_bar,
    weights_option,
)


@click.command()
@click.option("--data", required=True, help="digits, or a folder of classes.")
@click.option("--root", type=click.Path(file_okay=False), help="Folder that --data is looked up in.")
@click.option(
    "--backbone",
    default="builtin",
    show_default=True,
    help="builtin, open_clip:ARCHITECTURE/TAG, timm:NAME or torchvision:NAME.",
)
@weights_option
@click.option("--prompts", type=PromptCount(1), default=16, show_default=True, help="Prompts K.")
@click.option("--library", type=click.IntRange(min=1), help="Library size N.  [default: 256]")
@click.option("--generator", type=click.Choice(["resnet10", "constant"]), default="resnet10", show_default=True)
@click.option("--resolution", type=click.IntRange(min=8), help="Width at which the generator looks.  [default: image]")
@layout_option
@click.option(
    "--library-space",
    type=click.Choice(["token", "pixel"]),
    default="token",
    show_default=True,
    help="What is learned: tokens, or patches of legal RGB, which need no inversion.",
)
@click.option("--head", type=click.Choice(["zero-shot", "linear"]), default="zero-shot", show_default=True)
@click.option("--template", help="Sentence with {} for the class name, for text heads.")
@click.option("--epochs", type=click.IntRange(min=1), default=40, show_default=True)
@click.option(
    "--warm-start",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Cheap epochs before these in which the generator learns the labels alone.",
)
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True)
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--lr", type=float, default=3e-3, show_default=True, help="Peak learning rate.")
@click.option("--warmup-epochs", type=float, default=1.0, show_default=True)
@click.option("--weight-decay", type=float, default=0.05, show_default=True)
@click.option("--augment/--no-augment", default=True, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from OUTPUT's .resume file if it is there.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("ckpt.pt"),
    show_default=True,
)
@json_option
def train(output: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Train a PGN for a frozen ViT, and keep the checkpoint of the best validation accuracy."""
    from pgn_edge.train.config import Schedule, TrainConfig
    from pgn_edge.train.task import train_task

    config = TrainConfig(**{field.name: options.pop(field.name) for field in fields(TrainConfig)})
    with progress_bar() as progress:
        report = train_task(config, Schedule(**options), output, resume=resume, progress=progress)
    history = report.history
    best = history.validation[history.best_epoch]
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "seconds": report.seconds,
                "best_epoch": history.best_epoch + 1,
                "validation_accuracy": best,
                "loss": history.loss,
                "validation": history.validation,
            }
        )
        return
    click.echo(
        f"{report.path}: validation accuracy {best:.1%} after epoch {history.best_epoch + 1} of {len(history.loss)}, "
        f"{report.seconds:.0f} s; next: pgn-edge export {report.path} --fp16"
    )


COMMANDS = (train,)
