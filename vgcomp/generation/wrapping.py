"""Runs a pipeline of diffusers within a memory budget, in place.

    wrapped = vgcomp.wrap(pipe, memory="8GB", target="a100")
    frames = pipe(image).frames
    print(wrapped.text())
    vgcomp.unwrap(pipe)

Nothing is known of any pipeline. Its networks are the modules among ``pipe.components``; what it calls of them is
seen when it does: a network's own ``forward``, or that of a part of it (a VAE's ``decode`` calls its ``decoder``). The
first call with inputs of some shapes and types captures the call, plans it under the budget and compiles it; that call
and all like it then run the plan. Weights are the modules' own, looked up in every run, and attributes (``config``,
``dtype``, ``device``) are as they were.

Where a pipeline lies on a GPU its weights stay there, and the plan has the room that they leave. Where it lies on the
host and ``device`` is a GPU, a network's weights are copied there when its turn comes (op by op in every run where
they do not fit as a whole) and go when the next one's comes; between the networks everything stays on the host.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.backends.torch_runtime import Code, compile_graph
from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.errors import Infeasible, ModelError, UsageError
from vgcomp.generation.calls import Call, Captured, Refused, capture_call, is_ours, read_call
from vgcomp.generation.planner import Progress, StagePlanner
from vgcomp.generation.stage import Answer, Stage
from vgcomp.generation.streaming import Streamed
from vgcomp.targets import Target, load_target
from vgcomp.units import format_bytes, format_seconds, parse_bytes
from vgcomp.weights import row_major

#: Kinds of calls that one network is captured for; a pipeline that makes more of them is left to itself.
MOST_CAPTURES = 8


class WrapWarning(UserWarning):
    """A call that runs as it did before the pipeline was wrapped, and why."""


def wrap(
    pipe: Any,
    *,
    memory: str | int,
    target: str | Target = "cpu",
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Wrapped:
    """Makes ``pipe`` run its networks within ``memory`` bytes of ``target``, in place.

    ``memory``: of all that the device must have: weights on it, activations, workspaces, the process itself.
    ``device``: where networks run; by default where they are. Calls of ``pipe`` then raise Infeasible where a network
    has no plan for the budget. Raises UsageError for what is no pipeline, is wrapped already, or has hooks that move
    its weights.
    """
    components = _components(pipe)
    wrapped = Wrapped(components, parse_bytes(memory), load_target(target), device, progress or _silent)
    wrapped.install()
    return wrapped


def unwrap(pipe: Any) -> None:
    """Gives a pipeline that :func:`wrap` was called on its own networks back; nothing happens to another."""
    for module in _modules(pipe).values():
        for part in module.modules():
            if is_ours(part.__dict__.get("forward")):
                del part.__dict__["forward"]


def _modules(pipe: Any) -> dict[str, nn.Module]:
    components = getattr(pipe, "components", None)
    found = {k: v for k, v in components.items() if isinstance(v, nn.Module)} if isinstance(components, dict) else {}
    if not found:
        raise UsageError(f"{type(pipe).__name__} has no networks among its components: give a pipeline of diffusers")
    return found


def _components(pipe: Any) -> dict[str, nn.Module]:
    found = _modules(pipe)
    for name, module in found.items():
        if any(hasattr(part, "_hf_hook") for part in module.modules()):
            raise UsageError(f"{name} has hooks that move its weights: call pipe.remove_all_hooks() before wrapping")
        if any(is_ours(part.__dict__.get("forward")) for part in module.modules()):
            raise UsageError(f"{name} is wrapped already: call vgcomp.unwrap(pipe) first")
    return found


@dataclass
class Seen:
    """A kind of call that was captured. ``calls``: how often it ran."""

    name: str
    captured: Captured
    answer: Answer
    code: Code
    #: Tensors that the program has of its own: constants of the network's code.
    constants: dict[str, Tensor]
    calls: int = 0


class Wrapped:
    """A wrapped pipeline. As a context manager it is unwrapped at the end."""

    def __init__(
        self,
        components: Mapping[str, nn.Module],
        memory: int,
        target: Target,
        device: str | torch.device | None,
        progress: Progress,
    ) -> None:
        self.memory, self.target = memory, target
        self.components = dict(components)
        self.device = None if device is None else torch.device(device)
        self.progress = progress
        self._entries = [
            Entry(self, name, path, part) for name, module in components.items() for path, part in _callable(module)
        ]
        self._turn: tuple[Seen, dict[str, Tensor]] | None = None
        self._inside = False

    def install(self) -> None:
        """Puts the compiled calls in the modules' place."""
        for entry in self._entries:
            entry.install()

    def unwrap(self) -> None:
        """Gives the pipeline its own networks back, and drops what is on the device."""
        for entry in self._entries:
            entry.remove()
        self._turn = None

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unwrap()

    def seen(self) -> list[Seen]:
        """The calls captured so far, in their order."""
        return [seen for entry in self._entries for seen in entry.known.values() if isinstance(seen, Seen)]

    def text(self) -> str:
        """A line a captured call: what it needs, what a run takes by the cost model, and how often it ran."""
        return "\n".join(
            f"{seen.name:24} {format_bytes(seen.answer.need_bytes):>9} of {format_bytes(self.memory)}"
            f"{', weights streamed' if seen.answer.streamed else ''}, {format_seconds(seen.answer.latency_s)} a run, "
            f"{seen.calls} runs"
            for seen in self.seen()
        )

    # -- for entries ----------------------------------------------------------------------------------

    def plan(self, name: str, captured: Captured, at: torch.device) -> Seen:
        """Plans and compiles a captured call whose weights are on ``at``. Raises Infeasible, naming the network."""
        program = captured.program
        there = self.device is None or self.device == at
        planner = StagePlanner(Stage(name, program), self.target, AnalyticModel(self.target), self.progress)
        room = self.memory - (self._others(captured) if there else 0)
        forms = (False,) if there or self.target.host_bytes_per_s is None else (False, True)
        answer = _found(planner, room, forms)
        if answer is None:
            planner.smallest()  # tries other plans, and may find some that fit after all
            answer = _found(planner, room, forms)
        if answer is None or answer.plan is None:
            raise self._infeasible(name, planner.smallest(streamed=len(forms) > 1), self.memory - room)
        planned = answer.plan.program
        constants = {name: w.load() for name, w in planned.weights.items() if w.present}
        return Seen(name, captured, answer, compile_graph(planned.graph), constants)

    def _others(self, captured: Captured) -> int:
        """Bytes of the pipeline's weights that are not the captured call's own."""
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self._parameters()}
        return max(0, sum(storages.values()) - captured.program.weight_bytes())

    def _parameters(self) -> Iterator[Tensor]:
        for module in self.components.values():
            yield from module.parameters()

    def _infeasible(self, name: str, least: Answer, others: int) -> Infeasible:
        culprit = least.plan.culprit if least.plan is not None else name
        return Infeasible(
            f"{name} does not fit {format_bytes(self.memory)}, {format_bytes(others)} of it other networks' weights: "
            f"wrap the pipeline with memory of at least {format_bytes(least.need_bytes + others)}",
            smallest_bytes=least.need_bytes + others,
            culprit=f"{culprit} in {name}",
        )

    def weights(self, seen: Seen, live: Mapping[str, Tensor], at: torch.device) -> Mapping[str, Tensor]:
        """The weights of a run on ``at``: as they lie, copied for this network's turn, or copied op by op."""
        if self._turn is not None and self._turn[0] is seen:
            return self._turn[1]
        own = {**live, **seen.constants}
        if all(tensor.device == at for tensor in own.values()):
            return own
        self._turn = None
        if at.type == "cuda":
            torch.cuda.empty_cache()
        if seen.answer.streamed:
            return Streamed(own, at)
        copied = {name: tensor.to(at) for name, tensor in own.items()}
        self._turn = (seen, copied)
        return copied


class Entry:
    """A module that a pipeline may call: a component itself, or a part of one that its own methods call."""

    def __init__(self, owner: Wrapped, component: str, path: str, module: nn.Module) -> None:
        self.owner = owner
        self.name = f"{component}.{path}" if path else component
        self.module = module
        self.original: Callable[..., Any] = module.forward
        self.known: dict[Any, Seen | str] = {}
        self._told: set[str] = set()

    def install(self) -> None:
        """Takes the place of the module's ``forward``."""
        original = self.original

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.call(args, kwargs)

        forward.__vgcomp__ = True  # type: ignore[attr-defined]
        self.module.forward = forward  # type: ignore[method-assign]

    def remove(self) -> None:
        """Gives the module its own ``forward`` back."""
        if is_ours(self.module.__dict__.get("forward")):
            del self.module.__dict__["forward"]

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the module would return, by the plan; by the module itself, with a warning, where there can be none."""
        if self.owner._inside:
            return self.original(*args, **kwargs)
        try:
            call = read_call(self.module, args, kwargs)
            seen = self._seen(call, args, kwargs)
        except Refused as reason:
            return self._as_before(str(reason), args, kwargs)
        return self._run(seen, call)

    def _as_before(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if reason not in self._told:
            self._told.add(reason)
            text = f"{self.name} runs as it is, outside the memory budget: {reason}"
            warnings.warn(text, WrapWarning, stacklevel=4)
        self.owner._inside = True
        try:
            return self.original(*args, **kwargs)
        finally:
            self.owner._inside = False

    def _seen(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Seen:
        found = self.known.get(call.key)
        if found is None and len(self.known) >= MOST_CAPTURES:
            raise Refused(f"it was called with more than {MOST_CAPTURES} kinds of inputs")
        if found is None:
            found = self.known[call.key] = self._learned(call)
        if isinstance(found, str):
            raise Refused(found)
        return found

    def _learned(self, call: Call) -> Seen | str:
        """The call, planned; or why it cannot be captured."""
        try:
            captured = capture_call(self.module, call, self.name)
        except (ModelError, Refused) as error:
            return str(error)
        with torch.inference_mode(False), torch.no_grad():
            return self.owner.plan(self.name, captured, _device(self.module))

    def _run(self, seen: Seen, call: Call) -> Any:
        owner, home = self.owner, call.device or _device(self.module)
        at = owner.device or _device(self.module)
        live = {name: row_major(self._parameter(path)) for name, path in seen.captured.parameters.items()}
        inputs = [row_major(tensor.to(at)) for tensor in call.tensors]
        with torch.no_grad():
            outputs = seen.code.run(inputs, owner.weights(seen, live, at))
        seen.calls += 1
        return seen.captured.rebuilt([output.to(home) for output in outputs])

    def _parameter(self, path: str) -> Tensor:
        return self.module.get_parameter(path)


def _callable(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The component, and the first modules below it that can be called (lists of modules cannot)."""
    yield path, module
    for name, child in module.named_children():
        yield from _first_callable(child, name)


def _first_callable(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _first_callable(child, f"{path}.{name}")


def _found(planner: StagePlanner, room: int, forms: tuple[bool, ...]) -> Answer | None:
    """The first answer for a room; ``forms``: whether weights are streamed."""
    answers = (planner.fastest(room, streamed=streamed) for streamed in forms)
    return next((answer for answer in answers if answer is not None), None)


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


def _silent(stage: str, fraction: float) -> None:
    """For those who do not listen."""
