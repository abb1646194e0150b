"""A service of embeddings in a process of its own, with nothing of ours on it: FastAPI, and a stock ViT that sees
stock preprocessing. It takes PNG only, in a JSON document as OpenAI's do or as files of a form, and fails on cue.

`python embedding_server.py --config tiny.json --weights tiny.pt` serves a CLIP of open_clip, `--onnx vit.onnx` a graph.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from PIL import Image
from pydantic import BaseModel

JSON_PATH, FORM_PATH = "/v1/embeddings", "/files"
REQUESTS = {
    JSON_PATH: 'request = "json"\nanswer = "data.*.embedding"\nbody = { model = "tiny", input = ["{data_url}"] }',
    FORM_PATH: 'request = "multipart"\nanswer = "embeddings"\nfield = "file"\nfields = { model = "tiny" }',
}
SIDE, WIDTH = 32, 24
ARCHITECTURE = {
    "embed_dim": WIDTH,
    "vision_cfg": {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": SIDE},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
Embed = Callable[[Sequence[Image.Image]], np.ndarray]


class EmbeddingServer:
    """One server process, on a free port of the loopback; a context manager.

    Args:
        options: of the command, see `main`.
    """

    def __init__(self, *options: object) -> None:
        command = [sys.executable, __file__, *map(str, options)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip().isdecimal(), "the server did not start"
        self.port = int(line)

    def url(self, path: str = JSON_PATH, port: int | None = None, **cue: object) -> str:
        """An address, with how the server is to behave: see `Cue`."""
        query = f"?{urlencode(cue)}" if cue else ""
        return f"http://127.0.0.1:{port or self.port}{path}{query}"

    def seen(self, key: str) -> list[int]:
        """The client's port of each request with this key."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/seen?{urlencode({'key': key})}", timeout=10
        ) as answer:
            ports: list[int] = json.load(answer)
        return ports

    def __enter__(self) -> EmbeddingServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def write_tower(folder: Path) -> None:
    """A tiny CLIP for a server: `tower.json` of open_clip, and `tower.pt` with random weights of its own."""
    import open_clip
    import torch

    (folder / "tower.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(folder / "tower.json")
    torch.manual_seed(5)
    model = open_clip.create_model("tower")
    generator = torch.Generator().manual_seed(6)
    for parameter in model.visual.parameters():  # none is left at a value under which a fault would not show
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    torch.save(model.state_dict(), folder / "tower.pt")


def write_config(path: Path, url: str, more: str = "") -> Path:
    """A config of one of the server's addresses, with further lines."""
    request = next(request for key, request in REQUESTS.items() if key in url)
    path.write_text(f'url = "{url}"\n{request}\n{more}\n')
    return path


# The server itself.


class Cue(BaseModel):
    """How to behave, from the query of the address.

    Args:
        key: under which requests are counted.
        after: only after so many requests of this key.
        times: only to so many from then on; then as it should.
        status: refuses with it.
        said: its words.
        retry_after: seconds.
        token: that a request must bear.
        fault: one of what follows below.
    """

    key: str = ""
    after: int = 0
    times: int = sys.maxsize
    status: int = 0
    said: str = ""
    retry_after: str = ""
    token: str = ""
    fault: str = ""


class Document(BaseModel):
    """A request as OpenAI's are."""

    model: str
    input: str | list[str]


def jpeg(image: Image.Image) -> Image.Image:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=75)
    return Image.open(target).convert("RGB")


SPOILT: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resize": lambda image: image.resize((image.width * 3 // 4, image.height * 3 // 4)),
    "reencode": jpeg,
    "alpha": lambda image: image.convert("RGBA").convert("RGB"),
}
BODIES: dict[str, Callable[[], Response]] = {
    "text": lambda: PlainTextResponse("<html>Welcome to the portal</html>"),
    "elsewhere": lambda: JSONResponse({"result": {"vector": [1.0]}}),
    "huge": lambda: StreamingResponse(itertools.repeat(b" " * 65536), media_type="application/json"),
    "deep": lambda: PlainTextResponse("[" * 200_000),
    "redirect": lambda: RedirectResponse("http://user:pass@elsewhere.example/secret?key=1", 307),
    "cut": lambda: StreamingResponse(broken(), headers={"Content-Length": "1000"}),
    "hang": lambda: Response(time.sleep(60)),
}
CHANGED: dict[str, Callable[[list[Any]], list[Any]]] = {
    "narrow": lambda rows: [row[:-1] for row in rows],
    "ragged": lambda rows: [rows[0][:-1], *rows[1:]],
    "null": lambda rows: [[None, *rows[0][1:]], *rows[1:]],
    "no vector": lambda rows: [None for row in rows],
    "strings": lambda rows: [[str(value) for value in row] for row in rows],
    "one too few": lambda rows: rows[:-1],
}


def broken() -> Iterator[bytes]:
    yield b"["
    raise ConnectionError("on cue")


app = FastAPI()
embeds: dict[str, Embed] = {}  # by fault; the stock model under none
requests: defaultdict[str, list[int]] = defaultdict(list)


@app.post(JSON_PATH)
def as_document(document: Document, cue: Annotated[Cue, Query()], request: Request) -> Response:
    inputs = [document.input] if isinstance(document.input, str) else document.input
    rows = answer([from_text(text) for text in inputs], cue, request)
    if isinstance(rows, Response):
        return rows
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    if cue.fault == "out of order":
        data.reverse()
    return JSONResponse({"object": "list", "data": data, "model": document.model})


@app.post(FORM_PATH)
def as_form(
    file: Annotated[list[UploadFile], File()],
    model: Annotated[str, Form()],
    cue: Annotated[Cue, Query()],
    request: Request,
) -> Response:
    if any(each.content_type != "image/png" for each in file):
        raise HTTPException(415, "Unsupported media type: only image/png")
    rows = answer([opened(each.file.read()) for each in file], cue, request)
    return rows if isinstance(rows, Response) else JSONResponse({"model": model, "embeddings": rows})


@app.get("/seen")
def seen(key: str) -> list[int]:
    return requests[key]


def from_text(text: str) -> Image.Image:
    head, mark, data = text.rpartition(",")
    if mark and head != "data:image/png;base64":
        raise HTTPException(415, "Unsupported media type: only image/png")
    return opened(b64decode(data, validate=True))


def opened(file: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(file), formats=["PNG"]).convert("RGB")
    except OSError as exc:
        raise HTTPException(415, "cannot identify the image: only PNG") from exc


def answer(images: Sequence[Image.Image], cue: Cue, request: Request) -> list[Any] | Response:
    """Rows of numbers, or something else on cue."""
    assert request.client is not None
    requests[cue.key].append(request.client.port)
    given = request.headers.get("authorization", "")
    if cue.token and given != f"Bearer {cue.token}":
        raise HTTPException(401, f"Incorrect key provided: {given}")
    if not cue.after < len(requests[cue.key]) <= cue.after + cue.times:
        cue = Cue()
    if cue.status:
        headers = {"Retry-After": cue.retry_after} if cue.retry_after else None
        raise HTTPException(cue.status, cue.said or None, headers)
    if cue.fault in BODIES:
        return BODIES[cue.fault]()
    spoil = SPOILT.get(cue.fault, lambda image: image)
    embed = embeds.get(cue.fault, embeds[""])
    rows = embed([spoil(image) for image in images]).tolist()
    return CHANGED.get(cue.fault, lambda rows: rows)(rows)


def open_clip_tower(config: Path, weights: Path | None) -> Embed:
    """A CLIP of open_clip, as its users load and call it; without weights, one of random ones."""
    import open_clip
    import torch

    torch.set_num_threads(1)
    open_clip.add_model_config(config)
    model, _, preprocess = open_clip.create_model_and_transforms(config.stem, pretrained=weights and str(weights))
    model.eval()

    def embed(images: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            return model.encode_image(torch.stack([preprocess(image) for image in images])).numpy()

    return embed


def onnx_graph(path: Path, mean: Sequence[float], std: Sequence[float]) -> Embed:
    """A stock graph in ONNX Runtime behind CLIP's preprocessing in Pillow: shorter side, centre, normalisation."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    side = node.shape[-1]

    def preprocessed(image: Image.Image) -> np.ndarray:
        scale = side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
        return ((pixels - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)

    def embed(images: Sequence[Image.Image]) -> np.ndarray:
        rows = [session.run(None, {node.name: preprocessed(image)[None]})[0] for image in images]
        return np.concatenate(rows)

    return embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="of open_clip, NAME.json")
    parser.add_argument("--weights", type=Path, help="of that model")
    parser.add_argument("--onnx", type=Path, help="a stock graph instead")
    parser.add_argument("--mean", type=float, nargs=3, help="of its normalisation")
    parser.add_argument("--std", type=float, nargs=3, help="likewise")
    given = parser.parse_args()
    if given.onnx:
        embeds[""] = onnx_graph(given.onnx, given.mean, given.std)
    else:
        embeds[""] = open_clip_tower(given.config, given.weights)
        embeds["another"] = open_clip_tower(given.config, None)
    # With the protocol named, else asyncio would leave Nagle's algorithm on, and every answer wait 40 ms for its end.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])


if __name__ == "__main__":
    main()
