"""Video files that are damaged, cut short or trimmed."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.runtime.mp4 import shown_times
from pgn_edge.runtime.sources import Missing, open_source
from tests.runtime.videos import damage, number_of, trim, write_video


@pytest.fixture(autouse=True)
def quiet_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")


@pytest.mark.parametrize("number", [0, 25, 59], ids=["the first", "one in the middle", "the last"])
def test_one_damaged_packet_costs_one_frame_and_not_the_rest_of_the_video(tmp_path: Path, number: int) -> None:
    path = damage(write_video(tmp_path / "clip.avi", 60), number)
    with open_source(str(path)) as source:
        frames = list(source)
    others = [index for index in range(60) if index != number]
    assert [frame.sequence for frame in frames] == others
    assert [number_of(frame.image_bgr) for frame in frames] == others
    assert [frame.time_s for frame in frames] == pytest.approx([index / 10 for index in others])
    assert [frame.index for frame in frames] == list(range(59))
    assert source.count == 60
    expected = Missing(cut_short=1) if number == 59 else Missing(damaged=1)
    assert (source.missing.damaged, source.missing.cut_short) == (expected.damaged, expected.cut_short)
    assert source.missing.first == f"clip.avi#{number}"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov"])
def test_damaged_packets_of_an_mp4_cost_what_depends_on_them(tmp_path: Path, name: str) -> None:
    path = damage(write_video(tmp_path / name, 60), 20, packets=3)
    with open_source(str(path)) as source:
        frames = list(source)
    assert 20 < len(frames) < 60
    assert len(frames) + source.missing.damaged == 60
    assert source.missing.cut_short == 0
    assert (frames[19].sequence, frames[-1].sequence) == (19, 59)
    assert [frame.time_s for frame in frames] == pytest.approx([frame.number / 10 for frame in frames])


def test_a_file_without_a_count_goes_on_too(tmp_path: Path) -> None:
    # A .gif's name hides the AVI in it: OpenCV reads what is inside, and nothing states a count.
    whole = damage(write_video(tmp_path / "clip.avi", 30), 10)
    path = whole.rename(tmp_path / "clip.gif")
    with open_source(str(path)) as source:
        frames = list(source)
    assert [number_of(frame.image_bgr) for frame in frames] == [*range(10), *range(11, 30)]
    assert (source.count, source.missing) == (None, Missing(damaged=1, first="clip.gif#10"))


@pytest.mark.parametrize("codec", ["mp4v", "vp09"])
@pytest.mark.parametrize(
    ("first_s", "seconds", "shown"),
    [(0.0, 3.0, 30), (1.05, 1.3, 13), (2.5, 3.5, 35)],
    ids=["the end cut off", "from between two key frames", "the start cut off"],
)
def test_a_losslessly_trimmed_mp4_misses_nothing(
    tmp_path: Path, codec: str, first_s: float, seconds: float, shown: int
) -> None:
    path = trim(write_video(tmp_path / "clip.mp4", 60, codec), first_s, seconds)
    with open_source(str(path)) as source:
        frames = list(source)
    assert (len(frames), source.count, source.missing) == (shown, shown, Missing())
    assert [frame.time_s for frame in frames] == pytest.approx([index / 10 for index in range(shown)])


def test_a_trimmed_mp4_that_is_damaged_as_well_counts_its_own_frames_only(tmp_path: Path) -> None:
    path = trim(write_video(tmp_path / "clip.mp4", 60), 0.0, 3.0)
    damage(path, 25, packets=3)
    with open_source(str(path)) as source:
        frames = list(source)
    assert source.count == 30
    assert len(frames) < 30
    assert len(frames) + source.missing.frames == 30


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_a_video_whose_frames_are_all_damaged_is_refused(tmp_path: Path, name: str) -> None:
    path = damage(write_video(tmp_path / name, 5), 0, packets=5)
    with pytest.raises(DataError, match=f"{name}: expected a video that OpenCV decodes, or an image, got no frame"):
        open_source(str(path))


def test_several_edits_are_shown_one_after_the_other(tmp_path: Path) -> None:
    data = bytearray(trim(write_video(tmp_path / "clip.mp4", 60), 0.0, 3.0).read_bytes())
    place = data.index(b"elst") - 4
    movie, media = 1000, 10240
    assert struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0] == media
    entries = [(500, -1), (1000, 4 * media), (500, media)]  # nothing for half a second, then 4 s to 5 s, 1 s to 1.5 s
    packed = b"".join(struct.pack(">IiHH", duration * movie // 1000, start, 1, 0) for duration, start in entries)
    more = len(packed) - 12
    data[place + 12 : place + 28] = struct.pack(">I", len(entries)) + packed
    for kind in (b"moov", b"trak", b"edts", b"elst"):
        size_at = data.index(kind) - 4
        struct.pack_into(">I", data, size_at, struct.unpack_from(">I", data, size_at)[0] + more)
    times_s = shown_times(io.BytesIO(data))
    np.testing.assert_allclose(times_s, np.arange(15) / 10, atol=1e-9)


def test_an_index_that_is_damaged_claims_nothing(tmp_path: Path) -> None:
    data = write_video(tmp_path / "clip.mp4", 5).read_bytes()
    place = data.index(b"moov")
    assert len(shown_times(io.BytesIO(data))) == 5
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for at in rng.integers(place, len(data), 3):
            broken[at] = rng.integers(256)
        shown = shown_times(io.BytesIO(broken))
        assert shown is None or len(shown) > 0
    for end in range(0, len(data), 97):
        assert shown_times(io.BytesIO(data[:end])) is None


def test_an_index_that_claims_more_frames_than_memory_holds_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "clip.mp4", 5).read_bytes())
    struct.pack_into(">I", data, data.index(b"stts") + 12, 0xFFFFFFFF)
    assert shown_times(io.BytesIO(data)) is None
