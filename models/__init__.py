"""The zoo: the networks of the papers and today's, by name, buildable without weights.

    program = build("svd-unet", frames=25)                # full size, shapes only
    program = build("svd-unet-small")                     # seconds on a CPU, seeded random weights
    module, inputs = build_module("svd-unet-small")       # the same network, to run eagerly

Network definitions come from diffusers; nothing is downloaded.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.capture import capture
from vgcomp.elastic import with_marks
from vgcomp.errors import UsageError
from vgcomp.models import decoders, encoders, quality, snapgen, sned, transformers, unets
from vgcomp.models.initialise import build_untouched, randomise
from vgcomp.models.network import InputSpec, Network, Settings
from vgcomp.models.pipelines import PIPELINES
from vgcomp.program import Program, Source

#: Every network of the zoo, by name.
MODELS: dict[str, Network] = {
    network.name: network
    for family in (unets, decoders, transformers, encoders, snapgen, sned, quality)
    for network in family.NETWORKS
}


def build(name: str, **settings: Any) -> Program:
    """The Program of a zoo network. Settings: see :class:`Settings`; values may be text.

    Raises UsageError for an unknown network or setting.
    """
    network = find(name)
    chosen = network.settings(settings)
    module, inputs = _module(network, chosen)
    names = [spec.name for spec in network.inputs(chosen)]
    program = capture(module, inputs, name=name, input_names=names, output_names=[network.output])
    if network.marks is not None:
        program = with_marks(program, network.marks(module, program))
    if chosen.weights == "absent":
        parameters = {path for path, _ in module.named_parameters(remove_duplicate=False)}
        program = program.without_data(parameters)
    return replace(program, source=Source("zoo", name, fields=chosen.fields()))


def build_module(name: str, **settings: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network as an eager module with its trained or seeded random weights, and example inputs for it.

    The same seed gives the weights of ``build(name, weights="random")``.
    """
    network = find(name)
    weights = "random" if network.trained is None else network.defaults.weights
    return _module(network, network.settings({"weights": weights, **settings}))


def _module(network: Network, settings: Settings) -> tuple[nn.Module, tuple[Tensor, ...]]:
    module = build_untouched(lambda: network.make(settings), settings.dtype)
    if settings.weights == "random":
        randomise(module, settings.seed)
    if settings.weights == "trained" and network.trained is not None:
        network.trained(network.name, module)
    with torch.no_grad():
        return module, network.example_inputs(settings)


def find(name: str) -> Network:
    """The entry of that name. Raises UsageError, with the nearest name, for an unknown one."""
    found = MODELS.get(name)
    if found is not None:
        return found
    if name in PIPELINES:
        raise UsageError(f"{name} is a whole pipeline, which `vgcomp optimize` plans; this is for one network of it")
    near = difflib.get_close_matches(name, [*MODELS, *PIPELINES], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see `vgcomp models`"
    raise UsageError(f"no network is called {name!r}; {hint}")


__all__ = ["MODELS", "InputSpec", "Network", "Settings", "build", "build_module", "find"]
