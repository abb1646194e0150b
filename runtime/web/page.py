"""The live page as a sink: it takes what an app answers, and serves it while it is entered."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pgn_edge.errors import OutputError, PgnEdgeError
from pgn_edge.redact import public_name
from pgn_edge.runtime.drift import Drift
from pgn_edge.runtime.events import EventLog, last_error
from pgn_edge.runtime.http_server import HttpService
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Runtime
from pgn_edge.runtime.sinks import Counts, Sink
from pgn_edge.runtime.sinks.base import Tally
from pgn_edge.runtime.sources import Frame
from pgn_edge.runtime.web.pictures import Pictures
from pgn_edge.runtime.web.server import Site, handler
from pgn_edge.runtime.web.state import State
from pgn_edge.runtime.web.swaps import Swaps

TICK_S = 1.0
MOST_SHOWN = 20  # events on the page


@dataclass(frozen=True)
class PageOptions:
    """Where the page is, and what it may do.

    Args:
        host: address or name to listen on.
        port: to listen on; 0 takes a free one, see `LivePage.url`.
        token: that viewers must know; empty for none, which is for loopback alone.
        bundles: folder whose `*.pgn` the page offers to swap in; None for no swaps.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = field(default="", repr=False)
    bundles: Path | None = None


class LivePage:
    """Shows an app to people: pictures, answers, latency, drift, and a menu to swap tasks.

    `write` keeps references and adds numbers; pictures are encoded in the threads of those who watch. Canvases are
    shown where the Runtime keeps them, `Runtime(…, canvases=True)`.

    Args:
        runtime: whose tasks are shown and swapped; open as long as the page is.
        options: where the page is, and what it may do.
        events: Log that the page shows, and that its swaps are written to; None for a log of its own.

    Raises:
        OutputError: an address that others reach without a token, a token that no header carries, a port that is
            taken, or no such folder of bundles.
    """

    def __init__(self, runtime: Runtime, options: PageOptions | None = None, events: EventLog | None = None) -> None:
        options = options or PageOptions()
        if options.bundles is not None and not options.bundles.is_dir():
            raise OutputError(
                str(options.bundles),
                expected="a folder of bundles",
                got="no such folder",
                do="create it, or name another",
            )
        self._runtime, self._state, self._tally = runtime, State(), Tally()
        self._events = EventLog() if events is None else events
        self._swaps = Swaps(runtime, options.bundles, self._events)
        self._epoch = secrets.token_hex(4)  # tells a page that numbers of rows begin anew
        self._closed = threading.Event()
        site = Site(
            pictures=Pictures(self._state, runtime.facts),
            document=self._document,
            swap=self._swaps.swap,
            token=options.token,
            closed=self._closed,
        )
        self._service = HttpService("live page", options.host, options.port, options.token, handler(site))
        self._ticker = threading.Thread(target=self._tick, name="live page rows", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, `http://host:port`."""
        return self._service.url

    @property
    def counts(self) -> Counts:
        """Frames that it was given; `lost` are those of cameras beyond the 64th."""
        return self._tally.counts

    def watch(self, name: str, sink: Sink) -> None:
        """Show what a sink lost.

        Args:
            name: as it is shown.
            sink: whose counts are read.
        """
        self._state.watch(name, sink)

    def expect(self, camera: str, reconnects: Callable[[], int]) -> None:
        """Show a camera before its first frame, and how often it was opened again.

        Args:
            camera: Name of the camera, as `Frame.camera` has it.
            reconnects: Function that gives the number of reconnects; called in the threads of viewers.
        """
        self._state.expect(camera, reconnects)

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """Show a frame and its answers; both are kept until the next of this camera, and must not change meanwhile."""
        self._tally.add(offered=1, **{"sent" if self._state.write(frame, results) else "lost": 1})

    def __enter__(self) -> LivePage:
        self._service.start()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._service.close()
        self._ticker.join()

    def _tick(self) -> None:
        while not self._closed.wait(TICK_S):
            self._state.tick({task: self._drift(task) for task in self._runtime.tasks})

    def _drift(self, task: str) -> Drift | None:
        try:
            return self._runtime.drift(task)
        except PgnEdgeError:  # it was removed a moment ago
            return None

    def _document(self, after: int) -> dict[str, Any]:
        swaps, loaded = self._runtime.swaps, self._runtime.tasks
        tasks = [
            {
                "name": name,
                "bundle": task.file,
                "digest": task.digest,
                "swaps": swaps.get(name, 0),
                "last": self._swaps.last(name),
            }
            for name, task in loaded.items()
        ]
        document = self._state.document(after, {name: task.facts.preprocess for name, task in loaded.items()})
        for camera in document["cameras"]:
            camera["trouble"] = self._trouble(camera["name"]) if camera["silent_s"] is not None else ""
        newest = [event.to_json() for event in self._events.events[-MOST_SHOWN:]]
        document |= {"events": newest[::-1], "last_error": last_error(self._events)}
        return {**document, "epoch": self._epoch, "bundles": self._swaps.bundles, "tasks": tasks}

    def _trouble(self, camera: str) -> str:
        """The last problem of a camera in one line; empty where it had none."""
        event = self._events.problems.get(("camera", public_name(camera)))
        return "" if event is None else event.text or event.state
