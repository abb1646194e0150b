"""Where the image and the prompt slots lie on the canvas.

`append`: the image keeps its size and r rows of prompt slots stand under it, so the canvas is (H + rP) x W.
`inset`: the canvas keeps the stock size H x W; the image takes the top H - rP rows of pixels, the slots the rest.
In both, slots are counted row by row, and image patches come before slots in patch order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pgn_edge.errors import GeometryError
from pgn_edge.schemas import GeometryJson, conform

Layout = Literal["append", "inset"]
USUAL_PROMPTS = 16  # the paper's number, near which `--prompts auto` looks for whole rows


@dataclass(frozen=True)
class Geometry:
    """The canvas of one ViT engine.

    Args:
        image_hw: stock input size (H, W) of the ViT in pixels; P divides both.
        patch: patch size P in pixels.
        prompts: number of prompt slots K that the engine reads; 0 for the stock model.
        layout: `append` or `inset`.

    Raises:
        GeometryError: a size that P does not divide, a negative K, or prompts that leave no room for the image.
    """

    image_hw: tuple[int, int]
    patch: int
    prompts: int
    layout: Layout = "append"

    def __post_init__(self) -> None:
        height, width = self.image_hw
        if self.layout not in get_args(Layout):
            raise GeometryError(
                "layout",
                expected=" or ".join(get_args(Layout)),
                got=repr(self.layout),
                do="choose one of them",
            )
        if self.patch < 1 or height < 1 or width < 1 or height % self.patch or width % self.patch:
            raise GeometryError(
                "image size",
                expected=f"a height and a width that patch size {self.patch} divides",
                got=f"{height} x {width}",
                do="choose a size that is a multiple of the patch size",
            )
        if self.prompts < 0:
            raise GeometryError("prompts", expected="0 or more", got=str(self.prompts), do="choose another count")
        if self.layout == "inset" and self.rows >= self.grid_hw[0]:
            most = (self.grid_hw[0] - 1) * self.grid_hw[1]
            raise GeometryError(
                "prompts",
                expected=f"at most {most} for inset on a grid of {self.grid_hw[0]} x {self.grid_hw[1]} patches",
                got=str(self.prompts),
                do="use fewer prompts, or the append layout",
            )

    def __str__(self) -> str:
        height, width = self.image_hw
        return f"{self.layout} of {self.prompts} prompts to {height} x {width} in patches of {self.patch}"

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patch grid (G_h, G_w) of the stock image."""
        return self.image_hw[0] // self.patch, self.image_hw[1] // self.patch

    @property
    def rows(self) -> int:
        """Prompt rows r = ceil(K / G_w)."""
        return -(-self.prompts // self.grid_hw[1])

    @property
    def spare(self) -> int:
        """Slots in the last prompt row that hold no prompt: r * G_w - K."""
        return self.rows * self.grid_hw[1] - self.prompts

    @property
    def content_hw(self) -> tuple[int, int]:
        """Size (H, W) in pixels of the image on the canvas; frames are resized to this."""
        height, width = self.image_hw
        return (height, width) if self.layout == "append" else (height - self.rows * self.patch, width)

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Size (H, W) of the canvas in pixels."""
        return self.content_hw[0] + self.rows * self.patch, self.image_hw[1]

    @property
    def image_patches(self) -> int:
        """Number of canvas patches that hold the image."""
        return (self.content_hw[0] // self.patch) * self.grid_hw[1]

    def takes(self, task: Geometry) -> bool:
        """Whether an engine of this canvas reads the canvas of a task.

        An `inset` canvas has the stock size and the stock positions, whatever the number of prompts. So an engine
        without prompt slots, or one made for another `inset` task, reads it as it is.

        Args:
            task: Canvas of the task.
        """
        if self == task:
            return True
        stock = self.prompts == 0 or self.layout == "inset"
        return stock and task.layout == "inset" and (self.image_hw, self.patch) == (task.image_hw, task.patch)

    def require_engine(self) -> None:
        """Refuse slots that an engine could not read.

        Raises:
            GeometryError: `inset` with a last row that is not full: it must fit engines that nobody can recompile.
        """
        if self.layout == "inset" and self.spare:
            raise GeometryError(
                "prompts",
                expected=f"whole rows of {self.grid_hw[1]} for inset, whose engines cannot drop spare slots",
                got=str(self.prompts),
                do=f"use {whole_rows(self.image_hw, self.patch, self.layout, self.prompts)}, or --prompts auto",
            )

    def slot_box(self, slot: int) -> tuple[int, int, int, int]:
        """Pixel box (x0, y0, x1, y1) of prompt slot `slot`, 0 <= slot < K, on the canvas.

        Raises:
            GeometryError: there is no such slot.
        """
        if not 0 <= slot < self.prompts:
            raise GeometryError("prompt slot", expected=f"0 to {self.prompts - 1}", got=str(slot), do="choose another")
        row, column = divmod(slot, self.grid_hw[1])
        x0, y0 = column * self.patch, self.content_hw[0] + row * self.patch
        return x0, y0, x0 + self.patch, y0 + self.patch

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {**asdict(self), "image_hw": list(self.image_hw)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Geometry:
        """Read what `to_json` wrote.

        Raises:
            GeometryError: a field is missing or has the wrong type.
        """
        try:
            found = conform(data, GeometryJson)
        except ValueError as exc:
            raise GeometryError(
                "geometry",
                expected="image_hw, patch, prompts and layout",
                got=f"{str(data)[:200]} ({exc})",
                do="export the file again",
            ) from exc
        return cls(found.image_hw, found.patch, found.prompts, found.layout)


def whole_rows(image_hw: tuple[int, int], patch: int, layout: Layout, near: int = USUAL_PROMPTS) -> int:
    """The number of prompts nearest to `near` that fills whole rows: the slot solver behind `--prompts auto`.

    Args:
        image_hw: stock input size (H, W) in pixels; P divides both.
        patch: patch size P in pixels.
        layout: `inset` must leave at least one row of patches to the image.
        near: where to look; of two that are equally near, the smaller.

    Raises:
        GeometryError: a size that P does not divide, or no room for prompts.
    """
    rows, columns = Geometry(image_hw, patch, 0, layout).grid_hw
    most = rows - 1 if layout == "inset" else max(near // columns + 1, 1)
    if most < 1:
        raise GeometryError(
            "prompts",
            expected=f"more than one row of patches for {layout}",
            got=f"{rows}",
            do="use the append layout",
        )
    return min((row * columns for row in range(1, most + 1)), key=lambda count: abs(count - near))
