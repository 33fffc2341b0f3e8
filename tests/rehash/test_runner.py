"""The sampler's loop: a generation is its State, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.rehash.support import DENOISING, STEPS, job, program
from vgcomp.backends.torch_module import TorchModule
from vgcomp.errors import ModelError, UsageError
from vgcomp.memory import peak_activation_bytes
from vgcomp.rehash.runner import State, Steps, advance, run_schedule, step_inputs
from vgcomp.rehash.sampler import Ddim, FlowEuler, make_sampler
from vgcomp.rehash.schedule import uniform
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.find import Candidate, Finder
from vgcomp.track import LiveTracker

SCHEDULE = uniform(STEPS, 3)
KINDS = ["unet", "transformer"]


def cut(kind: str) -> Candidate:
    """The cut of most FLOPs saved that still reads the latent."""
    return next(c for c in Finder(program(kind), "sample", "timestep").candidates() if c.reads_latent)


@pytest.fixture(scope="module", params=KINDS)
def steps(request: pytest.FixtureRequest) -> Steps:
    whole, chosen = program(request.param), cut(request.param).cut
    full, reuse = TorchModule(full_program(whole, chosen)), TorchModule(reuse_program(whole, chosen))
    return Steps(full, reuse, whole.input_names)


def test_two_generations_turn_by_turn_are_what_each_is_alone(steps: Steps) -> None:
    jobs = [job(0), job(1)]
    alone = [run_schedule(steps, SCHEDULE, DENOISING, item).latent for item in jobs]
    states = [State(0, item.noise) for item in jobs]
    for step in range(STEPS):
        states = [advance(steps, SCHEDULE[step], DENOISING, j, s) for j, s in zip(jobs, states, strict=True)]
    assert all(torch.equal(state.latent, wanted) for state, wanted in zip(states, alone, strict=True))
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_stopped_saved_and_resumed_it_is_the_same_clip(steps: Steps, stop: int, tmp_path: Path) -> None:
    whole = run_schedule(steps, SCHEDULE, DENOISING, job(0))
    run_schedule(steps, SCHEDULE, DENOISING, job(0), until=stop).save(tmp_path / "state.safetensors")
    run_schedule(steps, SCHEDULE, DENOISING, job(1))  # another one in between
    loaded = State.load(tmp_path / "state.safetensors")
    assert loaded.step == stop
    assert torch.equal(run_schedule(steps, SCHEDULE, DENOISING, job(0), state=loaded).latent, whole.latent)


@pytest.mark.parametrize("kind", KINDS)
def test_full_steps_alone_are_the_unmodified_run(kind: str) -> None:
    whole, chosen = program(kind), cut(kind).cut
    plain, full = TorchModule(whole), TorchModule(full_program(whole, chosen))
    always = (True,) * STEPS
    wanted, found = (
        run_schedule(Steps(module, module, whole.input_names), always, DENOISING, job(0)).latent
        for module in (plain, full)
    )
    assert torch.equal(found, wanted)


def test_mistakes_are_named(steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the first full"):
        run_schedule(steps, (False,) * STEPS, DENOISING, job(0))
    with pytest.raises(UsageError, match="no full step before it"):
        advance(steps, False, DENOISING, job(0), State(3, job(0).noise))
    with pytest.raises(UsageError, match="input 'prompt'"):
        step_inputs(steps.inputs, DENOISING, type(job(0))(job(0).noise, {}), 0, job(0).noise)
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="no saved generation"):
        State.load(tmp_path / "x")


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_is_in_the_plan_and_measured(kind: str) -> None:
    whole, candidate = program(kind), cut(kind)
    inputs = step_inputs(whole.input_names, DENOISING, job(0), 0, job(0).noise)
    for made in (full_program(whole, candidate.cut), reuse_program(whole, candidate.cut)):
        given = [torch.zeros(n.meta["val"].shape) if n.name.startswith("cache") else None for n in made.inputs]
        values = [inputs[i] if value is None else value for i, value in enumerate(given)]
        module = TorchModule(made)
        with torch.no_grad(), LiveTracker(values) as tracker:
            module(*values)
        planned = peak_activation_bytes(made, workspace="cpu")
        assert abs(tracker.peak - planned) <= 0.02 * planned
    full, reuse = (peak_activation_bytes(f(whole, candidate.cut)) for f in (full_program, reuse_program))
    assert full >= candidate.nbytes and reuse >= candidate.nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_generation_takes_what_the_larger_plan_says(kind: str) -> None:
    whole = program(kind)
    seeing = [c for c in Finder(whole, "sample", "timestep").candidates() if c.reads_latent]
    largest = max(seeing, key=lambda candidate: candidate.nbytes)
    full, reuse = full_program(whole, largest.cut), reuse_program(whole, largest.cut)
    both, item = Steps(TorchModule(full), TorchModule(reuse), whole.input_names), job(0)
    with LiveTracker([item.noise, item.given["prompt"]]) as tracker:
        run_schedule(both, SCHEDULE, DENOISING, item)
    # The noise stays beside the latent that it has become. A cache kept into the next full step would show.
    planned = max(peak_activation_bytes(made, workspace="cpu") for made in (full, reuse)) + item.noise.nbytes
    assert largest.nbytes > 0.04 * planned
    assert abs(tracker.peak - planned) <= 0.02 * planned


@pytest.mark.parametrize("sampler", [FlowEuler(7), FlowEuler(7, shift=3.0)])
def test_a_straight_flow_ends_at_the_data(sampler: FlowEuler) -> None:
    data, noise = torch.randn(4), torch.randn(4)
    latent = noise
    for i in range(sampler.steps):
        latent = sampler.step(i, latent, noise - data)
    torch.testing.assert_close(latent, data)
    assert sampler.timestep(0) == 1000
    clean = replace(sampler, predicts="clean")
    for i in range(sampler.steps):
        noise = clean.step(i, noise, data)
    torch.testing.assert_close(noise, data)


def test_ddim_with_the_right_noise_ends_near_the_data() -> None:
    sampler, data, noise = Ddim(20), torch.randn(4).double(), torch.randn(4).double()
    kept = sampler._kept(int(sampler.timestep(0)))
    latent = kept**0.5 * data + (1 - kept) ** 0.5 * noise
    for i in range(sampler.steps):
        latent = sampler.step(i, latent, noise)
    kept = sampler._kept(0)
    torch.testing.assert_close(latent, kept**0.5 * data + (1 - kept) ** 0.5 * noise)


def test_samplers_by_name() -> None:
    assert make_sampler("flow-euler", 9) == FlowEuler(9)
    with pytest.raises(UsageError, match="no sampler is called"):
        make_sampler("euler", 9)
    with pytest.raises(UsageError, match="1 steps"):
        make_sampler("ddim", 1)
    with pytest.raises(UsageError, match="no shift"):
        make_sampler("ddim", 9, 3.0)
