"""ONNX: a Program as a file of standard operators that runs in ONNX Runtime."""

from vgcomp.backends.onnx_export.export import build_model, export_onnx

__all__ = ["build_model", "export_onnx"]
