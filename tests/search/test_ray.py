"""The same search on a Ray cluster, one of whose workers is lost, and one of whose evaluators hangs."""

import pytest

from tests.search import support
from tests.search.support import evaluator, points, run
from vgcomp.errors import Unavailable, VgcompError
from vgcomp.search.crew import Rules

pytest.importorskip("ray", reason="ray is not installed")


def test_no_cluster_is_one_line():
    from vgcomp.search.ray_crew import RayCrew

    with pytest.raises(Unavailable, match="no Ray cluster answers"):
        RayCrew(evaluator(), "127.0.0.1:1", 1)


@pytest.fixture(scope="module")
def marks(tmp_path_factory):
    """A folder that the cluster's processes know, too: it starts after this."""
    folder = tmp_path_factory.mktemp("marks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(support.MARKS, str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(marks):
    """A cluster of this machine, for all tests."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def crew(cluster):
    """Makes two workers."""
    from vgcomp.search.ray_crew import RayCrew

    made = []

    def make(name):
        made.append(RayCrew(evaluator(name), "local", 2))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_lost_workers_lose_nothing(crew, marks):
    found = run("random", 24, crew("deadly"))
    assert list(marks.iterdir())  # that many were killed
    assert not any(evaluation.failed for evaluation in found.evaluations)
    assert points(found) == points(run("random", 24))


def test_what_hangs_is_cut_off(crew):
    found = run("surrogate", 10, crew("hanging"), rules=Rules(limit_s=3.0))
    assert [e.failed for e in found.evaluations if e.failed] == ["it took more than 3 s"]
    assert len(found.evaluations) == 10


def test_workers_that_cannot_begin_end_the_search(crew):
    with pytest.raises(VgcompError, match="not_there cannot be loaded"):
        run("random", 4, crew("not_there"))
