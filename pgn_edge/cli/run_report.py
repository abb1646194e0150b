"""How `pgn-edge run` tells of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgn_edge.cli.console import print_table, printable

if TYPE_CHECKING:
    from pgn_edge.runtime.app import CameraSummary, RunSummary

MOST_LABELS = 20  # of a task in the table; --json has all


def print_summary(summary: RunSummary) -> None:
    """Print what a run did; cameras are a table where there are several, or one came to harm."""
    if summary.frames:
        _print_answers(summary)
    else:
        click.echo("no frames")
    if len(summary.cameras) > 1 or any(camera.skipped or camera.error for camera in summary.cameras.values()):
        header = ("camera", "frames", "skipped", "dropped", "reconnects", "age p50, ms", "age p95, ms")
        print_table("Cameras", header, [_row(name, camera) for name, camera in summary.cameras.items()])
    for task, count in summary.degraded.items():
        click.echo(
            f"{printable(task)}: {count} degraded frames without an answer: NaN or Inf, or the task's engine failed"
        )
    for sink, count in summary.lost.items():
        click.echo(f"{sink}: {count} lost")
    if line := last_error_line(summary):
        click.echo(line)


def last_error_line(summary: RunSummary) -> str:
    """Say what went wrong last; empty where nothing did."""
    error = summary.last_error
    if error is None:
        return ""
    return printable(
        f"last problem: {error['at']} {error['kind']} {error['subject']}: {error['state']}: {error['text']}"
    )


def missing_lines(summary: RunSummary) -> list[str]:
    """Say what files and folders should have given and did not, one line for each source that lacks something."""
    lines = []
    for name, camera in summary.cameras.items():
        missing = camera.missing
        if missing.damaged or missing.cut_short:  # unreadable images are in the line of what was left out
            counts = {
                "damaged": missing.damaged,
                "cut short at the end": missing.cut_short,
            }
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
            first = f"; the first: {missing.first}" if missing.first else ""
            lines.append(f"{printable(name)}: missing frames: {missing.damaged + missing.cut_short} ({reasons}){first}")
    return lines


def _print_answers(summary: RunSummary) -> None:
    rows = [
        (task, label, str(count), f"{count / sum(counts.values()):.1%}")
        for task, counts in summary.counts.items()
        for label, count in list(counts.items())[:MOST_LABELS]
    ]
    if rows:
        print_table("Answers", ("task", "label", "frames", "share"), rows)
    stages = [(stage, f"{value.p50:.2f}", f"{value.p95:.2f}") for stage, value in summary.latency_ms.items()]
    print_table("Latency, ms", ("stage", "p50", "p95"), stages)
    click.echo(f"{summary.frames} frames in {summary.seconds:.2f} s, {summary.fps:.1f} frames/s")
    if summary.batching is not None and len(summary.cameras) > 1:
        wait = f"95 % waited at most {summary.batching.wait_ms_p95:.1f} ms"
        click.echo(f"{summary.batching.batches} passes of {summary.batching.mean_batch:.1f} frames; {wait}")


def _row(name: str, camera: CameraSummary) -> tuple[str, ...]:
    ages = ("-", "-") if camera.age_ms is None else (f"{camera.age_ms.p50:.1f}", f"{camera.age_ms.p95:.1f}")
    counts = (camera.frames, camera.skipped, camera.dropped, camera.reconnects)
    return (name, *(str(count) for count in counts), *ages)
