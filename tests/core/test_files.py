"""Writing whole or not at all: on failure, on a full disk, under a signal."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pgn_edge.errors import OutputError
from pgn_edge.files import atomic_folder, atomic_write, cache_folder, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_bytes_and_text(tmp_path: Path):
    write_bytes(tmp_path / "a", b"\x00\xff")
    write_text(str(tmp_path / "b"), "é\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == b"\xc3\xa9\n"
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("old", [None, b"old"], ids=["new file", "replaces a file"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_inside_leaves_all_as_it_was(tmp_path: Path, old: bytes | None, error: type[BaseException]):
    path = tmp_path / "file.bin"
    if old:
        path.write_bytes(old)

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"half of it")
            raise error("on cue")

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["file.bin"] if old else [])
    assert not old or path.read_bytes() == old


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent, "a rename is atomic only within one file system"
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["clip.mp4", "task.pgn", "two.dots.json"])
def test_the_temporary_name_keeps_the_suffix(tmp_path: Path, name: str):
    with atomic_write(tmp_path / name) as temporary:
        assert temporary.suffix == Path(name).suffix


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("missing/file", id="no such folder"),
        pytest.param("file/below", id="the folder is a file"),
        pytest.param("folder", id="the path is a folder"),
        pytest.param("x" * 300, id="the name is too long"),
        pytest.param("nu\0ll", id="no name that a file can have"),
        pytest.param("", id="empty"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        write_bytes(path, b"data")
    assert names(tmp_path) == ["file", "folder"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pgn_edge.errors import OutputError
from pgn_edge.files import cache_folder, write_bytes

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails like one on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_bytes(sys.argv[1], bytes(100_000))
except OutputError as exc:
    print(exc)
"""


def test_a_disk_that_fills_up_midway(tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    child = run(FULL_DISK, path)
    assert "File too large" in child.stdout, child
    assert "free space" in child.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_of_the_disk_becomes_ours(tmp_path: Path):
    with pytest.raises(OutputError, match="No space left"), atomic_write(tmp_path / "file"):
        Path("/dev/full").write_bytes(b"data")
    assert names(tmp_path) == []


SIGNALLED = """
import os, signal, sys
from pgn_edge.files import cache_folder, atomic_write
{setup}
with atomic_write(sys.argv[1]) as temporary, open(temporary, "wb") as file:
    file.write(bytes(50_000))
    file.flush()
    os.kill(os.getpid(), signal.SIGTERM)
    file.write(bytes(50_000))
"""
POLITE = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))"


@pytest.mark.parametrize(
    ("setup", "status", "left"),
    [
        pytest.param(POLITE, 128 + signal.SIGTERM, 0, id="as the command line does it: nothing is left"),
        pytest.param("", -signal.SIGTERM, 1, id="without a handler: the final name is still untouched"),
    ],
)
@pytest.mark.parametrize("old", [None, b"old"], ids=["new file", "replaces a file"])
def test_terminated_in_the_middle(tmp_path: Path, setup: str, status: int, left: int, old: bytes | None):
    path = tmp_path / "file.bin"
    if old:
        path.write_bytes(old)
    child = run(SIGNALLED.format(setup=setup), path)
    assert child.returncode == status, child.stderr
    assert path.exists() is bool(old)
    assert not old or path.read_bytes() == old
    assert len(names(tmp_path)) == left + bool(old)


@pytest.mark.parametrize("old", [False, True], ids=["new folder", "replaces a folder"])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path, old: bool, error: type[BaseException] | None):
    path = tmp_path / "above" / "folder"
    if old:
        path.mkdir(parents=True)
        (path / "old").touch()

    def fill() -> None:
        with atomic_folder(path) as made:
            assert made.parent == path.parent, "a rename is atomic only within one file system"
            (made / "new").touch()
            assert not old or names(path) == ["old"]
            if error:
                raise error("on cue")

    if error is None:
        fill()
        assert names(path) == ["new"]
    else:
        with pytest.raises(error):
            fill()
        assert names(tmp_path) == (["above"] if old else []), "folders above it go again"
        assert not old or names(path) == ["old"]
    assert not path.parent.exists() or names(path.parent) == ["folder"]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path):
    (tmp_path / "taken").write_bytes(b"old")
    with pytest.raises(OutputError, match="can be written"), atomic_folder(tmp_path / "taken") as made:
        (made / "new").touch()
    assert (tmp_path / "taken").read_bytes() == b"old"
    assert names(tmp_path) == ["taken"]


def test_where_what_can_be_made_again_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGN_EDGE_CACHE", raising=False)
    assert cache_folder("plans") == tmp_path / ".cache" / "pgn-edge" / "plans"
    monkeypatch.setenv("PGN_EDGE_CACHE", "/elsewhere")
    assert cache_folder("kernels") == Path("/elsewhere/kernels")


# What is replaced, and what stays of it.


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_a_private_file_stays_private_when_it_is_replaced(tmp_path: Path, mode: int):
    path = tmp_path / "app.toml"
    path.write_text("old")
    path.chmod(mode)
    with atomic_write(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) & 0o077 == 0, "others could read it on its way"
        temporary.write_text("new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_file_stays_when_root_replaces_it(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    write_text(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.parametrize("there", [True, False], ids=["a link to a file", "a dangling link"])
def test_a_symbolic_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path, there: bool):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "v1.pgn", tmp_path / "task.pgn"
    if there:
        target.write_text("old")
    link.symlink_to(Path("store") / "v1.pgn")
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["store", "task.pgn", "v1.pgn"]


def test_a_link_to_a_folder_stays_when_the_folder_is_replaced(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link") as made:
        (made / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "new").exists()


def test_a_pipe_and_a_link_to_itself_are_refused_and_stay(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop"):
        with pytest.raises(OutputError, match="a regular file or a new name"):
            write_text(tmp_path / name, "new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "loop").is_symlink()


# What killed writers leave.

KILLED = """
import os, signal, sys
from pgn_edge.files import atomic_folder, atomic_write
with {kind}(sys.argv[1]) as temporary:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_killed(code: str, path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_goes_with_the_next_write_and_nothing_else(tmp_path: Path):
    path = tmp_path / "task.pgn"
    path.write_text("old")
    others = [".task.12345678.pgn", ".task.pgn-edge-12345678.json", ".other.pgn-edge-12345678.pgn"]
    for name in others:
        (tmp_path / name).touch()
    run_killed(KILLED.format(kind="atomic_write", write="temporary.write_text('half')"), path)
    assert len(names(tmp_path)) == len(others) + 2
    assert path.read_text() == "old"
    write_text(path, "new")
    assert names(tmp_path) == sorted([*others, "task.pgn"])
    assert path.read_text() == "new"


def test_the_temporary_file_of_a_writer_that_lives_is_left_alone(tmp_path: Path):
    path = tmp_path / "task.pgn"
    with atomic_write(path) as slow:
        slow.write_text("slow")
        write_text(path, "fast")
        assert path.read_text() == "fast"
        assert slow.read_text() == "slow"
    assert path.read_text() == "slow"
    assert names(tmp_path) == ["task.pgn"]


def test_a_killed_writer_of_a_folder_leaves_nothing_for_long(tmp_path: Path):
    path = tmp_path / "model"
    run_killed(KILLED.format(kind="atomic_folder", write="(temporary / 'half').touch()"), path)
    assert len(names(tmp_path)) == 1
    with atomic_folder(path) as made:
        (made / "whole").touch()
    assert names(tmp_path) == ["model"]


def test_a_folder_whose_writer_was_killed_between_two_renames_comes_back(tmp_path: Path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    code = """
import os, pathlib, signal, sys
from pgn_edge.files import atomic_folder
with atomic_folder(sys.argv[1]) as temporary:
    pathlib.Path.rename = lambda self, to: (os.rename(self, to), os.kill(os.getpid(), signal.SIGKILL))
"""
    run_killed(code, path)
    assert not path.exists()
    with atomic_folder(path) as made:
        assert (path / "old").exists(), "the old one is there while the next one is written"
        (made / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path):
    path = tmp_path / ("n" * 251 + ".pgn")
    write_text(path, "new")
    assert path.read_text() == "new"
