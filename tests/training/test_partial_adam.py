"""AdamW on a part of the weights: that part as torch's, the rest untouched."""

import torch
from torch import nn

from vgcomp.training.partial_adam import PartialAdamW


def test_whole_it_is_torchs_adamw():
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    partial = PartialAdamW(ours.named_parameters(), decay=0.1)
    whole = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    every = {name: torch.ones_like(value, dtype=torch.bool) for name, value in ours.named_parameters()}
    x = torch.randn(4, 5)
    for _ in range(5):
        for network in (ours, theirs):
            network.zero_grad()
            network(x).square().mean().backward()
        partial.step(0.01, every)
        whole.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6) and torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_the_rest_keeps_its_values_moments_and_count():
    network, x = nn.Linear(4, 4), torch.randn(3, 4)
    optimizer = PartialAdamW(network.named_parameters())
    every = {name: torch.ones_like(value, dtype=torch.bool) for name, value in network.named_parameters()}
    part = {name: mask.clone() for name, mask in every.items()}
    part["weight"][2:] = False
    network(x).square().mean().backward()
    optimizer.step(0.1, every)
    before = {name: value.clone() for name, value in optimizer.tensors().items()}
    weight, bias = network.weight.detach().clone(), network.bias.detach().clone()
    optimizer.step(0.1, {"weight": part["weight"]})
    assert torch.equal(network.weight[2:], weight[2:]) and torch.equal(network.bias, bias)
    assert not torch.equal(network.weight[:2], weight[:2])
    for name, value in optimizer.tensors().items():
        same = slice(2, None) if name.endswith("weight") else slice(None)
        assert torch.equal(value[same], before[name][same]), name
    assert optimizer.tensors()["count.weight"][:, 0].tolist() == [2, 2, 1, 1]


def test_a_rarely_used_part_moves_by_its_own_count():
    """Its first step is as large as any first step, however often the rest has moved."""
    network = nn.Linear(2, 2, bias=False)
    optimizer = PartialAdamW(network.named_parameters(), decay=0.0)
    network.weight.grad = torch.ones(2, 2)
    top = torch.tensor([[True, True], [False, False]])
    for _ in range(10):
        optimizer.step(0.01, {"weight": top})
    before = network.weight.detach().clone()
    optimizer.step(0.01, {"weight": ~top})
    assert torch.allclose(before - network.weight.detach(), 0.01 * (~top).float(), atol=1e-6)
