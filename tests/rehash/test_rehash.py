"""``rehash``: predictions against clips made, memory budgets, the pass, the folder, and the other backends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.rehash.support import DENOISING, STEPS, job, program
from vgcomp.backends.torch_module import TorchModule
from vgcomp.cost_models import AnalyticModel
from vgcomp.errors import Infeasible, ModelError, UsageError
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.passes.registry import parse_spec
from vgcomp.passes.rehash_steps import RehashSteps, what_is_read
from vgcomp.program import Program
from vgcomp.rehash import choose
from vgcomp.rehash.calibrate import _carried, calibrate, cosine, run_full
from vgcomp.rehash.evaluate import mean_psnr
from vgcomp.rehash.jobs import denoising_of, read_given, seeded_job
from vgcomp.rehash.options import Option, finalists, needed_bytes, options, seconds
from vgcomp.rehash.runner import Denoising, Job, Runs, Steps, run_schedule, step_inputs
from vgcomp.rehash.sampler import FlowEuler
from vgcomp.rehash.schedule import least_error
from vgcomp.rehash.store import load_table, save
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.find import Candidate, Finder
from vgcomp.targets import load_target

CPU = load_target("cpu")
COSTS = AnalyticModel(CPU)
KINDS = ["unet", "transformer"]


def deep(kind: str) -> Candidate:
    """A cut that saves about half and still reads the latent."""
    found = Finder(program(kind), "sample", "timestep").candidates()
    return min((c for c in found if c.reads_latent), key=lambda c: abs(c.saved - 0.5))


def clip(found: choose.Rehash, schedule: tuple[bool, ...], item: Job) -> Tensor:
    return run_schedule(found.modules(), schedule, DENOISING, item).latent


@pytest.fixture(scope="module")
def rehashed() -> choose.Rehash:
    return choose.rehash(
        program("transformer"), DENOISING, [job(0)], target=CPU, cost_model=COSTS, full=3, least_psnr=-100.0
    )


def test_one_stretch_of_reuse_does_what_calibration_measured() -> None:
    whole, cut = program("transformer"), deep("transformer").cut
    found = calibrate(whole, cut, DENOISING, [job(0)])
    steps = Steps(TorchModule(full_program(whole, cut)), TorchModule(reuse_program(whole, cut)), whole.input_names)
    wanted = run_full(steps.full, whole.input_names, DENOISING, job(0)).latents[-1]
    for j, k in ((0, 2), (2, 5), (1, STEPS)):
        schedule = tuple(not j < i < k for i in range(STEPS))
        made = run_schedule(steps, schedule, DENOISING, job(0)).latent
        measured = float((made - wanted).double().square().mean())
        # To first order: only one error for each k was run to the end, the others are carried over.
        assert found.stretches.squared_errors(schedule)[0] == pytest.approx(measured, rel=0.3)
    assert found.stretches.squared_errors((True,) * STEPS)[0] == 0
    assert found.psnr((True,) * STEPS) == float("inf")


def test_similarities_are_cosines() -> None:
    values = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, -2.0])]
    found = cosine(values)
    np.testing.assert_allclose(found, [[1, 0.5**0.5, 0], [0.5**0.5, 1, -(0.5**0.5)], [0, -(0.5**0.5), 1]], atol=1e-7)


def test_the_choice_is_the_least_latency_that_holds_the_bound(rehashed: choose.Rehash) -> None:
    assert rehashed.chosen.latency_s == min(choice.latency_s for choice in rehashed.choices)
    assert rehashed.chosen.full_steps == 3
    strict = choose.best(rehashed.choices, float("inf"))
    assert strict.psnr == max(choice.psnr for choice in rehashed.choices)
    assert rehashed.chosen.flops_ratio > 1.3
    assert mean_psnr(rehashed, program("transformer"), [job(7)]) == pytest.approx(rehashed.chosen.psnr, abs=15)


def test_within_a_latency_the_best_psnr_is_chosen(rehashed: choose.Rehash) -> None:
    made = [replace(choice, psnr=float(i)) for i, choice in enumerate(rehashed.choices)]
    limit = sorted(choice.latency_s for choice in made)[len(made) // 2]
    found = choose.best_within(made, limit)
    assert found.latency_s <= limit
    assert found.psnr == max(choice.psnr for choice in made if choice.latency_s <= limit)
    with pytest.raises(UsageError, match="no schedule takes at most"):
        choose.best_within(made, 1e-9)


def test_errors_are_carried_over_exactly_where_steps_are_linear() -> None:
    rng = torch.Generator().manual_seed(0)
    step, shown = torch.randn(8, 8, generator=rng), torch.randn(3, 8, generator=rng)
    like = torch.tensor([0.5, -2.0, 1.0]) @ shown
    torch.testing.assert_close(_carried(like, shown, shown @ step), like @ step, rtol=1e-2, atol=1e-2)
    none = torch.zeros(8)
    assert torch.equal(_carried(none, shown * 0, shown * 0), none), "nothing is off, and nothing is divided by it"


def test_under_a_tight_budget_a_smaller_cut_is_chosen() -> None:
    def found(memory: int) -> Option:
        return choose.rehash(
            program("unet"), DENOISING, [job(0)], target=CPU, cost_model=COSTS, full=3, least_psnr=-100, memory=memory
        ).chosen.option

    # Any PSNR will do: without a budget the fastest of these would be chosen.
    offered = finalists(options(program("unet"), DENOISING, [job(0)]), CPU, None)
    loose = min(offered, key=lambda option: seconds(option, CPU, COSTS).reuse)
    budget = needed_bytes(loose, CPU) - 1
    tight = found(budget)
    assert needed_bytes(tight, CPU) <= budget
    assert tight.candidate.nbytes < loose.candidate.nbytes
    with pytest.raises(Infeasible) as error:
        found(1000)
    assert error.value.smallest_bytes > 1000


def test_the_folder_says_what_runs_when(rehashed: choose.Rehash, tmp_path: Path) -> None:
    save(rehashed, tmp_path)
    table = load_table(tmp_path)
    assert table.schedule == rehashed.chosen.schedule
    assert table.cache_bytes == rehashed.chosen.option.candidate.nbytes
    full, reuse = Program.load(tmp_path / "full"), Program.load(tmp_path / "reuse")
    assert full.output_names[1:] == table.cache == reuse.input_names[-len(table.cache) :]
    assert reuse.history[-1].name == "rehash-steps" and reuse.history[-1].equivalence == "approximate"
    with pytest.raises(ModelError, match="no schedule table"):
        load_table(tmp_path / "full")


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_makes_either_program_and_says_what_reuse_still_reads(kind: str) -> None:
    whole, candidate = program(kind), deep(kind)
    spec = f"rehash-steps{{cut={candidate.cut}}},canonicalize"
    done = run_pipeline(whole, spec, PassContext(CPU, COSTS))
    assert done.program.input_names == reuse_program(whole, candidate.cut).input_names
    assert "still depends on the latent" in done.explanations[0].reason
    record = done.records[0]
    assert record.equivalence == "approximate" and record.stats["cache_bytes"] == candidate.nbytes
    (full,) = parse_spec(f"rehash-steps{{cut={candidate.cut},emit=full}}")
    assert full.run(whole, PassContext(CPU, COSTS)).program.output_names[0] == "sample"


def test_a_plain_repeat_is_said_to_be_one() -> None:
    found = Finder(program("transformer"), "sample", "timestep").candidates()
    repeat = max((c for c in found if c.repeats), key=lambda c: c.saved)
    result = RehashSteps(cut=tuple(map(str, repeat.cut.kept))).run(program("transformer"), PassContext(CPU, COSTS))
    assert "repeats" in result.explanations[0].reason
    assert "not on the timestep" in what_is_read(frozenset({"sample"}), "sample", "timestep")


def test_mistakes_are_named(tmp_path: Path) -> None:
    whole = program("unet")
    with pytest.raises(UsageError, match="needs a cut"):
        RehashSteps().run(whole, PassContext(CPU, COSTS))
    with pytest.raises(UsageError, match="no input 'x'"):
        RehashSteps(cut=(str(deep("unet").cut),), latent="x").run(whole, PassContext(CPU, COSTS))
    with pytest.raises(UsageError, match="no input 'noise'"):
        denoising_of(whole, FlowEuler(4), "noise", "timestep")
    wrong = Denoising(FlowEuler(4), latent="prompt")
    with pytest.raises(UsageError, match="does not answer with a latent"):
        choose.rehash(whole, wrong, [Job(torch.zeros(1, 12), {})], target=CPU, cost_model=COSTS)
    with pytest.raises(ModelError, match="safetensors"):
        read_given(tmp_path / "none.safetensors", whole)


def test_jobs_of_a_seed_are_the_same_and_keep_to_the_inputs() -> None:
    whole = program("unet")
    a, b = (seeded_job(whole, DENOISING, 3) for _ in range(2))
    assert torch.equal(a.noise, b.noise) and torch.equal(a.given["prompt"], b.given["prompt"])
    with pytest.raises(UsageError, match="input 'prompt'"):
        seeded_job(whole, DENOISING, 3, {"prompt": torch.zeros(2, 2)})


def onnx_runs(made: Program, folder: Path) -> Runs:
    import onnxruntime

    from vgcomp.backends.onnx_export import export_onnx

    folder.mkdir()
    export_onnx(made, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def runs(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(made.input_names, (value.numpy() for value in values), strict=True))
        return tuple(map(torch.from_numpy, session.run(None, {name: given[name] for name in names})))

    return runs


def tvm_runs(made: Program, folder: Path) -> Runs:
    from tests.backends.tvm.support import Compiled

    folder.mkdir()
    compiled, weights = Compiled(made, folder), {name: weight.load() for name, weight in made.weights.items()}
    return lambda *values: compiled(values, weights)


@pytest.mark.parametrize(("kind", "backend"), [("unet", "onnx"), ("transformer", "onnx"), ("transformer", "tvm")])
def test_both_programs_elsewhere_make_the_clip_that_torch_makes(kind: str, backend: str, tmp_path: Path) -> None:
    if backend == "tvm":
        pytest.importorskip("tvm")
    whole, cut = program(kind), deep(kind).cut
    both = full_program(whole, cut), reuse_program(whole, cut)
    make = onnx_runs if backend == "onnx" else tvm_runs
    elsewhere = [make(made, tmp_path / name) for made, name in zip(both, ("full", "reuse"), strict=True)]
    inputs = step_inputs(whole.input_names, DENOISING, job(0), 1, job(0).noise)
    answer, *cache = TorchModule(both[0])(*inputs)
    for found, wanted in zip(elsewhere[0](*inputs), (answer, *cache), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    (reused,) = elsewhere[1](*inputs, *cache)
    torch.testing.assert_close(reused, TorchModule(both[1])(*inputs, *cache)[0], rtol=1e-4, atol=1e-4)

    schedule = tuple(i % 3 == 0 for i in range(STEPS))
    steps = [Steps(*runs, whole.input_names) for runs in (elsewhere, [TorchModule(made) for made in both])]
    clips = [run_schedule(item, schedule, DENOISING, job(0)).latent for item in steps]
    torch.testing.assert_close(clips[0], clips[1], rtol=1e-3, atol=1e-3)


def test_least_error_leaves_nothing_on_the_table(rehashed: choose.Rehash) -> None:
    for found in rehashed.calibrations.values():
        best = found.stretches.squared_errors(least_error(found.stretches, 3))[0]
        others = [choose.SCHEDULES[rule](found, 3) for rule in ("algorithm-1", "algorithm-1-effect", "uniform")]
        assert all(best <= found.stretches.squared_errors(schedule)[0] for schedule in others)
