"""Programs: weights by reference, copies, the text form, and the way to disk and back."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import sliced_examples
from vgcomp import infer
from vgcomp.capture import capture
from vgcomp.errors import ModelError
from vgcomp.program import PassRecord, Program, Source
from vgcomp.serialize import PROGRAM_FILE, WEIGHTS_FILE
from vgcomp.verify import verify
from vgcomp.weights import Absent, FileData, SafetensorsData, TensorData, Weight, without_data

EXAMPLES = ["frames", "rows_with_halo", "rows_with_carries", "norm_in_two_loops", "attention_by_keys", "inner_factor"]


def small() -> Program:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU()).eval()
    return capture(module, (torch.randn(1, 3, 8, 8),), name="small")


def sliced(name: str) -> Program:
    _, graph = getattr(sliced_examples, name)()
    weights = {
        str(n.target): without_data(str(n.target), n.meta["val"].shape, n.meta["val"].dtype)
        for n in graph.nodes
        if n.op == "get_attr"
    }
    names = tuple(f"out{i}" for i in range(len(graph.output_node().args[0])))
    return Program(name, graph, weights, names, Source("torch", name))


def test_text():
    text = small().text()
    assert text == (
        "program small -> output\n"
        "  %input_1 : f32[1, 3, 8, 8] = input\n"
        "  %_0_weight : f32[4, 3, 3, 3] = weight '0.weight'\n"
        "  %_0_bias : f32[4] = weight '0.bias'\n"
        "  %_1_weight : f32[4] = weight '1.weight'\n"
        "  %_1_bias : f32[4] = weight '1.bias'\n"
        "  %convolution : f32[1, 4, 8, 8] = convolution(%input_1, %_0_weight, %_0_bias, "
        "[1, 1], [1, 1], [1, 1], False, [0, 0], 1)\n"
        "  %group_norm : f32[1, 4, 8, 8] = group_norm(%convolution, 2, %_1_weight, %_1_bias, 1e-05)\n"
        "  %silu : f32[1, 4, 8, 8] = silu(%group_norm)\n"
        "  return [%silu]\n"
    )


def test_a_loop_in_text_shows_steps_and_bodies():
    text = sliced("rows_with_carries").text()
    assert "step 0: body 0, reads [" in text
    assert "carries out" in text


def test_a_copy_is_the_same_and_apart():
    program = small()
    copy = program.copy()
    assert copy.text() == program.text()
    copy.graph.erase_node(copy.graph.output_node())
    assert program.n_nodes == 3
    assert program.outputs[0].name == "silu"


def test_weights_that_a_graph_does_not_use_are_dropped():
    program = small()
    copy = program.copy()
    norm = next(n for n in copy.graph.nodes if n.name == "group_norm")
    norm.replace_all_uses_with(norm.args[0])
    copy.graph.eliminate_dead_code()
    assert list(copy.with_graph(copy.graph).weights) == ["0.weight", "0.bias"]


def test_sizes():
    program = small()
    assert program.parameters() == 3 * 4 * 9 + 4 + 4 + 4
    assert program.weight_bytes() == 4 * program.parameters()


def test_a_program_on_disk_is_the_same(tmp_path):
    program = small().recorded(PassRecord("canonicalize", "exact", True, 0.5, {"removed": 3}))
    program.save(tmp_path / "p")
    loaded = Program.load(tmp_path / "p")
    verify(loaded)
    assert loaded.text() == program.text()
    assert (loaded.source, loaded.history, loaded.output_names) == (
        program.source,
        program.history,
        program.output_names,
    )
    for name, weight in program.weights.items():
        assert torch.equal(loaded.weights[name].load(), weight.load())
    for before, after in zip(program.graph.nodes, loaded.graph.nodes, strict=True):
        assert before.name == after.name
        if before.op != "output":
            assert before.meta["val"].stride() == after.meta["val"].stride()


@pytest.mark.parametrize("name", EXAMPLES)
def test_loops_on_disk_are_the_same(name, tmp_path):
    program = sliced(name)
    program.save(tmp_path)
    loaded = Program.load(tmp_path)
    verify(loaded)
    assert loaded.text() == program.text()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    small().save(tmp_path / "a")
    Program.load(tmp_path / "a").save(tmp_path / "a")
    first = (tmp_path / "a" / PROGRAM_FILE).read_bytes()
    Program.load(tmp_path / "a").save(tmp_path / "a")
    assert (tmp_path / "a" / PROGRAM_FILE).read_bytes() == first
    assert Program.load(tmp_path / "a").weights["0.bias"].load().shape == (4,)


def test_special_arguments_survive(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            y = torch.clamp(x.permute(0, 2, 1), min=float("-inf")).contiguous()
            return y.to(torch.float16)

    program = capture(Odd(), (torch.randn(2, 3, 4),))
    program.save(tmp_path)
    assert Program.load(tmp_path).text() == program.text()


def test_referenced_weights_stay_where_they_are(tmp_path):
    elsewhere = tmp_path / "given.safetensors"
    save_file({"0.bias": torch.arange(4.0)}, elsewhere)
    program = small()
    weights = {name: weight.absent() for name, weight in program.weights.items()}
    weights["0.bias"] = Weight("0.bias", (4,), torch.float32, SafetensorsData(elsewhere, "0.bias"))
    Program(program.name, program.graph, weights, program.output_names, program.source).save(tmp_path / "p")
    assert not (tmp_path / "p" / WEIGHTS_FILE).exists()
    loaded = Program.load(tmp_path / "p")
    assert torch.equal(loaded.weights["0.bias"].load(), torch.arange(4.0))
    assert isinstance(loaded.weights["0.weight"].data, Absent)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("vgcomp.program/1", "vgcomp.program/9"),
        lambda text: text.replace("aten.silu.default", "os.system"),
        lambda text: text.replace('{"node": "convolution"}', '{"node": "nobody"}'),
        lambda text: "[]",
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    small().save(tmp_path)
    path = tmp_path / PROGRAM_FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(ModelError, match=r"program\.json"):
        Program.load(tmp_path)


def test_a_folder_that_is_no_program_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not a saved program"):
        Program.load(tmp_path)


def test_the_file_has_a_node_a_line(tmp_path):
    program = small()
    program.save(tmp_path)
    text = (tmp_path / PROGRAM_FILE).read_text()
    lines = [line for line in text.splitlines() if '"op"' in line]
    assert len(lines) == len(program.graph.nodes)
    assert json.loads(text)["schema"] == "vgcomp.program/1"


def test_raw_bytes_in_a_file(tmp_path):
    numbers = torch.arange(6, dtype=torch.float32)
    path = tmp_path / "data.bin"
    path.write_bytes(b"xyz" + numbers.numpy().tobytes())
    weight = Weight("w", (2, 3), torch.float32, FileData(path, 3, 24))
    assert torch.equal(weight.load(), numbers.reshape(2, 3))
    with pytest.raises(ModelError, match="truncated"):
        Weight("w", (2, 3), torch.float32, FileData(path, 8, 24)).load()
    with pytest.raises(ModelError, match="missing"):
        Weight("w", (2, 3), torch.float32, FileData(tmp_path / "no", 0, 24)).load()
    with pytest.raises(ModelError, match="bytes are given"):
        Weight("w", (2, 2), torch.float32, FileData(path, 3, 24)).load()


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(64)}, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelError, match="cannot be read"):
        Weight("w", (64,), torch.float32, SafetensorsData(path, "w")).load()


def test_data_in_memory_is_not_copied():
    tensor = torch.zeros(3)
    assert Weight("w", (3,), torch.float32, TensorData(tensor)).load() is tensor


def test_equal_calls_are_evaluated_once():
    x = infer.fake_tensor((2, 3), torch.float32)
    add = torch.ops.aten.add.Tensor
    assert infer.evaluate_fake(add, (x, 1)) is infer.evaluate_fake(add, (x, 1))
    assert infer.evaluate_fake(add, (x, 1)) is not infer.evaluate_fake(add, (x, 1.0))
