"""One line of JSON for each frame and task, in a file or on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from types import TracebackType

from pgn_edge.errors import OutputError
from pgn_edge.files import atomic_write
from pgn_edge.runtime.record import AnswerRecord
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts, OnError, Tally, check_on_error
from pgn_edge.runtime.sources import Frame


class JsonlSink:
    """One JSON object a line for each frame and task.

    Args:
        path: of a file; `-` is stdout, where each line is sent at once.
        on_error: `raise` ends the run at the first line that cannot be written. `drop` counts it as lost and goes on:
            a file takes lines again once its disk has room, stdout takes none after its first failure.
        append: whether lines are added to what the file holds, and can be read at once; a file that is renamed
            meanwhile, as logrotate does, is followed by a new one. Else the file appears when all is written.

    Raises:
        OutputError: another `on_error`.
    """

    def __init__(self, path: str | Path, on_error: OnError = "raise", *, append: bool = False) -> None:
        self._path, self._on_error, self._adds = path, on_error, append and path != "-"
        check_on_error(on_error, f"jsonl {path}")
        self._stack, self._tally = ExitStack(), Tally()
        self._file: FileIO | None = None
        self._muted = False

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`."""
        return self._tally.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        for result in results:
            line = json.dumps(AnswerRecord.of(frame, result).to_json()) + "\n"
            with self._tally.attempt(self._on_error):
                if self._path == "-":
                    self._print(line)
                else:
                    _append(self._current(), line.encode())

    def __enter__(self) -> JsonlSink:
        if self._adds:
            self._current()
            self._stack.callback(self._close)
        elif self._path != "-":
            temporary = self._stack.enter_context(atomic_write(self._path))
            self._file = self._stack.enter_context(open(temporary, "ab", buffering=0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        kept = False
        try:
            swallowed = self._stack.__exit__(kind, error, trace)
            kept = error is None or self._path == "-" or self._adds
        finally:
            if not kept:  # the file goes away, and its lines with it
                self._tally.add(sent=-self.counts.sent, lost=self.counts.sent)
        return swallowed

    def _current(self) -> FileIO:
        """The file that lines go to now."""
        try:
            if self._file is not None and (not self._adds or _is_at(self._file, self._path)):
                return self._file
            self._close()
            self._file = open(self._path, "ab+", buffering=0)  # noqa: SIM115 - it stays open until the end
            _end_line(self._file)
        except OSError as exc:
            raise _error(str(self._path), "a file that can be written", exc.strerror or str(exc), "mend it") from exc
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _print(self, line: str) -> None:
        if self._muted:
            raise _error("-", "a stdout that takes lines", "one that failed before", "start again")
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError as exc:
            self._muted = True
            # Python flushes stdout once more at exit, and would complain about the same pipe or disk there.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            if isinstance(exc, BrokenPipeError):
                raise _error("-", "a reader of stdout", "a closed pipe", "keep the reader running") from exc
            raise _error("-", "a place to write to", exc.strerror or str(exc), "free some space") from exc


def _append(file: FileIO, line: bytes) -> None:
    """All of a line or none of it: half a line would spoil the one that follows it."""
    start, written = os.fstat(file.fileno()).st_size, 0
    try:
        while written < len(line):
            written += file.write(line[written:])
    except OSError as exc:
        file.truncate(start)
        raise _error(str(file.name), "a place to write to", exc.strerror or str(exc), "free some space") from exc


def _is_at(file: FileIO, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _end_line(file: FileIO) -> None:
    """Half a line that a power cut has left stays as it is, alone on its line."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _error(path: str, expected: str, got: str, do: str) -> OutputError:
    return OutputError(f"jsonl {path}", expected=expected, got=got, do=do)
