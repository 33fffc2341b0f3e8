"""Seconds to simulate the full-size SVD UNet: the first time, again, and with one of its blocks changed.

python -m tests.benchmarks.simulation_time
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from torch import fx

from vgcomp.cost_models import AnalyticModel
from vgcomp.infer import node_value
from vgcomp.ir import aten
from vgcomp.models import build
from vgcomp.program import Program
from vgcomp.resimulate import Simulator
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

_RUNS = 9
#: Part of the names of the weights of the block that is changed.
_BLOCK = "down_blocks_1_attentions_0"


def main() -> None:
    program, target = build("svd-unet"), load_target("a100")
    print(f"{program.n_nodes} calls")
    print(f"simulate, cold: {1e3 * _seconds(lambda: simulate(program, target, AnalyticModel(target))):.1f} ms")
    simulator = Simulator(target, AnalyticModel(target))
    print(f"summary, cold: {1e3 * _seconds(lambda: simulator.summary(program)):.1f} ms")
    warm = [_seconds(lambda: simulator.summary(program)) for _ in range(_RUNS)]
    print(f"summary, again: median {1e3 * statistics.median(warm):.1f} ms")
    times = []
    for i in range(_RUNS):
        changed, count = _changed(program, i + 1)
        times.append(_seconds(lambda: simulator.summary(changed)))  # noqa: B023 (runs at once)
    print(f"summary, one block of {count} calls new: median {1e3 * statistics.median(times):.1f} ms, {_text(times)}")


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _text(times: list[float]) -> str:
    return f"from {1e3 * min(times):.1f} to {1e3 * max(times):.1f}"


def _changed(program: Program, times: int) -> tuple[Program, int]:
    """A copy whose block has every call's value made anew, and ``times`` more ops: nothing of it can be looked up."""
    copy = program.copy()
    linear = [n for n in copy.graph.nodes if n.target is aten.linear.default and _in_block(n)]
    begin = linear[0]
    for _ in range(times):
        with copy.graph.inserting_after(begin):
            more = copy.graph.call_function(aten.silu.default, (begin,))
            more.meta["val"] = node_value(more)
        begin.replace_all_uses_with(more, delete_user_cb=lambda user, more=more: user is not more)
        begin = more
    nodes = list(copy.graph.nodes)
    block = nodes[nodes.index(linear[0]) : nodes.index(linear[-1]) + 1]
    for node in block:
        if node.op == "call_function":
            node.meta["val"] = node_value(node)
    return copy, len(block)


def _in_block(node: fx.Node) -> bool:
    return any(source.op == "get_attr" and _BLOCK in str(source.name) for source in node.all_input_nodes)


if __name__ == "__main__":
    main()
