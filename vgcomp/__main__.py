"""``python -m vgcomp``."""

from vgcomp.cli.main import run

run()
