"""Import of ONNX files: ``load_onnx(path, dims)`` gives a Program.

A file passes through four stages, a module each: :mod:`reader` (parse, refuse what is damaged),
:mod:`dims` (bind dynamic dimensions), :mod:`convert` with :mod:`ops` (emit; what is known is computed on
the way, so that shape arithmetic vanishes) and :mod:`raising` (exporters' patterns become norms,
attention and activations again).
"""

from __future__ import annotations

from vgcomp.onnx_import.convert import load_onnx

__all__ = ["load_onnx"]
