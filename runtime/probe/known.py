"""Pictures whose right answer is known: the golden pair of a bundle, or what a reference engine says."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.engines import EngineOptions, open_engine
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.subject import to_levels
from pgn_edge.transport import LOSSLESS, Transport

FRAMES = 4  # of a golden pair or a reference; more would cost calls and tell little


@dataclass(frozen=True)
class Known:
    """Pictures with their answers.

    Args:
        source: Origin of the pictures, in words.
        facts: Facts of the engine that gave the answers, or of the task that stores them.
        pixels: Pictures, (M, H_c, W_c, 3) float64 RGB in levels of 0 to 255; prompts of a token library may lie
            outside.
        answers: Answers, (M, D) float64.
        padded: Rows of pixels that were put under the pictures; the answers are those without these rows.
    """

    source: str
    facts: EngineFacts
    pixels: np.ndarray
    answers: np.ndarray
    padded: int = 0

    @property
    def backbone(self) -> str:
        """Name of the frozen ViT that gave the answers."""
        return self.facts.backbone

    @property
    def geometry(self) -> Geometry:
        """Canvas of the pictures, without the rows that were put under them."""
        return self.facts.geometry

    @property
    def preprocess(self) -> Preprocess:
        """Normalisation of that ViT."""
        return self.facts.preprocess

    @property
    def size_hw(self) -> tuple[int, int]:
        """Size (H, W) of the pictures in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def rows(self) -> int:
        """Rows of patches that stand under the image on each picture."""
        geometry = self.geometry
        return self.padded // geometry.patch + (geometry.rows if geometry.layout == "append" else 0)

    def on_canvas(self, size_hw: tuple[int, int]) -> Known:
        """The same pictures on the canvas of an append engine, with rows of the mean colour under them.

        A stock engine has no prompt rows. The patch projection makes nothing of the mean colour, so the answers of an
        append engine of the same backbone stay near those of the stock engine.

        Args:
            size_hw: Size (H, W) of the canvas in pixels.

        Returns:
            Itself where the canvas is not these pictures with whole rows of patches under them.
        """
        height, width = self.size_hw
        spare = size_hw[0] - height
        if self.geometry.prompts or width != size_hw[1] or spare <= 0 or spare % self.geometry.patch:
            return self
        mean = 255 * np.array(self.preprocess.mean)
        rows = np.broadcast_to(mean, (len(self.pixels), spare, width, 3))
        return replace(self, pixels=np.concatenate([self.pixels, rows], axis=1), padded=spare)

    @property
    def illegal(self) -> float:
        """Share of the values that no pixel of 8 bits can hold."""
        return float(((self.pixels < -0.5) | (self.pixels > 255.5)).mean())


def golden_pair(path: str | Path) -> Known:
    """Canvases and embeddings that a bundle stores.

    Raises:
        BundleError: the bundle is damaged.
    """
    bundle = read_bundle(path)
    facts, golden = bundle.facts, bundle.golden
    chosen = np.unique(np.linspace(0, len(golden.images) - 1, FRAMES).round().astype(int))
    prompts = golden.prompt_rows[chosen]
    if facts.canvas == "float32":
        scale, shift = facts.preprocess.affine()
        prompts = ((prompts.astype(np.float64) - shift) / scale).transpose(0, 2, 3, 1)
    pixels = np.concatenate([golden.images[chosen], prompts], axis=1)
    if facts.transport != LOSSLESS:
        carry = Transport.parse(facts.transport).carry
        pixels = np.stack([carry(frame) for frame in to_levels(pixels)])
    answers = golden.embedding[chosen].astype(np.float64)
    source = f"the golden pair of {path}"
    return Known(source, facts, pixels.astype(np.float64), answers)


def reference_answers(path: str | Path, options: EngineOptions, seed: int) -> Known:
    """What an engine of a known backbone says of test pictures.

    Args:
        path: of an engine that pgn-edge exported; facts say how it is fed.
        options: as engines are opened.
        seed: of the pictures.

    Raises:
        EngineError: it cannot be opened, has no facts, is no ViT, or failed.
    """
    with closing(open_engine(path, options)) as engine:
        facts = EngineFacts.from_metadata(engine.metadata, engine.name)
        if facts.role != "vit":
            raise EngineError(
                str(path), expected="a ViT engine", got=f"a {facts.role} engine", do="give one from export-vit"
            )
        levels = pictures(FRAMES, facts.geometry.canvas_hw, seed)
        feeds = levels if facts.canvas == "uint8" else facts.preprocess.normalise(levels)
        answers = np.concatenate([_one(engine.infer({"canvas": frame[None]})) for frame in feeds])
    source = f"the answers of {path} to {FRAMES} test pictures"
    return Known(source, facts, levels.astype(np.float64), answers)


def _one(outputs: dict[str, np.ndarray]) -> np.ndarray:
    (answer,) = outputs.values()
    return answer.astype(np.float64)
