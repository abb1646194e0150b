"""What an engine or a service takes, found out from its inputs and outputs alone."""

from pgn_edge.runtime.probe.finding import Finding
from pgn_edge.runtime.probe.report import Report
from pgn_edge.runtime.probe.run import ProbeOptions, run_probe
from pgn_edge.runtime.probe.settings import Settings

__all__ = ["Finding", "ProbeOptions", "Report", "Settings", "run_probe"]
