"""What a probe found, as JSON and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgn_edge.errors import EngineError
from pgn_edge.html import heading, page, paragraph, table
from pgn_edge.runtime.probe.finding import Finding
from pgn_edge.runtime.probe.settings import Settings


@dataclass(frozen=True)
class Report:
    """What `run_probe` found.

    Args:
        engine: Engine as the user typed it.
        device: Device that it runs on.
        calls: Number of calls that were made.
        findings: Findings in the order in which they are told.
        disagreements: Differences between findings and the facts that the engine carries; empty where it has none.
        settings: Settings to train for.
        refusal: Reason why no facts file was written although one was asked for.
    """

    engine: str
    device: str
    calls: int
    findings: tuple[Finding, ...]
    disagreements: tuple[str, ...]
    settings: Settings
    refusal: EngineError | None = None

    def answer(self, what: str) -> str:
        """The answer to a question that was asked."""
        return next(one.answer for one in self.findings if one.what == what)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "engine": self.engine,
            "device": self.device,
            "calls": self.calls,
            "findings": [one.to_json() for one in self.findings],
            "disagreements": list(self.disagreements),
            "settings": self.settings.to_json(),
        }

    def to_html(self) -> str:
        """A self-contained page."""
        rows = [(one.what, one.answer, f"{one.confidence:.2f}", one.evidence) for one in self.findings]
        parts = [
            paragraph(f"{self.engine}, {self.device}, {self.calls} calls"),
            heading("Findings"),
            table(("question", "answer", "confidence", "evidence"), rows),
        ]
        if self.disagreements:
            parts += [heading("Facts that disagree"), *map(paragraph, self.disagreements)]
        parts.append(heading("Settings to train for" if self.settings.adaptable else "It cannot be adapted as it is"))
        if self.settings.options:
            parts.append(table(("setting", "value"), list(self.settings.options.items())))
        parts += map(paragraph, (*self.settings.commands, *self.settings.notes))
        return page("What an engine takes, from inputs and outputs alone", parts)
