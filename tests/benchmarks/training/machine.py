"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

import torch


def machine() -> dict[str, object]:
    """Date, processor, cores, threads, load and versions."""
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def line(about: dict[str, object]) -> str:
    """One sentence for a report."""
    return (
        f"Measured {about['date']} on {about['processor']}, {about['threads']} thread of {about['cores']} cores "
        f"(load {about['load']}), Python {about['python']}, torch {about['torch']}."
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
