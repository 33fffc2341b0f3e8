"""The verifier finds each kind of damage, and says which rule and node."""

from dataclasses import replace

import pytest
import torch

from tests import sliced_examples
from tests.graph_builder import Builder, aten, spans
from tests.test_program import sliced, small
from vgcomp import infer, ir
from vgcomp.errors import InternalError
from vgcomp.program import Program, Source
from vgcomp.verify import verify

EXAMPLES = [
    "frames", "rows_with_halo", "rows_with_carries", "norm_in_two_loops", "growing_in_place", "inner_factor",
    "attention_by_keys", "residual_in_place",
]  # fmt: skip


def named(program, name):
    return next(node for node in program.graph.nodes if node.name == name)


def broken(program, rule):
    with pytest.raises(InternalError, match=f"rule '{rule}' is broken") as error:
        verify(program)
    return str(error.value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_good_loops_pass(name):
    verify(sliced(name))


def test_a_good_program_passes():
    verify(small())


def test_a_wrong_value_is_found():
    program = small().copy()
    named(program, "silu").meta["val"] = infer.fake_tensor((1, 4, 8, 9), torch.float32)
    assert "'silu'" in broken(program, "values")


def test_wrong_strides_are_found():
    program = small().copy()
    named(program, "silu").meta["val"] = infer.fake_tensor((1, 4, 8, 8), torch.float32, (256, 1, 32, 4))
    assert "strides" in broken(program, "values")


def test_arguments_that_do_not_fit_are_found():
    program = small().copy()
    named(program, "convolution").args = named(program, "convolution").args[:8] + (2,)
    broken(program, "values")


def test_a_missing_value_is_found():
    program = small().copy()
    del named(program, "silu").meta["val"]
    assert "no value" in broken(program, "values")


def test_a_foreign_op_is_found():
    program = small().copy()
    named(program, "silu").target = aten.cumsum.default
    assert "cumsum" in broken(program, "dialect")


def test_a_missing_weight_is_found():
    program = small()
    del program.weights["0.weight"]
    assert "0.weight" in broken(program, "weights")


def test_an_unused_weight_is_found():
    program = small()
    program.weights["extra"] = replace(program.weights["0.bias"], name="extra")
    assert "'extra' is not used" in broken(program, "weights")


def test_a_late_input_is_found():
    program = small().copy()
    with program.graph.inserting_before(program.graph.output_node()):
        late = program.graph.placeholder("late")
    late.meta["val"] = infer.fake_tensor((1,), torch.float32)
    broken(program, "sections")


def test_a_use_before_its_definition_is_found():
    program = small().copy()
    named(program, "convolution").prepend(named(program, "silu"))
    broken(program, "order")


def test_a_count_of_names_is_compared():
    program = replace(small(), output_names=("a", "b"))
    assert "2 output names for 1" in broken(program, "outputs")


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        (aten.reshape.default, ([-1],), "spelled out"),
        (aten.slice.Tensor, (0, 0), "not all given"),
        (aten.slice.Tensor, (1, -2, 4), "outside"),
        (aten.permute.default, ([0, 1, 2, -1],), "no permutation"),
    ],
)
def test_unspelled_arguments_are_found(target, args, message):
    b = Builder()
    graph = b.done(b.call(target, b.input("x", (2, 3, 4, 5)), *args))
    assert message in broken(Program("p", graph, {}, ("y",), Source("torch", "p")), "arguments")


# -- loops -------------------------------------------------------------------------------------------


def with_loop(name, change):
    """An example whose (first) loop has been changed."""
    program = sliced(name)
    node = next(n for n in program.graph.nodes if ir.is_loop(n))
    node.args = (change(ir.loop_of(node)), node.args[1])
    node.meta["val"] = infer.node_value(node)
    return program


def step(loop, i, **changes):
    steps = list(loop.steps)
    steps[i] = replace(steps[i], **changes)
    return replace(loop, steps=tuple(steps))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("frames", lambda lp: replace(lp, steps=lp.steps[:-1]), "written up to 4 of 6"),
        ("frames", lambda lp: replace(lp, steps=(*lp.steps, lp.steps[0])), "written twice at 0"),
        ("frames", lambda lp: step(lp, 0, writes=((2, 4),)), "written nowhere at 0"),
        ("frames", lambda lp: step(lp, 0, body=7), "runs body 7 of 1"),
        ("frames", lambda lp: step(lp, 0, reads=((0, 3), None, None)), "body 0 takes"),
        ("frames", lambda lp: step(lp, 0, reads=((5, 7), None, None)), "whose axis is"),
        ("frames", lambda lp: step(lp, 0, writes=(None,)), "no span takes"),
        ("frames", lambda lp: replace(lp, operand_axes=lp.operand_axes[:-1]), "3 operands for 2 axes"),
        ("frames", lambda lp: replace(lp, operand_axes=(ir.Axis(0, 5), None, None)), "does not describe"),
        ("frames", lambda lp: replace(lp, steps=()), "no steps"),
        ("rows_with_carries", lambda lp: replace(lp, steps=lp.steps[1:]), None),
        ("rows_with_carries", lambda lp: step(lp, 0, body=lp.steps[1].body), None),
    ],
)
def test_a_damaged_loop_is_found(name, change, message):
    said = broken(with_loop(name, change), "loops")
    assert message is None or message in said


def test_a_result_of_the_wrong_dtype_is_found():
    def change(loop):
        return replace(loop, results=(replace(loop.results[0], dtype=torch.float16),))

    program = sliced("frames")
    node = next(n for n in program.graph.nodes if ir.is_loop(n))
    node.args = (change(ir.loop_of(node)), node.args[1])
    infer.propagate(program.graph)
    assert "the body gives" in broken(program, "loops")


def test_overwriting_what_is_read_later_is_found():
    _, graph = sliced_examples.frames(into=True)
    program = replace(sliced("frames"), graph=graph)
    verify(program)
    node = next(n for n in graph.nodes if ir.is_loop(n))
    output = graph.output_node()
    output.args = ((*output.args[0], node.args[1][0]),)
    program = replace(program, output_names=("a", "b"))
    assert "reads afterwards" in broken(program, "loops")


def test_overwriting_a_slice_before_it_is_read_is_found():
    _, graph = sliced_examples.frames(into=True)
    program = replace(sliced("frames"), graph=graph)
    node = next(n for n in graph.nodes if ir.is_loop(n))
    loop = step(ir.loop_of(node), 0, reads=((2, 4), None, None))
    node.args = (step(loop, 1, reads=((0, 2), None, None)), node.args[1])
    assert "overwritten by then" in broken(program, "loops")


def test_overwriting_a_weight_is_found():
    program = with_loop("frames", lambda lp: replace(lp, results=(replace(lp.results[0], into=1),)))
    assert "overwrite weight" in broken(program, "loops")


def loop_in(graph, name):
    return next(n for n in graph.nodes if ir.is_loop(n) and ir.loop_of(n).name == name)


def test_growing_over_slices_that_are_still_to_be_read_is_found():
    _, graph = sliced_examples.growing_in_place()
    node = loop_in(graph, "grow")
    loop = ir.loop_of(node)
    node.args = (replace(loop, steps=loop.steps[::-1]), node.args[1])
    assert "step 1 reads (1, 2) of operand 0" in broken(replace(sliced("frames"), graph=graph, weights={}), "loops")


def test_a_result_over_its_operand_in_another_order_is_found():
    b = Builder()
    x = b.call(aten.neg.default, b.input("x", (4, 3)))
    axis, inner = ir.Axis(0, 4), Builder()
    body = ir.Body(inner.done(inner.call(aten.neg.default, inner.input("part", (1, 3)))), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(4, 1))
    result = ir.Result((4, 3), torch.float32, axis, into=0, stride=(1, 4))
    graph = b.done(*b.loop(ir.Loop("turn", (body,), steps, (axis,), (result,)), [x]))
    assert "overwritten by then" in broken(Program("p", graph, {}, ("y",), Source("torch", "p")), "loops")


def two_results(second):
    """Two results of one loop, over ``x`` and over ``second(b, x)``."""
    b = Builder()
    x = b.call(aten.neg.default, b.input("x", (4, 3)))
    axis, inner = ir.Axis(0, 4), Builder()
    parts = [inner.input(name, (1, 3)) for name in "ab"]
    body = ir.Body(inner.done(*(inner.call(aten.neg.default, part) for part in parts)), (0, 1), (0, 1))
    steps = tuple(ir.Step(0, (span, span), (span, span)) for span in spans(4, 1))
    results = tuple(ir.Result((4, 3), torch.float32, axis, into=k) for k in (0, 1))
    graph = b.done(*b.loop(ir.Loop("both", (body,), steps, (axis, axis), results), [x, second(b, x)]))
    return Program("p", graph, {}, ("y", "z"), Source("torch", "p"))


def test_two_results_in_one_storage_are_found():
    verify(two_results(lambda b, x: b.call(aten.exp.default, x)))
    assert "go into one storage" in broken(two_results(lambda b, x: b.call(aten.reshape.default, x, [4, 3])), "loops")


def test_a_result_over_an_input_of_its_graph_is_found():
    said = broken(two_results(lambda b, x: next(iter(b.graph.nodes))), "loops")
    assert "overwrite an input of its graph, 'x'" in said
