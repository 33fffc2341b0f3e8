"""Writes the results: the network in the form asked for, and the reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vgcomp.errors import UsageError
from vgcomp.files import staged_directory
from vgcomp.report import write_report
from vgcomp.report.source import Reportable
from vgcomp.result import Explanation, Report

if TYPE_CHECKING:
    from vgcomp.backends.tvm.platform import Platform
    from vgcomp.program import Program
    from vgcomp.simulate import Timeline

Form = Literal["onnx", "torch", "tvm"]


@dataclass(frozen=True)
class Reported:
    """A result under a report that knows of what was written."""

    program: Program
    report: Report
    timelines: tuple[Timeline, Timeline]
    explanations: Sequence[Explanation]


def with_report(result: Reportable, **changes: object) -> Reported:
    """The same result with some fields of its report replaced."""
    report = result.report.model_copy(update=changes)
    return Reported(result.program, report, result.timelines, result.explanations)


def form_of(program: Program) -> Form:
    """What came in goes out."""
    return "onnx" if program.source.kind == "onnx" else "torch"


def emit(result: Reportable, form: Form, out: Path, platform: Platform | None = None) -> Reported:
    """Fills the folder ``out``: ``optimized.onnx`` (or ``optimized/``, ``optimized.tvm/``) and two reports.

    They appear together or not at all. Raises OSError if the disk says no, UsageError if ``out`` is a file.
    """
    refuse_own_weights(result.program, out)
    with staged_directory(out) as staged:
        _WRITERS[form](result, staged, out, platform)
        written = sorted(entry.name for entry in staged.iterdir())
        names = (*written, "report.html", "report.json")
        done = with_report(result, artifacts=tuple(str(out / name) for name in names))
        for name in names[-2:]:
            write_report(done, staged / name)
    return done


def refuse_own_weights(program: Program, out: Path) -> None:
    """Raises UsageError where writing into ``out`` would replace a file that holds the program's own weights."""
    for weight in program.weights.values():
        path = getattr(weight.data, "path", None)
        if path is None or not Path(path).absolute().is_relative_to(out.absolute()):
            continue
        if Path(path).absolute().relative_to(out.absolute()).parts[0].startswith("optimized"):
            raise UsageError(
                f"{path} holds the model's weights and would be replaced: choose another directory than {out}"
            )


def _write_onnx(result: Reportable, staged: Path, out: Path, platform: Platform | None) -> None:
    from vgcomp.backends.onnx_export import export_onnx

    # References to weights that stay where they are must hold from the final place.
    export_onnx(result.program, staged / "optimized.onnx", home=out, allow_absent=True)


def _write_torch(result: Reportable, staged: Path, out: Path, platform: Platform | None) -> None:
    result.program.save(staged / "optimized")


def _write_tvm(result: Reportable, staged: Path, out: Path, platform: Platform | None) -> None:
    from vgcomp.backends.tvm.artifact import Predicted, write_artifact
    from vgcomp.backends.tvm.platform import HERE

    after = result.report.after
    predicted = Predicted(
        peak_bytes=after.peak_bytes, peak_activation_bytes=after.peak_activation_bytes, latency_s=after.latency_s
    )
    write_artifact(
        result.program,
        staged / "optimized.tvm",
        predicted=predicted,
        platform=platform or HERE,
        budget_bytes=result.report.budget_bytes,
    )


_WRITERS: dict[Form, Callable[[Reportable, Path, Path, Platform | None], None]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "tvm": _write_tvm,
}
