"""Every kind of temporal layer at every position of three networks: it verifies, runs, and starts as the identity.

    python -m tests.benchmarks.substitution [NETWORK ...]

One position is changed at a time. The result is compared, in double precision, with the network that has none there;
what is written is the largest difference over the largest value. FLOPs are of the whole network.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path

from tests.temporal.networks import TINY, largest_difference, run_double, tiny
from vgcomp.models.temporal import TEMPORAL
from vgcomp.step_cuts.reach import node_flops
from vgcomp.temporal.frames import find_clip
from vgcomp.temporal.layers import layers_of
from vgcomp.temporal.substitute import NONE, substituted
from vgcomp.verify import verify

RESULTS = Path(__file__).parent / "results"


def measured(name: str) -> dict[str, object]:
    """All kinds at all positions of one network."""
    given = tiny(name)
    clip = find_clip(given)
    assert clip is not None
    total = sum(map(node_flops, given.graph.nodes))
    rows: list[dict[str, object]] = []
    for layer in layers_of(clip):
        wanted = run_double(substituted(given, clip, {layer: NONE}))
        row: dict[str, object] = {"position": layer.name, "shape": layer.shape, "does": list(layer.does), "kinds": {}}
        for kind in TEMPORAL:
            new = substituted(given, clip, {layer: kind})
            verify(new)
            flops = sum(map(node_flops, new.graph.nodes))
            row["kinds"][kind] = {  # type: ignore[index]
                "difference": largest_difference(run_double(new), wanted),
                "flops_share": flops / total,
            }
        rows.append(row)
        print(name, layer.name, row["kinds"], flush=True)
    return {"settings": TINY[name], "flops": total, "positions": rows}


def table(found: dict[str, dict[str, object]]) -> str:
    """The results as Markdown."""
    lines = ["# Temporal layers, every kind at every position", "", __doc__.split("\n\n")[2].strip(), ""]
    for name, entry in found.items():
        rows: list[dict[str, object]] = entry["positions"]  # type: ignore[assignment]
        worst = max(cell["difference"] for row in rows for cell in row["kinds"].values())  # type: ignore[attr-defined]
        lines += [
            f"## {name}",
            "",
            f"{len(rows)} positions, largest difference {worst:.1e}. FLOPs over the network's:",
            "",
        ]
        lines += ["| position | B×T×C×H×W | " + " | ".join(TEMPORAL) + " |", "|---" * (len(TEMPORAL) + 2) + "|"]
        for row in rows:
            kinds: dict[str, dict[str, float]] = row["kinds"]  # type: ignore[assignment]
            cells = " | ".join(f"{kinds[kind]['flops_share']:.3f}" for kind in TEMPORAL)
            lines.append(f"| {row['position']} | {row['shape']} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    begin = time.process_time()
    found = {name: measured(name) for name in sys.argv[1:] or TINY}
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    entry = {"date": day, "cpu_s": time.process_time() - begin, "networks": found}
    (RESULTS / f"{day}-substitution.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{day}-substitution.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
