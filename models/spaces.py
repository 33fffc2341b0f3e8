"""Search spaces of the zoo by name, and their candidates as Programs.

    space = find_space("snapgen-v-small")                  # or a JSON file that `Space.save` wrote
    program = build_candidate(space, space.sample(random.Random(0)))

What a choice decides is said by its name: ``temporal.<place>`` is the kind of the one temporal layer at that place,
``resolution`` height and width. Any other is a supernet's: the candidate is the subnet extracted from its graph.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vgcomp.elastic import extract, marks_of
from vgcomp.errors import UsageError
from vgcomp.models import build
from vgcomp.models.snapgen import positions, temporal_layers
from vgcomp.models.sned import CONFIGS, RESOLUTION
from vgcomp.models.temporal import TEMPORAL
from vgcomp.program import Program
from vgcomp.space import Candidate, Choice, Option, Space

#: Begins the name of a choice of a temporal layer; the place follows.
_TEMPORAL = "temporal."


def _snapgen(name: str) -> Space:
    """A kind of temporal layer, or none, at each position: no two kinds at one [SnapGen-V, section 3.2]."""
    return Space(name, name, tuple(Choice(f"{_TEMPORAL}{place}", ("none", *TEMPORAL)) for place in positions()))


def _sned(name: str) -> Space:
    """Widths, blocks and layers of a supernet, and the resolution."""
    return Space(name, name, CONFIGS[name].choices())


#: Every search space of the zoo, by name.
SPACES: dict[str, Space] = {
    space.name: space for space in (_snapgen("snapgen-v"), _snapgen("snapgen-v-small"), *map(_sned, CONFIGS))
}


def find_space(name: str | Path) -> Space:
    """The space of that name, or that a JSON file holds. Raises UsageError, with the nearest name, for neither."""
    found = SPACES.get(str(name))
    if found is not None:
        return found
    path = Path(name)
    if path.suffix == ".json":
        return _read(path)
    near = difflib.get_close_matches(str(name), SPACES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SPACES)}, or a JSON file"
    raise UsageError(f"no search space is called {str(name)!r}; {hint}")


def build_candidate(space: Space, candidate: Candidate, **settings: Any) -> Program:
    """The candidate's network as a Program, its weights absent unless ``weights`` says otherwise.

    ``settings``: of the zoo network; they stand before the space's own. Raises UsageError for a candidate that is not
    of this space, and for a choice that its network does not have.
    """
    given = {"weights": "absent", **dict(space.settings), **settings}
    named = space.named(candidate)
    decided = _decided(space, named, given)
    inner = {name: option for name, option in named.items() if not name.startswith(_TEMPORAL) and name != RESOLUTION}
    if not inner:
        return build(space.network, **decided)
    supernet = _supernet(space.network, tuple(sorted(decided.items())))
    marks = marks_of(supernet)
    if marks is None:
        raise UsageError(
            f"space {space.name!r}: {space.network} has nothing that the choice {next(iter(inner))!r} could decide"
        )
    return extract(supernet, marks, inner)


@functools.lru_cache(maxsize=4)
def _supernet(network: str, settings: tuple[tuple[str, Any], ...]) -> Program:
    """Captured once for all of its candidates of a resolution."""
    return build(network, **dict(settings))


def _decided(space: Space, named: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what the choices say put in."""
    kinds = {name.removeprefix(_TEMPORAL): str(kind) for name, kind in named.items() if name.startswith(_TEMPORAL)}
    decided = dict(given)
    if RESOLUTION in named:
        decided |= {"height": named[RESOLUTION], "width": named[RESOLUTION]}
    if kinds:
        decided["temporal"] = _temporal(space, kinds, str(given.get("temporal", "")))
    return decided


def _temporal(space: Space, kinds: Mapping[str, str], fixed: str) -> str:
    """The zoo's text for these kinds by place; places that are not open have what ``fixed`` gives them."""
    unknown = next((place for place in kinds if place not in positions()), None)
    if unknown is not None:
        raise UsageError(f"space {space.name!r}: no place is called {unknown!r}; there are {', '.join(positions())}")
    pairs = zip(positions(), temporal_layers(fixed), strict=True)
    return "+".join(kinds.get(place, before) for place, before in pairs)


def _read(path: Path) -> Space:
    try:
        return Space.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
