"""Where ONNX nodes are put: the main graph, a model-local function, or the body of a Scan or If.

Emitters see one interface, :class:`Scope`, and deal in value names. A scope knows how a constant and
a weight are spelled where it stands: initializers in the main graph, ``Constant`` nodes and
extra inputs in a function, captured names in a subgraph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vgcomp.errors import ModelError

#: Domain of the model-local functions that hold loop bodies; their own nodes are standard ONNX.
FUNCTION_DOMAIN = "vgcomp"

DTYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int8: TensorProto.INT8,
    torch.int16: TensorProto.INT16,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
    torch.float8_e4m3fn: TensorProto.FLOAT8E4M3FN,
    torch.float8_e5m2: TensorProto.FLOAT8E5M2,
}


def onnx_dtype(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch one; ModelError where there is none."""
    if dtype not in DTYPES:
        raise ModelError(f"ONNX has no element type for {dtype}; convert the network to float16 or float32 first")
    return DTYPES[dtype]


@dataclass(frozen=True)
class Value:
    """A tensor in the ONNX file being written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        return len(self.shape)

    @staticmethod
    def like(name: str, tensor: Tensor) -> Value:
        """``name``, with the shape and dtype of a (fake) tensor."""
        return Value(name, tuple(int(d) for d in tensor.shape), tensor.dtype)

    def info(self) -> onnx.ValueInfoProto:
        """Its declaration as a graph's input or output."""
        return helper.make_tensor_value_info(self.name, onnx_dtype(self.dtype), self.shape)


class Names:
    """Hands out names that are not in use."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._used: set[str] = set()

    def reserve(self, name: str) -> None:
        self._used.add(name)

    def fresh(self, hint: str) -> str:
        """``hint``, or ``hint_<n>`` when that is taken."""
        name = hint
        while name in self._used or not name:
            self._next[hint] = self._next.get(hint, 0) + 1
            name = f"{hint}_{self._next[hint]}"
        self._used.add(name)
        return name


@dataclass
class Scope:
    """A list of nodes under construction and the ways to refer to what lies outside it.

    ``constant`` and ``weight`` turn an array or a weight's name into a value name usable here;
    ``model`` is shared by all scopes of a file.
    """

    model: ModelParts
    names: Names
    weight: Callable[[str], str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    #: Only the main graph has initializers; elsewhere constants are nodes.
    initializers: list[TensorProto] | None = None
    _constants: dict[Any, str] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        return self.model.opset

    def op(self, op_type: str, *inputs: str, hint: str = "", **attributes: Any) -> str:
        """Appends a node with one output and returns the output's name."""
        (name,) = self.ops(op_type, inputs, 1, hint=hint, **attributes)
        return name

    def ops(
        self, op_type: str, inputs: Sequence[str], n: int, *, hint: str = "", domain: str = "", **attributes: Any
    ) -> list[str]:
        """Appends a node with ``n`` outputs and returns their names."""
        outputs = [self.names.fresh(hint or op_type.lower()) for _ in range(n)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, domain=domain or None, **attributes))
        return outputs

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """A constant tensor; equal ones are put once a scope."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._put(numpy_helper.from_array(array))
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> str:
        """A constant int64 vector: a shape, axes, pads."""
        return self.constant(np.array(list(values), dtype=np.int64))

    def scalar(self, value: float, dtype: torch.dtype) -> str:
        """A constant scalar of ``dtype``."""
        key = (dtype, repr(value))
        if key not in self._constants:
            tensor = torch.tensor(value, dtype=dtype)
            self._constants[key] = self._put(tensor_proto("", (), dtype, raw_bytes(tensor)))
        return self._constants[key]

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        # allowzero: a dimension of 0 is a size, not "as in the input".
        zero: dict[str, Any] = {"allowzero": 1} if 0 in shape else {}
        return self.op("Reshape", x, self.ints(shape), **zero)

    def cast(self, x: str, dtype: torch.dtype) -> str:
        return self.op("Cast", x, to=onnx_dtype(dtype))

    def as_dtype(self, x: Value, dtype: torch.dtype) -> str:
        """``x`` itself when it has that dtype already."""
        return x.name if x.dtype == dtype else self.cast(x.name, dtype)

    def inner(self) -> Scope:
        """A scope for a subgraph of one of this scope's nodes; it may use this scope's names."""
        return Scope(self.model, self.names, self.weight)

    def graph(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.GraphProto:
        """This scope's nodes as a graph."""
        return helper.make_graph(
            self.nodes,
            name,
            [value.info() for value in inputs],
            [value.info() for value in outputs],
            initializer=self.initializers or [],
        )

    def rename(self, old: str, new: str, since: int) -> bool:
        """Renames a value that a node from number ``since`` on produces; False when none does."""
        if not any(old in node.output for node in self.nodes[since:]):
            return False
        for node in self.nodes[since:]:
            _replace(node.input, old, new)
            _replace(node.output, old, new)
        return True

    def _put(self, tensor: TensorProto) -> str:
        name = self.names.fresh("constant")
        if self.initializers is None:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            return name
        tensor.name = name
        self.initializers.append(tensor)
        return name


def _replace(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new


def raw_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor, row-major."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def tensor_proto(name: str, shape: Sequence[int], dtype: torch.dtype, raw: bytes) -> TensorProto:
    """A tensor held inside the file."""
    tensor = TensorProto(name=name, data_type=onnx_dtype(dtype), raw_data=raw)
    tensor.dims.extend(shape)
    return tensor


@dataclass
class ModelParts:
    """What all scopes of one file share."""

    opset: int
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    _function_names: Names = field(default_factory=Names)
    _by_content: dict[bytes, str] = field(default_factory=dict)

    def add_function(
        self, hint: str, inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[onnx.NodeProto]
    ) -> str:
        """Adds a model-local function, or finds one that reads the same; returns its name."""
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(FUNCTION_DOMAIN, 1)]
        function = helper.make_function(FUNCTION_DOMAIN, "", list(inputs), list(outputs), list(nodes), imports)
        content = function.SerializeToString(deterministic=True)
        if content not in self._by_content:
            function.name = self._function_names.fresh(hint)
            self._by_content[content] = function.name
            self.functions.append(function)
        return self._by_content[content]
