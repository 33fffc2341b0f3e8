"""Several processes train on the same batches as one, and without accelerate one process runs."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.training.support import adversarial
from vgcomp.errors import Unavailable
from vgcomp.training.processes import Accelerated, Processes, Single, processes
from vgcomp.training.supernet import SupernetRecipe, SupernetTraining


def _gradients(among: Processes | None = None) -> dict[str, Tensor]:
    """What one iteration of each kind of training leaves in the parameters."""
    tuned = adversarial(among)
    tuned.iterate(0)
    recipe = SupernetRecipe(iterations=4, batch=2, frames=2, warmup=0, seed=2)
    supernet = SupernetTraining(recipe, among)
    supernet.iterate(0)
    named = [*tuned.generator.named_parameters("tuned"), *supernet.supernet.named_parameters("supernet")]
    return {name: value.grad for name, value in named if value.grad is not None}


def _worker(folder: str) -> None:
    torch.set_num_threads(1)
    among = processes()
    assert isinstance(among, Accelerated) and among.share.of == 2
    save_file(_gradients(among), f"{folder}/{among.share.rank}.safetensors")


def test_two_processes_have_the_gradients_of_one_and_stay_equal(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerate.debug_launcher(_worker, (str(tmp_path),), num_processes=2)
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    alone = _gradients()
    assert one.keys() == other.keys() == alone.keys()
    assert {name.split(".")[0] for name in alone} == {"tuned", "supernet"}
    for name, gradient in alone.items():
        assert torch.equal(one[name], other[name]), name
        assert torch.allclose(one[name], gradient, atol=1e-5 * float(gradient.abs().max() + 1)), name


def test_without_accelerate_one_process_runs_and_several_are_one_line(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    assert isinstance(processes(), Single)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Unavailable, match=r"pip install 'vgcomp\[train\]'"):
        processes()
