"""What is wrong with a file's fields, in one line that names the first."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError


def first_problem(error: ValidationError, known: Iterable[str] = ()) -> str:
    """The first field that is wrong and why, and how many more there are; ``known``: the fields that may be."""
    problems = error.errors()
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        message = f"field {field!r} is missing"
    elif first["type"] == "extra_forbidden":
        names = ", ".join(known)
        message = f"field {field!r} is unknown" + (f"; the fields are {names}" if names else "")
    else:
        message = f"field {field!r} is {first['input']!r}: {first['msg'].lower()}"
    return message if len(problems) == 1 else f"{message} (and {len(problems) - 1} more)"
