"""A Program whose weights learn: its graph run one op after the other, each recording its gradient.

:class:`~vgcomp.backends.torch_module.TorchModule` runs in place and writes into buffers that it plans, which is what
gradients forbid. Here every value is a tensor of its own, so memory is what training takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx, nn

from vgcomp import ir
from vgcomp.errors import UsageError
from vgcomp.program import Program, is_constant_name
from vgcomp.weights import from_tensor

Values = Mapping[str, Tensor]


class TrainableModule(nn.Module):
    """A Program as a module that records gradients: call it with the inputs in order; it returns the tuple of outputs.

    ``trained``: the names of weights that are parameters, copies of the program's; by default all of floating point but
    constants folded from the code. The others are buffers and shared. Raises UsageError for a program with sliced
    loops and for a name that no weight has, ModelError where a weight has no data.
    """

    def __init__(self, program: Program, trained: Collection[str] | None = None) -> None:
        super().__init__()
        if any(ir.is_loop(node) or "reuse" in node.meta for node in program.graph.nodes):
            raise UsageError(f"{program.name} is planned to run: train it before slice-and-group and assign-buffers")
        unknown = sorted(set(trained or ()) - program.weights.keys())
        if unknown:
            raise UsageError(f"{program.name} has no weight {unknown[0]!r} to train")
        self._program = program
        self._held: dict[str, str] = {}
        for i, (name, weight) in enumerate(program.weights.items()):
            data = weight.load()
            learns = data.is_floating_point() and not is_constant_name(name) if trained is None else name in trained
            self._held[name] = f"{'parameter' if learns else 'buffer'}_{i}"
            if learns:
                self.register_parameter(self._held[name], nn.Parameter(data.detach().clone()))
            else:
                self.register_buffer(self._held[name], data.detach(), persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs; shapes and dtypes must be those that the program was captured with."""
        outputs = [node.name for node in self._program.outputs]
        values = self.values(inputs, outputs)
        return tuple(values[name] for name in outputs)

    def values(self, inputs: Sequence[Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """Values of the nodes of these names; each is dropped after its last use otherwise."""
        if len(inputs) != len(self._program.inputs):
            raise UsageError(f"{len(self._program.inputs)} inputs wanted, {len(inputs)} given")
        given = iter(inputs)
        last = {x: node for node in self._program.graph.nodes for x in node.all_input_nodes}
        env: dict[fx.Node, Tensor] = {}
        found: dict[str, Tensor] = {}
        for node in self._program.graph.nodes:
            if node.op == "output":
                break
            env[node] = next(given) if node.op == "placeholder" else self._value(node, env)
            if node.name in names:
                found[node.name] = env[node]
            for x in (*node.all_input_nodes, node):
                if last.get(x) in (node, None):
                    env.pop(x, None)
        return found

    def _value(self, node: fx.Node, env: Mapping[fx.Node, Tensor]) -> Tensor:
        if node.op == "get_attr":
            found: Tensor = getattr(self, self._held[str(node.target)])
            return found
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)  # type: ignore[misc,arg-type]
        value: Tensor = node.target(*args, **kwargs)  # type: ignore[operator,misc]
        return value

    def program(self) -> Program:
        """The program with the weights as they are now; they are copies."""
        weights = dict(self._program.weights)
        for name, held in self._held.items():
            if held.startswith("parameter"):
                weights[name] = from_tensor(name, getattr(self, held).detach().clone())
        return replace(self._program, weights=weights)

    def named_weights(self) -> dict[str, nn.Parameter]:
        """The parameters by the names of the program's weights."""
        return {name: getattr(self, held) for name, held in self._held.items() if held.startswith("parameter")}
