"""Cameras and streams: each is read by a process of its own, which can be killed and started again."""

from __future__ import annotations

from pgn_edge.runtime.live.options import Counters, LiveOptions, Policy
from pgn_edge.runtime.live.source import LiveSource

__all__ = ["Counters", "LiveOptions", "LiveSource", "Policy"]
