"""What an engine says of itself, held against what was found."""

from __future__ import annotations

from collections.abc import Sequence

from pgn_edge.contract import EngineFacts
from pgn_edge.runtime.probe.finding import SURE, Finding
from pgn_edge.runtime.probe.units import Units, same_scale


def disagreements(findings: Sequence[Finding], facts: EngineFacts, best: Units | None) -> tuple[str, ...]:
    """Sentences, one for each finding of which the probe is sure and which the facts deny.

    Args:
        findings: Findings of the probe, which has not read the facts.
        facts: Facts that the engine carries.
        best: Units of the best hypothesis; None where nothing could be tested.
    """
    sure = {one.what: one.answer for one in findings if one.confidence >= SURE}
    height, width = facts.geometry.canvas_hw
    stated = {
        "layout": "NHWC" if facts.canvas == "uint8" else "NCHW",
        "input": f"canvas, {facts.canvas}",
        "output": facts.output,
        "colour order": "RGB",
        "canvas": f"{height} x {width}",
        "prompt slots": str(facts.geometry.prompts),
    }
    found = [
        f"{what}: found {sure[what]}, its facts say {told}"
        for what, told in stated.items()
        if sure.get(what, told) != told
    ]
    own = facts.canvas == "uint8" or best is None or same_scale(best.preprocess, facts.preprocess)
    if "normalisation" in sure and not own:
        told = f"mean {facts.preprocess.mean} and std {facts.preprocess.std}"
        found.append(f"normalisation: found {sure['normalisation']}, its facts say {told}")
    return tuple(found)
