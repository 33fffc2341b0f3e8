"""Fits the A100's constants to published latencies, and prints what they are and how well they carry over.

    python -m tests.benchmarks.fit_targets

The constants go into ``targets/a100.toml`` by hand, rounded, with their source. About two minutes.
"""

from __future__ import annotations

from vgcomp.targets import load_target
from vgcomp.validate.fit import PRIOR, fit, with_efficiency
from vgcomp.validate.latency import TARGET, left_out_rows, run_seconds
from vgcomp.validate.pipelines import RUNS
from vgcomp.validate.row import Context, Report


def main() -> None:
    target = load_target(TARGET)
    fitted = [run for run in RUNS if run.fitted]
    constants = fit(fitted, target)
    for kind, value in constants.items():
        print(f"{kind:10} {value:.3f}  (usual {PRIOR[kind][0]}, in the file {target.efficiency.get(kind, 'none')})")
    device = with_efficiency(target, constants)
    for run in RUNS:
        predicted = run_seconds(run, device)
        print(f"{run.name:45} {run.seconds:7.2f} s {predicted:7.2f} s {100 * (predicted / run.seconds - 1):+6.1f} %")
    left_out = Report(rows=tuple(left_out_rows(Context(), target)))
    for row in left_out.rows:
        print(f"without its network: {row.name:45} {100 * (row.predicted / row.figure - 1):+6.1f} %")
    mean = left_out.mean_error("leave-one-out", "latency_s")
    assert mean is not None
    print(f"mean error, a network left out: {100 * mean:.1f} %")


if __name__ == "__main__":
    main()
