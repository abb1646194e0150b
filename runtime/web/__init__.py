"""The live page of an app: what its cameras see, what the tasks answer, and how long that takes."""

from pgn_edge.runtime.web.page import LivePage, PageOptions

__all__ = ["LivePage", "PageOptions"]
