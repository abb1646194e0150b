"""From findings to the settings to train for, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgn_edge.contract import EngineFacts
from pgn_edge.runtime.probe.finding import SURE, Finding
from pgn_edge.runtime.probe.known import Known
from pgn_edge.runtime.probe.units import Units, same_scale
from pgn_edge.transport import LOSSLESS, Transport

ANY = "BACKBONE"  # in a command line, where nobody knows which


@dataclass(frozen=True)
class Settings:
    """How to train and export for what was probed.

    Args:
        adaptable: whether a PGN can be put before it.
        options: of training and export by name; empty where it cannot.
        commands: lines to type.
        notes: why it cannot, or what is still open.
    """

    adaptable: bool
    options: Mapping[str, str]
    commands: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        lists = {"commands": list(self.commands), "notes": list(self.notes)}
        return {**asdict(self), "options": dict(self.options), **lists}


@dataclass(frozen=True)
class Probed:
    """What settings depend on beside the findings.

    Args:
        engine: Engine or service as the user typed it.
        service: Whether it takes image files.
        eight_bit: Whether it takes pixels of 8 bits, in a file or not.
        facts: Facts of pgn-edge that it carries, by which the runtime pairs; None for a foreign engine.
        best: Units of the best hypothesis; None where nothing could be tested.
        known: Pictures that it was tested with.
    """

    engine: str
    service: bool
    eight_bit: bool
    facts: EngineFacts | None
    best: Units | None
    known: Known | None


def settings(findings: Sequence[Finding], probed: Probed) -> Settings:
    """Read the findings of which the probe is sure."""
    sure = {one.what: one.answer for one in findings if one.confidence >= SURE}
    obstacles = _obstacles(sure, probed)
    if obstacles:
        return Settings(False, {}, (), obstacles)
    options = {
        "backbone": ANY,
        "layout": "append" if sure.get("extra patches") == "read" and not probed.service else "inset",
        "prompts": sure.get("prompt slots", "auto"),
        "library space": "pixel" if probed.eight_bit else "token",
        "canvas": "uint8" if probed.eight_bit else "float32",
        "transport": _transport(sure) if probed.service else "png" if probed.eight_bit else LOSSLESS,
    }
    if probed.known is not None and sure.get("backbone") in ("yes", "alike"):
        geometry = probed.known.geometry
        options["backbone"] = probed.known.backbone
        if geometry.prompts:  # what was trained for it once runs on it: the same again
            options |= {"layout": geometry.layout, "prompts": str(geometry.prompts)}
    # The runtime pairs by facts, so a task for an engine with facts is trained for what they say.
    if probed.facts is not None and sure.get("backbone") != "no":
        options["backbone"] = probed.facts.backbone
        geometry = probed.facts.geometry
        if geometry.prompts:
            options |= {"layout": geometry.layout, "prompts": str(geometry.prompts)}
    return Settings(True, options, _commands(options, probed), _notes(sure, options, probed))


def _obstacles(sure: Mapping[str, str], probed: Probed) -> tuple[str, ...]:
    """Why no canvas of ours would be understood."""
    if sure.get("reads pictures") != "yes":
        return ("its answers do not depend on the picture, or came too seldom to tell",)
    if sure.get("re-encoding") == "resampled":
        return ("it resamples a picture of this size, and prompts with it: name the size that it works at with --size",)
    found = []
    if sure.get("backbone") == "no":
        return ()  # then nothing is known of its colours either, whatever came nearest
    if sure.get("colour order") == "BGR":
        found.append("it expects BGR, and a canvas is RGB: swap the channels within it or before it, and probe again")
    own = probed.best is None or probed.known is None or same_scale(probed.best.preprocess, probed.known.preprocess)
    if not probed.eight_bit and not own and "normalisation" in sure:
        found.append(
            f"it expects {sure['normalisation']}, and a canvas of floats comes in the units of its backbone: take an "
            "engine without normalisation inside, or one that takes pixels: pgn-edge export-vit BACKBONE --input uint8"
        )
    return tuple(found)


def _transport(sure: Mapping[str, str]) -> str:
    """What the file goes through: what the service does to it, or the best of what it takes."""
    loss = sure.get("re-encoding", LOSSLESS)
    if loss.startswith(("jpeg", "webp")):
        return loss
    taken = sure.get("formats", "png").split(", ")
    return next((codec for codec in ("png", "webp") if codec in taken), str(Transport("jpeg", 95)))


def _commands(options: Mapping[str, str], probed: Probed) -> tuple[str, ...]:
    eight_bit, backbone = probed.eight_bit, options["backbone"]
    shape = f"--layout {options['layout']} --prompts {options['prompts']}"
    transport = f" --transport {options['transport']}" * eight_bit
    train = f"pgn-edge train --data DATA --backbone {backbone} {shape} --library-space {options['library space']}"
    export = f"pgn-edge export ckpt.pt{' --uint8' * eight_bit}{transport} -o task.pgn"
    commands = [f"{train}{transport} -o ckpt.pt", export]
    if not probed.service and probed.facts is None:
        # A stock engine proves the facts for inset. Only a task itself proves those of an append engine.
        proof = "--task task.pgn" if options["layout"] == "append" else "--reference STOCK"
        commands.append(f"pgn-edge probe --engine {probed.engine} {proof} -o vit.facts.json")
        return (*commands, "pgn-edge predict IMAGE --vit vit.facts.json --task task.pgn")
    return (*commands, f"pgn-edge predict IMAGE --vit {probed.engine} --task task.pgn")


def _notes(sure: Mapping[str, str], options: Mapping[str, str], probed: Probed) -> tuple[str, ...]:
    """What is still open, or to be done by hand."""
    proven = sure.get("backbone") in ("yes", "alike")
    found = (
        (
            options["backbone"] == ANY,
            f"{ANY} is the one whose weights it has, which a PGN is trained with: once you know it, probe again with "
            "--reference",
        ),
        (sure.get("backbone") == "no", "it is not the backbone of the bundle or the reference"),
        (
            probed.facts is None and ("colour order" not in sure or "normalisation" not in sure),
            "its colours are not known: a wrong order or normalisation would be seen only once a task is exported",
        ),
        (
            options["layout"] == "append" and not proven and probed.facts is None,
            "that rows are read does not say with which positions: a task that is exported for this layout proves it, "
            "with --task",
        ),
        (
            not probed.service and probed.facts is None,
            "it carries no facts of pgn-edge, which the runtime asks for: -o writes those that are proven, into a file "
            "that --vit takes",
        ),
        (probed.service, f'name both in {probed.engine}: task = "task.pgn", transport = "{options["transport"]}"'),
        (
            sure.get("re-encoding", LOSSLESS) != LOSSLESS and not proven,
            "its backbone cannot be judged by answers to pictures that arrive otherwise: a task that is trained and "
            "exported with that transport proves it, with --task",
        ),
        (sure.get("deterministic") == "no", "its answers change from call to call, and no golden pair will be met"),
        ("bits" in sure.get("re-encoding", ""), "it keeps fewer than 8 bits of a pixel, which no training knows of"),
        (
            sure.get("length") == "probabilities",
            "its answers are probabilities of its own classes: train with --head identity, frequency or iterative",
        ),
    )
    return tuple(note for holds, note in found if holds)
