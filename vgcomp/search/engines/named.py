"""The engines by name."""

from __future__ import annotations

from vgcomp.errors import UsageError
from vgcomp.search.engines.a1 import AlgorithmA1
from vgcomp.search.engines.random_search import RandomSearch
from vgcomp.search.problem import Engine, Problem
from vgcomp.search.require import require_pymoo

ENGINES = ("surrogate", "a1", "nsga2", "unsga3", "random")
_GENETIC = ("nsga2", "unsga3")


def named_engine(name: str, problem: Problem, seed: int) -> Engine:
    """The engine of that name. Raises UsageError for an unknown one, Unavailable where pymoo is not installed."""
    if name not in ENGINES:
        raise UsageError(f"no engine is called {name!r}: there are {', '.join(ENGINES)}")
    if name == "a1":
        return AlgorithmA1(problem, seed)
    if name == "random":
        return RandomSearch(problem, seed)
    if name in _GENETIC:
        require_pymoo(name)
        from vgcomp.search.engines.genetic import Genetic

        return Genetic(problem, seed, name)
    from vgcomp.search.engines.surrogate import Surrogate

    return Surrogate(problem, seed)
