"""Passes by name, and pipelines by text.

A spec is a comma-separated list of passes, each with options where they differ from the defaults:

    canonicalize,slice-and-group{max-slices=64,nested=false},assign-buffers

An option is the pass's dataclass field with ``-`` for ``_``; its value is read by the field's type.
Passes of other packages register under the entry point group ``vgcomp.passes``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union, cast, get_args, get_origin

from vgcomp.errors import InternalError, Unavailable, UsageError
from vgcomp.passes.base import Pass
from vgcomp.units import parse_bytes

ENTRY_POINT_GROUP = "vgcomp.passes"

#: Name -> "module:Class". Imported on use: listing a pass must not load torch.
BUILTIN: dict[str, str] = {
    "extract-subnet": "vgcomp.passes.extract_subnet:ExtractSubnet",
    "canonicalize": "vgcomp.passes.canonicalize:Canonicalize",
    "schedule": "vgcomp.passes.schedule:Schedule",
    "slice-and-group": "vgcomp.passes.slice_and_group:SliceAndGroup",
    "pipeline-slices": "vgcomp.passes.pipeline_slices:PipelineSlices",
    "assign-buffers": "vgcomp.passes.assign_buffers:AssignBuffers",
    "unroll-loops": "vgcomp.passes.unroll_loops:UnrollLoops",
    "fold-timestep": "vgcomp.passes.fold_timestep:FoldTimestep",
    "half-precision": "vgcomp.passes.half_precision:HalfPrecision",
    "legalize-coreml": "vgcomp.passes.legalize_coreml:LegalizeCoreml",
    "slice-and-unroll": "vgcomp.passes.slice_and_unroll:SliceAndUnroll",
    "partition": "vgcomp.passes.partition:Partition",
    "substitute-temporal": "vgcomp.passes.substitute_temporal:SubstituteTemporal",
    "decouple-vae": "vgcomp.passes.decouple_vae:DecoupleVae",
    "rehash-steps": "vgcomp.passes.rehash_steps:RehashSteps",
}

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass, as text: ``name`` is kebab-case."""

    name: str
    type: str
    default: str


def pass_names() -> list[str]:
    """Every registered pass, in the default pipeline's order, then other packages' by name."""
    return [*BUILTIN, *sorted(set(_third_party()) - set(BUILTIN))]


def pass_class(name: str) -> type[Pass]:
    """The class registered as ``name``. Raises UsageError for an unknown name, Unavailable if it does not load."""
    location = BUILTIN.get(name)
    if location is not None:
        return _import_class(location)
    entry = _third_party().get(name)
    if entry is None:
        raise UsageError(unknown("pass", name, pass_names(), "vgcomp passes"))
    return _load_entry(name, entry)


def options_of(cls: type[Pass]) -> list[Option]:
    """The options that a spec may set on a pass."""
    hints = typing.get_type_hints(cls)
    return [Option(_kebab(f.name), _type_text(hints[f.name]), _default_text(f)) for f in _fields(cls)]


def parse_spec(spec: str) -> list[Pass]:
    """The passes that a spec names, built with their options. Raises UsageError for a mistake in it."""
    return [make_pass(name, options) for name, options in _split_spec(spec)]


def build_pipeline(passes: str | Sequence[str | Pass]) -> list[Pass]:
    """Passes from a spec, or from a mix of specs and pass objects. Raises UsageError for a mistake in a spec."""
    if isinstance(passes, str):
        return parse_spec(passes)
    built: list[Pass] = []
    for item in passes:
        built.extend(parse_spec(item) if isinstance(item, str) else [item])
    return built


def make_pass(name: str, options: dict[str, str]) -> Pass:
    """One pass with options given as text. Raises UsageError for an unknown option or a wrong value."""
    cls = pass_class(name)
    hints = typing.get_type_hints(cls)
    known = {_kebab(f.name): f.name for f in _fields(cls)}
    values: dict[str, object] = {}
    for key, text in options.items():
        field_name = known.get(_kebab(key))
        if field_name is None:
            raise UsageError(unknown(f"option of {name}", key, list(known), "vgcomp passes"))
        values[field_name] = _read(f"{name}{{{key}}}", hints[field_name], text)
    try:
        return cls(**values)
    except ValueError as error:  # a pass may check its options in __post_init__
        raise UsageError(f"{name}: {error}") from error


def spec_of(passes: Sequence[Pass]) -> str:
    """The spec that builds these passes again, options at their defaults left out."""
    return ",".join(_one_spec(p) for p in passes)


def unknown(kind: str, name: str, known: Sequence[str], command: str) -> str:
    """The message for a name that is not registered: the nearest one, or where to see them all."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"`{command}` lists them"
    return f"unknown {kind} {name!r}: {hint}"


def _one_spec(item: Pass) -> str:
    changed = [
        f"{_kebab(f.name)}={_value_text(getattr(item, f.name))}"
        for f in _fields(type(item))
        if _value_text(getattr(item, f.name)) != _default_text(f)
    ]
    return f"{item.name}{{{','.join(changed)}}}" if changed else item.name


def _split_spec(spec: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, options) of each pass of a spec; the commas inside braces belong to the options."""
    for part in _split_outside_braces(spec):
        name, brace, rest = part.partition("{")
        name = name.strip()
        if not _NAME.fullmatch(name) or (brace and not rest.endswith("}")) or "{" in rest:
            raise UsageError(
                f"{part!r} is not a pass: write name or name{{option=value,...}}, for example "
                "slice-and-group{max-slices=64}"
            )
        yield name, _split_options(name, rest[:-1] if brace else "")


def _split_outside_braces(spec: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(spec):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append(spec[start:i].strip())
            start = i + 1
    if depth != 0:
        raise UsageError(f"unbalanced braces in the passes {spec!r}")
    parts.append(spec[start:].strip())
    return [] if parts == [""] else parts


def _split_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{name}: {item!r} is not an option; write option=value")
        if key.strip() in options:
            raise UsageError(f"{name}: option {key.strip()!r} is given twice")
        options[key.strip()] = value.strip()
    return options


def _read(where: str, hint: Any, text: str) -> object:
    """``text`` as a value of the field type ``hint``."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [t for t in get_args(hint) if t is not type(None)]
        if text.lower() == "none" and len(inner) < len(get_args(hint)):
            return None
        return _read(where, inner[0], text)
    if get_origin(hint) is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        if text not in choices:
            raise UsageError(f"{where}: {text!r} is not one of {', '.join(choices)}")
        return cast(object, choices[text])
    if get_origin(hint) is tuple:
        return tuple(_read(where, get_args(hint)[0], item) for item in text.split("+") if item)
    return _read_scalar(where, hint, text)


def _read_scalar(where: str, hint: Any, text: str) -> object:
    if hint is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise UsageError(f"{where}: {text!r} is not true or false")
        return text.lower() in _TRUE
    if hint is int:
        return _read_int(where, text)
    if hint is float:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{where}: {text!r} is not a number") from None
    if hint is str:
        return text
    raise InternalError(f"{where}: options of type {hint!r} cannot be read from text")


def _read_int(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:  # sizes read well as 64MiB
        return parse_bytes(text)
    except UsageError:
        raise UsageError(f"{where}: {text!r} is not a whole number") from None


def _fields(cls: type[Pass]) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _value_text(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _value_text(field.default_factory())
    return ""


def _value_text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(_value_text, value))
    return str(value)


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return "|".join("none" if t is type(None) else _type_text(t) for t in get_args(hint))
    if get_origin(hint) is tuple:
        return f"{_type_text(get_args(hint)[0])}+..."
    return str(getattr(hint, "__name__", hint))


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _import_class(location: str) -> type[Pass]:
    module, _, name = location.partition(":")
    return cast("type[Pass]", getattr(importlib.import_module(module), name))


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _load_entry(name: str, entry: EntryPoint) -> type[Pass]:
    try:
        cls = entry.load()
    except Exception as error:  # whatever another package's import raises, name the package
        package = entry.dist.name if entry.dist else entry.value
        raise Unavailable(f"pass {name!r} of {package} does not load: {error}") from error
    if not dataclasses.is_dataclass(cls) or getattr(cls, "name", None) != name or not hasattr(cls, "run"):
        raise Unavailable(f"{entry.value} is not a pass named {name!r}: see vgcomp.passes.base")
    return cast("type[Pass]", cls)
