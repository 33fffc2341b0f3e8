"""Marks are data: kept as JSON, carried by a program through files, and told apart from other text."""

import pytest

from tests.elastic.networks import network
from vgcomp.elastic import Marks, marks_of, with_marks
from vgcomp.errors import UsageError
from vgcomp.program import Program


def test_marks_are_kept_in_json_and_in_a_saved_program(tmp_path):
    program, marks = network(["residual", "split"], 12, 8)
    assert Marks.from_json(marks.to_json()) == marks
    assert marks_of(program) is None
    with_marks(program, marks).save(tmp_path / "supernet")
    assert marks_of(Program.load(tmp_path / "supernet")) == marks


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "vgcomp.marks/1", "axes": [{"of": "w"}], "blocks": []}'])
def test_other_text_is_refused(text):
    with pytest.raises(UsageError, match="not a supernet's marks"):
        Marks.from_json(text)


def test_marks_under_other_names():
    _, marks = network(["residual"], 12, 8)
    names = {name: f"{name}.new" for name in ("w1", "w5", marks.blocks[0].output, marks.blocks[0].input)}
    renamed = marks.renamed(names)
    assert [mark.of for mark in renamed.axes] == ["w1.new", "w5.new"]
    assert renamed.blocks[0].output == f"{marks.blocks[0].output}.new"
    with pytest.raises(UsageError, match="is marked but is no weight or value"):
        marks.renamed({"w1": "a"})
