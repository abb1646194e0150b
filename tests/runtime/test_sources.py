"""Every kind of file a user may name, written by the test itself."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.runtime.sources import DEFAULT_FPS, open_source

SIZE_HW = (48, 64)
NOISE = np.random.default_rng(0).integers(0, 256, (12, *SIZE_HW, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def quiet_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")


def write_clip(path: Path, frames: int, fps: float = 10.0) -> Path:
    """Noise, so that each frame fills some kilobytes and half a file is some frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, SIZE_HW[::-1])
    assert writer.isOpened()
    for image_bgr in NOISE[:frames]:
        writer.write(image_bgr)
    writer.release()
    return path


def halve(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def test_video_gives_its_frames_with_their_times(tmp_path: Path) -> None:
    with open_source(str(write_clip(tmp_path / "clip.mp4", 5))) as source:
        frames = list(source)
    assert (source.fps, source.count, source.missing.frames) == (10.0, 5, 0)
    assert [frame.index for frame in frames] == list(range(5))
    assert frames[3].name == "clip.mp4#3"
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert {frame.image_bgr.shape for frame in frames} == {(*SIZE_HW, 3)}


def test_video_of_one_frame(tmp_path: Path) -> None:
    with open_source(str(write_clip(tmp_path / "clip.avi", 1))) as source:
        assert len(list(source)) == source.count == 1


def test_truncated_video_counts_what_is_missing(tmp_path: Path) -> None:
    # An .avi keeps its index and the stated count in front, so half of it still opens.
    with open_source(str(halve(write_clip(tmp_path / "clip.avi", 12)))) as source:
        read = len(list(source))
    assert 0 < read < 12
    assert source.count == 12
    assert source.missing.frames == 12 - read


def test_container_without_a_count_claims_no_missing_frames(tmp_path: Path) -> None:
    with open_source(str(halve(write_clip(tmp_path / "clip.mkv", 12)))) as source:
        assert 0 < len(list(source)) < 12
    assert (source.count, source.missing.frames) == (None, 0)


def test_folder_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "C.JPEG", "d.bmp", "e.webp"):
        assert cv2.imwrite(str(tmp_path / name), NOISE[0])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.jpg").write_bytes(b"what macOS leaves on foreign disks")
    (tmp_path / "below.png").mkdir()
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [frame.name for frame in frames] == ["C.JPEG", "a.jpg", "b.png", "d.bmp", "e.webp"]
    assert (source.fps, source.count, source.missing.frames) == (DEFAULT_FPS, 5, 0)
    assert [frame.time_s for frame in frames] == [None] * 5
    assert {frame.camera for frame in frames} == {"files"}


def test_one_image(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), NOISE[0])
    with open_source(str(path)) as source:
        (frame,) = source
    assert (frame.name, source.count) == ("one.png", 1)
    np.testing.assert_array_equal(frame.image_bgr, NOISE[0])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_half_an_image_is_named(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), NOISE[0])
    cv2.imwrite(str(tmp_path / f"b{suffix}"), NOISE[0])
    halve(tmp_path / f"b{suffix}")
    with open_source(str(tmp_path)) as source:
        assert [frame.name for frame in source] == ["a.png"]
    assert f"b{suffix}: expected" in source.missing.first
    with open_source(str(tmp_path), strict=True) as source, pytest.raises(DataError, match=rf"b\{suffix}: expected"):
        list(source)
    (tmp_path / "a.png").unlink()
    with open_source(str(tmp_path)) as source, pytest.raises(DataError, match=rf"b\{suffix}: expected"):
        list(source)


@pytest.mark.parametrize("content", [b"", b"hello\n" * 20], ids=["empty file", "text"])
@pytest.mark.parametrize("name", ["fake.mp4", "fake.png"])
def test_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: expected"):
        list(open_source(str(tmp_path / name)))


def test_mp4_cut_before_its_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no frame"):
        open_source(str(halve(write_clip(tmp_path / "clip.mp4", 12))))


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such path"):
        open_source(str(tmp_path / "nothing.mp4"))


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match="a folder without any"):
        open_source(str(tmp_path))
