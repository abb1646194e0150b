"""Pictures whose right answer is known: the golden pair of a bundle, or what a reference engine says."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
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
        source: where they come from, in words.
        backbone: name of the frozen ViT that gave the answers.
        geometry: of the canvases.
        preprocess: gives the normalisation of that ViT.
        pixels: (M, H_c, W_c, 3) float64 RGB in levels of 0 to 255; prompts of a token library may lie outside.
        answers: (M, D) float64.
    """

    source: str
    backbone: str
    geometry: Geometry
    preprocess: Preprocess
    pixels: np.ndarray
    answers: np.ndarray

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
    return Known(source, facts.backbone, facts.geometry, facts.preprocess, pixels.astype(np.float64), answers)


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
    return Known(source, facts.backbone, facts.geometry, facts.preprocess, levels.astype(np.float64), answers)


def _one(outputs: dict[str, np.ndarray]) -> np.ndarray:
    (answer,) = outputs.values()
    return answer.astype(np.float64)
