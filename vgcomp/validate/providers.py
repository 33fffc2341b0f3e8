"""Who gives rows. To add figures, write a function from a Context to rows and list it here."""

from __future__ import annotations

from vgcomp.validate.cpu import cpu_rows
from vgcomp.validate.flops import flops_rows
from vgcomp.validate.gpu import gpu_rows
from vgcomp.validate.latency import latency_rows
from vgcomp.validate.memory import memory_rows
from vgcomp.validate.phone import phone_rows
from vgcomp.validate.row import Provider

#: In the order in which their rows are shown.
PROVIDERS: list[Provider] = [latency_rows, memory_rows, flops_rows, phone_rows, cpu_rows, gpu_rows]

#: Devices that the rows are about.
TARGETS = ("a100", "a18pro", "cpu-1")
