"""Cameras for the tests, and the proof that no test leaves anything behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from live_cameras import SYSTEM_PYTHON, HttpCamera, RtspCamera, eventually, grabbers, mapped_memories, shared_memories

from tests.runtime.conftest import apt_install

PACKAGES = (
    *("python3-gi", "gir1.2-gst-rtsp-server-1.0", "gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good"),
    *("gstreamer1.0-plugins-ugly", "gstreamer1.0-plugins-bad", "gstreamer1.0-libav"),
)
HAS_SERVER = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
raise SystemExit(Gst.ElementFactory.find("x264enc") is None or Gst.ElementFactory.find("rtph264pay") is None)
"""


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """No test leaves a process or a shared memory."""
    before = shared_memories()
    yield
    eventually(lambda: not grabbers(), 1.0, "no grabber left")
    eventually(lambda: shared_memories() <= before, 3.0, "no shared memory left")
    assert mapped_memories() == 0


@pytest.fixture(scope="session")
def rtsp_packages() -> None:
    """GStreamer's RTSP server for the system's Python, installed where that is allowed."""

    def present() -> bool:
        return subprocess.run([SYSTEM_PYTHON, "-c", HAS_SERVER], capture_output=True, check=False).returncode == 0

    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"the RTSP server needs {SYSTEM_PYTHON}")
    if present():
        return
    apt_install(*PACKAGES)
    if not present():
        pytest.skip(f"no RTSP server: apt-get install {' '.join(PACKAGES)}")


@pytest.fixture
def rtsp(rtsp_packages: None) -> Iterator[RtspCamera]:
    """A camera that is on."""
    camera = RtspCamera()
    camera.start()
    yield camera
    camera.kill()


@pytest.fixture
def http() -> Iterator[HttpCamera]:
    """A web camera."""
    camera = HttpCamera()
    yield camera
    camera.close()
