"""int8 linear layers for CPUs: weights and activations in 8 bits, by ONNX Runtime's own quantisation."""

from __future__ import annotations

import logging

import onnx

from pgn_edge.errors import MissingExtraError


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose linear layers multiply 8-bit integers; everything else stays float32.

    Weights are int8, one scale for each output channel; activations are uint8, their scale taken from each input as it
    comes, so that nothing has to be calibrated. Products of two activations, as in attention, stay float32.

    Args:
        model: float32.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as exc:
        raise MissingExtraError("onnxruntime", "cpu") from exc
    import tempfile
    from pathlib import Path

    source = onnx.ModelProto()
    source.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # advice to preprocess a graph that has nothing left to fold
        try:
            quantize_dynamic(
                source, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(path)
