"""A search space: which choices a network leaves open, and between what. Declared once, typed, kept as JSON.

space = Space("demo", "snapgen-v-small", (Choice("temporal.0", ("none", "conv1d")), Choice("width.0", (32, 64))))
candidate = space.sample(random.Random(0))            # ("conv1d", 32): an option for each choice, in their order
space.named(candidate)                                # {"temporal.0": "conv1d", "width.0": 32}
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vgcomp.errors import UsageError
from vgcomp.files import atomic_write

Option = int | str
#: An option for each choice of a space, in the choices' order. Hashable: costs and qualities are remembered by it.
Candidate = tuple[Option, ...]


@dataclass(frozen=True)
class Choice:
    """One open decision. Options are distinct, the cheapest first where they have an order."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise UsageError(f"choice {self.name!r}: options must be distinct, and at least one")


@dataclass(frozen=True)
class Space:
    """Open decisions of a zoo network. ``settings``: the zoo settings (as text) that all candidates share."""

    name: str
    network: str
    choices: tuple[Choice, ...]
    settings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [choice.name for choice in self.choices]
        if len(set(names)) != len(names):
            raise UsageError(f"space {self.name!r}: two choices have one name")

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return math.prod(len(choice.options) for choice in self.choices)

    def sample(self, rng: random.Random) -> Candidate:
        """A candidate, each option as likely as another."""
        return tuple(rng.choice(choice.options) for choice in self.choices)

    def every(self) -> Iterator[Candidate]:
        """All candidates, in the order of their options."""
        return itertools.product(*(choice.options for choice in self.choices))

    def named(self, candidate: Candidate) -> dict[str, Option]:
        """The candidate's options by the names of their choices. Raises UsageError for one not of this space."""
        self.genes(candidate)
        return {choice.name: option for choice, option in zip(self.choices, candidate, strict=True)}

    def candidate(self, named: Mapping[str, Option]) -> Candidate:
        """The candidate of these options. Raises UsageError for a choice left out or unknown, or another option."""
        unknown = sorted(named.keys() - {choice.name for choice in self.choices})
        missing = [choice.name for choice in self.choices if choice.name not in named]
        if unknown or missing:
            what = f"has no choice {unknown[0]!r}" if unknown else f"wants an option for {missing[0]!r}"
            raise UsageError(f"space {self.name!r} {what}")
        found = tuple(named[choice.name] for choice in self.choices)
        self.genes(found)
        return found

    def genes(self, candidate: Candidate) -> tuple[int, ...]:
        """The options' numbers, for searches over integers. Raises UsageError for one not of this space."""
        if len(candidate) != len(self.choices):
            raise UsageError(f"space {self.name!r} has {len(self.choices)} choices, not {len(candidate)}")
        for choice, option in zip(self.choices, candidate, strict=True):
            if option not in choice.options:
                raise UsageError(
                    f"choice {choice.name!r} is one of {', '.join(map(str, choice.options))}: not {option}"
                )
        return tuple(choice.options.index(option) for choice, option in zip(self.choices, candidate, strict=True))

    def from_genes(self, genes: Sequence[int]) -> Candidate:
        """The candidate of these options' numbers."""
        return tuple(choice.options[int(gene)] for choice, gene in zip(self.choices, genes, strict=True))

    def to_json(self) -> str:
        """The space as JSON; :meth:`from_json` reads it."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> Space:
        """Reads :meth:`to_json`. Raises UsageError on anything else."""
        try:
            raw = json.loads(text)
            choices = tuple(Choice(str(c["name"]), tuple(_option(o) for o in c["options"])) for c in raw["choices"])
            settings = tuple((str(name), str(value)) for name, value in raw.get("settings", ()))
            return Space(str(raw["name"]), str(raw["network"]), choices, settings)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"not a search space: {error!r}; `Space.to_json` writes one") from error

    def save(self, path: Path) -> None:
        """Writes :meth:`to_json` to a file, whole or not at all."""
        atomic_write(path, self.to_json())


def _option(value: object) -> Option:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"an option is a whole number or a word, not {value!r}")
    return value
