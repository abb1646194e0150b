"""What `pgn-edge predict` takes: files, folders, patterns, lists on stdin and in files, and addresses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pgn_edge.cli import cli
from pgn_edge.errors import DataError
from pgn_edge.runtime.download import download

Predict = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two images, one more below it, and a text; the commands run beside it."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/c.png")):
        Image.fromarray(np.full((20, 30, 3), 60 * number, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def predict(tiny_pair) -> Predict:
    def run(*arguments: object, stdin: str = "") -> Result:
        command = ["predict", *map(str, arguments), "--vit", str(tiny_pair.vit), "--task", str(tiny_pair.task)]
        return CliRunner().invoke(cli, command, input=stdin)

    return run


class Server(BaseHTTPRequestHandler):
    """Gives `photos/a.png`, a page, a redirect to a file of this machine, and an answer that is cut short."""

    picture = b""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/local.png":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        body = {"/a.png": self.picture, "/page.png": b"<html>", "/cut.png": self.picture[:40]}.get(path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(self.picture if path == "/cut.png" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Server, "picture", (photos / "a.png").read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def answered(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return [answer["image"] for answer in json.loads(done.stdout)["images"]]


ALL = ["photos/a.png", "photos/b.png", "photos/more/c.png"]


@pytest.mark.parametrize(
    ("names", "stdin", "wanted"),
    [
        pytest.param(["photos/b.png", "photos/a.png"], "", [ALL[1], ALL[0]], id="files in their order"),
        pytest.param(["photos"], "", ALL, id="a folder and what is below it"),
        pytest.param(["photos/*.png"], "", ALL[:2], id="a quoted pattern"),
        pytest.param(["photos/**/*.png"], "", ALL, id="a pattern for all depths"),
        pytest.param(["-"], "photos/b.png\r\n\nphotos/more\n", ALL[1:], id="a list on stdin"),
        pytest.param(["@list.txt"], "", [ALL[2], *ALL[:2]], id="a list in a file"),
    ],
)
def test_predict_takes_files_folders_patterns_and_lists(
    photos: Path, predict: Predict, names: list[str], stdin: str, wanted: list[str]
):
    Path("list.txt").write_text("photos/more/c.png\nphotos/*.png\n")
    assert answered(predict(*names, "--json", stdin=stdin)) == wanted


def test_a_file_whose_name_is_a_pattern_or_begins_with_an_at_sign_is_that_file(photos: Path, predict: Predict):
    (photos / "a.png").rename("[1].png")
    (photos / "b.png").rename("@b.png")
    assert answered(predict("[1].png", "@b.png", "--json")) == ["[1].png", "@b.png"]


def test_what_a_folder_or_a_pattern_holds_beside_images_is_counted(photos: Path, predict: Predict):
    for name in ("photos", "photos/*"):
        done = predict(name, "--json")
        assert json.loads(done.stdout)["left_out"]["other_file"]["count"] == 1
        assert "1 file of another kind" in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty", "empty: expected a folder with images"),
        ("photos/*.jpg", "photos/*.jpg: expected images that match this pattern, got none"),
        ("-", "stdin: expected a list of images, one a line, got no name"),
        ("@missing.txt", "@missing.txt: expected a text file with one image a line, got No such file"),
    ],
)
def test_a_source_without_images_is_refused_by_its_name(photos: Path, predict: Predict, name: str, says: str):
    Path("empty").mkdir()
    done = predict(name)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"pgn-edge: {says}")


def test_answers_come_as_json_lines_one_for_each_image(photos: Path, predict: Predict):
    printed = predict("photos", "--jsonl", "-")
    assert predict("photos", "--jsonl", "answers.jsonl").exit_code == 0
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    written = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [line["image"] for line in written] == ALL
    assert all(len(line["top"]) == 3 for line in lines)
    assert predict("photos", "--jsonl", "-", "--json").exit_code == 2


def test_an_answer_is_out_before_the_next_image_is_read(photos: Path, predict: Predict):
    (photos / "b.png").write_bytes(b"torn")
    done = predict("photos", "--strict")
    assert done.exit_code == 1
    assert done.stdout.startswith("photos/a.png: ")
    assert "b.png: expected an image" in done.stderr


def test_progress_of_many_images_is_said_and_of_one_is_not(photos: Path, predict: Predict):
    assert "images: 3 of 3" in predict("photos").stderr
    assert predict("photos/a.png").stderr == ""


def test_an_address_is_downloaded_and_its_token_is_in_no_answer(address: str, predict: Predict):
    (name,) = answered(predict(f"{address}/a.png?token=hunter2", "--json"))
    assert name.startswith(f"{address}/a.png")
    assert "hunter2" not in name


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing.png", "HTTP status 404"),
        ("page.png", "a text such as a web page"),
        ("cut.png", "and a closed connection"),
        ("local.png", "HTTP status 302"),
    ],
)
def test_an_address_that_gives_no_image_is_one_image_that_cannot_be_read(
    address: str, predict: Predict, path: str, says: str
):
    done = predict(f"{address}/{path}")
    assert done.exit_code == 1
    assert says in done.stderr.splitlines()[-1]
    assert answered(predict(f"{address}/{path}", "photos/a.png", "--json")) == ["photos/a.png"]


def test_a_download_ends_at_its_size_and_at_its_time(address: str):
    with pytest.raises(DataError, match="more than 10 bytes"):
        download(f"{address}/a.png", most_bytes=10)
    with pytest.raises(DataError, match="timeout"):
        download(f"{address}/a.png", deadline_s=1e-9)
