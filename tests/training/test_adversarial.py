"""Adversarial fine-tuning: what learns and what does not, how it resumes, and its ablations."""

import math

import pytest
import torch

from tests.training.support import adversarial, copied, unet
from vgcomp.errors import ModelError, UsageError
from vgcomp.training import checkpoint, flow
from vgcomp.training.adversarial import Recipe
from vgcomp.training.clips import Shapes, Share
from vgcomp.training.discriminator import Backbone, Heads
from vgcomp.training.loop import Saving, train
from vgcomp.training.losses import pseudo_huber


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_generator_and_heads_learn_and_the_backbone_stays():
    tuned = adversarial()
    before, backbone = copied(tuned.tensors()), copied(tuned.backbone.state_dict())
    noted = tuned.iterate(0)
    assert all(math.isfinite(value) for value in noted.values())
    after = tuned.tensors()
    for part in ("generator.", "kept.", "heads."):
        names = [name for name in before if name.startswith(part) and name.endswith(".weight")]
        assert names and all(not torch.equal(before[name], after[name]) for name in names), part
    assert all(torch.equal(value, backbone[name]) for name, value in tuned.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in tuned.backbone.parameters())


def test_each_side_has_the_gradient_of_its_own_loss():
    """The generator's does not reach the heads: without its losses it stays, while they learn."""
    tuned = adversarial(adversarial=0.0, reconstruction=0.0)
    tuned.iterate(0)
    assert all(float(p.grad.abs().max()) == 0 for p in tuned.generator.parameters() if p.grad is not None)
    with_losses = adversarial()
    with_losses.iterate(0)
    for ours, theirs in zip(tuned.heads.parameters(), with_losses.heads.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_averaged_weights_move_by_the_rate():
    tuned = adversarial(average=0.75)
    before = copied(tuned.generator.state_dict())
    tuned.iterate(0)
    for name, value in tuned.kept.state_dict().items():
        expected = torch.lerp(before[name], tuned.generator.state_dict()[name], 0.25)
        assert torch.allclose(value, expected, atol=1e-7)


def test_heads_learn_to_tell_real_from_generated():
    tuned = adversarial(rate=0.0, images=0.0, batch=4)
    losses = [tuned.iterate(i)["clips.discriminator"] for i in range(16)]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_the_reconstruction_falls():
    tuned = adversarial(adversarial=0.0, images=0.0, rate=1e-3, batch=4)
    losses = [tuned.iterate(i)["clips.reconstruction"] for i in range(16)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.parametrize(
    "changes", [{"heads": "separate", "images": 0.0}, {"images": 0.0}, {"location": -2.0}, {"location": 1.0}]
)
def test_the_ablations_of_table_5_run(changes):
    noted = adversarial(**changes).iterate(0)
    assert all(math.isfinite(value) for value in noted.values())
    assert any(name.startswith("images.") for name in noted) == (changes.get("images") != 0.0)


@pytest.mark.parametrize("kind", ["joint", "separate"])
def test_heads_see_the_prompt_and_motion(kind):
    network = unet()
    backbone, heads = Backbone(network), Heads(network.encoded_channels, 12, kind)
    batch, level = Shapes(frames=4).batch(2, 0, flow.seeded(0)), torch.tensor([0.3, 0.6])
    clips = batch.latents
    said = heads(backbone(clips, level, batch.prompts), batch.prompts)
    assert said.shape[0] == 2
    image = heads(backbone(clips[:, :, :1], level, batch.prompts), batch.prompts)
    assert image.shape[1] * 4 == said.shape[1]
    levels = [value.detach() for value in backbone(clips, level, batch.prompts)]
    assert not torch.allclose(heads(levels, batch.prompts), heads(levels, batch.prompts.flip(0)))
    # One frame's features changed: more places than that frame's say something else.
    changed = [value.clone() for value in levels]
    changed[0].unflatten(0, (2, 4))[:, 3] += 1.0
    difference = (heads(changed, batch.prompts) - heads(levels, batch.prompts)).abs() > 1e-6
    assert int(difference[0].sum()) > 2 * levels[0][0, 0].numel()


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path):
    whole = adversarial()
    notes = train(whole, 4, Saving(tmp_path / "whole", 2))
    broken = Saving(tmp_path / "broken", 2)
    train(adversarial(), 2, broken)
    resumed = adversarial(heads="joint")
    again = train(resumed, 4, broken)
    assert again.means == notes.means and again.cpu_s > 0
    wanted = whole.tensors()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.tensors().items())
    one, other = (checkpoint.load(tmp_path / name) for name in ("whole", "broken"))
    assert one.step == other.step == 4 and one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    # The one before is gone, and nothing half-written lies beside it.
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["step-000004"]
    with pytest.raises(UsageError, match="another recipe"):
        train(adversarial(images=0.0), 4, broken)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoint.load(tmp_path)
    where = checkpoint.save(tmp_path, checkpoint.Checkpoint(1, {"a.b": torch.ones(2)}, {}))
    assert checkpoint.load(where).parts()["a"]["b"].tolist() == [1, 1]
    (where / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="step-000001 cannot be read"):
        checkpoint.load(tmp_path)


def test_shares_are_of_equal_size():
    with pytest.raises(UsageError, match="a batch of 3 cannot be shared by 2"):
        Share(0, 2).check(3)
    with pytest.raises(UsageError, match="share"):
        Recipe(images=1.0)


def test_networks_run_where_their_inputs_lie():
    """Nothing is made on another device than the inputs': the meta device stands for a GPU here."""
    network = unet().to("meta")
    backbone, heads = Backbone(network), Heads(network.encoded_channels, 12).to("meta")
    clips, level, prompts = (torch.empty(*shape, device="meta") for shape in ((2, 48, 3, 8, 8), (2,), (2, 12)))
    fake = flow.moved(clips, flow.velocity(clips, network(clips, level, prompts), level), level, level)
    assert heads(backbone(fake, level, prompts), prompts).device.type == "meta"
    assert pseudo_huber(fake, clips, 0.1).device.type == "meta"
