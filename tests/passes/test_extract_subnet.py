"""``extract-subnet``: a choice from a file or from the spec, marks from the program or from a file."""

import json

import pytest

from tests.elastic.networks import network, with_weights
from tests.passes.test_pipeline import context
from vgcomp.elastic import with_marks
from vgcomp.errors import UsageError
from vgcomp.optimize import optimize
from vgcomp.passes.extract_subnet import ExtractSubnet
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.passes.registry import parse_spec, spec_of


@pytest.fixture
def supernet():
    program, marks = network(["residual", "split"], 12, 8)
    return with_marks(program, marks)


def test_a_choice_in_the_spec(supernet):
    spec = "extract-subnet{choice=outer=8+inner=4+block.0=skip+block.1=keep},canonicalize"
    assert spec_of(parse_spec(spec)) == spec
    done = run_pipeline(supernet, spec, context())
    wanted, _ = network(["split"], 8, 4)
    assert [w.shape for w in done.program.weights.values()] == [w.shape for w in wanted.weights.values()]
    stats = done.records[0].stats
    assert stats["parameters"] == wanted.parameters() and stats["of_parameters"] == supernet.parameters()


def test_a_choice_and_marks_in_files(supernet, tmp_path):
    program, marks = network(["residual", "split"], 12, 8)
    (tmp_path / "choice.json").write_text(json.dumps({"outer": 8, "inner": 4, "block.0": "skip", "block.1": "keep"}))
    (tmp_path / "marks.json").write_text(marks.to_json())
    item = ExtractSubnet(choice=str(tmp_path / "choice.json"), marks=str(tmp_path / "marks.json"))
    result = item.run(program, context())
    inline = ExtractSubnet(choice="outer=8+inner=4+block.0=skip+block.1=keep").run(supernet, context())
    assert result.changed and result.program.text() == inline.program.text()
    again = item.run(result.program, context())
    assert not again.changed and again.program is result.program


def test_what_is_checked_is_the_subnet(supernet):
    """And not the supernet run whole, which is another network."""
    given = with_weights(supernet)
    passes = "extract-subnet{choice=outer=8+inner=4+block.0=skip+block.1=keep},canonicalize"
    done = optimize(given, target="cpu", passes=passes, check=True)
    assert done.report.check.status == "passed"


def test_no_choice_is_no_change(supernet):
    result = ExtractSubnet().run(supernet, context())
    assert result.program is supernet and "no choice" in result.explanations[0].reason


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("outer", "write name=option"),
        ("outer=8+outer=8", "once for each"),
        ("absent.json", "cannot be read"),
        ("outer=8", "wants an option for 'inner'"),
    ],
)
def test_a_wrong_choice_is_refused(supernet, choice, message):
    with pytest.raises(UsageError, match=message):
        ExtractSubnet(choice=choice).run(supernet, context())


def test_a_program_without_marks_is_refused():
    with pytest.raises(UsageError, match="carries no marks"):
        ExtractSubnet(choice="outer=8").run(network([], 12, 8)[0], context())


@pytest.mark.parametrize("text", ["[", "[1]", '{"outer": true}'])
def test_a_file_that_is_no_choice_is_refused(supernet, tmp_path, text):
    (tmp_path / "choice.json").write_text(text)
    with pytest.raises(UsageError, match=r"choice\.json is no"):
        ExtractSubnet(choice=str(tmp_path / "choice.json")).run(supernet, context())
