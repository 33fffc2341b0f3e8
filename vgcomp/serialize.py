"""Programs on disk: ``program.json`` (the graph, a node a line) and ``weights.safetensors``.

Nothing in either executes when read: ops are looked up by name in the dialect. What is read back is
the same Program: names, arguments, values with their strides, loops with bodies, history.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import infer, ir
from vgcomp.errors import InternalError, ModelError
from vgcomp.files import staged_directory
from vgcomp.program import PassRecord, Program, Source
from vgcomp.weights import Absent, ConvertedData, FileData, PickedData, SafetensorsData, TensorData, Weight

SCHEMA = "vgcomp.program/1"
PROGRAM_FILE = "program.json"
WEIGHTS_FILE = "weights.safetensors"

_TARGETS: dict[str, Any] = {str(op): op for op in ir.DIALECT} | {"sliced": ir.sliced, "getitem": operator.getitem}
_NAMES = {target: name for name, target in _TARGETS.items()}
_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
_FORMATS = {
    str(f).removeprefix("torch."): f
    for f in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
#: Entries of ``meta`` that are kept beside the value.
_META = ("scope", "reuse", "part", "domain")


def save_program(program: Program, directory: Path) -> None:
    """Writes a Program, whole or not at all. Weights in memory go to a file here; others are referenced.

    Raises UsageError if ``directory`` is a file, OSError if it cannot be written.
    """
    directory = Path(directory).absolute()
    stored = _stored(program.weights, directory)
    with staged_directory(directory) as staged:
        if stored:
            _save_weights(stored, staged / WEIGHTS_FILE)
        (staged / PROGRAM_FILE).write_text(_program_text(program, directory, set(stored)), encoding="utf-8")


def load_program(directory: Path) -> Program:
    """Reads a Program. Raises ModelError for what :func:`save_program` did not write."""
    directory = Path(directory).absolute()
    path = directory / PROGRAM_FILE
    if not path.is_file():
        raise ModelError(f"{directory} holds no {PROGRAM_FILE}: it is not a saved program")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ModelError(f"{path} is not of schema {SCHEMA}")
    try:
        return _program(data, directory)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _program_text(program: Program, directory: Path, stored: set[str]) -> str:
    """JSON with a node and a weight a line."""
    head = {
        "schema": SCHEMA,
        "name": program.name,
        "source": asdict(program.source),
        "history": [asdict(record) for record in program.history],
        "notes": dict(program.notes),
        "outputs": list(program.output_names),
    }
    weights = [_weight_data(weight, directory, weight.name in stored) for weight in program.weights.values()]
    parts = [json.dumps(head)[1:-1], f'"weights": {_lines(weights)}', f'"graph": {_lines(_graph_data(program.graph))}']
    return "{" + ",\n".join(parts) + "}\n"


def _lines(items: list[Any]) -> str:
    return "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in items) + "\n]"


def _program(data: Mapping[str, Any], directory: Path) -> Program:
    source = dict(data["source"])
    source["fields"] = tuple((name, value) for name, value in source["fields"])
    weights = [_weight(item, directory) for item in data["weights"]]
    return Program(
        data["name"],
        _graph(data["graph"]),
        {weight.name: weight for weight in weights},
        tuple(data["outputs"]),
        Source(**source),
        tuple(PassRecord(**record) for record in data["history"]),
        notes={str(key): str(text) for key, text in data.get("notes", {}).items()},
    )


# -- weights -----------------------------------------------------------------------------------------


def _stored(weights: Mapping[str, Weight], directory: Path) -> dict[str, Tensor]:
    """Tensors for the weights file: those in memory, and those in the file that it replaces."""
    replaced = directory / WEIGHTS_FILE
    made = (TensorData, ConvertedData, PickedData)
    in_memory = any(isinstance(weight.data, made) for weight in weights.values())
    return {
        name: weight.load()
        for name, weight in weights.items()
        if isinstance(weight.data, made) or (in_memory and _lies_in(weight, replaced))
    }


def _lies_in(weight: Weight, path: Path) -> bool:
    return isinstance(weight.data, (SafetensorsData, FileData)) and Path(weight.data.path).absolute() == path


def _save_weights(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():
        # The format refuses tensors that share memory.
        pointer = tensor.untyped_storage().data_ptr()
        alone[name] = tensor.clone() if pointer in seen else tensor.contiguous()
        seen.add(pointer)
    save_file(alone, path)


def _weight_data(weight: Weight, directory: Path, stored: bool) -> dict[str, Any]:
    return {
        "name": weight.name,
        "shape": list(weight.shape),
        "dtype": _dtype_name(weight.dtype),
        "data": {"kind": "safetensors", "path": WEIGHTS_FILE, "key": weight.name}
        if stored
        else _reference(weight, directory),
    }


def _reference(weight: Weight, directory: Path) -> dict[str, Any]:
    data = weight.data
    if isinstance(data, FileData):
        path = _relative(data.path, directory)
        return {"kind": "file", "path": path, "offset": data.offset, "length": data.length}
    if isinstance(data, SafetensorsData):
        return {"kind": "safetensors", "path": _relative(data.path, directory), "key": data.key}
    if isinstance(data, Absent):
        return {"kind": "absent"}
    raise InternalError(f"weight {weight.name!r} is in memory and was not stored")


def _relative(path: Path, directory: Path) -> str:
    """Relative inside the folder, so that it can be moved; absolute elsewhere."""
    path = Path(path).absolute()
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def _weight(item: Mapping[str, Any], directory: Path) -> Weight:
    kind, data = item["data"]["kind"], item["data"]
    found: FileData | SafetensorsData | Absent
    if kind == "file":
        found = FileData(directory / data["path"], int(data["offset"]), int(data["length"]))
    elif kind == "safetensors":
        found = SafetensorsData(directory / data["path"], data["key"])
    elif kind == "absent":
        found = Absent()
    else:
        raise ValueError(f"weight data of kind {kind!r}")
    return Weight(item["name"], tuple(item["shape"]), _DTYPES[item["dtype"]], found)


# -- graphs ------------------------------------------------------------------------------------------


def _graph_data(graph: fx.Graph) -> list[dict[str, Any]]:
    return [_node_data(node) for node in graph.nodes]


def _node_data(node: fx.Node) -> dict[str, Any]:
    target = node.target if isinstance(node.target, str) else _NAMES[node.target]
    data: dict[str, Any] = {"op": node.op, "name": node.name, "target": target}
    if node.args:
        data["args"] = [_encoded(arg) for arg in node.args]
    if node.kwargs:
        data["kwargs"] = {name: _encoded(arg) for name, arg in node.kwargs.items()}
    if "val" in node.meta:
        data["val"] = _value_data(node.meta["val"])
    data |= {name: node.meta[name] for name in _META if name in node.meta}
    return data


def _graph(items: list[Any]) -> fx.Graph:
    graph = fx.Graph()
    env: dict[str, fx.Node] = {}
    for item in items:
        args = tuple(_decoded(arg, env) for arg in item.get("args", ()))
        kwargs = {name: _decoded(arg, env) for name, arg in item.get("kwargs", {}).items()}
        target = _TARGETS[item["target"]] if item["op"] == "call_function" else item["target"]
        node = graph.create_node(item["op"], target, args, kwargs, item["name"])
        if node.name != item["name"]:
            raise ValueError(f"the name {item['name']!r} cannot be had")
        node.meta = {name: item[name] for name in _META if name in item}
        if "val" in item:
            node.meta["val"] = _value(item["val"])
        env[item["name"]] = node
    return graph


def _value_data(value: Any) -> Any:
    """(dtype, shape[, strides]) of one tensor, or a list of these."""
    if not isinstance(value, Tensor):
        return {"tuple": [_value_data(item) for item in value]}
    data: list[Any] = [_dtype_name(value.dtype), list(value.shape)]
    return data if list(value.stride()) == _row_major(value.shape) else [*data, list(value.stride())]


def _value(data: Any) -> Any:
    if isinstance(data, dict):
        return tuple(_value(item) for item in data["tuple"])
    return infer.fake_tensor(data[1], _DTYPES[data[0]], data[2] if len(data) > 2 else None)


def _row_major(shape: torch.Size) -> list[int]:
    return [math.prod(max(size, 1) for size in shape[i + 1 :]) for i in range(len(shape))]


def _encoded(arg: Any) -> Any:
    """An argument as JSON; what JSON has no word for is an object with one key."""
    if arg is None or isinstance(arg, (bool, int, str)):
        return arg
    if isinstance(arg, float):
        return arg if math.isfinite(arg) else {"float": repr(arg)}
    if isinstance(arg, fx.Node):
        return {"node": arg.name}
    if isinstance(arg, tuple):
        return {"tuple": [_encoded(item) for item in arg]}
    if isinstance(arg, list):
        return [_encoded(item) for item in arg]
    if isinstance(arg, torch.dtype):
        return {"dtype": _dtype_name(arg)}
    if isinstance(arg, torch.memory_format):
        return {"memory_format": str(arg).removeprefix("torch.")}
    if isinstance(arg, ir.Loop):
        return {"loop": _loop_data(arg)}
    raise InternalError(f"an argument of type {type(arg).__name__} cannot be saved")


def _decoded(data: Any, env: Mapping[str, fx.Node]) -> Any:
    if isinstance(data, list):
        return [_decoded(item, env) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, value),) = data.items()
    if kind == "node":
        return env[value]
    if kind == "tuple":
        return tuple(_decoded(item, env) for item in value)
    return _DECODERS[kind](value)


def _loop_data(loop: ir.Loop) -> dict[str, Any]:
    pipeline = {} if loop.pipeline is None else {"pipeline": _pipeline_data(loop.pipeline)}
    return pipeline | {
        "name": loop.name,
        "note": loop.note,
        "operand_axes": [_axis_data(axis) for axis in loop.operand_axes],
        "results": [_result_data(result) for result in loop.results],
        "steps": [[step.body, list(step.reads), list(step.writes)] for step in loop.steps],
        "bodies": [_body_data(body) for body in loop.bodies],
    }


def _loop(data: Mapping[str, Any]) -> ir.Loop:
    return ir.Loop(
        data["name"],
        tuple(_body(item) for item in data["bodies"]),
        tuple(ir.Step(body, _spans(reads), _spans(writes)) for body, reads, writes in data["steps"]),
        tuple(_axis(item) for item in data["operand_axes"]),
        tuple(_result(item) for item in data["results"]),
        data["note"],
        _pipeline(data["pipeline"]) if "pipeline" in data else None,
    )


def _pipeline_data(pipeline: ir.Pipeline) -> dict[str, Any]:
    return {"cuts": [list(cuts) for cuts in pipeline.cuts], "engines": list(pipeline.engines)}


def _pipeline(data: Mapping[str, Any]) -> ir.Pipeline:
    cuts = tuple(tuple(int(cut) for cut in cuts) for cuts in data["cuts"])
    return ir.Pipeline(cuts, tuple(int(engine) for engine in data["engines"]))


def _axis_data(axis: ir.Axis | None) -> dict[str, int] | None:
    return None if axis is None else asdict(axis)


def _axis(data: Mapping[str, int] | None) -> ir.Axis | None:
    return None if data is None else ir.Axis(**data)


def _result_data(result: ir.Result) -> dict[str, Any]:
    return {
        "shape": list(result.shape),
        "dtype": _dtype_name(result.dtype),
        "axis": _axis_data(result.axis),
        "combine": result.combine,
        "into": result.into,
        "capacity": result.capacity,
        "stride": None if result.stride is None else list(result.stride),
    }


def _result(data: Mapping[str, Any]) -> ir.Result:
    return ir.Result(
        tuple(data["shape"]),
        _DTYPES[data["dtype"]],
        _axis(data["axis"]),
        data["combine"],
        data["into"],
        data["capacity"],
        None if data["stride"] is None else tuple(data["stride"]),
    )


def _body_data(body: ir.Body) -> dict[str, Any]:
    return {
        "operands": list(body.operands),
        "results": list(body.results),
        "carries_in": list(body.carries_in),
        "carries_out": list(body.carries_out),
        "graph": _graph_data(body.graph),
    }


def _body(data: Mapping[str, Any]) -> ir.Body:
    lists = (tuple(data[name]) for name in ("operands", "results", "carries_in", "carries_out"))
    return ir.Body(_graph(data["graph"]), *lists)


def _spans(data: list[Any]) -> tuple[ir.Span | None, ...]:
    return tuple(None if span is None else (int(span[0]), int(span[1])) for span in data)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_DECODERS: dict[str, Any] = {
    "float": float,
    "dtype": _DTYPES.__getitem__,
    "memory_format": _FORMATS.__getitem__,
    "loop": _loop,
}
