"""A picture of one answer: the frame, the canvas that the ViT saw beside it, and the result under both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.extras import cv2
from pgn_edge.preprocess import check_frame
from pgn_edge.runtime.result import Result

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

# BGR.
BACKGROUND, PANEL, TRACK, ALARM = (28, 24, 22), (42, 37, 34), (74, 66, 61), (80, 80, 255)
TEXT, MUTED, ACCENT, SECOND = (245, 243, 240), (172, 162, 154), (80, 190, 255), (176, 140, 110)

LOWEST, HIGHEST = 384, 1080  # of the frame on the picture, pixels
NARROWEST, WIDEST = 0.75, 4.0  # width of the frame's box, as a share of its height
CANVAS_SHARE = 5 / 6  # of the height; the rest holds the caption and the legend


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels that depend on the frame's shape and the canvas alone, so that a video's pictures are alike.

    Args:
        height: of the upper part; `unit` is 1 where it is 384.
        frame_width: of the box that the frame is centred in.
        side_width: of the column that holds the canvas.
        bar_height: of the part under both.
        zoom: whole factor by which the canvas is enlarged.
    """

    height: int
    frame_width: int
    side_width: int
    bar_height: int
    zoom: int

    @classmethod
    def of(cls, frame_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> _Layout:
        height = _even(max(min(max(frame_hw[0], LOWEST), HIGHEST), canvas_hw[0] / CANVAS_SHARE))
        ratio = min(max(frame_hw[1] / frame_hw[0], NARROWEST), WIDEST)
        zoom = max(int(height * CANVAS_SHARE) // canvas_hw[0], 1)
        margin = 2 * _px(14, height)
        side = max(zoom * canvas_hw[1] + margin, _px(200, height))
        return cls(height, _even(height * ratio), _even(side), _even(_px(112, height)), zoom)

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height + self.bar_height, self.frame_width + self.side_width

    def px(self, length: float) -> int:
        """`length` as it would be on a picture of the lowest height."""
        return _px(length, self.height)


@dataclass(frozen=True)
class _Style:
    height: int
    colour: Colour = TEXT
    bold: bool = False
    right: bool = False


def annotate(frame_bgr: np.ndarray, result: Result, facts: EngineFacts) -> np.ndarray:
    """Draw one answer, or say that the frame is degraded, and why.

    Args:
        frame_bgr: (h, w, 3) uint8 BGR, any size.
        result: what the runtime said of it.
        facts: of the ViT engine, `Runtime.facts`.

    Returns:
        (H, W, 3) uint8 BGR; H and W are even and depend on the frame's shape and the canvas alone.

    Raises:
        DataError: not a colour frame.
    """
    check_frame(frame_bgr)
    layout = _Layout.of(frame_bgr.shape[:2], facts.geometry.canvas_hw)
    picture = np.full((*layout.size_hw, 3), BACKGROUND, np.uint8)
    picture[: layout.height, : layout.frame_width] = fit_into(frame_bgr, (layout.height, layout.frame_width))
    _draw_canvas(picture, layout, result, facts)
    picture[layout.height :] = PANEL
    gap, width = layout.px(16), layout.size_hw[1]
    top, bottom = layout.height + layout.px(10), layout.size_hw[0] - layout.px(10)
    first, second = round(width * 0.32), round(width * 0.73)
    _draw_answer(picture, (gap, top, first - gap, bottom), result, layout)
    _draw_top(picture, (first + gap, top, second - gap, bottom), result, layout)
    _draw_latency(picture, (second + gap, top, width - gap, bottom), result.timings_ms, layout)
    for x in (first, second):
        cv2.line(picture, (x, top), (x, bottom), TRACK, max(layout.px(1), 1))
    return picture


def silent(picture_bgr: np.ndarray) -> np.ndarray:
    """Darken a picture and say that nothing newer came, so that nobody takes it for a live one.

    Args:
        picture_bgr: (H, W, 3) uint8 BGR, as `annotate` made it.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    dark: np.ndarray = cv2.convertScaleAbs(picture_bgr, alpha=0.35)
    height = _px(24, min(dark.shape[0], HIGHEST))
    _put(dark, "no frame from the camera", (height, 2 * height), dark.shape[1] - 2 * height, _Style(height, ALARM))
    return dark


def canvas_picture(canvas: np.ndarray, facts: EngineFacts) -> np.ndarray:
    """Turn what the ViT engine saw into a picture; values outside legal RGB are clipped, and NaN is black.

    Args:
        canvas: (3, H_c, W_c) float32 in normalised units or (H_c, W_c, 3) uint8, RGB, as in `Result.canvas`.
        facts: of the engine; its mean and std undo the normalisation.

    Returns:
        (H_c, W_c, 3) uint8 BGR, contiguous.
    """
    if canvas.dtype == np.uint8:
        return np.ascontiguousarray(canvas[:, :, ::-1])
    scale, shift = facts.preprocess.affine()
    pixels = np.rint((canvas - shift) / scale).clip(0, 255)
    pixels = np.nan_to_num(pixels, copy=False, nan=0).astype(np.uint8)
    return np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))


def fit_into(image_bgr: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Scale an image to fill a box without distortion, centred on black.

    Args:
        image_bgr: (h, w, 3) uint8 BGR.
        size_hw: of the box (H, W) in pixels.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    height, width = image_bgr.shape[:2]
    if (height, width) == size_hw:
        return image_bgr
    scale = min(size_hw[0] / height, size_hw[1] / width)
    inner_h, inner_w = (
        min(max(round(side * scale), 1), most) for side, most in zip((height, width), size_hw, strict=True)
    )
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    boxed = np.zeros((*size_hw, 3), np.uint8)
    top, left = (size_hw[0] - inner_h) // 2, (size_hw[1] - inner_w) // 2
    boxed[top : top + inner_h, left : left + inner_w] = cv2.resize(image_bgr, (inner_w, inner_h), interpolation=kind)
    return boxed


def _draw_canvas(picture: np.ndarray, layout: _Layout, result: Result, facts: EngineFacts) -> None:
    geometry, zoom = facts.geometry, layout.zoom
    height, width = (side * zoom for side in geometry.canvas_hw)
    top = (layout.height - height) // 2
    left = layout.frame_width + (layout.side_width - width) // 2
    small = canvas_picture(result.kept_canvas(), facts)
    picture[top : top + height, left : left + width] = cv2.resize(
        small, (width, height), interpolation=cv2.INTER_NEAREST
    )
    for slot in range(geometry.prompts):
        x0, y0, x1, y1 = (side * zoom for side in geometry.slot_box(slot))
        corners = (left + x0, top + y0), (left + x1 - 1, top + y1 - 1)
        cv2.rectangle(picture, *corners, ACCENT, max(zoom // 5, 1))
    # A canvas narrower than its column leaves the words some room on both sides.
    text_x = min(left, layout.frame_width + layout.px(14))
    room = layout.size_hw[1] - layout.px(6) - text_x
    caption = _Style(layout.px(12), TEXT, bold=True)
    _put(picture, "What the ViT sees", (text_x, top - layout.px(10)), room, caption)
    legend = f"{geometry.canvas_hw[0]} x {geometry.canvas_hw[1]} px, {geometry.prompts} prompts outlined"
    _put(picture, legend, (text_x, top + height + layout.px(19)), room, _Style(layout.px(11), MUTED))


def _draw_answer(picture: np.ndarray, box: Box, result: Result, layout: _Layout) -> None:
    x0, y0, x1, _ = box
    _put(picture, f"task {result.task}", (x0, y0 + layout.px(12)), x1 - x0, _Style(layout.px(11), MUTED))
    if result.degraded:
        _put(picture, "degraded", (x0, y0 + layout.px(56)), x1 - x0, _Style(layout.px(32), ALARM, bold=True))
        reason = result.reason
        _put(picture, reason, (x0, y0 + layout.px(86)), x1 - x0, _Style(layout.px(15), ALARM))
        return
    _put(picture, result.label, (x0, y0 + layout.px(56)), x1 - x0, _Style(layout.px(32), TEXT, bold=True))
    score = _Style(layout.px(15), ACCENT, bold=True)
    _put(picture, f"{result.score:.1%}", (x0, y0 + layout.px(86)), x1 - x0, score)


def _draw_top(picture: np.ndarray, box: Box, result: Result, layout: _Layout) -> None:
    if result.degraded:
        return
    x0, y0, x1, _ = box
    _put(picture, "top 3", (x0, y0 + layout.px(12)), x1 - x0, _Style(layout.px(11), MUTED))
    bar_x0, bar_x1 = x0 + round((x1 - x0) * 0.42), x1 - layout.px(54)
    for rank, (label, score) in enumerate(result.top(3)):
        base = y0 + layout.px(38 + 24 * rank)
        style = _Style(layout.px(12), TEXT if rank == 0 else MUTED)
        _put(picture, label, (x0, base), bar_x0 - x0 - layout.px(8), style)
        top, bottom = base - layout.px(10), base
        cv2.rectangle(picture, (bar_x0, top), (bar_x1, bottom), TRACK, cv2.FILLED)
        filled = round((bar_x1 - bar_x0) * score)
        if filled:
            colour = ACCENT if rank == 0 else SECOND
            cv2.rectangle(picture, (bar_x0, top), (bar_x0 + filled, bottom), colour, cv2.FILLED)
        right = _Style(style.height, style.colour, right=True)
        _put(picture, f"{score:.1%}", (x1, base), layout.px(48), right)


def _draw_latency(picture: np.ndarray, box: Box, timings_ms: Mapping[str, float], layout: _Layout) -> None:
    x0, y0, x1, _ = box
    _put(picture, "latency, ms", (x0, y0 + layout.px(12)), x1 - x0, _Style(layout.px(11), MUTED))
    half = (x1 - x0) // 2
    for row, (stage, value_ms) in enumerate(timings_ms.items()):
        base = y0 + layout.px(32 + 14.5 * row)
        total = stage == "total"
        style = _Style(layout.px(10), TEXT if total else MUTED, bold=total)
        _put(picture, stage, (x0, base), half + layout.px(8), style)
        value = _Style(style.height, TEXT, bold=total, right=True)
        _put(picture, f"{value_ms:.2f}", (x1, base), half - layout.px(12), value)


def _put(picture: np.ndarray, text: str, origin_xy: tuple[int, int], room: int, style: _Style) -> None:
    """Draw one line on the base line at `origin_xy`, made smaller, then shorter, where it is wider than `room`."""
    # OpenCV 4 draws stroke fonts and OpenCV 5 outlines, of other sizes: only measuring fits both.
    font = cv2.FONT_HERSHEY_DUPLEX if style.bold else cv2.FONT_HERSHEY_SIMPLEX
    thickness = max(style.height // 20, 1)
    scale = style.height / cv2.getTextSize("A", font, 1.0, 1)[0][1]

    def width(line: str) -> int:
        return int(cv2.getTextSize(line, font, scale, thickness)[0][0])

    line = " ".join(text.split())
    scale *= min(max(room / max(width(line), 1), 0.8), 1.0)
    kept = line
    while kept and width(line) > room:
        kept = kept[:-1]
        line = kept.rstrip() + "..."
    x = origin_xy[0] - width(line) if style.right else origin_xy[0]
    cv2.putText(picture, line, (x, origin_xy[1]), font, scale, style.colour, thickness, cv2.LINE_AA)


def _px(length: float, height: int) -> int:
    return round(length * height / LOWEST)


def _even(length: float) -> int:
    # Video encoders refuse or cut odd sizes.
    return 2 * round(length / 2)
