"""Files that appear whole or not at all.

Everything is written beside its destination under a hidden name and renamed at the end, so a full
disk, an interrupt or a crash leaves what was there before.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vgcomp.errors import UsageError


def atomic_write(path: Path | str, data: str | bytes) -> Path:
    """Writes ``data`` (text as UTF-8) to ``path``, replacing what is there.

    Raises UsageError if the path cannot be a file, OSError (with ``path`` as its file name) if it
    cannot be written; nothing is left behind then.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    with staged_file(path) as staged:
        staged.write_bytes(content)
    return path


@contextmanager
def staged_file(path: Path | str) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` if the block ends well and is removed if not."""
    path = Path(path)
    check_file_destination(path)
    staged = _hidden_sibling(path)
    try:
        yield staged
        _sync(staged)
        os.replace(staged, path)
    except OSError as error:
        raise _about(error, staged, path) from error
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_directory(path: Path | str) -> Iterator[Path]:
    """A folder to fill, whose entries land in ``path`` together if the block ends well.

    A new ``path`` appears by one rename. In one that exists, the entries replace those of the same
    name, one rename each, and the others stay. It lies beside ``path``, at the same depth, so
    relative references from inside it keep their meaning.
    """
    path = Path(os.path.abspath(path))
    check_directory_destination(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = _hidden_sibling(path)
    try:
        staged.mkdir()
        yield staged
        for file in staged.rglob("*"):
            _sync(file)
        _land(staged, path)
    except OSError as error:
        raise _about(error, staged, path) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def check_file_destination(path: Path) -> None:
    """Raises UsageError if ``path`` is a folder or its folder does not exist."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} does not exist: create it, or write {path.name} elsewhere")


def check_directory_destination(path: Path) -> None:
    """Raises UsageError if ``path``, or what is to hold it, is a file."""
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists():
            raise UsageError(f"{place} is a file: name a directory")


def _hidden_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _land(staged: Path, path: Path) -> None:
    if not path.exists():
        os.replace(staged, path)
        return
    for entry in sorted(staged.iterdir()):
        destination = path / entry.name
        if destination.is_dir() and not destination.is_symlink():
            # rename does not replace a folder that holds something; move it out of the way first.
            os.replace(destination, staged.with_name(staged.name + ".old"))
        os.replace(entry, destination)
        shutil.rmtree(staged.with_name(staged.name + ".old"), ignore_errors=True)


def _sync(path: Path) -> None:
    """Forces the data out now: some file systems report a full disk only then."""
    if not path.is_file() or path.is_symlink():
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _about(error: OSError, staged: Path, path: Path) -> OSError:
    """The same error, naming what the user asked for and not the hidden file."""
    name = str(error.filename) if error.filename is not None else str(path)
    if error.errno is None:
        return error
    return OSError(error.errno, os.strerror(error.errno), name.replace(str(staged), str(path)))
