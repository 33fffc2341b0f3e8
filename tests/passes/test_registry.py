"""Names, specs and options: what a user types, and what another package registers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar, Literal

import pytest

from vgcomp.errors import Unavailable, UsageError
from vgcomp.passes import registry
from vgcomp.passes.base import Pass, PassContext, PassResult
from vgcomp.passes.canonicalize import Canonicalize
from vgcomp.program import Program
from vgcomp.result import Equivalence


@dataclass(frozen=True)
class Sample:
    """A pass with an option of every kind."""

    name: ClassVar[str] = "sample"
    equivalence: ClassVar[Equivalence] = "exact"

    max_slices: int = 64
    nested: bool = True
    factor: float = 1.5
    mode: Literal["fast", "small"] = "fast"
    limit: int | None = None
    label: str = ""
    axes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_slices < 1:
            raise ValueError("max-slices must be at least 1")

    def run(self, program: Program, context: PassContext) -> PassResult:
        return PassResult(program, changed=False)


@pytest.fixture(autouse=True)
def _sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILTIN, "sample", f"{__name__}:Sample")
    monkeypatch.setattr(registry, "_import_class", _import_class)


def _import_class(location: str, original=registry._import_class) -> type[Pass]:  # type: ignore[no-untyped-def]
    return Sample if location.endswith(":Sample") else original(location)


def test_a_spec_becomes_typed_passes() -> None:
    spec = "canonicalize, sample{max-slices=8,nested=false,factor=2,mode=small,limit=64MiB,label=x,axes=1+2},sample"
    first, second, third = registry.parse_spec(spec)
    assert first == Canonicalize()
    assert second == Sample(8, False, 2.0, "small", 64 * 2**20, "x", (1, 2))
    assert third == Sample()
    assert isinstance(second, Pass)


def test_a_spec_and_its_passes_say_the_same() -> None:
    spec = "canonicalize,sample{max-slices=8,nested=false,axes=1+2}"
    passes = registry.parse_spec(spec)
    assert registry.spec_of(passes) == spec
    assert registry.parse_spec(registry.spec_of(passes)) == passes


def test_none_is_a_value_where_the_type_allows_it() -> None:
    assert registry.parse_spec("sample{limit=none}") == [Sample(limit=None)]


@pytest.mark.parametrize("spec", ["", "  "])
def test_an_empty_spec_is_no_pass(spec: str) -> None:
    assert registry.parse_spec(spec) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("sampel", "did you mean sample?"),
        ("no-such-thing", "`vgcomp passes`"),
        ("sample{max-slice=1}", "did you mean max-slices?"),
        ("sample{max-slices=many}", "'many' is not a whole number"),
        ("sample{nested=perhaps}", "'perhaps' is not true or false"),
        ("sample{factor=x}", "'x' is not a number"),
        ("sample{mode=slow}", "not one of fast, small"),
        ("sample{nested}", "write option=value"),
        ("sample{nested=true,nested=false}", "given twice"),
        ("sample{max-slices=0}", "max-slices must be at least 1"),
        ("sample{nested=true", "unbalanced braces"),
        ("sample}", "unbalanced braces"),
        ("canonicalize,,sample", "is not a pass"),
        ("Sample Pass", "is not a pass"),
        ("sample{a=1}b", "is not a pass"),
    ],
)
def test_a_mistake_in_a_spec_is_named(spec: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.parse_spec(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_are_listed_as_they_are_written() -> None:
    options = {option.name: (option.type, option.default) for option in registry.options_of(Sample)}
    assert options["max-slices"] == ("int", "64")
    assert options["mode"] == ("fast|small", "fast")
    assert options["limit"] == ("int|none", "none")


def test_passes_and_specs_mix() -> None:
    assert registry.build_pipeline([Sample(1), "canonicalize,sample"]) == [Sample(1), Canonicalize(), Sample()]


def test_another_package_registers_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("canonicalize-too", "vgcomp.passes.canonicalize:Canonicalize", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_third_party", lambda: {"canonicalize-too": entry})
    monkeypatch.setattr(Canonicalize, "name", "canonicalize-too")
    assert "canonicalize-too" in registry.pass_names()
    assert registry.parse_spec("canonicalize-too{cheap-bytes=5}") == [Canonicalize(5)]


@pytest.mark.parametrize(
    ("value", "said"), [("no_such_module:X", "does not load"), ("json:JSONDecoder", "is not a pass named 'theirs'")]
)
def test_another_packages_broken_pass_is_unavailable(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    entry = EntryPoint("theirs", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_third_party", lambda: {"theirs": entry})
    with pytest.raises(Unavailable, match=said):
        registry.parse_spec("theirs")


def test_every_built_in_pass_loads_and_keeps_its_name() -> None:
    for name in registry.BUILTIN.keys() - {Sample.name}:
        cls = registry.pass_class(name)
        assert cls.name == name
        assert isinstance(cls(), Pass)
        assert cls.__module__ == "vgcomp.passes." + name.replace("-", "_"), "one file a pass, named as the pass"


def test_listing_names_does_not_load_torch() -> None:
    script = "import sys; from vgcomp.passes.registry import pass_names; pass_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
