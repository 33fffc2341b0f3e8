"""Runs two Programs on the same random inputs and compares their outputs.

A weight whose data is absent gets seeded random numbers, the same in both. The tolerance follows from the
dtype and the equivalence class: ``exact`` is bit for bit, ``reassociated`` allows for another order of
floating-point operations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.errors import ModelError
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.units import format_bytes
from vgcomp.weights import Weight

Status = Literal["passed", "failed", "skipped"]

#: Largest difference over the reference's largest value, by the coarsest dtype of the program.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class CheckResult:
    """What a comparison found. Errors are over all outputs, None when nothing was run.

    ``max_rel_error`` is relative to the largest value of the reference's output. ``shape`` and ``dtype`` are
    those of the first input. ``reason`` is one line: why it failed or was skipped, else the tolerance held.
    """

    status: Status
    max_abs_error: float | None
    max_rel_error: float | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    reason: str


def check(
    reference: Program,
    candidate: Program,
    *,
    seed: int = 0,
    memory_limit: int | None = None,
    equivalence: Literal["exact", "reassociated", "approximate"] = "reassociated",
    tolerance: float | None = None,
) -> CheckResult:
    """Compares ``candidate`` with ``reference`` on the CPU.

    Skipped when either would need more than ``memory_limit`` bytes (weights included). ``tolerance``
    overrides the dtype's; ``approximate`` candidates have no bound of their own and need one. Raises ModelError
    when the two have not the same inputs and outputs.
    """
    _same_interface(reference, candidate)
    shape, dtype = _first_shape(reference)
    # The reference's outputs are kept while the candidate runs.
    needed = max(_bytes_to_run(program) for program in (reference, candidate)) + _output_bytes(reference)
    if memory_limit is not None and needed > memory_limit:
        reason = f"running needs {format_bytes(needed)}, more than {format_bytes(memory_limit)}"
        return CheckResult("skipped", None, None, shape, dtype, reason)
    absent = (name for name, weight in candidate.weights.items() if not weight.present)
    made = next((name for name in absent if name not in reference.weights), None)
    if made is not None:
        reason = f"weight {made!r} was computed from weights without data, and has none"
        return CheckResult("skipped", None, None, shape, dtype, reason)
    weights = load_weights(reference, seed=seed)
    # The candidate knows what inputs it was made for.
    inputs = random_inputs(candidate, seed=seed)
    wanted = TorchModule(reference, weights=weights)(*inputs)
    found = TorchModule(candidate, weights=_weights_of(candidate, reference, weights, seed))(*inputs)
    bound = 0.0 if equivalence == "exact" else _tolerance(reference, tolerance)
    return _compare(reference.output_names, wanted, found, bound, shape, dtype)


def random_inputs(program: Program, *, seed: int = 0) -> list[Tensor]:
    """Standard normal values for every input (floating) or small whole numbers (integer), seeded by its name.

    An input with a domain (``meta["domain"]``, see ``fold-timestep``) has one value of that, everywhere.
    """
    return [_random_input(node, seed) for node in program.inputs]


def load_weights(*programs: Program, seed: int = 0) -> dict[str, Tensor]:
    """Every weight of the programs: its data, or seeded random numbers where there are none.

    Matrices and kernels are scaled by their fan-in so that activations stay near 1; vectors that scale a
    norm lie around 1 and biases around 0, none of them zero.
    """
    found: dict[str, Tensor] = {}
    for program in programs:
        for name, weight in program.weights.items():
            if name not in found:
                found[name] = _load(weight, seed)
    return found


def _load(weight: Weight, seed: int) -> Tensor:
    return weight.load() if weight.present else random_weight(weight.name, weight.shape, weight.dtype, seed)


def _weights_of(candidate: Program, reference: Program, loaded: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The candidate's weights, those ``loaded`` for the reference where both name the same data.

    Equal names are not enough: two files may call different tensors alike, and that is a difference to find.
    """
    found: dict[str, Tensor] = {}
    for name, weight in candidate.weights.items():
        other = reference.weights.get(name)
        same = other is not None and (other.data, other.shape, other.dtype) == (weight.data, weight.shape, weight.dtype)
        found[name] = loaded[name] if same else _load(weight, seed)
    return found


def random_weight(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random values for a weight of that name; the same for the same name, shape and seed."""
    generator = _generator(name, seed)
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    values = torch.randn(shape, generator=generator, dtype=torch.float32)
    if len(shape) >= 2:
        return (values / math.sqrt(math.prod(shape[1:]))).to(dtype)
    centre = 0.0 if name.endswith("bias") else 1.0
    return (centre + 0.1 * values).to(dtype)


def _random_input(node: fx.Node, seed: int) -> Tensor:
    value = ir.val(node)
    generator = _generator(str(node.target), seed)
    if "domain" in node.meta:
        chosen = int(torch.randint(0, len(node.meta["domain"]), (), generator=generator))
        dense = torch.full(value.shape, node.meta["domain"][chosen]).to(value.dtype)
    elif value.dtype.is_floating_point:
        dense = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
    elif value.dtype == torch.bool:
        dense = torch.rand(value.shape, generator=generator) < 0.5
    else:
        dense = torch.randint(0, 10, value.shape, generator=generator).to(value.dtype)
    if dense.stride() == value.stride():
        return dense
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(dense)


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _bytes_to_run(program: Program) -> int:
    return program.weight_bytes() + peak_activation_bytes(program, workspace="cpu")


def _output_bytes(program: Program) -> int:
    return sum(ir.nbytes(ir.val(node)) for node in program.outputs)


def _first_shape(program: Program) -> tuple[tuple[int, ...], torch.dtype]:
    if not program.inputs:
        return (), torch.float32
    value = ir.val(program.inputs[0])
    return tuple(value.shape), value.dtype


def _same_interface(reference: Program, candidate: Program) -> None:
    for what, ours, theirs in (
        ("inputs", _interface(reference.inputs), _interface(candidate.inputs)),
        ("outputs", _interface(reference.outputs), _interface(candidate.outputs)),
    ):
        if ours != theirs:
            raise ModelError(f"{reference.name} and {candidate.name} differ in their {what}: {ours} and {theirs}")


def _interface(nodes: list[fx.Node]) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(ir.val(node).shape), ir.val(node).dtype) for node in nodes]


def _tolerance(program: Program, given: float | None) -> float:
    if given is not None:
        return given
    values: Mapping[torch.dtype, float] = TOLERANCE
    dtypes = {ir.val(node).dtype for node in (*program.inputs, *program.outputs)}
    dtypes |= {weight.dtype for weight in program.weights.values()}
    return max((values[dtype] for dtype in dtypes if dtype in values), default=0.0)


def _compare(
    names: tuple[str, ...],
    wanted: tuple[Tensor, ...],
    found: tuple[Tensor, ...],
    bound: float,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> CheckResult:
    worst_abs, worst_rel, failed = 0.0, 0.0, ""
    for name, ours, theirs in zip(names, wanted, found, strict=True):
        if not torch.isfinite(ours).all():
            reason = f"output {name!r} of the unmodified network is not finite on random inputs: nothing to compare"
            return CheckResult("skipped", None, None, shape, dtype, reason)
        absolute, relative = _errors(ours, theirs)
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if not relative <= bound and not failed:
            failed = f"output {name!r} differs by {relative:.3g} of its largest value, more than {bound:.3g}"
    status: Status = "failed" if failed else "passed"
    return CheckResult(status, worst_abs, worst_rel, shape, dtype, failed or f"within {bound:.3g} of the largest value")


def _errors(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Largest difference, and the same over the reference's largest value; infinite where theirs is not finite."""
    if ours.numel() == 0 or torch.equal(ours, theirs):
        return 0.0, 0.0
    a, b = ours.to(torch.float64), theirs.to(torch.float64)
    difference = float((a - b).abs().max())
    if not math.isfinite(difference):
        return math.inf, math.inf
    largest = float(a.abs().max())
    return difference, difference / largest if largest else math.inf
