"""`pgn-edge inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import json_option, print_json, print_table, printable
from pgn_edge.cli.tables import print_certificate, text, words

if TYPE_CHECKING:
    from pgn_edge.export.inspection import Inspection
    from pgn_edge.export.inspection_diff import Difference

FIRST_LABELS = 8  # --json has all
LONGEST_SIDE = 160  # characters of a value in a difference; --json has all
TITLES = {
    "facts": "Facts",
    "plan": "Plan",
    "external": "Weights beside the graph",
    "pgn": "PGN",
    "parity": "Parity ladder",
    "numerics": "Numerics",
    "head": "Head",
    "golden": "Golden frames",
    "provenance": "Provenance",
}


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--diff", "other", metavar="OTHER", type=click.Path(path_type=Path), help="Print only what differs.")
@json_option
@click.pass_context
def inspect_command(context: click.Context, file: Path, other: Path | None, as_json: bool) -> None:
    """Show what FILE is and what it holds.

    FILE is a task.pgn, a vit.onnx, a vit.plan with its sidecar, or a ckpt.pt.

    With --diff, the exit status is 0 where both files hold the same and 1 where they differ.
    """
    from pgn_edge.export.inspection import inspect_file
    from pgn_edge.export.inspection_diff import diff

    inspection = inspect_file(file)
    if other is not None:
        differences = diff(inspection, inspect_file(other))
        if as_json:
            found = [difference.to_json() for difference in differences]
            print_json({"a": str(file), "b": str(other), "differences": found})
        else:
            click.echo("".join(f"{_difference(difference)}\n" for difference in differences), nl=False)
        context.exit(1 if differences else 0)
    if as_json:
        print_json(inspection.to_json())
    else:
        _print_inspection(inspection)


def _difference(difference: Difference) -> str:
    return printable(f"{difference.path}: {_side(difference.a)} -> {_side(difference.b)}")


def _side(value: Any) -> str:
    from pgn_edge.export.inspection_diff import ABSENT

    if value is ABSENT or isinstance(value, str):
        return "absent" if value is ABSENT else value
    whole = json.dumps(value)  # every digit: a rounded one could look the same on both sides
    return whole if len(whole) <= LONGEST_SIDE else f"{whole[:LONGEST_SIDE]} ..."


def _print_inspection(inspection: Inspection) -> None:
    sections = dict(inspection.sections)
    rows = [
        ("kind", inspection.kind),
        ("name", text(sections.pop("name", ""))),
        ("size", f"{inspection.size_bytes / 1e6:.2f} MB ({inspection.size_bytes} bytes)"),
        ("sha256", inspection.sha256),
    ]
    print_table("File", (), [row for row in rows if row[1]])
    for note in inspection.notes:
        click.echo(printable(note))
    printers: dict[str, Callable[[Any], None]] = {
        "certificate": print_certificate,
        "graph": _print_graph,
        "labels": _print_labels,
    }
    for name, value in sections.items():
        if name in printers:
            printers[name](value)
        else:
            _print_section(TITLES[name], value)


def _print_section(title: str, value: Any) -> None:
    """Values in one table, then a table for each list of objects."""
    value = value if isinstance(value, Mapping) else {"": value}
    lists = {key: inner for key, inner in value.items() if _is_table(inner)}
    rows = _rows({key: inner for key, inner in value.items() if key not in lists})
    if rows:
        print_table(title, (), rows)
    for key, entries in lists.items():
        header = list(dict.fromkeys(name for entry in entries for name in entry))
        cells = [[text(entry.get(name, "")) for name in header] for entry in entries]
        print_table(f"{title}: {words(key)}" if key else title, [words(name) for name in header], cells)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) and entry for entry in value)


def _rows(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            rows += _rows(inner, f"{prefix}{key} ")
        elif key.endswith("_hw") and isinstance(inner, list):
            rows.append((words(f"{prefix}{key.removesuffix('_hw')}"), " x ".join(map(text, inner))))
        else:
            rows.append((words(f"{prefix}{key}"), text(inner)))
    return rows


def _print_graph(graph: Mapping[str, Any]) -> None:
    rows = [
        (f"{printable(name)} ({side})", _tensor(value))
        for side in ("input", "output")
        for name, value in graph[f"{side}s"].items()
    ]
    rows.append(("opset", _counts(graph["opset"])))
    if "nodes" in graph:
        rows.append(("parameters", text(graph["parameters"])))
        rows += [("activation", graph["activation"])] if graph["activation"] else []
        rows += [(f"{kind} nodes", _counts(types)) for kind, types in graph["arithmetic"].items()]
        rows += [
            (f"{kind} weights", f"{entry['tensors']} tensors, {entry['bytes']} bytes")
            for kind, entry in graph["initializers"].items()
        ]
        rows.append(("all nodes", _counts(graph["nodes"])))
    print_table("Graph", (), rows)
    largest = [
        (printable(name), _tensor(value), text(value["bytes"])) for name, value in graph.get("largest", {}).items()
    ]
    if largest:
        print_table("Largest tensors", ("tensor", "type", "bytes"), largest)


def _tensor(value: Mapping[str, Any]) -> str:
    return f"{value['type']} ({', '.join(text(size) for size in value['shape'])})"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{printable(name)} {count}" for name, count in counts.items())


def _print_labels(labels: Sequence[str]) -> None:
    more = f", and {len(labels) - FIRST_LABELS} more" if len(labels) > FIRST_LABELS else ""
    click.echo(f"{len(labels)} labels: {', '.join(map(printable, labels[:FIRST_LABELS]))}{more}")


COMMANDS = (inspect_command,)
