"""Files that an interrupted copy, a full disk or another program left behind: found, and named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import pgn_edge.images
from pgn_edge.damage import find_damage
from pgn_edge.errors import DataError
from pgn_edge.images import FORMATS, read_image

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8))


def encoded(form: str, image: Image.Image = NOISE, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


WHOLE = {
    "png": encoded("PNG"),
    "png of a palette": encoded("PNG", NOISE.convert("P")),
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "jpeg with restarts": encoded("JPEG", restart_marker_blocks=1),
    "flat jpeg": encoded("JPEG", Image.new("RGB", (400, 400), "white"), optimize=True),
    "jpeg with a thumbnail's end mark": encoded("JPEG", comment=b"\xff\xd8 thumbnail \xff\xd9"),
    "webp": encoded("WEBP"),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=list(WHOLE))
def test_a_whole_file_is_whole(data: bytes):
    assert find_damage(data) == ""


@pytest.mark.parametrize("data", WHOLE.values(), ids=list(WHOLE))
def test_what_cameras_and_programs_append_is_no_damage(data: bytes):
    assert find_damage(data + bytes(512) + b"a second picture, or nothing") == ""


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "webp"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_tail_of_zeros_is_found_although_the_length_is_right(tmp_path: Path, name: str, share: float):
    data = WHOLE[name]
    cut = int(len(data) * share)
    path = tmp_path / "copied.jpg"
    path.write_bytes(data[:cut] + bytes(len(data) - cut))
    with pytest.raises(DataError, match=r"copied\.jpg: expected an image"):
        read_image(path)


@pytest.mark.parametrize("data", WHOLE.values(), ids=list(WHOLE))
def test_a_missing_tail_is_found_however_short(tmp_path: Path, data: bytes):
    for missing in (1, 2, 13, len(data) // 2):
        (tmp_path / "cut.jpg").write_bytes(data[:-missing])
        with pytest.raises(DataError, match=r"cut\.jpg: expected an image"):
            read_image(tmp_path / "cut.jpg")


def test_one_changed_byte_in_a_png_is_found():
    data = bytearray(WHOLE["png"])
    data[len(data) // 2] ^= 1
    assert "broken part" in find_damage(bytes(data))


def test_a_wrong_checksum_of_a_remark_loses_no_picture(tmp_path: Path):
    from PIL.PngImagePlugin import PngInfo

    remark = PngInfo()
    remark.add_text("Title", "holiday")
    data = encoded("PNG", pnginfo=remark).replace(b"holiday", b"holidoy")
    assert find_damage(data) == ""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "an empty file", id="nothing"),
        pytest.param(bytes(4000), "a file of zeros", id="zeros alone"),
        pytest.param(b"GIF89a" + bytes(20), "a GIF file", id="gif"),
        pytest.param(encoded("AVIF") if "AVIF" in Image.SAVE else b"\0\0\0\x20ftypavif", "an AVIF file", id="avif"),
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC file", id="heic"),
        pytest.param(b"<!DOCTYPE html><title>404", "a web page", id="a download that was refused"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS", id="git lfs pointer"),
        pytest.param(b"%PDF-1.7", "a PDF file", id="pdf"),
        pytest.param(b"RIFF\x04\0\0\0AVI ", "a video; give it to pgn-edge run", id="a video of the family of WebP"),
        pytest.param(b"no image at all", "another kind of file;", id="a text"),
    ],
)
def test_another_kind_of_file_with_the_suffix_of_a_jpeg_is_named(tmp_path: Path, data: bytes, says: str):
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(DataError, match=rf"photo\.jpg: expected an image.*got .*{says}"):
        read_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError("codec"), NotImplementedError("codec"), MemoryError(), KeyError("tag"), IndexError("x")),
        *(
            TypeError("x"),
            AttributeError("x"),
            AssertionError(),
            ZeroDivisionError("x"),
            EOFError(),
            OverflowError("x"),
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_plugin_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def broken(self: ImageFile.ImageFile) -> None:
        raise error

    NOISE.save(tmp_path / "odd.bmp")
    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    with pytest.raises(DataError, match=r"odd\.bmp: expected an image") as caught:
        read_image(tmp_path / "odd.bmp")
    assert caught.value.__cause__ is error


def test_no_other_plugin_of_pillow_is_asked(tmp_path: Path):
    for form in ("GIF", "ICO", "TGA", "PCX", "DIB"):
        NOISE.save(tmp_path / f"file.{form.lower()}", form)
        with pytest.raises(DataError, match="expected an image"):
            read_image(tmp_path / f"file.{form.lower()}")
    assert set(FORMATS) == {"PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"}


def test_a_phones_jpeg_with_a_second_picture_in_it_is_read(tmp_path: Path):
    NOISE.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (80, 60))], quality=95)
    assert read_image(tmp_path / "phone.jpg").std() > 20


def test_fuzzed_bytes_end_in_a_picture_or_in_a_data_error(tmp_path: Path):
    random = np.random.default_rng(7)
    files = [encoded(form) for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")]
    files.append(encoded("TIFF", compression="tiff_lzw"))
    path, ends = tmp_path / "fuzzed.tif", set()
    for _ in range(150):
        data = bytearray(files[random.integers(len(files))])
        for place in random.integers(0, min(len(data), 400), 4):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            ends.add(str(read_image(path).dtype))
        except DataError as exc:
            ends.add(exc.subject)
    assert ends == {"uint8", str(path)}


def test_a_folder_in_the_place_of_an_image(tmp_path: Path):
    with pytest.raises(DataError, match="Is a directory"):
        pgn_edge.images.read_image(tmp_path)
