"""The names of ``import vgcomp``: functions, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = "import types, vgcomp; assert all(not isinstance(getattr(vgcomp, n), types.ModuleType) for n in vgcomp.__all__)"


@pytest.mark.parametrize(
    "first",
    [
        "import vgcomp",
        "import vgcomp.models",
        "import vgcomp.optimize, vgcomp.load",
        "import vgcomp; vgcomp.capture; import vgcomp.capture",
        "from vgcomp.capture import capture",
    ],
)
def test_a_name_is_the_function_and_not_its_module(first: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{first}\n{CHECK}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
