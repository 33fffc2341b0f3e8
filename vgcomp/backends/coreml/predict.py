"""What each part will need and take on the device, before it is built.

``load_bytes``: what is read to load the part, its weights as they are stored. ``peak_bytes``: those and the most
activations that it holds, in one planned arena. Parts run one after the other, each loaded for its run, so the peak of
the whole is the largest part's; with all of them loaded it is ``resident_bytes``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from vgcomp import ir
from vgcomp.cost_models.base import CostModel
from vgcomp.cost_models.neural_engine import refuses
from vgcomp.device_memory import device_memory
from vgcomp.parts import constants, split
from vgcomp.program import Program
from vgcomp.simulate import node_work, simulate
from vgcomp.targets import Target


@dataclass(frozen=True)
class PartPrediction:
    """Bytes and seconds of one part. ``cpu_ops``: ops that the engine leaves to the CPU, by name."""

    program: Program
    load_bytes: int
    activation_bytes: int
    latency_s: float
    cpu_ops: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        """Weights and activations together."""
        return self.load_bytes + self.activation_bytes


def predict_parts(
    program: Program, target: Target, cost_model: CostModel, weight_bits: int = 16
) -> list[PartPrediction]:
    """The parts in order; ``weight_bits``: of an element as stored, where compression takes it."""
    return [_predict(part, target, cost_model, weight_bits) for part in split(program)]


def peak_bytes(parts: Sequence[PartPrediction]) -> int:
    """Of a run that holds one part at a time."""
    return max(part.peak_bytes for part in parts)


def resident_bytes(parts: Sequence[PartPrediction]) -> int:
    """Of a run that holds all parts loaded."""
    return sum(part.load_bytes for part in parts) + max(part.activation_bytes for part in parts)


def _predict(part: Program, target: Target, cost_model: CostModel, bits: int) -> PartPrediction:
    memory = device_memory(part, target)
    stored = sum(stored_bytes(weight.numel, weight.nbytes, bits) for weight in part.weights.values())
    timeline = simulate(part, target, cost_model)
    activations = memory.total_bytes - memory.weights
    return PartPrediction(part, stored, activations, timeline.latency_s, cpu_ops(part, target))


def stored_bytes(numel: int, nbytes: int, bits: int) -> int:
    """Of a weight: small ones are not compressed (as coremltools has it)."""
    return nbytes if bits >= 16 or numel < 2048 else -(-numel * bits // 8)


def cpu_ops(program: Program, target: Target) -> dict[str, int]:
    """Ops that run on the CPU: what the engine refuses, and what is computed in fp32, which it does not have."""
    fixed = constants(program.graph)
    found = Counter(_name(node) for node in program.graph.nodes if node not in fixed and _on_cpu(node, target))
    return dict(sorted(found.items()))


def _on_cpu(node: fx.Node, target: Target) -> bool:
    work = node_work(node)
    if work is None or node.target in ir.VIEW_OPS:
        return False
    return refuses(work, target) or any(_is_wide(x) for x in (node, *node.all_input_nodes))


def _is_wide(node: fx.Node) -> bool:
    return ir.val(node).dtype in (torch.float32, torch.float64)


def _name(node: fx.Node) -> str:
    return str(node.target).removesuffix(".default")
