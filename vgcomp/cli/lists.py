"""``vgcomp passes``, ``targets`` and ``models``: what there is."""

from __future__ import annotations

from vgcomp.cli.console import say, table
from vgcomp.units import format_bytes, format_count


def passes() -> None:
    """List the passes, with their options and how far they may change a result."""
    from vgcomp.errors import VgcompError
    from vgcomp.passes.registry import options_of, pass_class, pass_names

    found = table("Pass", "Equivalence", "Options", "What it does")
    for name in pass_names():
        try:
            cls = pass_class(name)
        except VgcompError as error:  # another package's broken pass must not hide ours
            found.add_row(name, "-", "-", str(error))
            continue
        options = ", ".join(f"{o.name}={o.default} ({o.type})" for o in options_of(cls))
        found.add_row(name, cls.equivalence, options or "-", _summary(cls))
    say(found)


def targets() -> None:
    """List the devices that come with vgcomp; --target also takes a file of your own."""
    from vgcomp.targets import load_target, target_names

    found = table("Target", "Device", ">Memory", ">For one app", ">GB/s", ">fp16 FLOP/s", ">fp32 FLOP/s")
    for name in target_names():
        target = load_target(name)
        found.add_row(
            name,
            target.title,
            format_bytes(target.memory_bytes, binary=False),
            format_bytes(target.usable_bytes, binary=False),
            f"{target.memory_bytes_per_s / 1e9:.0f}",
            format_count(target.fp16_acc32_flops_per_s),
            format_count(target.fp32_flops_per_s) if target.fp32_flops_per_s else "-",
        )
    say(found)


def models() -> None:
    """List the networks that can be built by name and the pipelines that can be planned, with their default sizes."""
    from vgcomp.models import MODELS
    from vgcomp.models.pipelines import PIPELINES

    found = table("Model", ">Frames", ">Height", ">Width", ">Batch", "Dtype", "What it is")
    for name, network in MODELS.items():
        size = network.defaults
        dtype = str(size.dtype).removeprefix("torch.")
        cells = (str(n) for n in (size.frames, size.height, size.width, size.batch))
        found.add_row(name, *cells, dtype, network.summary)
    whole = table("Pipeline", ">Frames", ">Height", ">Width", ">Steps", "What it is")
    for name, pipeline in PIPELINES.items():
        clip = pipeline.defaults
        whole.add_row(name, *(str(n) for n in (clip.frames, clip.height, clip.width, clip.steps)), pipeline.summary)
    say(found, whole)


def _summary(cls: type[object]) -> str:
    """The first sentence about a pass: its module's, where the class has no more than a pointer to it."""
    import sys

    text = (sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip().split("\n\n")[0]
    _, _, rest = text.partition(": ")
    return " ".join((rest or text).split())
