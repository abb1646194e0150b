"""int8 linear layers for CPUs: weights and activations in 8 bits, by ONNX Runtime's own quantisation."""

from __future__ import annotations

import onnx

from pgn_edge.errors import ExportError
from pgn_edge.extras import import_onnxruntime
from pgn_edge.nn.weights import mapped


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose linear layers multiply 8-bit integers; everything else stays float32.

    Weights are int8 of 7 bits, one scale for each output channel; activations are uint8, their scale taken from each
    input as it comes, so that nothing has to be calibrated. Products of two activations, as in attention, stay float32.

    7 bits, since x86 without VNNI adds pairs of uint8 x int8 products in 16 bits, which saturate with 8: the same file
    would be right on one machine and wrong on the next (cosine 0.978 instead of 0.9999 for `builtin`).

    Args:
        model: float32.

    Raises:
        ExportError: the quantiser failed.
        MissingExtraError: onnxruntime is not installed.
    """
    quantization = import_onnxruntime("onnxruntime.quantization")
    import tempfile
    from pathlib import Path

    source = onnx.ModelProto()
    source.CopyFrom(model)
    # Its log is silenced: it only advises to preprocess a graph that has nothing left to fold.
    silently = mapped("int8", "a graph that onnxruntime can quantise", "export without --int8", kind=ExportError)
    with tempfile.TemporaryDirectory() as folder, silently:
        path = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            source,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(path)
