"""Arena planning on MiniMalloc's challenging instances, and on the zoo's graphs.

    python -m tests.benchmarks.arenas FOLDER               # of NAME.CAPACITY.csv, as published with MiniMalloc
    python -m tests.benchmarks.arenas FOLDER --seeds 8     # annealed where greedy is not enough

The capacity in a file's name is known to be enough.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vgcomp.arena import ArenaBuffer, arena_buffers, plan_arena
from vgcomp.models import build

NETWORKS = ("svd-unet", "svd-vae-decoder", "animatediff-unet", "sd-vae-decoder")


def read(file: Path) -> tuple[int, list[ArenaBuffer]]:
    """(Capacity, buffers) of one instance."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    capacity = int(file.name.split(".")[1])
    return capacity, [ArenaBuffer(r["id"], int(r["size"]), int(r["lower"]), int(r["upper"])) for r in rows]


def line(name: str, buffers: Sequence[ArenaBuffer], alignment: int, wanted: int | None, seeds: int) -> str:
    """One row of the table."""
    begin = time.perf_counter()
    plan = plan_arena(buffers, alignment=alignment, seeds=seeds)
    wall = time.perf_counter() - begin
    goal = wanted or plan.load
    return f"| {name} | {len(buffers)} | {plan.load} | {goal} | {plan.size} | {plan.size / goal:.3f} | {wall:.2f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=0, help="of annealing where greedy is not enough")
    options = parser.parse_args(arguments)
    print("| instance | buffers | load | capacity | arena | arena / capacity | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for file in sorted(options.folder.glob("*.csv")):
        capacity, buffers = read(file)
        print(line(file.stem, buffers, 1, capacity, options.seeds))
    for name in NETWORKS:
        print(line(name, arena_buffers(build(name).graph), 64, None, options.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
