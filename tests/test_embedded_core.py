"""The embedded core runs without OpenCV, click, rich and torch; where one of them is needed, one sentence says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.runtime import Runtime

ROOT = Path(__file__).parents[1]

# Modules that a machine may lack, in a process of its own; `broken` ones are there and do not load.
WITHOUT = """
import json, sys
absent, broken = json.loads(sys.argv.pop(1))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        if name in broken:
            raise ImportError(broken[name], name=name)

sys.meta_path.insert(0, Finder())
"""
COMMAND_LINE = WITHOUT + "from pgn_edge.__main__ import main\nmain()\n"
INFER = (
    WITHOUT
    + """
import numpy as np
from pgn_edge.runtime import Runtime

frame = np.load(sys.argv[3])
with Runtime(sys.argv[1], {"task": sys.argv[2]}) as runtime:
    result = runtime.infer("task", frame)
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([result.label, result.scores.tolist(), sorted(names & set(absent))]))
"""
)
HEAVY = ["cv2", "click", "rich", "torch", "torchvision", "onnx", "matplotlib", "tomli", "scipy"]


def run(code: str, absent: list[str], *arguments: object, broken: dict[str, str] | None = None):
    command = [sys.executable, "-c", code, json.dumps([absent, broken or {}]), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(2):
        pixels = rng.integers(0, 256, (80, 120, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_the_runtime_answers_with_numpy_pillow_and_an_engine_alone(tiny_pair, tmp_path: Path):
    frame = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    np.save(tmp_path / "frame.npy", frame)
    done = run(INFER, HEAVY, tiny_pair.vit, tiny_pair.task, tmp_path / "frame.npy")
    assert done.returncode == 0, done.stderr
    label, scores, pulled_in = json.loads(done.stdout)
    with Runtime(tiny_pair.vit, {"task": tiny_pair.task}) as runtime:
        expected = runtime.infer("task", frame)
    assert label == expected.label
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)
    assert pulled_in == []


def test_images_are_answered_without_opencv(tiny_pair, images: Path, tmp_path: Path):
    pair = ("--vit", tiny_pair.vit, "--task", tiny_pair.task)
    done = run(COMMAND_LINE, ["cv2", "torch"], "predict", images / "0.png", *pair, "--json")
    assert done.returncode == 0, done.stderr
    answers = tmp_path / "answers.jsonl"
    done = run(COMMAND_LINE, ["cv2", "torch"], "run", "--source", images, *pair, "--jsonl", answers)
    assert done.returncode == 0, done.stderr
    assert len(answers.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--source", "clip.mp4"), id="a video"),
        pytest.param(("--source", "rtsp://127.0.0.1:9/x"), id="a camera"),
        pytest.param(("--source", "IMAGES", "--output", "out.mp4"), id="an annotated video"),
    ],
)
def test_what_needs_opencv_says_so_in_one_sentence(tiny_pair, images: Path, tmp_path: Path, more: tuple[str, ...]):
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42")
    places = {"IMAGES": images, "clip.mp4": tmp_path / "clip.mp4", "out.mp4": tmp_path / "out.mp4"}
    pair = ("--vit", tiny_pair.vit, "--task", tiny_pair.task)
    done = run(COMMAND_LINE, ["cv2"], "run", *(places.get(word, word) for word in more), *pair)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("pgn-edge: OpenCV: expected the package to be installed")
    assert "pip install 'pgn-edge[cv]'" in line


def test_an_opencv_without_libgl_is_one_sentence_and_no_internal_error(tiny_pair, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42")
    broken = {"cv2": "libGL.so.1: cannot open shared object file: No such file or directory"}
    pair = ("--vit", tiny_pair.vit, "--task", tiny_pair.task)
    done = run(COMMAND_LINE, [], "run", "--source", tmp_path / "clip.mp4", *pair, broken=broken)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("pgn-edge: OpenCV: expected a module that loads, got libGL.so.1: cannot open")
    assert "apt-get install libgl1" in line


@pytest.mark.parametrize("package", ["click", "rich"])
def test_the_command_without_its_extra_says_so_in_one_sentence(package: str):
    done = run(COMMAND_LINE, [package], "--help")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"pgn-edge: {package}: expected the package to be installed")
    assert "pip install 'pgn-edge[cli]'" in line


def test_no_module_imports_opencv_past_the_one_place():
    sources = [path for folder in ("pgn_edge", "train", "export", "runtime") for path in (ROOT / folder).rglob("*.py")]
    bare = [
        path for path in sources if any(line.split()[:2] == ["import", "cv2"] for line in path.read_text().splitlines())
    ]
    grabber = {"runtime/live/grabber.py", "runtime/live/snapshot.py"}
    assert {path.relative_to(ROOT).as_posix() for path in bare} == grabber, (
        "the grabber is a process of its own, which the live source starts after it has looked for OpenCV"
    )
