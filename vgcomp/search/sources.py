"""What ``--quality`` and ``--cost`` name: a function, a saved table, a supernet's loss, the compiler's own costs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgcomp.compiled_cost.cost import Cost, Costs
from vgcomp.errors import UsageError
from vgcomp.search.evaluator import CostSource, Quality, QualitySource, reason
from vgcomp.search.tables import SUFFIXES, cost_of, read_costs, read_qualities
from vgcomp.space import Candidate, Option, Space

_LOSS = "loss:"
COMPILED = "compiled"

#: The ways to say how good a candidate is, for the error where none is said.
QUALITIES = (
    "package.module:function (your own, of the candidate's options by name), FILE.json or FILE.jsonl (a saved table), "
    "or loss:CHECKPOINT (the denoising loss of a supernet's weights)"
)


def quality_source(text: str | None) -> QualitySource:
    """What ``--quality`` names. Raises UsageError for nothing, and for what is none of :data:`QUALITIES`."""
    if not text:
        raise UsageError(f"--quality is wanted, nothing stands in for it: {QUALITIES}")
    if text.startswith(_LOSS):
        return InheritedQuality(text.removeprefix(_LOSS))
    if Path(text).suffix in SUFFIXES:
        return QualityTable(text)
    if _is_function(text):
        return QualityFunction(text)
    raise UsageError(f"--quality {text}: it is {QUALITIES}")


def cost_source(text: str, target: str, memory: int | None) -> CostSource:
    """What ``--cost`` names: ``compiled``, on a target within so many bytes, a table or a function.

    Raises UsageError for anything else.
    """
    if text == COMPILED:
        return CompilerCosts(target, memory)
    if Path(text).suffix in SUFFIXES:
        return CostTable(text)
    if _is_function(text):
        return CostFunction(text)
    raise UsageError(
        f"--cost {text}: it is {COMPILED}, package.module:function (your own, of the candidate's options by name), "
        "or FILE.json or FILE.jsonl (a saved table)"
    )


def _is_function(text: str) -> bool:
    module, _, name = text.partition(":")
    return bool(name) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


@dataclass(frozen=True)
class QualityTable:
    """A saved table of qualities; see :mod:`vgcomp.search.tables`."""

    path: str

    def open(self, space: Space) -> Quality:
        return read_qualities(Path(self.path), space)


@dataclass(frozen=True)
class CostTable:
    """A saved table of costs; see :mod:`vgcomp.search.tables`."""

    path: str

    def open(self, space: Space) -> Costs:
        return read_costs(Path(self.path), space)


@dataclass(frozen=True)
class QualityFunction:
    """``package.module:function``: a function of the candidate's options by name that returns a number."""

    name: str

    def open(self, space: Space) -> Quality:
        return _AskedQuality(resolve(self.name), space)


@dataclass(frozen=True)
class CostFunction:
    """``package.module:function``: of the options by name; returns a Cost, or ``latency_s`` and ``peak_bytes``."""

    name: str

    def open(self, space: Space) -> Costs:
        return _AskedCosts(resolve(self.name), space)


@dataclass(frozen=True)
class InheritedQuality:
    """Minus the denoising loss of a candidate with the weights that it inherits from a supernet's checkpoint."""

    checkpoint: str

    def open(self, space: Space) -> Quality:
        from vgcomp.training.inherited import InheritedLoss

        loss = InheritedLoss(self.checkpoint)
        if loss.space.choices != space.choices:
            raise UsageError(f"{self.checkpoint} holds a supernet of the space {loss.space.name}, not of {space.name}")
        return loss


@dataclass(frozen=True)
class CompilerCosts:
    """What candidates cost when they are compiled for a target within a budget, bytes; None for no budget."""

    target: str
    memory: int | None

    def open(self, space: Space) -> Costs:
        from vgcomp.compiled_cost.costs import CompiledCosts

        return CompiledCosts(space, self.target, self.memory)


@dataclass(frozen=True)
class _AskedQuality:
    function: Callable[[Mapping[str, Option]], Any]
    space: Space

    def quality(self, candidate: Candidate) -> float:
        return float(self.function(self.space.named(candidate)))


@dataclass(frozen=True)
class _AskedCosts:
    function: Callable[[Mapping[str, Option]], Any]
    space: Space

    def cost(self, candidate: Candidate) -> Cost:
        found = self.function(self.space.named(candidate))
        return found if isinstance(found, Cost) else cost_of(found)


def resolve(name: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; modules in the working directory are found, too.

    Raises UsageError where there is none.
    """
    module_name, _, path = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the script `vgcomp` does not look here by itself
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # an import runs the user's code
        raise UsageError(f"{name} cannot be loaded: {reason(error)}") from error
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
