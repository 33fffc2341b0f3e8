"""Targets: what comes with the package, the user's own, and what bad files say."""

import tomllib

import pytest
import torch
from pydantic import ValidationError

from vgcomp.errors import Unavailable, UsageError
from vgcomp.targets import Target, load_target, target_names
from vgcomp.targets.loader import _OWN_DIR, ENV_DIRS

OURS = ("a100", "a18", "a18pro", "cpu", "cpu-1", "h200", "rtx3060", "rtx3090", "rtx4070", "rtx4090", "rtx5090")


@pytest.fixture(autouse=True)
def _no_user_targets(monkeypatch):
    monkeypatch.delenv(ENV_DIRS, raising=False)


@pytest.fixture
def text():
    return (_OWN_DIR / "a100.toml").read_text(encoding="utf-8")


def test_ours_are_listed_and_load():
    assert target_names() == OURS
    for name in OURS:
        assert load_target(name).name == name


@pytest.mark.parametrize("name", OURS)
def test_every_figure_has_a_source(name):
    fields = tomllib.loads((_OWN_DIR / f"{name}.toml").read_text(encoding="utf-8"))
    sources = fields.pop("sources")
    figures = {key for key, value in fields.items() if key not in ("title", "kind") and value != 0.0}
    assert figures == {key for key in sources if key in fields and fields[key] != 0.0}
    for note in sources.values():
        assert note.split(":")[0].split()[0] in ("read", "derived", "secondary", "measured", "assumed", "calibrated"), (
            note
        )


@pytest.mark.parametrize("name", OURS)
def test_figures_are_consistent(name):
    target = load_target(name)
    assert target.cache_bytes < target.usable_bytes <= target.memory_bytes
    assert target.cache_bytes_per_s > target.memory_bytes_per_s
    assert target.fp16_acc32_flops_per_s <= target.fp16_flops_per_s


def test_rates_by_dtype():
    a100, a18 = load_target("a100"), load_target("a18")
    assert a100.matrix_flops_per_s(torch.bfloat16) == 312e12
    assert a100.matrix_flops_per_s(torch.float32) == 19.5e12
    assert a100.matrix_flops_per_s(torch.float64) < 19.5e12
    assert a18.matrix_flops_per_s(torch.float32) == a18.fp16_flops_per_s, "no fp32 there: Core ML computes in fp16"


def test_a_phone_leaves_less_than_it_has():
    assert load_target("a18").usable_bytes == 6_000_000_000
    assert load_target("a100").usable_bytes == 80_000_000_000


def test_equal_names_give_one_object_and_case_does_not_matter():
    assert load_target("A100") is load_target("a100")
    assert load_target(load_target("a100")) is load_target("a100")


def test_targets_are_frozen_and_hashable():
    target = load_target("a100")
    with pytest.raises(ValidationError):
        target.units = 1
    copy = target.model_copy(update={"units": 54})
    assert len({target, copy, load_target("a100")}) == 2


def test_unknown_name_lists_the_names():
    with pytest.raises(Unavailable, match=r"unknown target 'a101' \(did you mean a100\?\); there are a100, a18"):
        load_target("a101")


def test_a_file_by_path(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('memory_bytes = "80GB"', "memory_bytes = 40_000_000_000"), encoding="utf-8")
    target = load_target(path)
    assert (target.name, target.memory_bytes) == ("mine", 40_000_000_000)
    assert load_target(str(path)) is target


def test_a_changed_file_is_read_again(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert load_target(path).units == 108
    path.write_text(text.replace("units = 108", "units = 54  # half"), encoding="utf-8")
    assert load_target(path).units == 54


def test_a_directory_of_the_user_comes_first(tmp_path, monkeypatch, text):
    (tmp_path / "a100.toml").write_text(text.replace("units = 108", "units = 7"), encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv(ENV_DIRS, str(tmp_path))
    assert load_target("a100").units == 7
    assert load_target("mine").units == 108
    assert target_names() == tuple(sorted((*OURS, "mine")))


def test_a_directory_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv(ENV_DIRS, str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=f"{ENV_DIRS} names .*gone"):
        load_target("mine")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("units = 108\n", "\n", "field 'units' is missing"),
        ("units = 108", "units = -1", "field 'units' is -1: "),
        ("units = 108", "units = 108\nsmell = 1", "field 'smell' is unknown"),
        ("units = 108", 'units = "many"', "field 'units' is 'many': "),
        ('"80GB"', '"six"', "field 'memory_bytes': 'six' is not a memory size"),
        ('kind = "cuda"', 'kind = "toaster"', "field 'kind' is 'toaster': "),
        ("units = 108", "units = ", "is not valid TOML"),
        ("matmul = 0.667", "matmul = 1.5", "field 'efficiency.matmul' is 1.5: "),
    ],
)
def test_a_bad_file_names_file_and_field(tmp_path, text, old, new, message):
    path = tmp_path / "bad.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        load_target(tmp_path)
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_target(tmp_path / "binary.toml")


def test_target_is_exported():
    assert isinstance(load_target("cpu"), Target)
