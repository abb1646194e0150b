"""What was asked, what came out, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

UNKNOWN = "unknown"
EXACT = 0.75  # margin of an explanation that should leave nothing over; chance gets two thirds of it
SURE = 0.5  # confidence from which on a finding decides anything: the next best explanation is twice as far away


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Args:
        what: was asked.
        answer: a word or two; `unknown` where outputs cannot tell.
        confidence: 0 to 1, see `margin`; 1 for what a type or a declared size states without measurement.
        evidence: what it rests on, in words.
    """

    what: str
    answer: str
    confidence: float
    evidence: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "confidence": round(self.confidence, 4)}


def unknown(what: str, evidence: str) -> Finding:
    """What could not be found out, and why."""
    return Finding(what, UNKNOWN, 0.0, evidence)


def margin(near: float, far: float) -> float:
    """How much nearer one explanation is than another: 0 where it is not, 0.5 at half the distance, 1 if it is exact.

    Every confidence is a product of such margins, one for each other explanation that there is.

    Args:
        near: distance of the explanation that is taken, at least 0.
        far: distance of the other one.
    """
    return max(0.0, 1 - near / far) if far > 0 else 0.0
