"""One call of a module: which of its arguments are tensors, what kind of call it is, and its capture as a Program."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vgcomp.capture import capture
from vgcomp.program import Program

#: Arguments that a capture may hold fixed: calls that differ in them are of different kinds.
_FIXED = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size)
#: The wrapped module's name within the module that is captured.
_INNER = "inner"


class Refused(Exception):
    """A call that must run as it is; the text says why."""


@dataclass(frozen=True)
class Call:
    """A call's arguments. ``leaves``: all of them without their containers, None in the place of each tensor."""

    tensors: tuple[Tensor, ...]
    leaves: tuple[Any, ...]
    places: tuple[int, ...]
    spec: pytree.TreeSpec
    key: Any

    @property
    def device(self) -> torch.device | None:
        """Where the first tensor of more than one element lies, which outputs go back to."""
        sized = [tensor for tensor in self.tensors if tensor.numel() > 1] or list(self.tensors)
        return sized[0].device if sized else None


@dataclass(frozen=True)
class Captured:
    """A call as a Program. ``parameters``: the module's parameter for each weight without data.

    ``spec``, ``leaves``: what the module returns, None in the place of each tensor.
    """

    program: Program
    parameters: dict[str, str]
    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    places: tuple[int, ...]

    def rebuilt(self, outputs: Sequence[Tensor]) -> Any:
        """What the module would return, from the program's outputs."""
        leaves = list(self.leaves)
        for place, output in zip(self.places, outputs, strict=True):
            leaves[place] = output
        return pytree.tree_unflatten(leaves, self.spec)


def is_ours(function: Any) -> bool:
    """True for a ``forward`` that was put into a module by wrapping it."""
    return bool(getattr(function, "__vgcomp__", False))


def read_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call's tensors and its kind. Raises Refused for one that no capture can stand for."""
    if module.training:
        raise Refused("it is in training mode; call eval()")
    if torch.is_grad_enabled():
        raise Refused("gradients are recorded; call the pipeline under torch.no_grad()")
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    if not places:
        raise Refused("it was called without a tensor")
    fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    for leaf in fixed:
        if type(leaf) not in _FIXED:
            raise Refused(f"an argument is a {type(leaf).__name__}, which is neither a tensor nor a plain value")
    tensors = tuple(leaves[i] for i in places)
    kinds = tuple((tuple(t.shape), t.dtype) for t in tensors)
    dtypes = frozenset(p.dtype for p in module.parameters())
    # 1, 1.0 and True are equal, and no network needs treat them so.
    values = tuple((type(leaf), leaf) for leaf in fixed)
    return Call(tensors, tuple(fixed), places, spec, (spec, kinds, values, dtypes))


def capture_call(module: nn.Module, call: Call, name: str) -> Captured:
    """Captures ``module`` called so. Parameters are seen without their data.

    Raises ModelError where it cannot be traced, Refused where its arguments change or its results are no tensors.
    """
    outcome = _Outcome()
    flat = _Flat(_without_data(module), call, outcome)
    with torch.inference_mode(False), torch.no_grad():
        examples = [torch.empty(t.shape, dtype=t.dtype) for t in call.tensors]
        program = capture(flat, examples, name=name)
    outcome.check()
    names = {path for path, _ in flat.named_parameters(remove_duplicate=False)}
    parameters = {weight: weight.removeprefix(f"{_INNER}.") for weight in program.weights if weight in names}
    return Captured(program.without_data(names), parameters, outcome.spec, outcome.leaves, outcome.places)


def _without_data(module: nn.Module) -> nn.Module:
    """A copy on the CPU with parameters of untouched memory, buffers as they are, and nothing of ours in it."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", copy=True)
    try:
        with torch.inference_mode(False):
            copied = copy.deepcopy(module, memo)
    except Exception as error:  # a module may hold anything
        raise Refused(f"it cannot be copied for its capture: {error}") from error
    for part in copied.modules():
        if is_ours(part.__dict__.get("forward")):
            del part.__dict__["forward"]
    return copied


@dataclass
class _Outcome:
    """What the module did when it was traced. Not the flat module's own attributes: tracing puts those back."""

    spec: Any = None
    leaves: tuple[Any, ...] = ()
    places: tuple[int, ...] = ()
    changed: bool = False

    def check(self) -> None:
        """Raises Refused where the call did more than compute tensors from tensors."""
        if self.changed:
            raise Refused("it changes the containers that it is given")
        other = next((leaf for leaf in self.leaves if type(leaf) not in _FIXED), None)
        if other is not None:
            raise Refused(f"it returns a {type(other).__name__}, which is neither a tensor nor a plain value")


class _Flat(nn.Module):
    """A module called as in ``call``: tensors in, tensors out, in the order of their places."""

    def __init__(self, inner: nn.Module, call: Call, outcome: _Outcome) -> None:
        super().__init__()
        self.inner = inner
        self.call = call
        self.outcome = outcome

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self.call.leaves)
        for place, tensor in zip(self.call.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.call.spec)
        result = self.inner(*args, **kwargs)
        left, spec = pytree.tree_flatten((args, kwargs))
        outcome = self.outcome
        outcome.changed = spec != self.call.spec or any(a is not b for a, b in zip(left, leaves, strict=True))
        found, outcome.spec = pytree.tree_flatten(result)
        outcome.places = tuple(i for i, leaf in enumerate(found) if isinstance(leaf, Tensor))
        outcome.leaves = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in found)
        return tuple(found[i] for i in outcome.places)
