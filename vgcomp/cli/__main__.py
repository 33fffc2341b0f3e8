"""``python -m vgcomp.cli``, where the script is not on the path."""

from vgcomp.cli.main import run

run()
