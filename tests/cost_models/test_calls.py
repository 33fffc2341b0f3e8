"""Calls as text: every op of the dialect reads back as it was spelled."""

import pytest
import torch

from tests.cost_models.measured_support import silu
from tests.op_cases import CASES, make_case
from vgcomp.cost_models import work_of
from vgcomp.cost_models.calls import Call, parse, spell
from vgcomp.infer import fake_tensor
from vgcomp.ir import aten, prims
from vgcomp.simulate import node_work


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_op_reads_back(name):
    work = node_work(make_case(name).node)
    call = spell(work.call)
    parsed = parse(call)
    again = work_of(parsed.target, parsed.args, parsed.kwargs, parsed.out)
    assert spell(again.call) == call
    assert again == work


def test_the_text_of_a_call():
    x = fake_tensor((2, 64), torch.float16).t()
    call = spell(work_of(aten.mean.dim, (x, [1], True), {}, fake_tensor((64, 1), torch.float16)).call)
    assert call == Call("aten.mean.dim", "['f16[64,2]{1,64}', [1], True]", "f16[64,1]")


def test_torchs_own_values_and_odd_floats_read_back():
    x = fake_tensor((4,), torch.float32)
    cast = prims.convert_element_type.default
    call = spell(work_of(cast, (x, torch.bfloat16), {}, fake_tensor((4,), torch.bfloat16)).call)
    assert parse(call).args[1] is torch.bfloat16
    call = spell(work_of(aten.clamp.default, (x, float("-inf"), 1.0), {}, x).call)
    assert parse(call).args[1:] == [float("-inf"), 1.0]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"op": "aten.fft_fft.default"}, "op"),
        ({"arguments": "['f32[2"}, "arguments"),
        ({"arguments": "['torch.nothing']"}, "arguments"),
        ({"arguments": "__import__('os')"}, "arguments"),
        ({"result": "[f32"}, "result"),
    ],
)
def test_what_is_no_call_is_refused_with_its_column(change, column):
    good = spell(silu(2, 8).call)
    fields = {"op": good.op, "arguments": good.arguments, "result": good.result}
    with pytest.raises(ValueError, match=f"column '{column}'"):
        parse(Call(**{**fields, **change}))
