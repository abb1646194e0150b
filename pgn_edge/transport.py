"""How a canvas of 8 bits travels to an engine behind an API: as a PNG, WebP or JPEG file, in memory."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from pgn_edge.errors import DataError

Codec = Literal["png", "webp", "jpeg"]
LOSSLESS = "lossless"
FORM = re.compile(r"(?P<codec>png|webp|jpeg)(:(?P<quality>[0-9]{1,3}))?")


@dataclass(frozen=True)
class Transport:
    """An image codec and how much it may lose.

    Args:
        codec: `png`, `webp` or `jpeg`.
        quality: 1 to 100, of Pillow's encoder; None for no loss, which JPEG has not.

    Raises:
        DataError: a codec with a quality that it has not.
    """

    codec: Codec
    quality: int | None = None

    def __post_init__(self) -> None:
        fits = self.quality is None if self.codec == "png" else self.quality is None or 1 <= self.quality <= 100
        if not fits or (self.codec == "jpeg" and self.quality is None):
            raise _unknown(str(self))

    @classmethod
    def parse(cls, text: str) -> Transport:
        """Read `png`, `webp`, `webp:80` or `jpeg:75`.

        Raises:
            DataError: none of these.
        """
        found = FORM.fullmatch(text)
        if found is None:
            raise _unknown(text)
        codec: Codec = found["codec"]  # type: ignore[assignment]
        return cls(codec, None if found["quality"] is None else int(found["quality"]))

    def __str__(self) -> str:
        return self.codec if self.quality is None else f"{self.codec}:{self.quality}"

    @property
    def loss(self) -> str:
        """`lossless`, or which loss an engine behind it sees: the fact that task and engine must agree on."""
        return LOSSLESS if self.quality is None else str(self)

    @property
    def content_type(self) -> str:
        """The media type, such as `image/png`."""
        return f"image/{self.codec}"

    def encode(self, image_hwc: np.ndarray) -> bytes:
        """A file of this codec in memory.

        Args:
            image_hwc: (H, W, 3) uint8 RGB.
        """
        target = io.BytesIO()
        image = Image.fromarray(image_hwc)
        if self.codec == "png":
            image.save(target, "PNG", compress_level=1)  # the canvas of a camera does not wait for the last percent
        elif self.codec == "jpeg":
            image.save(target, "JPEG", quality=self.quality)
        elif self.quality is None:
            image.save(target, "WEBP", lossless=True, quality=0, method=0)
        else:
            image.save(target, "WEBP", quality=self.quality)
        return target.getvalue()

    def carry(self, image_hwc: np.ndarray) -> np.ndarray:
        """What comes out at the other end: (H, W, 3) uint8 RGB, encoded and decoded."""
        if self.quality is None:
            return image_hwc
        with Image.open(io.BytesIO(self.encode(image_hwc))) as image:
            return np.array(image.convert("RGB"))


def _unknown(got: str) -> DataError:
    return DataError(
        "transport",
        expected="png, webp, webp:QUALITY or jpeg:QUALITY with a quality of 1 to 100",
        got=repr(got),
        do="choose one of them",
    )
