"""Several processes train on the same batches as one, and without accelerate one process runs."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.support import adversarial
from vgcomp.errors import Unavailable
from vgcomp.training.processes import Accelerated, Single, processes


def _worker(folder: str) -> None:
    torch.set_num_threads(1)
    among = processes()
    assert isinstance(among, Accelerated) and among.share.of == 2
    tuned = adversarial(among)
    tuned.iterate(0)
    gradients = {name: value.grad for name, value in tuned.generator.named_parameters()}
    state = {f"state.{name}": value for name, value in tuned.tensors().items()}
    save_file({**gradients, **state}, f"{folder}/{among.share.rank}.safetensors")


def test_two_processes_have_the_gradients_of_one_and_stay_equal(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerate.debug_launcher(_worker, (str(tmp_path),), num_processes=2)
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    alone = adversarial()
    alone.iterate(0)
    for name, parameter in alone.generator.named_parameters():
        assert torch.allclose(one[name], parameter.grad, atol=1e-5 * float(parameter.grad.abs().max() + 1)), name


def test_without_accelerate_one_process_runs_and_several_are_one_line(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    assert isinstance(processes(), Single)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Unavailable, match=r"pip install 'vgcomp\[train\]'"):
        processes()
