"""Results of runs, a file each, so that a series that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pgn_edge.errors import DataError, OutputError
from pgn_edge.files import write_text
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.data.identity import difference

FORMAT, SCHEMA = "pgn-edge run", 1


@dataclass(frozen=True)
class Job:
    """One run of one contender, which its options describe whole.

    Args:
        contender: key of `baselines.CONTENDERS`.
        config: data, backbone, head and the PGN's shape.
        schedule: budget and seed.
    """

    contender: str
    config: TrainConfig
    schedule: Schedule

    def to_json(self) -> dict[str, Any]:
        """All options, as JSON gives them back."""
        return {"contender": self.contender, "config": dict(self.config.to_json()), "schedule": asdict(self.schedule)}

    @property
    def name(self) -> str:
        """Of its files: contender, data, a digest of all options but the seed, and the seed."""
        about = self.to_json()
        seed = about["schedule"].pop("seed")
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        data = _slug(self.config.data)
        return f"{self.contender}_{data}_{digest}_{seed}"


@dataclass(frozen=True)
class Result:
    """What one run measured.

    Args:
        job: its options.
        right: right answers on the test images of each data set.
        images: test images of each data set that could be read.
        validation: accuracy on the validation split, 0..1.
        parameters: that were trained.
        stored_bytes: what a task adds to the frozen model, as it was trained.
        seconds: of training, over all its parts where it was interrupted.
        unreadable: test images that could not be read.
        searched: learning rate -> validation accuracy, where the rate was chosen from several.
    """

    job: Mapping[str, Any]
    right: Mapping[str, int]
    images: Mapping[str, int]
    validation: float
    parameters: int
    stored_bytes: int
    seconds: float
    unreadable: int = 0
    searched: Mapping[str, float] = field(default_factory=dict)

    def accuracy(self, data: str) -> float:
        """Top-1 on the test images of one data set, 0..1."""
        return self.right[data] / self.images[data]


class Store:
    """A folder of results, of searches for a learning rate, and of the checkpoints of runs.

    Args:
        folder: need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results, self.searches, self.checkpoints, self.contents = (
            folder / name for name in ("results", "searches", "checkpoints", "data")
        )

    def make(self) -> Store:
        """Make the folders that are not there.

        Raises:
            OutputError: they cannot be made.
        """
        for each in (self.results, self.searches, self.checkpoints, self.contents):
            try:
                each.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise OutputError(
                    str(each), expected="a folder that can be made", got=exc.strerror or str(exc), do="choose another"
                ) from exc
        return self

    def result(self, job: Job) -> Result | None:
        """What is known of a job; None where nothing is, or where its file is damaged or of other options."""
        data = self._read(self.results / f"{job.name}.json", job)
        try:
            result = None if data is None else Result(**data)
            return result if result is not None and _is_whole(result) else None
        except TypeError:
            return None

    def keep(self, job: Job, result: Result) -> None:
        """Write what a job measured.

        Raises:
            OutputError: it cannot be written.
        """
        self._write(self.results / f"{job.name}.json", asdict(result))

    def require_data(self, name: str, contents: Mapping[str, Any]) -> None:
        """Refuse to mix results of data that changed with those that the folder holds.

        Args:
            name: Name of the data set, as the command has it.
            contents: What `identity` says of it now.

        Raises:
            DataError: its classes or files are not those of the results.
            OutputError: what it says cannot be written.
        """
        path = self.contents / f"{_slug(name)}_{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"
        before = _load(path)
        if before is None:
            write_text(path, json.dumps(contents, indent=2) + "\n")
            return
        changed = difference(before, contents)
        if changed is not None:
            do = f"choose another folder: -o, or bring back the data of the results in {self.folder}"
            raise DataError(name, expected=changed[0], got=changed[1], do=do)

    def search(self, job: Job) -> dict[str, float] | None:
        """Validation accuracy of each learning rate that was tried for a job; None as for `result`."""
        data = self._read(self.searches / f"{job.name}.json", job)
        rates = data.get("rates") if data else None
        if not isinstance(rates, dict) or not all(isinstance(value, float) for value in rates.values()):
            return None
        return dict(rates)

    def keep_search(self, job: Job, rates: Mapping[str, float]) -> None:
        """Write what a search found.

        Raises:
            OutputError: it cannot be written.
        """
        self._write(self.searches / f"{job.name}.json", {"job": job.to_json(), "rates": dict(rates)})

    def checkpoint(self, job: Job) -> Path:
        """Where the checkpoint of a job lies, if it has one."""
        return self.checkpoints / f"{job.name}.pt"

    def seconds(self, job: Job) -> float:
        """How long a job that was interrupted has been trained so far."""
        try:
            return float(self._clock(job).read_text())
        except (OSError, ValueError):
            return 0.0

    def keep_seconds(self, job: Job, seconds: float) -> None:
        """Write how long a job has been trained.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(self._clock(job), f"{seconds:.3f}\n")

    def tidy(self, job: Job, *, checkpoint: bool) -> None:
        """Remove the states of a job that is finished, and its checkpoint too where that is asked for."""
        doomed = [self.checkpoint(job)] if checkpoint else []
        for each in (*doomed, *self._states(job), self._clock(job)):
            each.unlink(missing_ok=True)

    def has_state(self, job: Job) -> bool:
        """Whether a job was interrupted, and left what it can go on from."""
        return any(path.exists() for path in self._states(job))

    def _states(self, job: Job) -> list[Path]:
        path = self.checkpoint(job)
        return [path.with_name(f"{path.stem}.{kind}{path.suffix}") for kind in ("resume", "warm")]

    def _clock(self, job: Job) -> Path:
        return self.checkpoints / f"{job.name}.seconds"

    def _write(self, path: Path, data: Mapping[str, Any]) -> None:
        write_text(path, json.dumps({"format": FORMAT, "schema": SCHEMA, **data}, indent=2) + "\n")

    def _read(self, path: Path, job: Job) -> dict[str, Any] | None:
        data = _load(path)
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT or data.pop("schema", None) != SCHEMA:
            return None
        return data if data.get("job") == job.to_json() else None


def _load(path: Path) -> Any:
    """A JSON document; None where there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None


def _slug(data: str) -> str:
    """The name of a data set as names of files have it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(data).name).strip("-")[:40]


def _is_whole(result: Result) -> bool:
    """Whether the values are of their types, and name at least one data set."""
    counts = (result.right, result.images)
    if not all(isinstance(each, dict) and each for each in counts) or set(result.right) != set(result.images):
        return False
    whole = (*result.right.values(), *result.images.values(), result.parameters, result.stored_bytes)
    numbers = (result.validation, result.seconds, result.unreadable)
    if not all(type(value) is int for value in whole) or not all(result.images.values()):
        return False
    return all(isinstance(value, int | float) for value in numbers)
