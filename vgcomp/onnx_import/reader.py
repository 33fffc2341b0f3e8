"""Reads an ONNX file and says plainly what is wrong with it. No tensor data is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as onnx_passes

from vgcomp.errors import ModelError, UsageError

#: Operator-set versions whose meaning the emitters were written to. From 21 on, operators were
#: re-published mostly for new element types; those that changed are handled by version.
OLDEST_OPSET, NEWEST_OPSET = 13, 25

STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxFile:
    """A parsed file: its graph with functions inlined, dead nodes removed, nodes in order."""

    path: Path
    model: ir.Model
    opset: int

    @property
    def graph(self) -> ir.Graph:
        """The model's main graph."""
        return self.model.graph


def read(path: str | Path) -> OnnxFile:
    """Parses ``path``.

    Raises UsageError for a path that is no file and ModelError for a file that is not ONNX, is
    truncated, or is of an operator set not supported.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give the .onnx file in it")
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    model = _parse(path)
    opset = _opset(path, model)
    try:
        if model.functions:
            onnx_passes.InlinePass()(model)
        onnx_passes.RemoveUnusedNodesPass()(model)
        model.graph.sort()
    except Exception as error:  # the reader's passes raise many kinds on a graph that is not well formed
        raise ModelError(f"{path} holds a graph that is not well formed: {first_line(error)}") from error
    return OnnxFile(path, model, opset)


def first_line(error: BaseException) -> str:
    """An exception's first line, for a message of one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _parse(path: Path) -> ir.Model:
    try:
        model = ir.load(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf and the reader raise many kinds on damaged bytes
        raise ModelError(f"{path} is truncated or not an ONNX file ({first_line(error)})") from error
    if not model.opset_imports or not model.graph.outputs:
        raise ModelError(f"{path} is empty, truncated or not an ONNX file: it has no graph with outputs")
    return model


def _opset(path: Path, model: ir.Model) -> int:
    versions = [model.opset_imports[d] for d in STANDARD_DOMAINS if d in model.opset_imports]
    if not versions:
        raise ModelError(f"{path} imports no standard ONNX operator set, only {', '.join(model.opset_imports)}")
    opset = max(versions)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{path} is of ONNX opset {opset}; {OLDEST_OPSET} to {NEWEST_OPSET} are supported"
            " (onnx.version_converter can convert it)"
        )
    return opset
