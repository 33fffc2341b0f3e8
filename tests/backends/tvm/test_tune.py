"""Tuning: what is measured is kept, what was measured is not measured again, and the best schedule is taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.tvm.support import Compiled, program_of
from tests.graph_builder import Builder, aten, random_inputs, random_weights
from vgcomp.backends.torch_module import run_graph
from vgcomp.backends.tvm import tuned
from vgcomp.backends.tvm.build import tune
from vgcomp.backends.tvm.compile import host_target
from vgcomp.backends.tvm.lower import Lowered, lower
from vgcomp.backends.tvm.tune import Search, candidate, proposals, tasks_of
from vgcomp.backends.tvm.tuned_times import keep_times, known_times, tuned_model
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import load_target


def _program() -> Program:
    b = Builder()
    x = b.call(aten.linear.default, b.input("x", (64, 48)), b.weight("w", (96, 48)))
    return program_of(b.done(b.call(aten.linear.default, x, b.weight("v", (32, 96)))))


@pytest.fixture
def lowered() -> Lowered:
    return lower(_program())


def _search(lowered: Lowered, folder: Path, measure: Any, trials: int) -> Search:
    """Runs a search for some trials on made-up measurements."""
    search = Search(tuned.database(folder), host_target()[0], measure, lambda: search.trials >= trials)
    search.run(tasks_of(lowered, load_target("cpu")))
    return search


def test_tasks_come_longest_simulated_first(lowered: Lowered) -> None:
    tasks = tasks_of(lowered, load_target("cpu"))
    assert [task.calls for task in tasks] == [1, 1]
    assert tasks[0].calls * tasks[0].simulated >= tasks[1].calls * tasks[1].simulated > 0


def test_proposals_start_at_the_default_and_end() -> None:
    sizes = (2, 3)
    tried: dict[tuple[int, ...], float] = {}
    for seconds in range(10):
        chosen = next(proposals(sizes, tried), None)
        if chosen is None:
            break
        assert chosen not in tried
        tried[chosen] = float(-seconds)
    assert next(iter(tried)) == (0, 0)
    assert len(tried) == 6, "all of them, none twice"


def test_a_search_goes_on_where_it_was_stopped(lowered: Lowered, tmp_path: Path) -> None:
    seen: list[str] = []

    def measure(module: Any) -> list[float]:
        seen.append(module.script())
        return [1.0 / (1 + len(seen))]

    _search(lowered, tmp_path, measure, 5)
    _search(lowered, tmp_path, measure, 5)
    assert len(seen) == 10
    assert len(set(seen)) == 10, "nothing was measured twice"


def test_the_best_schedule_is_taken_and_computes_the_same(lowered: Lowered, tmp_path: Path) -> None:
    calls = 0

    def measure(module: Any) -> list[float] | None:
        nonlocal calls
        calls += 1
        return None if calls % 3 == 0 else [1e-9 / calls]

    _search(lowered, tmp_path, measure, 12)
    found = tuned.Tuned([tuned.database(tmp_path)])
    schedules = {name: found.scheduled(built) for name, built in lowered.kernels.items()}
    assert found.found == 2
    assert None not in schedules.values()
    program = _program()
    inputs, weights = random_inputs(program.graph), random_weights(program.graph)
    compiled = Compiled(program, tmp_path, tuned=tuned.Tuned([tuned.database(tmp_path)]))
    torch.testing.assert_close(compiled(inputs, weights), run_graph(program.graph, inputs, weights))


def test_what_was_measured_is_what_the_cost_model_says(
    lowered: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tuned.own_folder("some-cpu")
    tasks = tasks_of(lowered, load_target("cpu"))
    database, done = tuned.database(folder), lambda: all(task.tried for task in tasks)
    Search(database, host_target()[0], lambda module: [0.25], done).run(tasks)
    keep_times(tasks, "cpu", "some-cpu", folder)
    keep_times(tasks[:1], "cpu", "some-cpu", folder)
    assert len(known_times("cpu", "some-cpu")) == 2
    target = load_target("cpu")
    timeline = simulate(_program(), target, tuned_model(target, "some-cpu"))
    linear = [entry for entry in timeline.entries if entry.op == "aten.linear.default"]
    assert [entry.source for entry in linear] == ["tuned:cpu"] * 2
    assert all(entry.duration_s == pytest.approx(0.25, rel=1e-3) for entry in linear)
    assert "tuned" not in simulate(_program(), target, tuned_model(target, "another-cpu")).sources


def test_any_decisions_compute_the_same(lowered: Lowered, tmp_path: Path) -> None:
    from vgcomp.backends.tvm.measure import Local

    task = tasks_of(lowered, load_target("cpu"))[0]
    _, sizes = candidate(task.module, ())
    measure = Local(host_target()[0])
    for last in ((), tuple(size - 1 for size in sizes), tuple(size // 2 for size in sizes)):
        assert measure(candidate(task.module, last)[0].mod)


def test_nothing_is_lost_where_the_tuner_is_killed(tmp_path: Path) -> None:
    program, folder = _program(), tmp_path / "records"
    program.save(tmp_path / "program")
    (tmp_path / "tune.json").write_text(
        f'{{"target": "cpu", "seconds": 300, "database": "{folder}", "rpc": null}}', encoding="utf-8"
    )
    command = [sys.executable, "-m", "vgcomp.backends.tvm.tune_worker", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TVM_NUM_THREADS": "1"})
    assert child.stdout is not None
    child.stdout.readline()  # a round is over
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    kept = (folder / "records.json").read_text(encoding="utf-8").splitlines()
    assert kept
    done = tune(program, load_target("cpu"), 3.0, database=folder)
    after = (folder / "records.json").read_text(encoding="utf-8").splitlines()
    assert after[: len(kept)] == kept
    assert len(after) == len(kept) + done.trials


def test_a_schedule_that_ends_the_process_is_not_tried_again(lowered: Lowered, tmp_path: Path) -> None:
    task = tasks_of(lowered, load_target("cpu"))[0]
    current = tmp_path / "current"
    current.write_text(f'{{"kernel": "{task.name}", "chosen": [0, 0, 0, 0]}}', encoding="utf-8")
    _, sizes = candidate(task.module, ())
    search = Search(tuned.database(tmp_path), host_target()[0], lambda module: [1.0], lambda: True, current)
    search.run([task])
    assert task.tried == {(0,) * 4: tuned.FAILED} if len(sizes) == 4 else True


@pytest.mark.slow
def test_kernels_are_measured_on_devices_behind_a_tracker(lowered: Lowered, tmp_path: Path) -> None:
    from tvm import rpc
    from tvm.rpc.server import Server
    from tvm.rpc.tracker import Tracker

    from vgcomp.backends.tvm.measure import Remote

    tracker = Tracker(host="127.0.0.1", port=29190, port_end=29290)
    address = ("127.0.0.1", tracker.port)
    servers = [
        Server(host="127.0.0.1", port=29300 + 50 * i, port_end=29340 + 50 * i, key="box", tracker_addr=address)
        for i in range(2)
    ]
    try:
        while len(rpc.connect_tracker(*address).summary()["server_info"]) < 2:
            time.sleep(0.1)
        remote = Remote(f"127.0.0.1:{tracker.port}/box", host_target()[0])
        assert remote.devices == 2
        search = _search(lowered, tmp_path, remote, 4)
        assert search.together == 2
        task = tasks_of(lowered, load_target("cpu"))[0]
        search.recall(task)
        assert task.best < tuned.FAILED
    finally:
        for server in servers:
            server.terminate()
        tracker.terminate()


def test_times_ship_beside_the_schedules() -> None:
    for folder in tuned.SHIPPED.iterdir():
        assert known_times("cpu", folder.name), folder
