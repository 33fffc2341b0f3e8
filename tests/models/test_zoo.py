"""Every network of the zoo: it builds, is a Program, and computes what diffusers computes."""

import pytest
import torch

from tests.node_by_node import relative_error, run
from vgcomp import models
from vgcomp.errors import ModelError, UsageError
from vgcomp.program import Program, is_constant_name
from vgcomp.verify import verify

SMALL = sorted(name for name in models.MODELS if name.endswith("-small"))
LARGE = {name.removesuffix("-small") for name in SMALL}
#: Trained, and small as they are.
TRAINED = {"quality-unet", "quality-transformer"}


def test_each_network_has_a_small_sibling():
    assert set(models.MODELS) == LARGE | set(SMALL) | TRAINED
    assert len(LARGE) == 20


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_computes_what_the_module_does(name, tmp_path):
    program = models.build(name)
    verify(program)
    zero = [w.name for w in program.weights.values() if not is_constant_name(w.name) and not w.load().any()]
    assert not zero, "random weights that are zero hide what comes after them"
    module, inputs = models.build_module(name)
    with torch.no_grad():
        wanted = module(*inputs)
    (got,) = run(program, inputs)
    assert relative_error(got, wanted) <= 1e-5

    program.save(tmp_path / "saved")
    loaded = Program.load(tmp_path / "saved")
    assert loaded.text() == program.text()
    # Not bit for bit: memory-mapped weights lie at other addresses, and some kernels choose by alignment.
    assert relative_error(run(loaded, inputs)[0], got) <= 1e-6
    assert all(torch.equal(loaded.weights[name].load(), w.load()) for name, w in program.weights.items())


def test_weights_are_the_same_for_the_same_seed_and_others_for_another():
    first, same, other = (models.build("sd-vae-decoder-small", seed=seed) for seed in (1, 1, 2))
    name = next(iter(first.weights))
    assert torch.equal(first.weights[name].load(), same.weights[name].load())
    assert not torch.equal(first.weights[name].load(), other.weights[name].load())


def test_a_full_size_network_has_shapes_and_no_data():
    program = models.build("svd-vae-decoder", frames="14", height=576, width=1024)
    verify(program)
    (z,), (out,) = program.inputs, program.outputs
    assert tuple(z.meta["val"].shape) == (14, 4, 72, 128)
    assert tuple(out.meta["val"].shape) == (14, 3, 576, 1024)
    assert out.meta["val"].dtype == torch.float16
    parameter = next(w for w in program.weights.values() if not w.name.startswith("const_"))
    assert not parameter.present
    with pytest.raises(ModelError, match="has no data"):
        parameter.load()


def test_a_parameter_is_named_as_in_the_checkpoint():
    program = models.build("svd-vae-decoder-small")
    assert "vae.decoder.conv_in.weight" in program.weights


def test_wan_decoded_whole_is_wan_decoded_frame_by_frame():
    whole, inputs = models.build_module("wan-vae-decoder-small", frames=17)
    chunked, _ = models.build_module("wan-vae-decoder-small", frames=17, form="chunked")
    chunked.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert relative_error(whole(*inputs), chunked(*inputs)) <= 1e-5


def test_cogvideox_decoded_whole_is_the_chunked_form_but_for_the_statistics():
    whole, inputs = models.build_module("cogvideox-vae-decoder-small", frames=17)
    chunked, _ = models.build_module("cogvideox-vae-decoder-small", frames=17, form="chunked")
    for module in (*whole.modules(), *chunked.modules()):
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x * 0.5  # no statistics
    with torch.no_grad():
        assert relative_error(whole(*inputs), chunked(*inputs)) <= 1e-5


def test_the_chunked_form_is_captured_too():
    program = models.build("cogvideox-vae-decoder-small", frames=17, form="chunked")
    verify(program)
    assert program.n_nodes > models.build("cogvideox-vae-decoder-small", frames=17).n_nodes
    assert dict(program.source.fields)["form"] == "chunked"


def test_half_precision_keeps_in_fp32_what_checkpoints_keep():
    program = models.build("wan-1.3b-small", dtype="fp16", weights="absent")
    by_name = {name: weight.dtype for name, weight in program.weights.items()}
    assert by_name["transformer.blocks.0.attn1.to_q.weight"] == torch.float16
    assert by_name["transformer.scale_shift_table"] == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": 3}, "no setting 'frame'"),
        ({"frames": "six"}, "whole number"),
        ({"frames": 0}, "at least 1"),
        ({"frames": 2.5}, "whole number"),
        ({"height": 65}, "multiple of"),
        ({"dtype": "int8"}, "dtype is one of"),
        ({"weights": "trained"}, "absent or random"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        models.build("svd-vae-decoder-small", **settings)


def test_causal_decoders_take_only_the_clips_they_can_make():
    with pytest.raises(UsageError, match=r"4·n \+ 1"):
        models.build("wan-vae-decoder-small", frames=16)


def test_an_unknown_network_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'svd-unet'"):
        models.build("svd-unett")
