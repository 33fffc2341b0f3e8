"""Exit codes, and one clear line for whatever goes wrong.

0 done; 1 a bug of ours; 2 the user's input; 3 a failed check; 4 no plan fits the budget; 5 something
is not available here; 130 interrupted (141: the reader of our output went away).
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from vgcomp import __version__
from vgcomp.cli.console import ReaderGone
from vgcomp.errors import Infeasible, InternalError, VgcompError
from vgcomp.units import budget_text, format_bytes

INTERRUPTED = 130
BROKEN_PIPE = 141
USER = 2

# typer carries its own copy of click or uses the installed one, by its version; this is the one it raises.
_ClickException = typer.BadParameter.__mro__[2]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def guarded(call: Callable[[], object], argv: Sequence[str]) -> int:
    """Runs ``call`` and gives the exit code; every error has been told on stderr by then."""
    try:
        code = call()
        sys.stdout.flush()
        # typer turns an interrupt into this return value.
        return _tell("interrupted", INTERRUPTED) if code == INTERRUPTED else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _tell("interrupted", INTERRUPTED)
    except VgcompError as error:
        return _tell(_one_line(_message(error)), error.exit_code)
    except (BrokenPipeError, ReaderGone):
        _silence_stdout()
        return BROKEN_PIPE
    except OSError as error:
        return _os_error(error, argv)
    except MemoryError:
        return _tell("this machine ran out of memory; --no-check needs less, as does a smaller model", USER)
    except Exception as error:
        if isinstance(error, _ClickException):
            return _usage(error)
        if _is_disk_full(error):
            return _tell(_disk_full_text(error), USER)
        return _internal(error, argv)


def _tell(message: str, code: int) -> int:
    """One line on stderr; where even that has gone, the code alone."""
    with contextlib.suppress(OSError):
        print(f"vgcomp: {message}", file=sys.stderr, flush=True)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _message(error: VgcompError) -> str:
    if not isinstance(error, Infeasible):
        return str(error)
    smallest = error.smallest_bytes
    return (
        f"{str(error).rstrip('.')}; the smallest feasible is --mem {budget_text(smallest)} "
        f"({format_bytes(smallest)}), and {error.culprit} stands at its peak"
    )


def _usage(error: Exception) -> int:
    """A mistake in the command line itself."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "vgcomp"
    message = _one_line(getattr(error, "format_message", error.__str__)()).rstrip(".")
    if not message:  # `vgcomp` alone: its help has been shown
        return USER
    return _tell(f"{message}; see `{command} --help`", USER)


def _os_error(error: OSError, argv: Sequence[str]) -> int:
    if _is_disk_full(error):
        _silence_stdout()
        return _tell(_disk_full_text(error), USER)
    if error.filename is None:
        return _internal(error, argv)
    return _tell(f"{error.filename}: {error.strerror}", USER)


def _is_disk_full(error: BaseException) -> bool:
    """Also where a library words it as an error of its own, as safetensors, protobuf and shutil do."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_FULL:
            return True
        if any(f"os error {code}" in str(seen) for code in _DISK_FULL) or os.strerror(errno.ENOSPC) in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _disk_full_text(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    where = f" {name}" if name else ""
    reason = getattr(error, "strerror", None) or os.strerror(errno.ENOSPC)
    return f"cannot write{where}: {reason}; nothing was left half written"


def _internal(error: Exception, argv: Sequence[str]) -> int:
    """Ours: the traceback, what failed (an InternalError names its pass), and how to see it again."""
    traceback.print_exception(error, file=sys.stderr)
    what = str(error) if isinstance(error, InternalError) else f"{type(error).__name__}: {error}"
    return _tell(
        f"internal error: {_one_line(what)}; reproduce with: {shlex.join(['vgcomp', *argv])} "
        f"(vgcomp {__version__}, Python {platform.python_version()})",
        InternalError.exit_code,
    )


def _silence_stdout() -> None:
    """Python flushes stdout once more at exit; what cannot be written must not be tried again."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):  # a captured stdout has no descriptor
        pass
    finally:
        os.close(devnull)
