"""Fine-tunes the trained `quality-unet` to 4 steps without guidance, and judges it before and after.

    python -m tests.benchmarks.training.adversarial -o tests/benchmarks/results/2026-11-21-adversarial
    python -m tests.benchmarks.training.adversarial --heads separate --images 0 -o /tmp/separate
    python -m tests.benchmarks.training.adversarial --ablations -o FILE         # adds rows of the paper's table 5
    accelerate launch -m tests.benchmarks.training.adversarial -o FILE          # on GPUs, or several processes

Writes FILE.json and FILE.md. ``--run FOLDER`` keeps checkpoints there and takes up where an earlier run stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.training.judge import Verdict, held_out, judged, made
from tests.benchmarks.training.machine import line, machine
from vgcomp.models import find
from vgcomp.models.quality import Guided, bare, load_trained
from vgcomp.training.adversarial import Adversarial, Recipe
from vgcomp.training.loop import Notes, Saving, train
from vgcomp.training.processes import Processes, processes

NAME, FULL, SHIFTS = "quality-unet", 25, (1.0, 2.0, 3.0, 5.0)
VIDEO: dict[str, Any] = {"images": 0.0}
#: The paper's table 5 and appendix G: heads, images, the location m of t', and tuning without the adversarial loss.
ABLATIONS: dict[str, dict[str, Any]] = {
    "separate heads, clips alone": {"heads": "separate", **VIDEO},
    "joint heads, clips alone": VIDEO,
    "joint heads, images, m = -2": {"location": -2.0},
    "joint heads, images, m = -1": {},
    "joint heads, images, m = 0": {"location": 0.0},
    "joint heads, images, m = 1": {"location": 1.0},
    "no adversarial loss": {"adversarial": 0.0},
}

HEAD = """# Adversarial fine-tuning to 4 steps

`quality-unet` as trained (before) and fine-tuned (after) by the recipe of SnapGen-V, section 3.3: hinge losses on
spatial-temporal heads over its own frozen encoder, a pseudo-Huber loss, t' logit-normal, clips and images together.
Judged on two sets of 256 prompts and noises that training has not seen. *Fréchet*: distance to 1,024 generated clips on
64 features of an untrained random network, each set's value; it compares with no other's FVD. *Motion*: how far the
shape's speed is from the prompt's, frame widths a frame. *PSNR*: to 25 guided steps of the same noise (the first set);
fine-tuning does not aim at it. A step with guidance calls the network twice.
"""


def tuned(recipe: Recipe, saving: Saving, among: Processes) -> tuple[nn.Module, Notes]:
    """The averaged weights after a fine-tuning, and what it took."""
    training = Adversarial(_trained(), recipe, among)
    main = among.share.rank == 0
    notes = train(training, recipe.iterations, saving, lambda text: print(text, flush=True) if main else None)
    return training.kept.cpu().eval(), notes


def judge_before(shift: float) -> tuple[list[Verdict], list[Tensor]]:
    """Rows of the untuned network and of real clips; and the clips of 25 guided steps."""
    free, rows = _trained(), []
    guided = Guided(copy.deepcopy(free))
    like, took = made(guided, FULL, shift, 1)
    rows.append(judged("real clips", [held_out(n).pixels for n in range(2)], 0, 0.0, 0.0))
    rows.append(judged("before, guided", like, FULL, shift, took))
    for name, network, steps, sets in (("before", free, FULL, 1), ("before, guided", guided, 4, 2)):
        clips, took = made(network, steps, shift, sets)
        rows.append(judged(name, clips, steps, shift, took, like))
    for other in sorted({*SHIFTS, shift}):
        clips, took = made(free, 4, other, 2)
        rows.append(judged("before", clips, 4, other, took, like))
    return rows, like


def judge_after(name: str, network: nn.Module, shift: float, like: list[Tensor], steps: Iterable[int]) -> list[Verdict]:
    """Rows of a tuned network."""
    rows = []
    for count in steps:
        clips, took = made(network, count, shift, 2)
        rows.append(judged(name, clips, count, shift, took, like))
    return rows


def report(raw: dict[str, Any], out: Path) -> None:
    """FILE.json and FILE.md."""
    out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    parts = [HEAD, line(raw["machine"]), ""]
    if raw["rows"]:
        parts += [f"Trained in {raw['cpu_s'] / 60:.1f} CPU minutes; recipe: `{json.dumps(raw['recipe'])}`.", ""]
        parts += _table(raw["rows"])
    if raw["ablations"]:
        counts = sorted({row["iterations"] for row in raw["ablations"]})
        many = " or ".join(map(str, counts))
        parts += [f"\n## Ablations\n\nEach tuned for {many} iterations; what is not named is as in the recipe above.\n"]
        parts += _table(raw["ablations"])
    out.with_suffix(".md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| network | steps | shift | **Fréchet**, mean | each set | flicker | motion | PSNR, dB | CPU ms a clip |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        far, near = row["frechet"], row["psnr"]
        lines.append(
            f"| {row['name']} | {row['steps'] or '–'} | {row['shift'] or '–'} | **{sum(far) / len(far):.4f}** "
            f"| {', '.join(f'{value:.4f}' for value in far)} | {row['flicker']:.4f} | {row['motion']:.4f} "
            f"| {'–' if near is None else f'{near:.2f}'} | {row['clip_s'] * 1000:.0f} |"
        )
    return lines


def _trained() -> nn.Module:
    network = bare(NAME, find(NAME).defaults)
    load_trained(NAME, network)
    return network.eval()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Recipe):
        kind = {"int": int, "float": float}.get(str(field.type), str)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--ablations", action="store_true", help="rows of table 5 instead of one tuning")
    parser.add_argument("--only", choices=[*ABLATIONS], nargs="*", default=[*ABLATIONS], help="some of the ablations")
    parser.add_argument("--run", type=Path, help="a folder for checkpoints")
    parser.add_argument("-o", "--out", type=Path, required=True, help="files without their ending")
    return parser.parse_args()


def tune_and_judge(recipe: Recipe, given: argparse.Namespace, among: Processes) -> None:
    """One tuning, judged before and after."""
    network, notes = tuned(recipe, Saving(given.run, 50), among)
    if among.share.rank:
        return
    rows, like = judge_before(recipe.shift)
    rows += judge_after("after", network, recipe.shift, like, (4, 2, 1))
    found = {"rows": [asdict(row) for row in rows], "recipe": asdict(recipe), "cpu_s": notes.cpu_s}
    report({**_earlier(given.out), **found, "means": notes.means, "machine": machine()}, given.out)


def ablate(recipe: Recipe, given: argparse.Namespace, among: Processes) -> None:
    """Tunings that differ in one thing each, judged at their own number of steps. Each is reported when it is done."""
    for name in given.only:
        print(name, flush=True)
        run = given.run / name.replace(" ", "-").replace(",", "") if given.run else None
        network, notes = tuned(replace(recipe, **ABLATIONS[name]), Saving(run, 50), among)
        if among.share.rank:
            continue
        rows = judge_after(name, network, recipe.shift, [], (recipe.steps,))
        raw = _earlier(given.out)
        raw["ablations"] = [row for row in raw["ablations"] if row["name"] != name]
        raw["ablations"] += [{**asdict(row), "iterations": recipe.iterations, "cpu_s": notes.cpu_s} for row in rows]
        report({**raw, "machine": machine()}, given.out)


def _earlier(out: Path) -> dict[str, Any]:
    """What FILE.json holds by now."""
    path = out.with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"rows": [], "ablations": [], **found}


def main() -> None:
    """Trains, judges and reports; of several processes, the first judges."""
    given = _options()
    torch.set_num_threads(1)
    recipe = Recipe(**{field.name: getattr(given, field.name) for field in fields(Recipe)})
    (ablate if given.ablations else tune_and_judge)(recipe, given, processes())


if __name__ == "__main__":
    main()
