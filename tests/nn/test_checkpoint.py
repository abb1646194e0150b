"""Checkpoints: bit-identical both ways; hostile files run no code and are one CheckpointError of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgn_edge.errors import CheckpointError, OutputError
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.tensor_file import save_tensors
from pgn_edge.preprocess import Preprocess

RNG = np.random.default_rng(0)


def make() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(
        name="pets",
        backbone="builtin",
        fingerprint="ab" * 32,
        weights_sha256="cd" * 32,
        geometry=Geometry((16, 16), 8, 2),
        preprocess=Preprocess((16, 16), mean=(0.5, 0.4, 0.3)),
        pgn=PGN(PgnConfig("constant", 2, 2, 8, 16)).eval(),
        head=Head.linear(RNG.standard_normal((2, 4)), np.zeros(2), ("cat", "dög")),
        golden_images=RNG.integers(0, 256, (3, 16, 16, 3), np.uint8),
        provenance={"data": "pets", "accuracy": 0.9, "config": {"epochs": 3}},
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "good.pt"
    save_checkpoint(path, make())
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


def test_round_trip(tmp_path: Path, good: bytes):
    path = tmp_path / "good.pt"
    path.write_bytes(good)
    copy, original = load_checkpoint(path), make()
    for name in ("name", "backbone", "fingerprint", "weights_sha256", "geometry", "preprocess", "provenance"):
        assert getattr(copy, name) == getattr(original, name), name
    assert copy.pgn.config == original.pgn.config
    assert not copy.pgn.training
    for name, tensor in original.pgn.state_dict().items():
        assert torch.equal(copy.pgn.state_dict()[name], tensor), name
    assert (copy.head.kind, copy.head.labels) == ("linear", ("cat", "dög"))


def test_round_trip_of_arrays(tmp_path: Path):
    checkpoint = make()
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    copy = load_checkpoint(tmp_path / "a.pt")
    assert copy.golden_images.tobytes() == checkpoint.golden_images.tobytes()
    for name, array in checkpoint.head.to_arrays().items():
        assert copy.head.to_arrays()[name].tobytes() == array.tobytes(), name


def test_round_trip_of_a_network(tmp_path: Path):
    torch.manual_seed(1)
    pgn = PGN(PgnConfig("resnet10", 2, 3, 8, 16)).eval()
    save_checkpoint(tmp_path / "a.pt", dataclasses.replace(make(), pgn=pgn))
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "a.pt").pgn(image), pgn(image))


def test_an_output_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(OutputError):
        save_checkpoint(tmp_path / "missing" / "a.pt", make())


# No code from a file is ever run.


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def as_pickle(data: Any) -> bytes:
    return pickle.dumps(data)


def as_zip(data: Any) -> bytes:
    out = io.BytesIO()
    torch.save(data, out)
    return out.getvalue()


def as_legacy(data: Any) -> bytes:
    out = io.BytesIO()
    torch.save(data, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


@pytest.mark.parametrize("write", [as_pickle, as_zip, as_legacy], ids=lambda write: write.__name__[3:])
@pytest.mark.parametrize("place", ["everything", "provenance", "state"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the marker's own open file, in the check at the end
def test_pickled_code_is_never_run(tmp_path: Path, write: Any, place: str):
    marker, path = tmp_path / "marker", tmp_path / "bad.pt"
    bomb = Marker(marker)
    data = {"format": "pgn-edge checkpoint", "schema": 1, place: bomb}
    path.write_bytes(write(bomb if place == "everything" else data))
    assert "pickled code" in refusal(path)
    assert not marker.exists()
    if write is as_pickle:
        pickle.loads(path.read_bytes())
        assert marker.exists(), "the file was harmless: this test proves nothing"


# Damaged and foreign files.


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return out.getvalue()


def script() -> bytes:
    """A minimal zip that looks like TorchScript."""
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"epoch,loss\n1,0.5\n", id="text"),
        pytest.param(b"\x80\x02", id="the beginning of a pickle"),
        pytest.param(b"\xff" * 1000, id="noise"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="the beginning of a zip"),
        pytest.param(tar(), id="a tar"),
        pytest.param(script(), id="TorchScript"),
        pytest.param(as_zip(torch.zeros(3)), id="a bare tensor"),
        pytest.param(as_zip([1, 2]), id="a list"),
        pytest.param(as_zip({"conv1.weight": torch.zeros(3)}), id="a foreign state_dict"),
        pytest.param(as_zip({"format": "pgn-edge checkpoint", "schema": 2}), id="a later schema"),
        pytest.param(as_zip({"format": "pgn-edge checkpoint", "schema": 1}), id="nothing inside"),
        pytest.param(as_zip({1: 2, "a": 3}), id="keys of several types"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, data: bytes):
    path = tmp_path / "bad.pt"
    path.write_bytes(data)
    refusal(path)


def test_no_file_and_a_folder(tmp_path: Path):
    assert "no such file" in refusal(tmp_path / "missing.pt")
    refusal(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8, 0.95, 0.999])
def test_truncated(tmp_path: Path, good: bytes, share: float):
    path = tmp_path / "bad.pt"
    path.write_bytes(good[: int(share * len(good))])
    refusal(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte(tmp_path: Path, good: bytes, data: st.DataObject):
    offset = data.draw(st.integers(0, len(good) - 1), "offset")
    damaged = bytearray(good)
    damaged[offset] ^= data.draw(st.integers(1, 255), "flip")
    path = tmp_path / "damaged.pt"
    path.write_bytes(damaged)
    with contextlib.suppress(CheckpointError):
        # A change may go unseen here: a checkpoint carries no hash of itself; the bundle made of it does.
        load_checkpoint(path)


# Right in form, wrong in content.


def edited(folder: Path, good: bytes, **changes: Any) -> Path:
    data = torch.load(io.BytesIO(good), weights_only=True)
    path = folder / "edited.pt"
    save_tensors(path, {key: value for key, value in {**data, **changes}.items() if value is not None})
    return path


def test_the_editor_of_these_tests_makes_good_checkpoints(tmp_path: Path, good: bytes):
    assert load_checkpoint(edited(tmp_path, good, name="other")).name == "other"


@pytest.mark.parametrize(
    "changes",
    [
        *(
            pytest.param({key: None}, id=f"without {key}")
            for key in (
                "name",
                "fingerprint",
                "weights_sha256",
                "geometry",
                "preprocess",
                "pgn",
                "state",
                "head",
                "golden_images",
            )
        ),
        pytest.param({"provenance": None}, id="without provenance"),
        pytest.param({"state": {"library": torch.zeros(3, 8)}}, id="a library of another size"),
        pytest.param({"state": {}}, id="no weights"),
        pytest.param({"state": {"library": torch.zeros(2, 8), "more": torch.zeros(1)}}, id="weights too many"),
        pytest.param({"state": {"library": "zeros"}}, id="words for weights"),
        pytest.param({"state": {"library": torch.full((2, 8), float("nan"))}}, id="NaN weights"),
        pytest.param({"state": {"library": torch.full((2, 8), float("inf"))}}, id="infinite weights"),
        pytest.param({"geometry": {"patch": 8}}, id="half a geometry"),
        pytest.param({"geometry": Geometry((16, 16), 8, 5).to_json()}, id="more slots than prompts"),
        pytest.param({"preprocess": Preprocess((8, 8)).to_json()}, id="an image of another size"),
        pytest.param({"head": {"kind": "linear"}}, id="half a head"),
        pytest.param({"golden_images": torch.zeros(3, 16, 16, 3)}, id="float images"),
        pytest.param({"golden_images": torch.zeros(3, 8, 8, 3, dtype=torch.uint8)}, id="golden images of another size"),
        pytest.param({"golden_images": torch.zeros(0, 16, 16, 3, dtype=torch.uint8)}, id="no golden images"),
        pytest.param({"golden_images": "images"}, id="a word for images"),
        pytest.param({"provenance": [1]}, id="provenance is a list"),
        pytest.param(
            {"pgn": {"generator": "constant", "prompts": 10**6, "library": 10**6, "width": 10**6, "resolution": 1}},
            id="claims more memory than there is",
        ),
    ],
)
def test_content_that_makes_no_sense(tmp_path: Path, good: bytes, changes: dict[str, Any]):
    refusal(edited(tmp_path, good, **changes))
