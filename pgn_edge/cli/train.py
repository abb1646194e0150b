"""`pgn-edge train`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgn_edge.cli.console import (
    HEADS,
    PromptCount,
    json_option,
    layout_option,
    print_json,
    progress_bar,
    strict_option,
    tell_left_out,
    weights_option,
    white_option,
)

if TYPE_CHECKING:
    from pgn_edge.train.task import TrainReport

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])
# Of the help; what is in none of them comes last.
GROUPS = {
    "Task": (
        "data",
        "root",
        "backbone",
        "weights",
        "weights_key",
        "head",
        "template",
        "white",
        "recipe",
        "output",
        "resume",
    ),
    "Prompts": (
        *("prompts", "library", "generator", "mixing", "hidden", "resolution", "layout", "library_space"),
        *("library_std", "rounded", "transport"),
    ),
    "Schedule": (
        *("epochs", "warm_start", "batch", "accumulate", "optimizer", "lr", "lr_end", "momentum", "warmup_epochs"),
        *("weight_decay", "clip", "augment", "precision", "patience", "seed"),
    ),
    "Execution": ("device", "workers", "channels_last", "compile", "log_dir", "strict", "save_minutes"),
}


class _Grouped(click.Command):
    """Shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {param.name: record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))}
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section("Other"):
            formatter.write_dl(list(records.values()))


def _take_recipe(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Let the recipe's values stand in for the defaults; an option that is typed goes before both."""
    if value is not None:
        from pgn_edge.train.recipe import read_recipe

        ctx.default_map = read_recipe(value).options()
    return value


_TASK = (
    click.option(
        "--data", required=True, help="A data set's name, a folder of classes, a .csv; or several with commas."
    ),
    click.option("--root", type=click.Path(file_okay=False), help="Folder that --data is looked up in."),
    click.option(
        "--backbone",
        default="builtin",
        show_default=True,
        help="builtin, open_clip:ARCHITECTURE/TAG, timm:NAME, torchvision:NAME or dino:NAME.",
    ),
    weights_option,
    click.option(
        "--head",
        type=click.Choice(HEADS),
        default="auto",
        show_default=True,
        help="Classifier of the prompts; auto: zero-shot, iterative or linear, the first that fits model and classes.",
    ),
    click.option("--template", help="Sentence with {} for the class name, for text heads."),
    white_option,
    click.option(
        "--recipe",
        is_eager=True,  # before the options whose defaults it changes
        expose_value=False,
        callback=_take_recipe,
        help="paper, fast, edge-tiny, eight-bit-safe, hosted-api or a TOML file: defaults in the place of these here.",
    ),
)
_PROMPTS = (
    click.option("--prompts", type=PromptCount(1), default=16, show_default=True, help="Prompts K."),
    click.option(
        "--library", type=click.IntRange(min=0), help="Library size N; 0: prompts without a library.  [default: 256]"
    ),
    click.option(
        "--generator",
        type=click.Choice(["resnet10", "resnet18", "mlp", "constant"]),
        default="resnet10",
        show_default=True,
    ),
    click.option(
        "--mixing",
        type=click.Choice(["softmax", "sigmoid"]),
        default="softmax",
        show_default=True,
        help="How the generator's outputs become coefficients.",
    ),
    click.option(
        "--hidden",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Width of a hidden layer in the generator's head; 0: none.",
    ),
    click.option(
        "--resolution", type=click.IntRange(min=8), help="Width at which it looks.  [default: image, mlp: 10]"
    ),
    layout_option,
    click.option(
        "--library-space",
        type=click.Choice(["token", "pixel"]),
        default="token",
        show_default=True,
        help="What is learned: tokens, or patches of legal RGB, which need no inversion.",
    ),
    click.option(
        "--library-std", type=float, help="Spread of the library's first values.  [default: as the ViT's positions]"
    ),
    click.option(
        "--rounded/--not-rounded",
        default=False,
        show_default=True,
        help="Round prompt pixels to 256 levels, here and on the device; for a pixel library.",
    ),
    click.option(
        "--transport",
        metavar="CODEC[:QUALITY]",
        help="Send each canvas through png, webp:80, jpeg:75, … as on its way to a service; implies --rounded.",
    ),
)
_SCHEDULE = (
    click.option("--epochs", type=click.IntRange(min=1), default=40, show_default=True),
    click.option(
        "--warm-start",
        type=click.IntRange(min=0),
        default=20,
        show_default=True,
        help="Cheap epochs before these in which the generator learns the labels alone.",
    ),
    click.option(
        "--batch",
        type=click.IntRange(min=2),
        default=32,
        show_default=True,
        help="Images in a step, over all processes.",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Parts that a step is cut into to save memory.",
    ),
    click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True),
    click.option("--lr", type=float, default=3e-3, show_default=True, help="Peak learning rate."),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of SGD."),
    click.option(
        "--lr-end",
        type=float,
        default=0.01,
        show_default=True,
        help="Share of the peak rate at the end.",
    ),
    click.option("--warmup-epochs", type=float, default=1.0, show_default=True),
    click.option("--weight-decay", type=float, default=0.05, show_default=True, help="Of AdamW."),
    click.option("--clip", type=float, default=1.0, show_default=True, help="Longest gradient; 0: any."),
    click.option(
        "--augment",
        type=click.Choice(["none", "light", "paper"]),
        default="light",
        show_default=True,
        help="paper mirrors images: not for text.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "fp16"]),
        default="fp32",
        show_default=True,
        help="Of the arithmetic in training.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Stop after so many epochs that bring nothing better; 0: never.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
)
_EXECUTION = (
    click.option("--device", help="cpu, cuda, cuda:1, …  [default: the best there is]"),
    click.option(
        "--workers", type=click.IntRange(min=0), help="Threads that decode images.  [default: one a core, at most 8]"
    ),
    click.option(
        "--channels-last/--channels-first",
        default=False,
        show_default=True,
        help="Memory layout of convolutions.",
    ),
    click.option("--compile/--no-compile", default=False, show_default=True, help="Compile the model first."),
    click.option("--log-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for TensorBoard."),
    strict_option,
    click.option(
        "--save-minutes",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="Longest time between two states to resume from.",
    ),
)


def _options(command: AnyCommand) -> AnyCommand:
    for option in reversed((*_TASK, *_PROMPTS, *_SCHEDULE, *_EXECUTION)):
        command = option(command)
    return command


@click.command(cls=_Grouped)
@_options
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
    """Train a PGN for a frozen ViT; write a checkpoint.

    The checkpoint holds the epoch of the best validation accuracy.
    """
    from pgn_edge.train.config import Execution, Schedule, TrainConfig
    from pgn_edge.train.distributed import is_first
    from pgn_edge.train.task import train_task

    def take(kind: type) -> dict[str, Any]:
        return {field.name: options[field.name] for field in fields(kind)}

    config, schedule, execution = (
        TrainConfig(**take(TrainConfig)),
        Schedule(**take(Schedule)),
        Execution(**take(Execution)),
    )
    with progress_bar() as progress:
        report = train_task(config, schedule, output, resume=resume, progress=progress, execution=execution)
    if not is_first():
        return
    tell_left_out(report.left_out, report.data.notes)
    if as_json:
        print_json(_document(report))
        return
    history, transport = report.history, report.model.transport
    behind, canvas = "", "--fp16"
    if transport is not None:
        behind, canvas = f" behind {transport}", f"--uint8 --transport {transport}"
    if config.weights is not None:
        canvas += f" --weights {shlex.quote(str(config.weights))}"
    click.echo(
        f"{report.path}: validation accuracy {history.validation[history.best_epoch]:.1%}{behind} after epoch "
        f"{history.best_epoch + 1} of {len(history.loss)}, {report.seconds:.0f} s, {_speed(report):.0f} images/s; "
        f"next: pgn-edge export {report.path} {canvas}"
    )


def _document(report: TrainReport) -> dict[str, Any]:
    history, transport = report.history, report.model.transport
    return {
        "path": str(report.path),
        "seconds": report.seconds,
        "images_per_s": _speed(report),
        "best_epoch": history.best_epoch + 1,
        "head": report.head,
        "validation_accuracy": history.validation[history.best_epoch],
        "transport": None if transport is None else str(transport),
        "loss": history.loss,
        "validation": history.validation,
        "waiting": history.waiting,
        "left_out": report.left_out.to_json(),
        "notes": list(report.data.notes),
    }


def _speed(report: TrainReport) -> float:
    """Images trained on in a second, the mean of the epochs."""
    return sum(report.history.images_per_s) / len(report.history.images_per_s)


COMMANDS = (train,)
