"""``rehash-steps``: one of the two static programs that a denoiser's steps become, full or reuse.

Given (the latent goes through all layers at every step)::

    %a = layer_0(%sample, %timestep)
    %b = layer_1(%a) ... %y = layer_n(...)

results, for ``cut=b-a`` (what the layers between added is kept, not what they said), in the full program::

    %keep = sub(%b, %a)                         # one more output, cache_0

and in the reuse program, which has no layer between ``a`` and ``b``::

    %b = add(%a, %cache_0)                      # one more input, cache_0

Both are graphs like any other: the cache is in their inputs and outputs, hence in their memory plan; what the cut made
dead is gone; nothing is decided at run time and nothing is remembered outside the call. From the graph the pass proves
whether the reuse program still reads the latent and the timestep, and says so where it does not.

Where to cut and when to reuse is calibrated beforehand (:mod:`vgcomp.rehash`, ``vgcomp rehash``). The result is
approximate: PSNR of the clip to the full schedule's, by default at least 30 dB, predicted from the calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vgcomp.errors import UsageError
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.step_cuts.cut import Cut
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.reach import node_flops, read_inputs

#: Decibels that a clip must keep to the full schedule's, unless asked for otherwise.
LEAST_PSNR = 30.0


@dataclass(frozen=True)
class RehashSteps:
    """See the module's text. ``cut``: NODE or NODE-BASE, joined by ``+``. ``latent``, ``timestep``: names of inputs."""

    name: ClassVar[str] = "rehash-steps"
    equivalence: ClassVar[Equivalence] = "approximate"
    #: What ``approximate`` means here: the metric, and the bound that it is held to.
    metric: ClassVar[str] = "PSNR of the clip to the full schedule's, dB"
    bound: ClassVar[float] = LEAST_PSNR

    cut: tuple[str, ...] = ()
    emit: Literal["full", "reuse"] = "reuse"
    latent: str = "sample"
    timestep: str = "timestep"

    def run(self, program: Program, context: PassContext) -> PassResult:
        if not self.cut:
            raise UsageError("rehash-steps needs a cut: `vgcomp rehash` finds one, rehash-steps{cut=NODE} takes it")
        cut = Cut.parse(self.cut)
        for name in (self.latent, self.timestep):
            if name not in program.input_names:
                raise UsageError(f"{program.name} has no input {name!r}; it has {', '.join(program.input_names)}")
        new = (full_program if self.emit == "full" else reuse_program)(program, cut)
        before, after = (sum(map(node_flops, p.graph.nodes)) for p in (program, new))
        stats = {"cache_bytes": cut.nbytes(program), "removed": max(0, program.n_nodes - new.n_nodes)}
        if self.emit == "reuse":
            stats["flops_saved_percent"] = round(100 * (1 - after / before)) if before else 0
        return PassResult(new, True, stats, self._explained(program, cut), new_interface=True)

    def _explained(self, program: Program, cut: Cut) -> tuple[Explanation, ...]:
        read = read_inputs(reuse_program(program, cut))
        return (Explanation(str(cut), self.name, what_is_read(read, self.latent, self.timestep)),)


def what_is_read(read: frozenset[str], latent: str, timestep: str) -> str:
    """One sentence: which of the two a reuse step still depends on."""
    if latent in read and timestep in read:
        return "a reuse step still depends on the latent and the timestep"
    if latent in read:
        return "a reuse step still depends on the latent, and not on the timestep"
    if timestep in read:
        return "a reuse step does not see the latent: it repeats what was kept, fitted to the timestep alone"
    return "a reuse step sees neither latent nor timestep: it repeats the last answer"
