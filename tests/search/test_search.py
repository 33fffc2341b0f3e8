"""A search ends with the same front however it was run: in how many workers, how often it was killed, what it lost."""

import json
import random
from collections.abc import Sequence

import pytest

from tests.search import support
from tests.search.support import SPACE, evaluator, points, run
from vgcomp.errors import UsageError, VgcompError
from vgcomp.search.crew import InProcess, Report, Rules
from vgcomp.search.engines.named import ENGINES
from vgcomp.search.journal import Journal
from vgcomp.search.local_crew import LocalCrew
from vgcomp.search.problem import Evaluation

HEADER = {"engine": "any", "seed": 0}
MOST = 60


class Shuffled:
    """Workers in this process that finish in any order, and now and then get lost with a candidate."""

    def __init__(self, slots: int, seed: int, losses: int = 0) -> None:
        self._opened, self._rng, self._losses = evaluator().open(), random.Random(seed), losses
        self._running: dict[int, tuple[object, ...]] = {}
        self._slots = slots

    def idle(self) -> Sequence[int]:
        return [slot for slot in range(self._slots) if slot not in self._running]

    def start(self, slot, candidate) -> None:
        self._running[slot] = candidate

    def wait(self, timeout) -> Sequence[Report]:
        slot = self._rng.choice(sorted(self._running))
        candidate = self._running.pop(slot)
        if self._losses and self._rng.random() < 0.2:
            self._losses -= 1
            return [Report(slot, None)]
        return [Report(slot, self._opened.evaluate(candidate))]

    def stop(self, slot) -> None:
        raise AssertionError("nothing is overdue here")

    def close(self) -> None: ...


class Kill(BaseException):
    """Ends a search as a kill does: between two writes of its journal."""


class Killed(InProcess):
    """A worker with whose so-manyth evaluation the search is killed."""

    def __init__(self, after: int) -> None:
        super().__init__(evaluator())
        self._left = after

    def start(self, slot, candidate) -> None:
        if not self._left:
            raise Kill
        self._left -= 1
        super().start(slot, candidate)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "a1"])
def test_the_order_in_which_workers_finish_changes_nothing(engine):
    needs(engine)
    alone = run(engine, MOST)
    assert len(alone.evaluations) == MOST
    for slots, losses in ((3, 0), (5, 12)):
        assert run(engine, MOST, Shuffled(slots, seed=slots, losses=losses)).evaluations == timeless(alone)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "a1"])
def test_a_search_killed_again_and_again_ends_with_the_same_front(engine, tmp_path):
    needs(engine)
    whole, path = run(engine, MOST), tmp_path / "journal.jsonl"
    for after in (1, 17, 0, 20):
        with Journal.open(path, HEADER, SPACE, resume=True) as journal, pytest.raises(Kill):
            run(engine, MOST, Killed(after), journal=journal)
    with Journal.open(path, HEADER, SPACE, resume=True) as journal:
        assert len(journal.found) == 38
        resumed = run(engine, MOST, journal=journal)
    assert resumed.resumed == 38
    assert points(resumed) == points(whole)
    assert len(path.read_text().splitlines()) == 1 + MOST


def test_a_whole_journal_needs_no_worker(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal.open(path, HEADER, SPACE, resume=False) as journal:
        first = run("random", 20, journal=journal)
    with Journal.open(path, HEADER, SPACE, resume=True) as journal:
        assert points(run("random", 20, Killed(0), journal=journal)) == points(first)


def test_more_evaluations_go_on_where_fewer_ended(tmp_path):
    path = tmp_path / "journal.jsonl"
    for most in (21, MOST):
        with Journal.open(path, HEADER, SPACE, resume=True) as journal:
            found = run("surrogate", most, journal=journal)
    assert found.resumed == 21
    assert points(found) == points(run("surrogate", MOST))


def test_a_small_space_is_searched_to_its_end():
    assert len(run("random", 10_000).evaluations) == SPACE.size


# -- the journal itself ------------------------------------------------------------------------------


def journal_of(path, *lines: str) -> str:
    path.write_text("\n".join([json.dumps({"journal": 1, **HEADER}), *lines]))
    return str(path)


def test_a_half_written_line_is_dropped(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal.open(path, HEADER, SPACE, resume=False) as journal:
        run("random", 3, journal=journal)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with Journal.open(path, HEADER, SPACE, resume=True) as journal:
        assert len(journal.found) == 2
        run("random", 3, journal=journal)
    assert len(path.read_bytes().splitlines()) == 4
    assert path.read_bytes().splitlines()[:3] == whole.splitlines()[:3]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{]\n", "line 2: not a line"),
        ('{"candidate": {"temporal.mid": "none"}, "quality": 1, "seconds": 1}\n', "wants an option"),
        ('{"quality": 1}\n', "line 2: not an evaluation"),
    ],
)
def test_a_damaged_journal_is_refused(line, match, tmp_path):
    journal_of(tmp_path / "j", line)
    with pytest.raises(UsageError, match=match):
        Journal.open(tmp_path / "j", HEADER, SPACE, resume=True)


def test_a_journal_is_neither_overwritten_nor_taken_for_another_search_nor_shared(tmp_path):
    path = tmp_path / "j"
    with Journal.open(path, HEADER, SPACE, resume=True), pytest.raises(UsageError, match="being written by another"):
        Journal.open(path, HEADER, SPACE, resume=True)
    with pytest.raises(UsageError, match="--resume goes on"):
        Journal.open(path, HEADER, SPACE, resume=False)
    with pytest.raises(UsageError, match="its seed is 0, not 1"):
        Journal.open(path, {**HEADER, "seed": 1}, SPACE, resume=True)


# -- processes ---------------------------------------------------------------------------------------


@pytest.fixture
def marks(tmp_path, monkeypatch):
    monkeypatch.setenv(support.MARKS, str(tmp_path))
    return tmp_path


def test_killed_workers_lose_nothing(marks):
    crew = LocalCrew(evaluator("deadly"), 2)
    found = run("random", 40, crew)
    assert len(list(marks.iterdir())) > 3  # that many were killed
    assert not any(evaluation.failed for evaluation in found.evaluations)
    assert points(found) == points(run("random", 40))


def test_what_kills_each_worker_fails_in_the_end():
    found = run("random", 12, LocalCrew(evaluator("always_deadly"), 1), rules=Rules(retries=1))
    failed = [e for e in found.evaluations if e.failed]
    assert failed and {e.failed for e in failed} == {"its worker was lost, 2 times in a row"}
    assert all(e.candidate[2] == "conv1d" for e in failed)
    assert len(found.evaluations) == 12


def test_what_hangs_is_cut_off_and_what_throws_is_recorded():
    crew = LocalCrew(evaluator("hanging"), 1)
    found = run("surrogate", 20, crew, rules=Rules(limit_s=3.0))
    assert [(e.candidate, e.failed) for e in found.evaluations if e.failed] == [
        (("none",) * 4, "it took more than 3 s")
    ]
    thrown = run("random", 20, InProcess(evaluator("throwing")))
    reasons = {e.failed for e in thrown.evaluations if e.candidate[2] == "conv1d"}
    assert reasons == {"ArithmeticError: no answer for this one"}
    assert all(e.quality is not None for e in thrown.evaluations if e.candidate[2] != "conv1d")


def test_workers_that_cannot_begin_end_the_search_with_one_line():
    crew = LocalCrew(evaluator("not_there"), 2)
    with pytest.raises(VgcompError, match="not_there cannot be loaded: AttributeError"):
        run("random", 4, crew)


# -- helpers -----------------------------------------------------------------------------------------


def needs(engine: str) -> None:
    if engine in ("nsga2", "unsga3"):
        pytest.importorskip("pymoo", reason="pymoo is not installed")


class Timeless:
    """Evaluations that are equal whatever time they took."""

    def __init__(self, evaluations: Sequence[Evaluation]) -> None:
        self._kept = [(e.candidate, e.cost, e.quality, e.failed) for e in evaluations]

    def __eq__(self, other: object) -> bool:
        return [(e.candidate, e.cost, e.quality, e.failed) for e in other] == self._kept  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


def timeless(found) -> Timeless:
    return Timeless(found.evaluations)
