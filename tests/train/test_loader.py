"""Batches: each image once, in an order that depends on seed and epoch alone, and threads that change nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pgn_edge.train.pictures
from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.canvas import to_input
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.config import Schedule
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Arrays, Files
from pgn_edge.train.loader import Part, TrainLoader, in_order, read_all
from pgn_edge.train.pictures import AHEAD, Ahead, Pictures, thread_count

PLAIN = Schedule(batch=8, augment="none")
SMALL = Preprocess((12, 12))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Twenty small files, each of another grey; numbers 4, 5 and 11 cannot be read."""
    paths = [tmp_path / f"{index:02}.png" for index in range(20)]
    for index, path in enumerate(paths):
        Image.new("RGB", (30, 20), (10 * index,) * 3).save(path)
    paths[4].write_bytes(paths[4].read_bytes()[:-20])
    paths[5].write_text("no image")
    paths[11].unlink()
    return Files(paths, np.arange(20) % 2)


def loader(samples: Any, schedule: Schedule = PLAIN, left_out: LeftOut | None = None, **options: Any) -> TrainLoader:
    return TrainLoader(Pictures(samples, SMALL, left_out or LeftOut()), schedule, **options)


def flat(steps: Iterator[list[Part]]) -> list[Part]:
    return [part for parts in steps for part in parts]


def greys(parts: list[Part]) -> list[int]:
    """Number of each file, by its grey."""
    return [int(image[0, 0, 0]) // 10 for part in parts for image in part.images]


# Epochs.


@pytest.mark.parametrize("batch", [2, 5, 7, 24, 100])
def test_an_epoch_shows_every_image_once(bar_data: DataSet, bar_preprocess: Preprocess, batch: int):
    pictures = Pictures(bar_data.train, bar_preprocess, LeftOut())
    parts = flat(TrainLoader(pictures, replace(PLAIN, batch=batch)).epoch(0))
    assert max(len(part.labels) for part in parts) <= batch
    shown = sorted(image.numpy().tobytes() for part in parts for image in part.images)
    assert shown == sorted(image.tobytes() for image in bar_data.train.images)


def test_each_epoch_has_its_own_order(bar_data: DataSet, bar_preprocess: Preprocess):
    train = TrainLoader(Pictures(bar_data.train, bar_preprocess, LeftOut()), PLAIN)
    first, again, second = (torch.cat([part.images for part in flat(train.epoch(epoch))]) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("augment", ["none", "light", "paper"])
def test_threads_and_a_later_start_change_nothing(files: Files, augment: Any):
    schedule = replace(PLAIN, augment=augment, batch=4)
    alone, threads = (flat(loader(files, schedule, workers=workers).epoch(1)) for workers in (0, 4))
    late = flat(loader(files, schedule, workers=3).epoch(1, start=2))
    assert len(alone) == len(threads) == len(late) + 2
    for wanted, *others in zip(alone[2:], threads[2:], late, strict=True):
        for part in others:
            assert torch.equal(part.images, wanted.images)
            assert torch.equal(part.labels, wanted.labels)
            assert (part.changes is None) == (augment != "light")
            assert part.changes is None or torch.equal(part.changes, wanted.changes)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_the_step_that_one_takes(files: Files, processes: int, accumulate: int):
    schedule = replace(PLAIN, augment="light", accumulate=accumulate)
    whole = list(loader(files, schedule).epoch(0))
    shares = [list(loader(files, schedule, place=(at, processes)).epoch(0)) for at in range(processes)]
    for step, wanted in enumerate(whole):
        parts = [part for share in shares for part in share[step]]
        assert sum(part.weight for part in parts) == pytest.approx(1)
        assert sorted(greys(parts)) == sorted(greys(wanted))
        rows = torch.cat([part.changes for part in parts if part.changes is not None])
        assert len(torch.unique(rows, dim=0)) == len(rows) == sum(len(part.labels) for part in wanted)


def test_fewer_images_than_processes_are_refused(bar_data: DataSet):
    few = Arrays(bar_data.train.images[:3], bar_data.train.labels[:3], "few")
    with pytest.raises(DataError, match="one for each process, got 3 for 4 processes"):
        next(loader(few, place=(0, 4)).epoch(0))


@pytest.mark.parametrize(("count", "batch", "steps"), [(24, 8, 3), (25, 8, 4), (5, 2, 2), (3, 8, 1), (1, 8, 1)])
def test_no_step_of_a_single_image(bar_data: DataSet, count: int, batch: int, steps: int):
    images = np.concatenate([bar_data.train.images] * 2)[:count]
    samples = Arrays(images, np.zeros(count, np.int64), "some")
    train = loader(samples, replace(PLAIN, batch=batch))
    sizes = [len(part.labels) for part in flat(train.epoch(0))]
    assert len(sizes) == train.steps == steps
    assert sum(sizes) == count


# What cannot be read.


def test_the_next_readable_image_takes_the_place_of_one_that_is_not(files: Files):
    left_out = LeftOut()
    train = loader(files, left_out=left_out, workers=2)
    for epoch in (0, 1):
        parts = flat(train.epoch(epoch))
        seen = greys(parts)
        assert sorted(seen) == sorted([*(set(range(20)) - {4, 5, 11}), 6, 6, 12])
        assert [int(label) for part in parts for label in part.labels] == [number % 2 for number in seen]
    assert len(left_out) == 3


def test_strict_stops_at_the_first(files: Files):
    with pytest.raises(DataError, match=r"(04|05|11)\.png"):
        flat(loader(files, left_out=LeftOut(strict=True), workers=2).epoch(0))


def test_in_order_leaves_out_what_cannot_be_read(files: Files):
    left_out = LeftOut()
    parts = list(in_order(files, SMALL, batch=6, left_out=left_out))
    indices = np.concatenate([found for _, found in parts])
    assert indices.tolist() == [index for index in range(20) if index not in (4, 5, 11)]
    assert [int(image[0, 0, 0]) // 10 for images, _ in parts for image in images] == indices.tolist()
    assert {images.shape[1:] for images, _ in parts} == {(12, 12, 3)}
    assert len(left_out) == 3
    assert np.array_equal(read_all(files, SMALL), np.concatenate([images for images, _ in parts]))


def test_nothing_readable_is_an_empty_array(tmp_path: Path):
    assert read_all(Files([tmp_path / "none.png"], np.zeros(1, np.int64)), SMALL).shape == (0, 12, 12, 3)


# Memory and threads.


class Counted:
    """Samples that count how often each is decoded."""

    def __init__(self, source: Arrays) -> None:
        self.source, self.reads = source, np.zeros(len(source), int)
        self.labels = source.labels

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        self.reads[index] += 1
        return self.source.read(index)

    def name(self, index: int) -> str:
        return self.source.name(index)


@pytest.mark.parametrize(
    ("augment", "room", "decoded"),
    [
        pytest.param("none", 1 << 20, 1, id="plain images stay in memory"),
        pytest.param("light", 1 << 20, 1, id="light changes what is in memory"),
        pytest.param("paper", 1 << 20, 3, id="the paper's changes the original"),
        pytest.param("light", 100, 3, id="no room"),
    ],
)
def test_what_fits_is_decoded_once(
    bar_data: DataSet, monkeypatch: pytest.MonkeyPatch, augment: Any, room: int, decoded: int
):
    monkeypatch.setattr(pgn_edge.train.pictures, "CACHE_BYTES", room)
    samples = Counted(bar_data.train)  # type: ignore[arg-type]
    train = loader(samples, replace(PLAIN, augment=augment), workers=2)
    first, _, third = (flat(train.epoch(epoch)) for epoch in (0, 1, 0))
    assert set(samples.reads.tolist()) == {decoded}
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, third, strict=True))


def test_arrays_of_the_right_size_are_not_copied_and_need_no_threads(bar_data: DataSet, bar_preprocess: Preprocess):
    pictures = Pictures(bar_data.train, bar_preprocess, LeftOut())
    assert pictures.in_memory
    found = pictures.read(3)
    assert found is not None
    assert np.shares_memory(found[0], bar_data.train.images)


def test_threads_read_ahead_and_no_further():
    asked, gate = [], threading.Event()

    def read(index: int) -> Any:
        asked.append(index)
        gate.wait(10)
        return np.zeros(1), index

    gate.set()
    with Ahead(read, 2) as ahead:
        groups = ahead.over([[index] for index in range(20)])
        next(groups)
    assert len(asked) <= AHEAD + 1


def test_threads_are_as_many_as_asked_or_as_there_are_cores():
    assert thread_count(3) == 3
    assert 1 <= thread_count(None) <= 8


def test_waiting_is_a_share(files: Files):
    train = loader(files)
    list(train.epoch(0))
    assert train.waited_s > 0
    assert 0 < train.waiting <= 1


def test_the_input_has_the_bits_of_the_engines(bar_data: DataSet):
    preprocess = Preprocess((16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    images = bar_data.train.images
    given = to_input(torch.from_numpy(images), preprocess, torch.device("cpu"))
    assert np.array_equal(given.numpy(), preprocess.normalise(images))
    assert given.is_contiguous()
