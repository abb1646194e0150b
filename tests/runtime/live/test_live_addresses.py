"""What is a live source, and what is shown of it; options; frames of an iterator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.runtime.live import LiveOptions, LiveSource
from pgn_edge.runtime.live.address import Address, live_address
from pgn_edge.runtime.live.grabber import is_picture
from pgn_edge.runtime.live.memory import FrameMemory
from pgn_edge.runtime.sources import open_source

PIPELINE = "nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! appsink drop=true"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", "device"),
        ("/dev/video2", "device"),
        ("rtsp://camera/1", "stream"),
        ("RTSPS://camera/1", "stream"),
        ("http://camera/video.mjpg", "stream"),
        ("https://x/y.mp4", "stream"),
        (PIPELINE, "pipeline"),
    ],
)
def test_live_sources_are_told_apart(source: str, kind: str) -> None:
    address = live_address(source)
    assert address is not None
    assert (address.kind, address.text) == (kind, source)


@pytest.mark.parametrize("source", ["clip.mp4", "folder/0", "²", "what a day!.mp4", "/dev/null"])
def test_files_are_not_live(source: str) -> None:
    assert live_address(source) is None


def test_a_file_with_a_pipelines_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a ! b.mp4"
    path.touch()
    assert live_address(str(path)) is None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("ftp://camera/1", "rtsp://"),
        ("videotestsrc ! fakesink", "ends in an appsink"),
        ("v4l2src ! appsink ! x", "ends in an appsink"),
        ("http://[", "check the port in it"),
        ("rtsp://admin:s3cret@[::1/live", "check the port in it"),
        ("rtsp://10.0.0.2:99999/live", "check the port in it"),
    ],
)
def test_addresses_that_are_refused(source: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        open_source(source)
    assert "s3cret" not in str(caught.value)


def test_a_pipeline_needs_an_opencv_with_gstreamer() -> None:
    import cv2

    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(DataError, match="an OpenCV built with GStreamer"):
        open_source(PIPELINE)


def test_a_file_is_no_live_source() -> None:
    with pytest.raises(DataError, match="use open_source"):
        LiveSource("clip.mp4")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:s3cret@10.0.0.2:554/1", "rtsp://***@10.0.0.2:554/1"),
        ("rtsp://admin:p@ss@10.0.0.2/1", "rtsp://***@10.0.0.2/1"),
        ("http://camera/video.mjpg?user=a&pwd=s3cret", "http://camera/video.mjpg?user=***&pwd=***"),
        (
            "rtspsrc location=rtsp://a:b@c/1 user-pw=s3cret ! appsink",
            "rtspsrc location=rtsp://***@c/1 user-pw=*** ! appsink",
        ),
        ("rtsp://camera/1", "rtsp://camera/1"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert Address("stream", text).label == shown


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "newest"},
        {"queue": 0},
        {"queue": 1001},
        {"max_fps": 0},
        {"max_fps": float("inf")},
        {"stall_s": -1},
        {"connect_s": float("nan")},
    ],
    ids=str,
)
def test_options_that_are_refused(options: dict) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        LiveOptions(**options)


def test_options_are_for_cameras(tmp_path: Path) -> None:
    for source in (str(tmp_path), iter([])):
        with pytest.raises(DataError, match="a camera or a stream"):
            open_source(source, LiveOptions())


def test_an_iterator_is_a_source() -> None:
    grey, colour = np.full((4, 6), 7, np.uint8), np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    alpha = np.dstack([colour, grey])
    with open_source(image for image in (colour, grey, grey[..., None], alpha)) as source:
        frames = list(source)
    assert (source.count, source.missing.frames) == (None, 0)
    assert [(frame.index, frame.name, frame.sequence, frame.dropped) for frame in frames] == [
        (index, f"iterator#{index}", index, 0) for index in range(4)
    ]
    for frame, expected in zip(frames, (colour, np.full_like(colour, 7), np.full_like(colour, 7), colour), strict=True):
        np.testing.assert_array_equal(frame.image_bgr, expected)
        assert frame.captured_s is not None
        assert frame.time_s is None


@pytest.mark.parametrize(
    "image",
    [None, [[1]], np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros(4, "u1")],
    ids=["None", "a list", "float", "empty", "two channels", "one axis"],
)
def test_what_an_iterator_may_not_give(image: object) -> None:
    with pytest.raises(DataError, match="iterator#0: expected an image"):
        next(iter(open_source([image])))
    assert not is_picture(image) if isinstance(image, np.ndarray) or image is None else True


@pytest.mark.parametrize(
    ("size_hw", "slots", "says"),
    [
        ((16384, 16384), 1000, "MB for 1000 frames of 16384 x 16384"),
        ((0, 4), 3, "frames up to"),
        ((4, 16385), 3, "frames up to"),
    ],
    ids=["more memory than there is", "empty", "garbage"],
)
def test_memory_that_is_refused(size_hw: tuple[int, int], slots: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        FrameMemory(size_hw, slots)
