"""Which files of a folder are images, and what becomes of all others: nothing is passed over without a count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.listing import list_folders, list_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def listed(folder: Path, left_out: LeftOut, deep: bool = True) -> list[str]:
    return [str(path.relative_to(folder)) for path in list_images(folder, left_out, deep=deep)]


def test_copies_in_a_hidden_folder_of_a_notebook_are_no_images(tmp_path: Path):
    touch(tmp_path, "a.png", ".ipynb_checkpoints/a-checkpoint.png", "deep/.ipynb_checkpoints/b.png", "._a.png")
    left_out = LeftOut()
    assert listed(tmp_path, left_out) == ["a.png"]
    assert left_out.count(Reason.HIDDEN) == 3


def test_thumbnails_that_a_storage_device_or_a_mac_adds_are_no_images(tmp_path: Path):
    touch(tmp_path, "a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._a.png")
    left_out = LeftOut()
    assert listed(tmp_path, left_out) == ["a.png"]
    assert left_out.count(Reason.HIDDEN) == 2


def test_photographs_in_heic_and_gif_are_counted(tmp_path: Path):
    touch(tmp_path, "a.jpg", *(f"{index}.HEIC" for index in range(9)), "b.gif", "notes.txt")
    left_out = LeftOut()
    assert listed(tmp_path, left_out) == ["a.jpg"]
    assert (left_out.count(Reason.UNSUPPORTED), left_out.count(Reason.OTHER)) == (10, 1)
    assert "10 pictures in unsupported formats (" in left_out.summary()


def test_links_to_files_count_and_links_to_folders_and_to_nothing_are_counted(tmp_path: Path):
    touch(tmp_path / "data", "a.png")
    touch(tmp_path / "other", "b.png")
    (tmp_path / "data" / "b.png").symlink_to(tmp_path / "other" / "b.png")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nothing.png")
    left_out = LeftOut()
    assert listed(tmp_path / "data", left_out) == ["a.png", "b.png"]
    assert {key: found["count"] for key, found in left_out.to_json().items()} == {
        "linked_folder": 1,
        "dangling_link": 1,
    }


def test_links_that_lead_in_a_circle_end(tmp_path: Path):
    touch(tmp_path, "cat/a.png")
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "up").symlink_to(tmp_path)
    left_out = LeftOut()
    assert listed(tmp_path, left_out) == ["cat/a.png"]
    assert list_folders(tmp_path, left_out) == ("cat",)
    assert (left_out.count(Reason.LINKED_FOLDER), left_out.count(Reason.DANGLING)) == (2, 1)


def test_a_class_folder_may_be_a_link_but_not_to_another_class(tmp_path: Path):
    touch(tmp_path, "data/cat/a.png", "elsewhere/dogs/b.png")
    for name, target in {"dog": "elsewhere/dogs", "hound": "elsewhere/dogs", "kitty": "data/cat"}.items():
        (tmp_path / "data" / name).symlink_to(tmp_path / target)
    left_out = LeftOut()
    assert list_folders(tmp_path / "data", left_out) == ("cat", "dog")
    assert left_out.count(Reason.LINKED_FOLDER) == 2


def closed_scandir(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let one folder refuse to be opened; its rights alone do not stop root."""
    scandir = os.scandir

    def locked(path: str) -> object:
        if os.path.basename(path) == name:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)


def test_a_folder_below_without_rights_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a.png", "private/b.png")
    closed_scandir(monkeypatch, "private")
    left_out = LeftOut()
    assert listed(tmp_path, left_out) == ["a.png"]
    assert left_out.summary() == f"left out: 1 folder that cannot be opened ({tmp_path / 'private'}: Permission denied)"
    with pytest.raises(DataError, match="private: expected a folder that can be opened, got Permission denied"):
        listed(tmp_path, LeftOut(strict=True))


def test_a_folder_itself_without_rights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "private/b.png")
    closed_scandir(monkeypatch, "private")
    for look in (list_images, list_folders):
        with pytest.raises(DataError, match="private: expected a folder that can be opened, got Permission denied"):
            look(tmp_path / "private", LeftOut())


def test_folders_below_are_counted_where_only_the_folder_itself_is_asked_for(tmp_path: Path):
    touch(tmp_path, "a.png", "below/b.png")
    left_out = LeftOut(strict=True)
    assert listed(tmp_path, left_out, deep=False) == ["a.png"]
    assert left_out.count(Reason.SUBFOLDER) == 1


def test_images_come_in_the_order_of_the_names_on_their_way(tmp_path: Path):
    touch(tmp_path, "b.png", "a/z.png", "a b/c.png", "a/y/x.png", "é.png", "Z.png")
    assert listed(tmp_path, LeftOut()) == ["Z.png", "a/y/x.png", "a/z.png", "a b/c.png", "b.png", "é.png"]


def test_a_pipe_or_a_folder_with_the_name_of_an_image_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    touch(tmp_path, "folder.png/inside.png")
    assert listed(tmp_path, LeftOut()) == ["folder.png/inside.png"]


def test_a_long_listing_tells_of_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pgn_edge.listing.TOLD", 3)
    touch(tmp_path, *(f"{index}.png" for index in range(8)))
    told: list[int] = []
    list_images(tmp_path, LeftOut(), progress=lambda step, done, total, note="": told.append(done))
    assert told == [3, 6]


def test_strict_stops_at_a_lost_picture_and_not_at_a_note(tmp_path: Path):
    touch(tmp_path, "a.png", "notes.txt", ".DS_Store")
    assert listed(tmp_path, LeftOut(strict=True)) == ["a.png"]
    touch(tmp_path, "b.heic")
    with pytest.raises(DataError, match=r"b\.heic: .* got a picture in an unsupported format; convert it"):
        listed(tmp_path, LeftOut(strict=True))


def test_a_name_that_is_no_utf_8_can_be_said(tmp_path: Path):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.heic"))).write_bytes(b"")
    left_out = LeftOut()
    listed(tmp_path, left_out)
    assert left_out.summary().isprintable()
