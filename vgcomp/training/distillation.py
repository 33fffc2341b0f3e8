"""Distillation: a rewritten program learns to give what the original gives, at its outputs and on the way there.

SnapGen-V trains its compressed decoder with a distillation loss (appendix B), which is not given. Ours: the mean
squared error of the outputs, and of values on the way that both programs have, each over the original's own mean
square, so that no scale counts more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.backends.trainable import TrainableModule
from vgcomp.program import Program
from vgcomp.training.optimizers import load_optimizer, optimizer_tensors
from vgcomp.training.processes import Processes, Single, average_gradients

#: Inputs of iteration ``i``, which depend on the number alone.
Inputs = Callable[[int], Sequence[Tensor]]
#: Below this a value counts as nothing, and its error is not divided by it.
_LEAST = 1e-12


@dataclass(frozen=True)
class DistillationRecipe:
    """``rate``: of Adam. ``features``: the weight of values on the way against the outputs'; ``places``: how many."""

    rate: float = 1e-3
    features: float = 1.0
    places: int = 8


def shared_features(original: Program, rewritten: Program, places: int) -> tuple[str, ...]:
    """Sums that both programs have under one name and in one shape, at most ``places``, evenly apart."""
    shapes = {node.name: ir.val(node).shape for node in original.graph.nodes if node.target is ir.aten.add.Tensor}
    both = [
        node.name
        for node in rewritten.graph.nodes
        if node.target is ir.aten.add.Tensor and shapes.get(node.name) == ir.val(node).shape
    ]
    if len(both) <= places:
        return tuple(both)
    return tuple(both[round((i + 1) * len(both) / places) - 1] for i in range(places))


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error over the mean square of what is wanted."""
    wide = wanted.detach().float()
    return (found.float() - wide).square().mean() / wide.square().mean().clamp_min(_LEAST)


class Distillation:
    """A training (:class:`vgcomp.training.loop.Training`) of a rewritten program against the original.

    ``trained``: names of the weights that learn, by default those that the original does not have; all where there are
    none. ``inputs``: of each iteration, of the original's shapes. ``among``: the processes, this one by default; each
    draws its own inputs. Both programs must have data.
    """

    def __init__(
        self,
        original: Program,
        rewritten: Program,
        inputs: Inputs,
        recipe: DistillationRecipe | None = None,
        trained: Collection[str] | None = None,
        among: Processes | None = None,
    ) -> None:
        self.recipe = recipe or DistillationRecipe()
        new = [name for name in rewritten.weights if name not in original.weights]
        self.original = TrainableModule(original, ())
        self.rewritten = TrainableModule(rewritten, trained if trained is not None else new or None)
        self.inputs = inputs
        self.features = shared_features(original, rewritten, self.recipe.places) if self.recipe.features else ()
        self.optimizer = torch.optim.Adam(self.rewritten.parameters(), lr=self.recipe.rate)
        self.among: Processes = among or Single()
        self._names = original.name, rewritten.name
        self._outputs = [[node.name for node in program.outputs] for program in (original, rewritten)]

    @property
    def about(self) -> Mapping[str, Any]:
        """What was asked for, as JSON."""
        return {"kind": "distillation", "recipe": asdict(self.recipe), "programs": self._names}

    def loss(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(distance of the outputs, mean distance of the features), each relative; the second 0 without features."""
        with torch.no_grad():
            wanted = self.original.values(inputs, {*self.features, *self._outputs[0]})
        found = self.rewritten.values(inputs, {*self.features, *self._outputs[1]})
        pairs = list(zip(self._outputs[1], self._outputs[0], strict=True))
        outputs = torch.stack([relative_error(found[a], wanted[b]) for a, b in pairs]).mean()
        if not self.features:
            return outputs, torch.zeros(())
        return outputs, torch.stack([relative_error(found[name], wanted[name]) for name in self.features]).mean()

    def iterate(self, i: int) -> dict[str, float]:
        """One step of Adam on iteration ``i``'s inputs; returns the distances before it."""
        outputs, features = self.loss(self.inputs(i))
        self.optimizer.zero_grad(set_to_none=True)
        (outputs + self.recipe.features * features).backward()
        average_gradients(self.rewritten.parameters(), self.among)
        self.optimizer.step()
        return {"outputs": float(outputs.detach()), "features": float(features.detach())}

    def distance(self, inputs: Sequence[Tensor]) -> float:
        """The distance of the outputs, for inputs held out."""
        with torch.no_grad():
            return float(self.loss(inputs)[0])

    def tensors(self) -> dict[str, Tensor]:
        """The weights that learn, and the optimizer's state."""
        weights = {f"weights.{name}": value for name, value in self.rewritten.named_weights().items()}
        return weights | {f"optimizer.{name}": value for name, value in optimizer_tensors(self.optimizer).items()}

    def load(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Puts back what ``tensors`` gave."""
        with torch.no_grad():
            for name, parameter in self.rewritten.named_weights().items():
                parameter.copy_(parts["weights"][name])
        load_optimizer(self.optimizer, parts.get("optimizer", {}))

    def program(self) -> Program:
        """The rewritten program with what it has learnt."""
        return self.rewritten.program()
