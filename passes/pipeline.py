"""Runs passes in order: verifies the IR between them, times each, and keeps what each one said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgcomp.errors import InternalError, VgcompError
from vgcomp.passes.base import Pass, PassContext, PassResult
from vgcomp.passes.registry import build_pipeline
from vgcomp.program import PassRecord, Program
from vgcomp.result import Explanation
from vgcomp.verify import verify


@dataclass(frozen=True)
class PipelineResult:
    """``records``: one a pass of this run, which the program's history holds too.

    ``reference``: what the program must compute, which the first ``prepared`` passes left: the network given, or the
    one that a pass made of it on purpose.
    """

    program: Program
    records: tuple[PassRecord, ...]
    explanations: tuple[Explanation, ...]
    reference: Program
    prepared: int = 0

    @property
    def changed(self) -> bool:
        """True where any pass changed the program."""
        return any(record.changed for record in self.records)


def run_pipeline(program: Program, passes: str | Sequence[str | Pass], context: PassContext) -> PipelineResult:
    """Runs ``passes`` (objects, or a spec) on ``program``, which stays as it is.

    Raises what a pass raises for the user's mistakes (VgcompError), and InternalError naming the
    pass for everything else: its own exceptions, and IR that it left broken.
    """
    pipeline = build_pipeline(passes)
    verify(program)
    records: list[PassRecord] = []
    explanations: list[Explanation] = []
    reference, prepared = program, 0
    for i, item in enumerate(pipeline):
        context.progress(item.name, i / len(pipeline))
        result, record = run_pass(item, program, _scaled(context, i, len(pipeline)))
        program = result.program.recorded(record)
        records.append(record)
        explanations.extend(result.explanations)
        if result.new_network:
            reference, prepared = program, i + 1
    context.progress("done", 1.0)
    return PipelineResult(program, tuple(records), tuple(explanations), reference, prepared)


def run_pass(item: Pass, program: Program, context: PassContext) -> tuple[PassResult, PassRecord]:
    """One pass, timed and verified; errors as in :func:`run_pipeline`."""
    begin = time.perf_counter()
    try:
        result = item.run(program, context)
    except (VgcompError, InternalError) as error:
        raise _named(item, error) from error
    except Exception as error:  # a pass may raise anything; who reads it needs the pass' name
        raise InternalError(f"pass {item.name} failed on {program.name}: {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - begin
    _check(item, program, result)
    return result, PassRecord(item.name, item.equivalence, result.changed, seconds, dict(result.stats))


def _check(item: Pass, before: Program, result: PassResult) -> None:
    """Holds a pass to its contract: it keeps the interface, and leaves valid IR."""
    after = result.program
    if after is before:
        return
    kept = (after.input_names, after.output_names) == (before.input_names, before.output_names)
    if not kept and not result.new_interface:
        raise InternalError(f"pass {item.name} changed the inputs or outputs of {before.name}")
    try:
        verify(after)
    except Exception as error:
        raise InternalError(f"pass {item.name} left broken IR in {before.name}: {error}") from error


def _named(item: Pass, error: VgcompError | InternalError) -> VgcompError | InternalError:
    if isinstance(error, VgcompError) or item.name in str(error):
        return error
    return InternalError(f"pass {item.name}: {error}")


def _scaled(context: PassContext, index: int, count: int) -> PassContext:
    """A context whose progress is this pass' share of the whole pipeline's."""
    outer = context.progress

    def progress(stage: str, fraction: float) -> None:
        outer(stage, (index + min(max(fraction, 0.0), 1.0)) / count)

    return replace(context, progress=progress)
