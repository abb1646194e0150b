"""Whether a task and a ViT engine belong together: first on paper, then on the device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from pgn_edge.agreement import compare, limits
from pgn_edge.bundle import Bundle
from pgn_edge.contract import CanvasType, EngineFacts, Precision
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.mixtures import COEFFICIENTS, SUM_TOLERANCE
from pgn_edge.runtime.chain import Chain
from pgn_edge.runtime.engines.base import Engine, TensorSpec
from pgn_edge.transport import LOSSLESS

# Largest error of the prompt rows as a share of their largest value: rounding of each format through the small CNN.
PROMPT_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 2e-1}
IMAGE_TOLERANCE = 1e-4
LENGTH_TOLERANCE = 0.05  # of an embedding; that of `builtin` is 0.3 % off in int8
GOLDEN_PGN_S = 60.0  # of the PGN engine for all golden frames; the ViT engine takes what it takes
ONE_LEVEL = 1.01  # of the 256 of an 8-bit image

OTHER_VIT = "export the ViT with the backbone, --prompts and --layout that the task was trained for"
OTHER_TYPE: dict[CanvasType, str] = {
    "uint8": "export the ViT with --input uint8, or the task without --uint8",
    "float32": "export the task with --uint8, or the ViT with --input float32",
}
AGAIN = "export task and ViT again, or compile for this device again"
OTHER_NORMALISATION = "export the task without --uint8, and the ViT with --input float32"


def check_facts(vit: EngineFacts, task: EngineFacts, task_name: str) -> None:
    """Compare what the two files say of themselves.

    Normalisation may differ where the canvas is float32: it is the task's own, inside its PGN engine, and prompts are
    inverted in its units. A canvas of uint8 is normalised by the ViT engine.

    Raises:
        PairingError: another ViT, another canvas, another transport, or files in each other's place.
    """
    carried = "without --transport" if vit.transport == LOSSLESS else f"with --uint8 --transport {vit.transport}"
    pairs: dict[str, tuple[object, object, str]] = {
        "roles": (("vit", "pgn"), (vit.role, task.role), OTHER_VIT),
        "ViT fingerprint": (task.fingerprint, vit.fingerprint, OTHER_VIT),
        "canvas": (task.geometry, task.geometry if vit.geometry.takes(task.geometry) else vit.geometry, OTHER_VIT),
        "canvas type": (task.canvas, vit.canvas, OTHER_TYPE[task.canvas]),
        "transport": (task.transport, vit.transport, f"export the task {carried}"),
    }
    if task.canvas == "uint8":
        pairs["normalisation"] = (_normalisation(task), _normalisation(vit), OTHER_NORMALISATION)
    for what, (wanted, found, do) in pairs.items():
        if wanted != found:
            raise PairingError(
                f"task {task_name}: {what}",
                expected=f"{wanted} ({task.backbone})",
                got=f"{found} ({vit.backbone})",
                do=do,
            )


def canvas_spec(facts: EngineFacts) -> TensorSpec:
    """Type and layout of the canvas, its batch free."""
    size = facts.geometry.canvas_hw
    return TensorSpec((None, *size, 3) if facts.canvas == "uint8" else (None, 3, *size), np.dtype(facts.canvas))


def check_tensors(engine: Engine, facts: EngineFacts) -> None:
    """Compare an engine's tensors with what its file says of itself.

    A PGN engine may have its mixture coefficients as a second output; without it there is no measure of drift.

    Raises:
        EngineError: another name, type or size.
    """
    geometry = facts.geometry
    canvas = canvas_spec(facts)
    image = TensorSpec((None, *geometry.content_hw, 3), np.dtype(np.uint8))
    answer = TensorSpec((None, None), np.dtype(np.float32))
    wanted: dict[str, TensorSpec] = {"image": image, "canvas": canvas}
    if facts.role == "vit":
        wanted = {"canvas": canvas, facts.output: answer}
    found = {**engine.inputs, **engine.outputs}
    if facts.role == "pgn" and COEFFICIENTS in found:
        library = found[COEFFICIENTS].shape[-1] if found[COEFFICIENTS].shape else None
        wanted[COEFFICIENTS] = TensorSpec((None, geometry.prompts, library or 1), np.dtype(np.float32))
    if found.keys() != wanted.keys() and wanted.keys() <= found.keys():
        raise EngineError(
            engine.name, expected=f"only {', '.join(wanted)}", got=", ".join(found), do="export it again with pgn-edge"
        )
    for name, spec in wanted.items():
        have = found.get(name)
        same = have is not None and have.dtype == spec.dtype and len(have.shape) == len(spec.shape)
        # The batch may be fixed; of the answer's width the facts say nothing.
        if have is None or not same or any(w not in (None, h) for w, h in zip(spec.shape, have.shape, strict=True)):
            raise EngineError(
                f"{engine.name}: {name}",
                expected=str(spec),
                got=str(have or f"only {', '.join(found)}"),
                do="export it again with pgn-edge",
            )


def check_profile(engine: Engine, bundle: Bundle) -> None:
    """Compare a bundle's profile with the mixtures that its PGN engine gives.

    Raises:
        PairingError: another library size, or a profile and no mixtures.
    """
    if bundle.profile is None:
        return
    have = engine.outputs[COEFFICIENTS].shape[-1] if COEFFICIENTS in engine.outputs else None
    if have != len(bundle.profile.usage):
        raise PairingError(
            f"task {bundle.name}: profile",
            expected=f"one of {have} library tokens, as {engine.name} has"
            if have
            else "none, as the PGN gives no mixtures",
            got=f"one of {len(bundle.profile.usage)}",
            do="export the task again",
        )


def check_golden(
    bundle: Bundle, vit_facts: EngineFacts, chain: Chain, turn: AbstractContextManager[object], remedy: str = AGAIN
) -> None:
    """Run the golden pair on this device, the way that frames will go.

    Args:
        bundle: with the golden pair.
        vit_facts: of the ViT engine.
        chain: of one frame of this task.
        turn: held for the time of each golden frame.
        remedy: what to do where the canvas is right and the embedding is not.

    Raises:
        PairingError: canvas, embedding or class differ from what export stored, or the mixtures are none; a frame of
            another size has no finite answer; or the PGN engine takes too long for all of them.
        EngineError: an engine failed.
    """
    golden, facts = bundle.golden, bundle.facts
    canvas, embedding, sums = _answers(bundle, chain, turn)
    sum_error = _largest(sums - 1)
    if not sum_error <= SUM_TOLERANCE:
        raise _mismatch(bundle, "mixture coefficients", f"sums within {SUM_TOLERANCE:g} of 1", sum_error)
    _check_canvas(bundle, canvas)
    agreement = compare(golden.embedding, embedding, bundle.head)
    # Every precision below float32 is held to the same limits, 8-bit prompts too.
    exact = (facts.precision, vit_facts.precision) == ("fp32", "fp32") and not _rounded(bundle)
    precision: Precision = "fp32" if exact else "fp16"
    if not agreement.within(precision):
        raise _mismatch(bundle, "embedding", limits(precision), agreement, remedy)
    if bundle.head.logits(embedding).argmax(axis=1).tolist() != golden.top1.tolist():
        raise _mismatch(bundle, "class", "the stored top-1 on every golden frame", agreement, remedy)
    # Angles do not show it, nor does a text head care; a linear head on vectors scaled to length 1 is another head.
    ratio = _lengths(embedding) / np.maximum(_lengths(golden.embedding), 1e-12)
    if bundle.head.kind != "text" and not _largest(ratio - 1) <= LENGTH_TOLERANCE:
        expected = f"the stored one within {LENGTH_TOLERANCE:.0%}"
        raise _mismatch(bundle, "length of the embedding", expected, f"{ratio[0]:.3g} times it", remedy)
    _check_other_size(bundle, chain, turn)


def _check_other_size(bundle: Bundle, chain: Chain, turn: AbstractContextManager[object]) -> None:
    """Send one frame of a size that no golden image has through preprocessing and both engines."""
    height, width = bundle.facts.geometry.content_hw
    frame = _odd_frame(height + 31, 2 * width + 17)
    image = bundle.facts.preprocess(frame, "BGR")
    what = f"frame of {frame.shape[0]} x {frame.shape[1]} pixels"
    if image.shape != (height, width, 3):
        raise _mismatch(bundle, what, f"an image of {height} x {width}", f"{image.shape}")
    with turn:
        chain.images[0] = image
        chain.run()
        (flaw,) = chain.flaws()
    if flaw:
        raise _mismatch(bundle, what, "finite numbers", f"NaN or Inf: {flaw}")


def _odd_frame(height: int, width: int) -> np.ndarray:
    """A picture with a slope in each channel, (height, width, 3) uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [200 * rows / height, 200 * columns / width, 100 * (rows / height + columns / width)]
    return np.stack(planes, axis=-1).astype(np.uint8) + np.uint8(30)


def _check_canvas(bundle: Bundle, canvas: np.ndarray) -> None:
    """Compare canvases (M, ...) of the golden images with what export stored; those of uint8 in levels."""
    golden, facts = bundle.golden, bundle.facts
    by_vit = facts.canvas == "uint8"
    parts = np.split(canvas.astype(np.float32), [facts.geometry.content_hw[0]], axis=1 if by_vit else 2)
    image_error = _largest(parts[0] - (golden.images if by_vit else facts.preprocess.normalise(golden.images)))
    if not image_error <= IMAGE_TOLERANCE:
        raise _mismatch(bundle, "image part of the canvas", f"error at most {IMAGE_TOLERANCE:g}", image_error)
    size = max(_largest(golden.prompt_rows), 1e-12)
    prompt_error = _largest(parts[1] - golden.prompt_rows) / size
    limit = PROMPT_TOLERANCE[facts.precision]
    # Of pixels that are rounded to 8 bits a few lie in the middle: they may go to the other side on another device.
    if _rounded(bundle):
        limit = max(limit, ONE_LEVEL * (1 if by_vit else float(facts.preprocess.affine()[0].max())) / size)
    if not prompt_error <= limit:
        raise _mismatch(bundle, "prompt rows of the canvas", f"relative error at most {limit:g}", prompt_error)


def _rounded(bundle: Bundle) -> bool:
    """Whether its prompts are pixels of 8 bits."""
    return bundle.facts.canvas == "uint8" or bundle.certificate.get("rounded") is True


def _normalisation(facts: EngineFacts) -> str:
    return f"mean {facts.preprocess.mean}, std {facts.preprocess.std}"


def _answers(
    bundle: Bundle, chain: Chain, turn: AbstractContextManager[object]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canvas and embedding of each image, and what its mixtures sum to: (M, K), 1 where the PGN does not give them."""
    canvases, embeddings, sums = [], [], []
    spent_ms = 0.0
    for image in bundle.golden.images:
        with turn:
            chain.images[0] = image
            spent_ms += chain.run()["pgn"]
            canvases.append(chain.canvases()[0])
            embeddings.append(chain.embeddings[0].copy())
            mixtures = chain.coefficients[0]
            sums.append(np.ones(1) if mixtures is None else mixtures.sum(axis=-1, dtype=np.float64))
        if spent_ms > GOLDEN_PGN_S * 1e3:
            raise _mismatch(bundle, "frames", f"all within {GOLDEN_PGN_S:g} s of the PGN engine", "more")
    return np.stack(canvases), np.stack(embeddings), np.stack(sums)


def _lengths(embedding: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(embedding.astype(np.float64), axis=1))


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _mismatch(bundle: Bundle, what: str, expected: str, got: object, do: str = AGAIN) -> PairingError:
    return PairingError(f"task {bundle.name}: golden {what}", expected=expected, got=str(got), do=do)
