"""Trains a small supernet once for all costs and resolutions, and asks what its inherited weights are worth.

    python -m tests.benchmarks.training.supernet --run RUN -o tests/benchmarks/results/2026-11-21-supernet
    accelerate launch -m tests.benchmarks.training.supernet --run RUN -o FILE      # on GPUs, or several processes
    vgcomp search sned-latent-small --quality loss:RUN/warm-up ...                 # judged by inherited weights

Three things are trained: the supernet with the sampling's warm-up, the supernet without, for as many iterations, and
subnets one by one, each alone from the weights that it begins with in the supernet. Checkpoints lie under RUN, and a
run that was stopped goes on from them. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

from tests.benchmarks.training.machine import line, machine
from vgcomp.models.sned import RESOLUTION
from vgcomp.space import Candidate
from vgcomp.training.inherited import InheritedLoss
from vgcomp.training.loop import Notes, Saving, train
from vgcomp.training.processes import Processes, processes
from vgcomp.training.sampling import largest, smallest
from vgcomp.training.supernet import SupernetRecipe, SupernetTraining

HEAD = """# A supernet trained once, and subnets with the weights that they inherit

One subnet is trained an iteration, over costs and resolutions, and the rest is frozen (SNED's paradigm). *Loss* is the
mean squared error of the velocity on 64 held-out clips, the same noise and levels for all. *Inherited*: run with the
supernet's weights, no training of its own, at each resolution. *Alone*: trained by itself for the iterations stated, on
the same clips in the same order, from the weights that it begins with in the supernet. Kendall's τ is between the two
over the subnets of one resolution; with τ = 1 both order them alike.
"""
KINDS = ("warm-up", "none")


@dataclass(frozen=True)
class Row:
    """A subnet at a resolution. Losses by how it was trained; ``alone`` None until it was."""

    candidate: Candidate
    size: int
    parameters: int
    inherited: dict[str, float]
    alone: float | None = None


def trained(recipe: SupernetRecipe, run: Path, among: Processes) -> Notes:
    """Trains, or goes on, or finds it done."""
    main = among.share.rank == 0

    def say(text: str) -> None:
        if main:
            print(f"{run.name}: {text}", flush=True)

    return train(SupernetTraining(recipe, among), recipe.iterations, Saving(run, 100), say)


def chosen(training: SupernetTraining, count: int) -> list[Candidate]:
    """The smallest, the largest, and others whose parameters are spread evenly between, on a logarithmic scale."""
    space, rng = training.space, random.Random(17)
    low, high = (math.log(training.parameters(end(space))) for end in (smallest, largest))
    found = [smallest(space), largest(space)]
    for n in range(1, count - 1):
        wanted = low + (high - low) * n / (count - 1)
        drawn = [space.sample(rng) for _ in range(200)]
        found.insert(-1, min(drawn, key=lambda some: abs(math.log(training.parameters(some)) - wanted)))
    return found


def at_size(training: SupernetTraining, candidate: Candidate, size: int) -> Candidate:
    """The same subnet at another resolution."""
    return training.space.candidate({**training.space.named(candidate), RESOLUTION: size})


def rows_of(training: SupernetTraining, subnets: list[Candidate], judges: Mapping[str, InheritedLoss]) -> list[Row]:
    """Each subnet at each resolution, with its inherited losses."""
    sizes = next(choice.options for choice in training.space.choices if choice.name == RESOLUTION)
    rows = []
    for candidate in (at_size(training, one, int(size)) for size in sizes for one in subnets):
        losses = {kind: -judge(candidate) for kind, judge in judges.items()}
        size = int(training.space.named(candidate)[RESOLUTION])
        rows.append(Row(candidate, size, int(training.parameters(candidate)), losses))
    return rows


def correlation(rows: list[Row], kind: str) -> dict[str, Any]:
    """Kendall's τ by resolution."""
    found = {}
    for size in sorted({row.size for row in rows}):
        some = [row for row in rows if row.size == size and row.alone is not None]
        if len(some) > 2:
            tau, p = kendalltau([row.inherited[kind] for row in some], [row.alone for row in some])
            found[str(size)] = {"tau": float(tau), "p": float(p), "subnets": len(some)}
    return found


def report(raw: dict[str, Any], out: Path) -> None:
    """FILE.json and FILE.md."""
    out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    recipe, kinds = raw["recipe"], [*raw["correlation"]]
    took = "; ".join(f"{_sampling(raw, kind)}, {raw['cpu_s'][kind] / 60:.1f} CPU minutes" for kind in kinds)
    sizes = [*raw["correlation"][kinds[0]]]
    parts = [
        HEAD,
        line(raw["machine"]),
        *([raw["note"]] if "note" in raw else []),
        "",
        f"`{recipe['network']}`, whose space has {raw['candidates']:,} candidates. Supernets: {recipe['iterations']} "
        f"iterations of {recipe['batch']} clips ({took}). Alone: {raw['alone_iterations']} iterations each, "
        f"{raw['cpu_s']['alone'] / 60:.1f} CPU minutes in all. Recipe: `{json.dumps(recipe)}`.\n",
        " | ".join(("| sampling", *(f"τ at {size}×{size} (p)" for size in sizes), "mean inherited loss"))
        + " | of the smallest | of the largest |",
        "|---|" + "---:|" * (len(sizes) + 3),
        *(_summary(raw, kind) for kind in kinds),
        "",
        " | ".join(("| resolution | parameters | alone", *(f"inherited, {_sampling(raw, kind)}" for kind in kinds)))
        + " |",
        "|---|" + "---:|" * (len(kinds) + 2),
    ]
    for row in raw["rows"]:
        alone = "–" if row["alone"] is None else f"{row['alone']:.4f}"
        losses = " | ".join(f"{row['inherited'][kind]:.4f}" for kind in kinds)
        parts.append(f"| {row['size']}×{row['size']} | {row['parameters']:,} | {alone} | {losses} |")
    out.with_suffix(".md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _sampling(raw: dict[str, Any], kind: str) -> str:
    return f"warm-up of {raw['recipe']['warmup']}" if kind == "warm-up" else "no warm-up"


def _summary(raw: dict[str, Any], kind: str) -> str:
    taus = [f"{found['tau']:.2f} ({found['p']:.3f})" for found in raw["correlation"][kind].values()]
    found = sorted(raw["rows"], key=lambda row: row["parameters"])
    sizes = len({row["size"] for row in found})
    parts = (found, found[:sizes], found[-sizes:])
    losses = [f"{sum(row['inherited'][kind] for row in rows) / len(rows):.4f}" for rows in parts]
    return f"| {' | '.join((_sampling(raw, kind), *taus, *losses))} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    standard = SupernetRecipe()
    parser.add_argument("--network", default=standard.network)
    parser.add_argument("--iterations", type=int, default=standard.iterations)
    parser.add_argument("--batch", type=int, default=standard.batch)
    parser.add_argument("--rate", type=float, default=standard.rate)
    parser.add_argument("--warmup", type=int, default=standard.warmup)
    parser.add_argument("--samplings", choices=KINDS, nargs="+", default=[*KINDS], help="of the supernets trained")
    parser.add_argument("--subnets", type=int, default=8, help="how many are judged")
    parser.add_argument("--alone", type=int, default=150, help="iterations of each")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16], help="resolutions at which they train alone")
    parser.add_argument("--run", type=Path, required=True, help="a folder for checkpoints")
    parser.add_argument("-o", "--out", type=Path, required=True, help="files without their ending")
    return parser.parse_args()


def main() -> None:
    """Trains and reports; of several processes, the first reports."""
    given = _options()
    torch.set_num_threads(1)
    among = processes()
    recipe = SupernetRecipe(given.network, given.iterations, given.batch, given.rate, given.warmup)
    recipes = {kind: recipe if kind == "warm-up" else replace(recipe, warmup=0) for kind in given.samplings}
    notes = {kind: trained(one, given.run / kind, among) for kind, one in recipes.items()}
    judges = {kind: InheritedLoss(given.run / kind) for kind in notes} if not among.share.rank else {}
    training, alone_s = SupernetTraining(recipe), 0.0
    rows = rows_of(training, chosen(training, given.subnets), judges)
    for number, row in enumerate(rows):
        if row.size not in given.sizes:
            continue
        alone = replace(recipe, iterations=given.alone, only=row.candidate, warmup=0)
        run = given.run / f"alone-{row.size}-{number % given.subnets}"
        alone_s += trained(alone, run, among).cpu_s
        if among.share.rank:
            continue
        rows[number] = replace(row, alone=-InheritedLoss(run)(row.candidate))
        print(rows[number], flush=True)
        raw = {
            "machine": machine(),
            "recipe": asdict(recipe),
            "alone_iterations": given.alone,
            "candidates": training.space.size,
            "cpu_s": {**{kind: note.cpu_s for kind, note in notes.items()}, "alone": alone_s},
            "correlation": {kind: correlation(rows, kind) for kind in notes},
            "rows": [asdict(row) for row in rows],
            "means": {kind: note.means for kind, note in notes.items()},
        }
        report(raw, given.out)


if __name__ == "__main__":
    main()
