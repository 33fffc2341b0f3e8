"""What a full disk looks like, in the words of those who find out: one line, and the user's exit code."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from vgcomp.cli.guard import guarded

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL, "out/weights.bin"),
        shutil.Error([("a.mlpackage/weight.bin", "out/weight.bin", f"[Errno 28] {FULL}: 'out/weight.bin'")]),
        RuntimeError(f"I/O error: {FULL} (os error 28)"),
    ],
    ids=["the system", "a copied folder", "a library"],
)
def test_a_full_disk_is_one_line(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert guarded(fail, []) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("vgcomp: cannot write") and FULL in line


def test_another_failure_of_the_system_is_a_bug(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise shutil.Error([("a", "b", "[Errno 5] Input/output error")])

    assert guarded(fail, []) == 1
    assert "internal error" in capfd.readouterr().err
