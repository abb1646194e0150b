"""Write the measured numbers of README.md from committed results; no number between its marks is typed in.

make demo
python benchmarks/readme.py --demo runs/demo    # copies the demo's numbers to results/demo.json first
python benchmarks/readme.py
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import RESULTS

from pgn_edge.files import write_text

README = Path(__file__).parents[1] / "README.md"
ROWS = {
    "frozen": "frozen ViT alone",
    "constant": "frozen ViT + constant prompts",
    "pgn_torch": "**frozen ViT + PGN**, in torch",
    "pgn_fp32": "**frozen ViT + PGN**, exported fp32",
    "pgn_fp16": "**frozen ViT + PGN**, exported fp16",
    "linear_probe": "linear probe on the frozen ViT",
    "cnn_alone": "the PGN's CNN alone",
}

Document = Mapping[str, Any]


def _demo(document: Document) -> str:
    accuracy, environment = document["accuracy"], document["environment"]
    rows = [f"| {title} | {100 * accuracy[name]:.1f} % |" for name, title in ROWS.items()]
    machine = f"{environment['usable_cores']} cores of {environment['cpu']}"
    return "\n".join(
        (
            "| on 400 unseen handwritten digits over photographs | top-1 |",
            "|---|---:|",
            *rows,
            "",
            f"(`make demo` on {machine}, {document['seconds']:.0f} s after set-up. Training sums round differently on "
            "each kind of CPU, so your numbers may differ by a point or two.)",
        )
    )


def _export_speed(document: Document) -> str:
    seconds = [export["seconds"] for export in document["exports"]]
    cores = document["environment"]["usable_cores"]
    span = f"{min(seconds):.1f} to {max(seconds):.1f} s"
    return (
        f"Exporting a task for CLIP ViT-B/32 with its whole parity ladder took {span} on {cores} cores\n"
        "(`python benchmarks/export_speed.py`, [results](benchmarks/results/export_speed.md))."
    )


def _chain(document: Document) -> str:
    small, large = document["ratio"]["chain 224 x 224"], document["ratio"]["chain 640 x 480"]
    cores = document["environment"]["usable_cores"]
    return (
        f"On ONNX Runtime and {cores} CPU cores, the whole call costs {small:.2f} times the bare session of the same "
        f"CLIP ViT-B/32 graph for a 224 x 224 frame and {large:.2f} times for 640 x 480, resizing and PGN included\n"
        "(`python benchmarks/chain.py`, [results](benchmarks/results/chain.md))."
    )


PARTS: dict[str, Callable[[Document], str]] = {"demo": _demo, "export_speed": _export_speed, "chain": _chain}


def filled(readme: str, results: Path) -> str:
    """The README with the numbers of a folder of results between its marks.

    Args:
        readme: Text of README.md.
        results: Folder of the JSON files.

    Raises:
        ValueError: A mark is missing.
    """
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- numbers: {name} -->\n)(?:(?!<!--).)*(<!-- end of numbers -->)", re.DOTALL)
        made = make(json.loads((results / f"{name}.json").read_text())) + "\n"
        readme, count = pattern.subn(lambda match, text=made: match[1] + text + match[2], readme)
        if count != 1:
            raise ValueError(f"README.md: expected one mark for {name}, got {count}")
    return readme


def main() -> None:
    """Copy the demo's numbers if they are given, and write README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="folder of a demo whose numbers become results/demo.json")
    given = parser.parse_args()
    if given.demo is not None:
        measured = json.loads((given.demo / "results.json").read_text())
        kept = {name: measured[name] for name in ("accuracy", "seconds", "environment")}
        kept["environment"] = {**kept["environment"], "command": "make demo"}
        write_text(RESULTS / "demo.json", json.dumps(kept, indent=2) + "\n")
    write_text(README, filled(README.read_text(), RESULTS))


if __name__ == "__main__":
    main()
