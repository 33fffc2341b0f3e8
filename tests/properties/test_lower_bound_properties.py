"""The lower bound against brute force over every execution order of random small graphs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sliced_examples import EXAMPLES
from vgcomp import lower_bound
from vgcomp.lower_bound import Problem, Task
from vgcomp.memory import analyse


@st.composite
def problems(draw: st.DrawFn, max_tasks: int = 9, reuse: bool = False) -> Problem:
    """Random ops over random buffers; some make two results, some none, some buffers are kept."""
    tasks: list[Task] = []
    sizes: list[int] = []
    for t in range(draw(st.integers(1, max_tasks))):
        known = list(range(len(sizes)))
        reads = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
        made = draw(st.lists(st.integers(0, 9), min_size=1, max_size=2))
        writes = tuple(range(len(sizes), len(sizes) + len(made)))
        options = tuple((b, min(made[0], sizes[b])) for b in reads) if reuse else ()
        sizes.extend(made)
        tasks.append(Task(f"t{t}", tuple(reads), writes, draw(st.integers(0, 3)), options))
    kept = draw(st.frozensets(st.sampled_from(range(len(sizes))), max_size=2))
    return Problem(tuple(tasks), tuple(sizes), kept, draw(st.integers(0, 4)))


def _live(problem: Problem, done: int) -> int:
    """Bytes live between ops once the ops in the bit set ``done`` have run."""
    total = problem.base
    for b, size in enumerate(problem.sizes):
        born = any(done >> t & 1 for t, task in enumerate(problem.tasks) if b in task.writes)
        pending = any(not done >> t & 1 for t, task in enumerate(problem.tasks) if b in task.reads)
        total += size if born and (pending or b in problem.kept) else 0
    return total


def _while_running(problem: Problem, done: int, v: int) -> int:
    task = problem.tasks[v]
    saved = 0
    for b, bytes_saved in task.reuse:
        readers = (t for t, other in enumerate(problem.tasks) if b in other.reads and t != v)
        if b not in problem.kept and all(done >> t & 1 for t in readers):
            saved = max(saved, bytes_saved)
    return _live(problem, done) + sum(problem.sizes[b] for b in task.writes) + task.extra - saved


def _steps(problem: Problem) -> list[tuple[int, int]]:
    """Every (ops done, op run next) that some order passes through."""
    writer = {b: t for t, task in enumerate(problem.tasks) for b in task.writes}
    needs = [sum({1 << writer[b] for b in task.reads}) for task in problem.tasks]
    frontier, out = {0}, []
    while frontier:
        moves = [(d, v) for d in frontier for v in range(len(needs)) if not d >> v & 1 and d & needs[v] == needs[v]]
        out.extend(moves)
        frontier = {d | 1 << v for d, v in moves}
    return out


def _best_peak(problem: Problem) -> int:
    """Least peak over all orders (dynamic programming over sets of ops done)."""
    peak = {0: problem.base}
    for done, v in _steps(problem):  # sets come in order of size
        reached = max(peak[done], _while_running(problem, done, v))
        after = done | 1 << v
        peak[after] = min(peak.get(after, reached), reached)
    everything = (1 << len(problem.tasks)) - 1
    return max(peak[everything], _live(problem, everything))


def _check(problem: Problem) -> None:
    steps = _steps(problem)
    each = [min(_while_running(problem, done, v) for done, w in steps if w == v) for v in range(len(problem.tasks))]
    end = _live(problem, (1 << len(problem.tasks)) - 1)
    bound = lower_bound.solve(problem)
    assert bound.bytes == max([*each, end]), "the cut is the exact minimum at each op"
    assert bound.bytes <= _best_peak(problem)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_bound_holds_for_every_order(problem: Problem) -> None:
    _check(problem)


@settings(max_examples=60, deadline=None)
@given(problems(reuse=True))
def test_bound_holds_when_results_reuse_dying_inputs(problem: Problem) -> None:
    _check(problem)


def test_exact_on_a_chain_and_on_a_fork() -> None:
    chain = Problem((Task("a", (), (0,)), Task("b", (0,), (1,)), Task("c", (1,), (2,))), (4, 6, 1), frozenset({2}))
    assert lower_bound.solve(chain) == lower_bound.Bound(10, "b")
    fork = Problem(
        (Task("a", (), (0,)), Task("b", (0,), (1,)), Task("c", (0,), (2,)), Task("d", (1, 2), (3,))),
        (4, 6, 2, 1),
        frozenset({3}),
    )
    # Running c before b: 4 + 2, then 4 + 2 + 6.
    assert lower_bound.solve(fork).bytes == 10
    assert _best_peak(fork) == 12


def test_nothing_to_run_is_inputs_and_outputs() -> None:
    assert lower_bound.solve(Problem((), (), frozenset(), 7)).bytes == 7


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("which", [0, 1], ids=["plain", "sliced"])
def test_bound_of_graphs_with_and_without_loops(name: str, which: int) -> None:
    graph = EXAMPLES[name]()[which]
    plain, reusing = (lower_bound.lower_bound_bytes(graph, inplace=flag) for flag in (False, True))
    assert reusing.bytes <= plain.bytes <= analyse(graph).peak
    if which == 1 and len([n for n in graph.nodes if n.op == "call_function"]) <= 2:
        assert plain.bytes == analyse(graph).peak, "a graph of one loop has one order"
