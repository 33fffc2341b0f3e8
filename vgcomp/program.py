"""The Program: a network as a graph of the dialect, its weights by reference, and where it came from."""

from __future__ import annotations

import copy as _copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from vgcomp import infer, ir
from vgcomp.weights import Weight


@dataclass(frozen=True)
class Source:
    """Where a Program came from; ``fields`` are a zoo entry's settings."""

    kind: Literal["torch", "onnx", "zoo", "saved"]
    name: str
    file: str | None = None
    opset: int | None = None
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PassRecord:
    """What one pass did."""

    name: str
    equivalence: str
    changed: bool
    seconds: float
    stats: dict[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A network with static shapes. Immutable by convention: a pass works on ``copy()``.

    ``weights`` maps the target of each ``get_attr`` node to its Weight, in the nodes' order. ``notes``: text by key
    that goes with it, such as a supernet's marks.
    """

    name: str
    graph: fx.Graph
    weights: dict[str, Weight]
    output_names: tuple[str, ...]
    source: Source
    history: tuple[PassRecord, ...] = ()
    fake_mode: FakeTensorMode = field(default_factory=infer.shared_fake_mode, repr=False, compare=False)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[fx.Node]:
        """The placeholders, in order."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order, as the network's author gave them."""
        return tuple(str(node.target) for node in self.inputs)

    @property
    def outputs(self) -> list[fx.Node]:
        """The nodes returned, in order."""
        (results,) = self.graph.output_node().args
        return list(results)  # type: ignore[arg-type]

    @property
    def n_nodes(self) -> int:
        """Calls in the graph, loop bodies not counted."""
        return sum(node.op == "call_function" for node in self.graph.nodes)

    def copy(self) -> Program:
        """A Program whose graph may be changed; values and weights are shared."""
        return self.with_graph(copy_graph(self.graph))

    def with_graph(self, graph: fx.Graph) -> Program:
        """The same network with another graph; weights that it does not use are dropped."""
        used = set(_weights_used(graph))
        weights = {name: weight for name, weight in self.weights.items() if name in used}
        return replace(self, graph=graph, weights=weights)

    def without_data(self, names: Collection[str]) -> Program:
        """The same network with the data of these weights dropped."""
        weights = {name: weight.absent() if name in names else weight for name, weight in self.weights.items()}
        return replace(self, weights=weights)

    def recorded(self, record: PassRecord) -> Program:
        """The same network with one more pass in its history."""
        return replace(self, history=(*self.history, record))

    def weight_bytes(self) -> int:
        """Bytes of all weights, each once."""
        return sum(weight.nbytes for weight in self.weights.values())

    def parameters(self) -> int:
        """Elements of all weights, each once; constants folded from the code are not counted."""
        return sum(w.numel for name, w in self.weights.items() if not is_constant_name(name))

    def text(self) -> str:
        """The stable text form: one node a line, loops with their bodies indented."""
        from vgcomp.text import program_text

        return program_text(self)

    def save(self, directory: Path) -> None:
        """Writes ``program.json`` and, for weights that are in memory, ``weights.safetensors``.

        Whole or not at all. Raises UsageError if ``directory`` is a file, OSError if it cannot be written.
        """
        from vgcomp.serialize import save_program

        save_program(self, directory)

    @staticmethod
    def load(directory: Path) -> Program:
        """Reads what :meth:`save` wrote. Raises ModelError on anything else."""
        from vgcomp.serialize import load_program

        return load_program(directory)


def _weights_used(graph: fx.Graph) -> Iterator[str]:
    """Names of the weights of a graph and of its loops' bodies."""
    for node in graph.nodes:
        if node.op == "get_attr":
            yield str(node.target)
        if ir.is_loop(node):
            for body in ir.loop_of(node).bodies:
                yield from _weights_used(body.graph)


def is_constant_name(name: str) -> bool:
    """True for ``const_<n>``: a value that the importer computed, not a parameter."""
    head, _, tail = name.rpartition("_")
    return head == "const" and tail.isdigit()


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """The same nodes under the same names; ``meta`` dicts are copied, the values in them shared."""
    new = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        args, kwargs = _mapped(node.args, env), _mapped(node.kwargs, env)
        copied = new.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        copied.meta = _copy.copy(node.meta)
        env[node] = copied
    return new


def _mapped(args: Any, env: dict[fx.Node, fx.Node]) -> Any:
    return fx.node.map_arg(args, lambda node: env[node])
