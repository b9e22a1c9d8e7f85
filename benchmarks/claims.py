"""Published claims about continual pre-training, each as an inequality, at 0.4 M parameters and several seeds.

    python benchmarks/record.py claims FOLDER [--seeds 1 2 3]

Peer: the claim's other side, an arm of the same seed. D_0 = presidents' speeches to 1899, D_1 = docstrings; base of 400
steps, stages of 100, cooldowns of 20 (2,048 tokens a step), all through keepwarm's own rungs, schedules and branches,
every arm to its end. A cell is the margin by which the inequality holds at a seed, in nats per token, so below 0 it is
violated; `effect` is the mean over seeds. Noise = the standard error of that mean over seeds, and the error of the
held-out windows (bootstrap, the same windows for both sides), added in squares. The rule: `holds` where the effect is
above twice its noise and above 0 at every seed, `does not hold` where it is below minus twice and below 0 at every seed,
else `not visible at this size`. F = D_0's loss less that of the d0-only control of the same tokens. Unless an
inequality says `at peak`, both sides are cooled. About 8 CPU minutes a seed; goes on when stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import small
from numpy.typing import NDArray

from keepwarm.attempt.line import Line
from keepwarm.branches import average_branch, cooldown_branch
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest
from keepwarm.work import Run, fill_buffer

D0, D1, WEAK, CODE = "early", "technical", "late", "code"
BASE, STAGE, COOLDOWN, WARMUP, UNION_BASE = (steps * small.STEP_TOKENS for steps in (400, 100, 20, 20, 40))
BASE_COOLDOWN = BASE // 5  # at equal tokens: the last fifth of the base, as a branch off the trunk
REPLAY = (Fraction(1, 100), Fraction(5, 100), Fraction(25, 100))
RESAMPLES = 500
WIDTHS = 2.0

Means = Mapping[str, Mapping[str, float]]  # by arm and corpus, nats per token
Found = Mapping[str, Mapping[str, NDArray[np.float64]]]  # the same, by held-out window


@dataclass(frozen=True, slots=True)
class Claim:
    """`margin` is above 0 where the claim holds."""

    name: str
    source: str
    words: str
    margin: Callable[[Means], float]


def forgotten(at: Means, arm: str) -> float:
    """F: D_0 against the control of the same tokens, both cooled."""
    return at[arm][D0] - at["control"][D0]


def both(at: Means, arm: str) -> float:
    """The mean of D_0 and D_1."""
    return (at[arm][D0] + at[arm][D1]) / 2


def rises(*values: float) -> float:
    """The smallest step of a sequence that should rise."""
    return min(b - a for a, b in pairwise(values))


CLAIMS = (
    Claim("C1", "2403.08763", "no replay forgets much: F(0) > 1", lambda at: forgotten(at, "r0") - 1),
    Claim("C2", "2403.08763", "5 % replay takes away about half: F(5 %) <= .55 F(0)",
          lambda at: 0.55 * forgotten(at, "r0") - forgotten(at, "r5")),
    Claim("C2b", "2403.08763, 2502.06042", "1 % already helps: F(1 %) <= .8 F(0)",
          lambda at: 0.8 * forgotten(at, "r0") - forgotten(at, "r1")),
    Claim("C3", "2403.08763", "more replay, less forgetting: F(0) > F(1 %) > F(5 %) > F(25 %)",
          lambda at: rises(*(forgotten(at, arm) for arm in ("r25", "r5", "r1", "r0")))),
    Claim("C4", "2403.08763", "5 % replay costs D_1 at most .05",
          lambda at: 0.05 - (at["r5"][D1] - at["r0"][D1])),
    Claim("C4", "2403.08763", "25 % replay costs D_1 at most .05",
          lambda at: 0.05 - (at["r25"][D1] - at["r0"][D1])),
    Claim("C5", "2403.08763", "a weak shift forgets less: F(0) of later speeches < of docstrings",
          lambda at: forgotten(at, "r0") - forgotten(at, "weak r0")),
    Claim("C5", "2403.08763", "the label grades it: F(0) of English docstrings < of Python code",
          lambda at: forgotten(at, "code r0") - forgotten(at, "r0")),
    Claim("C6", "2403.08763, 2505.07796", "D_0, 5 % replay: start at peak < cooled + rewarm to LR_max",
          lambda at: at["cooled, LR"][D0] - at["r5"][D0]),
    Claim("C6", "2403.08763, 2505.07796", "D_1, 5 % replay: start at peak < cooled + rewarm to LR_max",
          lambda at: at["cooled, LR"][D1] - at["r5"][D1]),
    Claim("C7", "2308.04014", "D_1, from a cooled start: rewarm to LR_max < to LR_max/10",
          lambda at: at["cooled, LR/10"][D1] - at["cooled, LR"][D1]),
    Claim("C8", "2405.18392, 2403.08763", "base, equal tokens, both to 0: constant + cooldown <= cosine + .02",
          lambda at: 0.02 + at["base, cosine"][D0] - at["base, cooled"][D0]),
    Claim("C9", "2403.08763", "mean of D_0 and D_1: 25 % replay <= retrained on the union + .06",
          lambda at: 0.06 + both(at, "union") - both(at, "r25")),
    Claim("C9", "2403.08763", "mean of D_0 and D_1: 5 % replay <= retrained on the union + .06",
          lambda at: 0.06 + both(at, "union") - both(at, "r5")),
    Claim("C10", "2308.04014", "rewarm higher, forget more: D_0 at LR/2 < LR < 2 LR",
          lambda at: rises(*(at[f"rewarm {peak}"][D0] for peak in PEAKS))),
    Claim("C10", "2308.04014", "rewarm higher, learn more: D_1 at 2 LR < LR < LR/2",
          lambda at: rises(*(at[f"rewarm {peak}"][D1] for peak in reversed(PEAKS)))),
    Claim("C11", "2407.07263", "LR/100, new mix at LR/5: it protects D_0, against 5 % replay at LR_max",
          lambda at: at["r5"][D0] - at["decay"][D0]),
    Claim("C11", "2407.07263", "and learns as much of D_1, within .05, from as much of it",
          lambda at: 0.05 + at["r5"][D1] - at["decay"][D1]),
    Claim("C12", "2505.12082, 2507.17634", "base: mean of the last 4 checkpoints at peak < the last - .05",
          lambda at: at["base, peak"][D0] - 0.05 - at["base, average"][D0]),
    Claim("C12", "2507.17634", "base, equal tokens: that mean <= cooldown + .02",
          lambda at: 0.02 + at["base, cooled"][D0] - at["base, average"][D0]),
    Claim("C14", "2403.08763", "5 LR_max is seen in D_0's highest loss on the way: + .5 over LR_max, at peak",
          lambda at: at["5 LR"]["highest"] - at["reset"]["highest"] - 0.5),
    Claim("C14", "2403.08763", "and at the end: D_0 at LR_max < at 5 LR_max, at peak",
          lambda at: at["5 LR"][D0] - at["reset"][D0]),
    Claim("C15", "cookbook", "third stage, D_0: mix .05/.48/.47 < mix 0/.10/.90, at peak",
          lambda at: at["mix C"][D0] - at["mix B"][D0]),
    Claim("C15", "cookbook", "third stage, new corpus: mix .05/.48/.47 < mix 0/.10/.90, at peak",
          lambda at: at["mix C"][CODE] - at["mix B"][CODE]),
    Claim("C16", "measured here first", "D_0: 25 % replay at LR_max <= 5 % at LR_max/10 + .05",
          lambda at: 0.05 + at["cooled, LR/10"][D0] - at["r25"][D0]),
    Claim("C16", "measured here first", "D_1: 25 % replay at LR_max < 5 % at LR_max/10",
          lambda at: at["cooled, LR/10"][D1] - at["r25"][D1]),
    Claim("optimizer", "cookbook", "D_0: moments kept < reset + 1 % warm-up, at peak",
          lambda at: at["reset"][D0] - at["r5, peak"][D0]),
    Claim("optimizer", "cookbook", "D_1: moments kept < reset + 1 % warm-up, at peak",
          lambda at: at["reset"][D1] - at["r5, peak"][D1]),
    Claim("stability gap", "2406.14833", "no replay, D_0: it comes back, last 3 evaluations < those in the first fifth",
          lambda at: at["r0, peak"]["first"] - at["r0, peak"]["last"]),
)  # fmt: skip
PEAKS = ("LR/2", "LR", "2 LR")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked = parser.parse_args()
    seeds = [measured(asked.folder, seed) for seed in asked.seeds]
    marks = ["" for _ in asked.seeds]
    print(
        f"| claim | source | inequality | {' | '.join(f'seed {seed}' for seed in asked.seeds)} | effect | noise | mark |"
    )
    print("|" + "---|" * (6 + len(marks)))
    for claim in CLAIMS:
        print(row(claim, seeds))
    print("| C13 | 2501.00656 | between base and continued weights lies a better mean of D_0 and D_1 |"
          f"{' |' * len(marks)} | | not tried: no such merge in keepwarm |")  # fmt: skip
    print(f"\nThe losses behind it, seeds {', '.join(map(str, asked.seeds))}:\n")
    print(f"| arm | {' | '.join((D0, D1, CODE))} |\n|---|---|---|---|")
    for arm in seeds[0]:
        cells = (" ".join(f"{found[arm][name].mean():.3f}" for found in seeds) for name in (D0, D1, CODE))
        print(f"| {arm} | {' | '.join(cells)} |")
    return 0


def row(claim: Claim, seeds: list[Found]) -> str:
    """One line of the table."""
    values = [claim.margin(means(found)) for found in seeds]
    effect = float(np.mean(values))
    noise = float(np.hypot(_over_seeds(values), np.mean([_over_windows(claim, found) for found in seeds])))
    cells = [claim.name, claim.source, claim.words, *(f"{value:+.3f}" for value in values)]
    return f"| {' | '.join([*cells, f'{effect:+.3f}', f'{noise:.3f}', mark(values, noise)])} |"


def mark(values: list[float], noise: float) -> str:
    """The rule: twice the noise, and the same sign at every seed."""
    effect = float(np.mean(values))
    if effect > WIDTHS * noise and min(values) > 0:
        return "holds"
    if effect < -WIDTHS * noise and max(values) < 0:
        return "**does not hold**"
    return "not visible at this size"


def means(found: Found) -> Means:
    return {arm: {name: float(windows.mean()) for name, windows in each.items()} for arm, each in found.items()}


def _over_seeds(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _over_windows(claim: Claim, found: Found) -> float:
    """Standard deviation of the margin over resampled windows, the same for every arm."""
    draw, sizes = np.random.default_rng(0), {n: len(w) for each in found.values() for n, w in each.items()}
    margins = []
    for _ in range(RESAMPLES):
        picked = {name: draw.integers(size, size=size) for name, size in sizes.items()}
        at = {arm: {n: float(w[picked[n]].mean()) for n, w in each.items()} for arm, each in found.items()}
        margins.append(claim.margin(at))
    return float(np.std(margins))


def measured(folder: Path, seed: int) -> Found:
    """Every arm of one seed, trained unless it is on disk."""
    stages = [{"name": "stage2", "new": D1}, {"name": "weak", "new": WEAK}, {"name": "code", "new": CODE}]
    plan = small.plan(folder, seed, base=D0, stages=stages, base_tokens=BASE, stage_tokens=STAGE, schedule=SCHEDULE)
    context, line = small.opened(plan)
    trunk = [read_manifest(path) for path in checkpoints_of((context.folder / line.end.id).parents[1])]
    earlier = next(each for each in trunk if each.line_tokens == BASE - BASE_COOLDOWN)
    cooled = cooldown_branch(context, earlier, BASE_COOLDOWN)
    found = {
        "base, peak": windows(line.end),
        "base, cooled": windows(cooled),
        "base, average": windows(average_branch(context, line.end, 4)),
        "base, cosine": cosine(folder, seed),
        **replays(context, line),
        **rates(context, line, cooled),
        **third_stage(context, line),
        "union": union(folder, seed),
    }
    return found


SCHEDULE = {"warmup": WARMUP, "cooldown": COOLDOWN}


def replays(context: Run, line: Line) -> Found:
    """No replay, replay of each share, and the control, each cooled; other shifts without replay."""
    naive = small.candidate("naive")
    found = {
        "control": both_ends(context, small.trained(context, line, "d0-only", small.candidate("d0-only")))[1],
        "weak r0": both_ends(context, small.trained(context, line, "r0", naive, stage="weak"))[1],
        "code r0": both_ends(context, small.trained(context, line, "r0", naive, stage="code"))[1],
    }
    trained = {"r0": small.trained(context, line, "r0", naive)}
    for share in REPLAY:
        arm = f"r{share * 100}"
        trained[arm] = small.trained(context, line, arm, small.candidate("replay", shares=[share]))
    for arm, folder in trained.items():
        found[f"{arm}, peak"], found[arm] = both_ends(context, folder)
    return found


def rates(context: Run, line: Line, cooled: Manifest) -> Found:
    """What happens to LR: 5 % replay everywhere."""
    found = {}
    for name, lr in (("LR", "lr_max"), ("LR/10", "lr_max/10")):
        tried = small.candidate("replay-rewarm", lr=[lr])
        from_cooled = replace(line, end=cooled)
        folder = small.trained(context, from_cooled, f"cooled-{_word(name)}", tried, allow=["peak-start"])
        found[f"cooled, {name}"] = both_ends(context, folder)[1]
    for name, lr in zip(PEAKS, ("lr_max/2", "lr_max", "2 lr_max"), strict=True):
        tried = small.candidate("rewarm-converged", lr=[lr], shares=["5%"])
        folder = small.trained(context, line, f"rewarm-{_word(name)}", tried, cooled=cooled)
        found[f"rewarm {name}"] = windows(small.end(folder))
    for name, lr in (("reset", "lr_max"), ("5 LR", "5 lr_max")):
        tried = small.candidate("replay-rewarm", lr=[lr])
        found[name] = both_ends(context, small.trained(context, line, _word(name), tried), cool=False)[0]
    tried = small.candidate("decay-then-introduce", decay=["cosine"], alpha_0="5%")
    found["decay"] = windows(small.end(small.trained(context, line, "decay", tried)))
    return found


def third_stage(context: Run, line: Line) -> Found:
    """Behind 5 % replay: code, with B of docstrings, in the cookbook's mixes B and C."""
    stage = context.plan.stages[0]
    end = small.end(context.folder / "arms" / "r5" / stage.name / "00-replay")
    buffer = fill_buffer(context, stage, line, line.end, end)
    after = Line("r5", end, line.end, (*line.taught, (D1, end)), buffer, line.attempts | {end.attempt})
    found = {}
    for name, mix in (("mix B", [0.05, 0.48, 0.47]), ("mix C", [0, 0.10, 0.90])):
        tried = small.candidate("buffer-mix", mixes=[mix])
        found[name] = windows(small.end(small.trained(context, after, _word(name), tried, stage="code")))
    return found


def cosine(folder: Path, seed: int) -> Mapping[str, NDArray[np.float64]]:
    """The base's tokens on one cosine to 0."""
    schedule = {"kind": "cosine", "warmup": WARMUP, "lr_min": 0}
    plan = small.plan(
        folder, seed, name="cosine", base=D0, stages=[D1, WEAK, CODE], base_tokens=BASE, schedule=schedule
    )
    return windows(small.opened(plan)[1].end)


def union(folder: Path, seed: int) -> Mapping[str, NDArray[np.float64]]:
    """From random weights, both corpora from the end of the warm-up on: as many tokens of each as with 25 % replay."""
    new = (1 - REPLAY[-1]) * (STAGE + COOLDOWN)
    tokens = BASE + STAGE - UNION_BASE
    plan = small.plan(
        folder, seed, name="union", base=D0, stages=[D1, WEAK, CODE], base_tokens=UNION_BASE, stage_tokens=tokens,
        schedule=SCHEDULE,
    )  # fmt: skip
    context, line = small.opened(plan)
    share = round(1 - new / (tokens + COOLDOWN), 3)
    return both_ends(context, small.trained(context, line, "union", small.candidate("replay", shares=[share])))[1]


def both_ends(context: Run, folder: Path, *, cool: bool = True) -> list[dict[str, NDArray[np.float64]]]:
    """An attempt's end at peak, with what D_0 did on the way; and its cooldown branch."""
    end = small.end(folder)
    seen = [each for each in small.records_of(folder) if each["kind"] == "eval" and not each["full"]]
    loss = np.array([each["loss"][D0] for each in seen])
    early = np.array([each["step"] * small.STEP_TOKENS <= STAGE / 5 for each in seen])
    on_the_way = {"highest": loss.max(), "first": loss[early].mean(), "last": loss[-3:].mean()}
    peak = windows(end) | {name: np.array([value]) for name, value in on_the_way.items()}
    return [peak, windows(cooldown_branch(context, end, None))] if cool else [peak]


def windows(end: Manifest) -> dict[str, NDArray[np.float64]]:
    """Held-out nats per token by window, of every corpus."""
    return {name: np.array(found["windows"]) for name, found in end.evaluation.items()}


def _word(name: str) -> str:
    return name.lower().replace("/", "-by-").replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
