"""The plan cache hands out whole plans or none, whoever else writes, damages or fills it."""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.export.plan_cache import PLAN, PlanCache, cache_key
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.sidecar import Sidecar, sidecar_path

FACTS = EngineFacts(
    "vit", "builtin", "ab" * 32, Geometry((64, 64), 8, 16), Preprocess((64, 64)), "fp16", 20, "embedding"
)


def sidecar(data: bytes) -> Sidecar:
    digest = hashlib.sha256(data).hexdigest()
    return Sidecar(digest, "cd" * 32, "tensorrt-rtx", "1.2.3", ("sm_86",), (1, 1, 8), FACTS)


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    cache = PlanCache(tmp_path / "deep" / "plans")
    cache.prepare()
    return cache


def store(cache: PlanCache, key: str, data: bytes, folder: Path) -> bool:
    plan = folder / f"{key}.{hashlib.sha256(data).hexdigest()[:8]}"
    plan.write_bytes(data)
    return cache.store(key, plan, sidecar(data))


def test_round_trip(cache: PlanCache, tmp_path: Path):
    assert cache.fetch("key", tmp_path / "out") is None
    assert store(cache, "key", b"plan", tmp_path)
    assert cache.fetch("key", tmp_path / "out") == sidecar(b"plan")
    assert (tmp_path / "out").read_bytes() == b"plan"
    assert cache.fetch("another", tmp_path / "out") is None


def test_the_key_tells_everything_apart_but_order():
    assert cache_key({"a": 1, "b": [2]}) == cache_key({"b": [2], "a": 1})
    assert len({cache_key(facts) for facts in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]})}) == 5


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda plan: plan.write_bytes(b"plam"), id="a changed byte"),
        pytest.param(lambda plan: plan.write_bytes(b"pla"), id="cut short"),
        pytest.param(Path.unlink, id="no plan"),
        pytest.param(lambda plan: sidecar_path(plan).unlink(), id="no sidecar"),
        pytest.param(lambda plan: sidecar_path(plan).write_text("{"), id="half a sidecar"),
    ],
)
def test_a_damaged_entry_is_removed_and_can_be_made_again(cache: PlanCache, tmp_path: Path, damage):
    store(cache, "key", b"plan", tmp_path)
    damage(cache.folder / "key" / PLAN)
    assert cache.fetch("key", tmp_path / "out") is None
    assert list(cache.folder.iterdir()) == []
    store(cache, "key", b"plan", tmp_path)
    assert cache.fetch("key", tmp_path / "out") == sidecar(b"plan")


def test_the_oldest_go_first(tmp_path: Path):
    cache = PlanCache(tmp_path / "plans", cap_bytes=3 * 100_000 + 10_000)
    cache.prepare()
    for age, key in ((300, "old"), (400, "oldest"), (200, "young")):
        store(cache, key, key[0].encode() * 100_000, tmp_path)
        os.utime(cache.folder / key, (1e9 - age, 1e9 - age))
    assert {entry.name for entry in cache.folder.iterdir()} == {"old", "oldest", "young"}
    assert store(cache, "new", bytes(100_000), tmp_path)
    assert {entry.name for entry in cache.folder.iterdir()} == {"old", "young", "new"}


def test_a_plan_beyond_the_cap_is_not_kept(tmp_path: Path):
    cache = PlanCache(tmp_path / "plans", cap_bytes=1000)
    cache.prepare()
    assert not store(cache, "key", bytes(2000), tmp_path)
    assert list(cache.folder.iterdir()) == []


def test_many_at_a_time_see_whole_plans_or_none(cache: PlanCache, tmp_path: Path):
    """Builds of one key differ in their bytes, as TensorRT's do; some rounds find the entry removed."""

    def work(worker: int) -> list[bool]:
        folder = tmp_path / str(worker)
        folder.mkdir()
        seen = []
        for turn in range(12):
            data = f"{worker} {turn} ".encode() * 5000
            store(cache, "key", data, folder)
            found = cache.fetch("key", folder / "out")
            if found is not None:
                seen.append(hashlib.sha256((folder / "out").read_bytes()).hexdigest() == found.plan_sha256)
            if turn % 4 == worker % 4:
                cache._remove(cache.folder / "key")
        return seen

    with ThreadPoolExecutor(6) as pool:
        results = [seen for worker in pool.map(work, range(6)) for seen in worker]
    assert len(results) > 6
    assert all(results)
    assert {entry.name for entry in cache.folder.iterdir()} <= {"key"}, "drafts are left behind"


@pytest.mark.parametrize("before", [True, False], ids=["the copy is of the second", "the copy is of the first"])
def test_an_entry_that_is_replaced_while_it_is_fetched(
    cache: PlanCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
):
    store(cache, "key", b"first build", tmp_path)
    copy = shutil.copyfile

    def replace(source: Path, to: Path) -> None:
        monkeypatch.setattr(shutil, "copyfile", copy)
        if not before:
            copy(source, to)
        store(cache, "key", b"second build", tmp_path)
        if before:
            copy(source, to)

    monkeypatch.setattr(shutil, "copyfile", replace)
    found = cache.fetch("key", tmp_path / "out")
    assert (found is None) is not before, "the sidecar of the second does not go with the bytes of the first"
    assert found is None or hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest() == found.plan_sha256


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "plans"):
        with pytest.raises(OutputError, match="--no-cache"):
            PlanCache(folder).prepare()


def test_a_cache_that_has_gone_costs_no_plan(cache: PlanCache, tmp_path: Path):
    cache.folder.rmdir()
    cache.folder.touch()
    assert not store(cache, "key", b"plan", tmp_path)
