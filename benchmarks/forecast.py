"""How far `keepwarm forecast` is off at the full budget, against the curves it could have drawn instead.

    python benchmarks/record.py forecast FOLDER [--seeds 1 2 3 4]

Pilots of 15 % of the stage at the default replay shares, as the command trains them; the truth: an arm at each of 0, 1,
5, 10, 25, 50 % replay, trained to the end of the stage from the same base, early stop off. Two pairs: presidents'
speeches to 1899, then docstrings (FOLDER may be thermostat.py's: its fixed arms are then read, not trained again);
prose, then C++ headers. Base of 400 steps, stage of 160 (2,048 tokens a step), at LR_max. Nats per token over all
held-out windows.
Peers, from the same pilots: each pilot's curve continued as its last value, as a + c log(1 + t/k), as
a + c (1 - exp(-t/k)), or as the verdict does (strategy/recovery.py). A share that no pilot had is read off the law
F0 (1 + B p)^-1/2 through what that gives for the old corpus, off the line through the two nearest shares for the new
one. `the law at the pilots' ends` is that law at every share, with nothing for the time that is left.
`error` is |forecast - measured|, for each pair and seed the mean over its shares, then over pairs and seeds; noise is
the standard error over pairs and seeds. Exits 1 unless the mean error of the product over both corpora is no larger than
that of the best peer, or larger by less than twice the noise of the difference, and its intervals hold at least as many
of the measured losses as they say, or fewer by less than twice the noise of that share. About 3 CPU minutes for a pair
and seed; goes on when stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import small

from keepwarm.attempt.records import Record
from keepwarm.forecasts import Settings, forecast
from keepwarm.plan.values import Length
from keepwarm.report.forecasted import measured_error
from keepwarm.strategy import recovery
from keepwarm.strategy.forecast import INTERVAL, Pilot, points_of, row
from keepwarm.strategy.laws import forgetting_law

PAIRS = {"fixed": ("early", "technical"), "forecast": ("prose", "headers")}  # by the name of the plan
BASE, STAGE = 400 * small.STEP_TOKENS, 160 * small.STEP_TOKENS
SHARES = (0, 1, 5, 10, 25, 50)  # percent
SETTINGS = Settings(Length.parse("15%"), (Fraction(0), Fraction(5, 100), Fraction(25, 100)))
PRODUCT, LAW_ALONE = "keepwarm forecast", "the law at the pilots' ends"
CURVES: Mapping[str, Callable[[recovery.Forecast, float], float]] = {
    "last value of the pilot": lambda _, last: last,
    "log-time": lambda fit, _: fit.log_time.value,
    "exponential": lambda fit, _: fit.exponential.value,
    "as the verdict does": lambda fit, _: fit.value,
}
WIDTHS = 2.0

Case = tuple[str, int]  # pair, seed


@dataclass(frozen=True, slots=True)
class Cell:
    """One corpus at one replay share: change of its loss over the whole stage, by method and measured, nats per token."""

    case: Case
    corpus: str
    old: bool
    share: int
    measured: float
    low: float
    high: float
    by_method: Mapping[str, float]

    @property
    def piloted(self) -> bool:
        return Fraction(self.share, 100) in SETTINGS.shares

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    asked = parser.parse_args()
    cells, choices = [], []
    for name in PAIRS:
        for seed in asked.seeds:
            record, found = measured(asked.folder, name, seed)
            cells += found
            choices += list(chosen(record, found))
    print_cells(cells)
    good = print_errors(cells)
    covered = print_coverage(cells)
    print_choices(choices)
    return 0 if good and covered else 1


def measured(folder: Path, name: str, seed: int) -> tuple[Record, list[Cell]]:
    """Train the arms and the pilots of a pair and seed, or read them; the forecast, and a cell for each corpus and share."""
    base, new = PAIRS[name]
    plan = small.plan(folder, seed, name=name, base=base, stages=[new], base_tokens=BASE, stage_tokens=STAGE)
    context, line = small.opened(plan)
    for share in SHARES:
        tried = small.candidate("replay", shares=[f"{share}%"]) if share else small.candidate("naive")
        small.trained(context, line, f"r{share}", tried)
    record = forecast(plan, small.quiet(), "stage2", SETTINGS)
    pilots = [Pilot(each["share"], small.records_of(context.folder / each["folder"])) for each in record["pilots"]]
    peers = {corpus: continued(pilots, corpus, old=corpus == base) for corpus in (base, new)}
    found = []
    for each in measured_error(plan, "stage2"):
        corpus, share, before = each["corpus"], round(100 * each["share"]), record["corpora"][each["corpus"]]["before"]
        by_method = {PRODUCT: each["forecast"] - before} | {n: at(share / 100) for n, at in peers[corpus].items()}
        ends = (each["measured"] - before, each["low"] - before, each["high"] - before)
        found.append(Cell((f"{base}, {new}", seed), corpus, corpus == base, share, *ends, by_method))
    return record, sorted(found, key=lambda cell: (not cell.old, cell.share))


def continued(pilots: Sequence[Pilot], corpus: str, *, old: bool) -> dict[str, Callable[[float], float]]:
    """What each peer says of a corpus at a replay share: the change of its loss over the stage."""
    seen = [_curve(pilot, corpus) for pilot in pilots]
    fits = [recovery.forecast(steps, changes, STAGE / small.STEP_TOKENS) for steps, changes in seen]
    lasts = [changes[-1] for _, changes in seen]
    shares = [pilot.share for pilot in pilots]
    found = {}
    for name, end in CURVES.items():
        ends = dict(zip(shares, [end(fit, last) for fit, last in zip(fits, lasts, strict=True)], strict=True))
        found[name] = _over_shares(ends, old=old)
    law = forgetting_law(shares, lasts) if old else None
    return found | ({LAW_ALONE: law.at} if law else {})


def _curve(pilot: Pilot, corpus: str) -> tuple[list[float], list[float]]:
    """Steps and change of loss of a pilot's evaluations; those of the way scaled to all windows, as known at the end."""
    points, header = points_of([pilot], corpus), pilot.records[0]
    end = next(record for record in reversed(pilot.records) if record["kind"] == "eval")
    whole = end["loss"][corpus] - header["before"][corpus]["loss"]
    return (points.tokens / small.STEP_TOKENS).tolist(), (points.values * (whole / points.values[-1])).tolist()


def _over_shares(ends: Mapping[float, float], *, old: bool) -> Callable[[float], float]:
    """Each pilot's own value at its share; between and beyond them the law (old) or the line through the nearest two."""
    law = forgetting_law(list(ends), list(ends.values())) if old else None

    def at(share: float) -> float:
        if share in ends:
            return ends[share]
        if law is not None:
            return law.at(share)
        (left, a), (right, b) = sorted(ends.items(), key=lambda each: abs(each[0] - share))[:2]
        return a + (b - a) * (share - left) / (right - left)

    return at


def print_cells(cells: Sequence[Cell]) -> None:
    """Every forecast of the product beside what was measured: what the old corpus forgot, what the new one gained."""
    heads = ("old, new", "seed", "replay", "pilot", "old forgets: forecast", "measured", "error", "new gains: forecast",
             "measured", "error")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for old in (cell for cell in cells if cell.old):
        new = next(each for each in cells if (each.case, each.share, each.old) == (old.case, old.share, False))
        head = [old.case[0], str(old.case[1]), f"{old.share} %", "yes" if old.piloted else ""]
        print(f"| {' | '.join([*head, *_shown(old, 1), *_shown(new, -1)])} |")


def _shown(cell: Cell, sign: int) -> list[str]:
    value, ends = sign * cell.by_method[PRODUCT], sorted((sign * cell.low, sign * cell.high))
    mark = "" if cell.inside else " outside"
    return [
        f"{value:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]{mark}",
        f"{sign * cell.measured:+.3f}",
        f"{value - sign * cell.measured:+.3f}",
    ]


def print_errors(cells: Sequence[Cell]) -> bool:
    """Mean absolute errors by method; whether the product's is no larger than the best peer's beyond noise."""
    parts = {
        "old, shares with a pilot": lambda cell: cell.old and cell.piloted,
        "old, without": lambda cell: cell.old and not cell.piloted,
        "new, shares with a pilot": lambda cell: not cell.old and cell.piloted,
        "new, without": lambda cell: not cell.old and not cell.piloted,
    }
    heads = ("mean absolute error", *parts, "both, all shares", "less the product's")
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    whole = {name: errors(cells, name) for name in (PRODUCT, *CURVES)}
    for name in (PRODUCT, *CURVES, LAW_ALONE):
        each = [errors([cell for cell in cells if part(cell)], name) for part in parts.values()]
        shown = [f"{statistics.fmean(found.values()):.3f}" if found else "" for found in each]
        shown.append(f"{statistics.fmean(whole[name].values()):.3f}" if name in whole else "")
        shown.append("{:+.3f} +- {:.3f}".format(*_beyond(whole[name], whole[PRODUCT])) if name in CURVES else "")
        print(f"| {name} | {' | '.join(shown)} |")
    best = min(CURVES, key=lambda name: statistics.fmean(whole[name].values()))
    less, noise = _beyond(whole[best], whole[PRODUCT])
    good = less > -WIDTHS * noise
    print(
        f"\nBest peer: {best}. The product's error is no larger, beyond noise: {'holds' if good else 'DOES NOT HOLD'}."
    )
    return good


def errors(cells: Sequence[Cell], method: str) -> dict[Case, float]:
    """Mean |forecast - measured| of each pair and seed, old and new corpus alike; empty where the method says nothing."""
    found: dict[Case, list[float]] = {}
    for cell in cells:
        if method in cell.by_method:
            found.setdefault(cell.case, []).append(abs(cell.by_method[method] - cell.measured))
    return {case: statistics.fmean(each) for case, each in found.items()}


def _beyond(theirs: Mapping[Case, float], ours: Mapping[Case, float]) -> tuple[float, float]:
    """Mean difference over pairs and seeds, and its standard error."""
    return _mean([theirs[case] - ours[case] for case in ours])


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def print_coverage(cells: Sequence[Cell]) -> bool:
    """How often the product's interval held the measured loss; whether that is as often as it says, within noise."""
    heads = (f"intervals of {INTERVAL:.0%}", "inside", "share", "mean width", "forecast loss less the measured")
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    parts = {name: [cell for cell in cells if cell.old is old] for name, old in (("old", True), ("new", False))}
    for name, part in (parts | {"both": [*cells]}).items():
        inside = sum(cell.inside for cell in part)
        width = statistics.fmean(cell.high - cell.low for cell in part)
        signed = statistics.fmean(cell.by_method[PRODUCT] - cell.measured for cell in part)
        print(f"| {name} | {inside} of {len(part)} | {inside / len(part):.0%} | {width:.3f} | {signed:+.3f} |")
    cases = {cell.case for cell in cells}
    share, noise = _mean(
        [statistics.fmean(each.inside for each in cells if each.case == case) for case in sorted(cases)]
    )
    good = share > INTERVAL - WIDTHS * noise
    print(f"\nNot fewer than they say, beyond noise ({noise:.0%}): {'holds' if good else 'DOES NOT HOLD'}.")
    return good


def chosen(record: Record, cells: Sequence[Cell]) -> Iterator[tuple[Case, int, int | None]]:
    """For tolerances halfway between the measured forgetting of neighbouring shares: the least share that meets it, as
    measured and as the product recommends of the same ones."""
    old = [cell for cell in cells if cell.old]
    for less, more in pairwise(old):
        tolerance = (less.measured + more.measured) / 2
        truth = next((cell.share for cell in old if cell.measured <= tolerance), None)
        if truth == more.share and tolerance > 0:
            asked = {**record["corpora"], more.corpus: {**record["corpora"][more.corpus], "tolerance": tolerance}}
            meets = (share for share in SHARES if row({**record, "corpora": asked}, share / 100, STAGE)["meets"] >= 0.5)
            yield more.case, truth, next(meets, None)


def print_choices(choices: Sequence[tuple[Case, int, int | None]]) -> None:
    """The recommended share beside the one that the truth recommends."""
    truths = SHARES[1:]
    print("\n| recommended where the truth is | seed | " + " | ".join(f"{share} %" for share in truths) + " |")
    print("|" + "---|" * (2 + len(truths)))
    for case in dict.fromkeys(each[0] for each in choices):
        said = {truth: "none" if share is None else f"{share} %" for mine, truth, share in choices if mine == case}
        print(f"| {case[0]} | {case[1]} | {' | '.join(said.get(truth, '') for truth in truths)} |")
    same = sum(share == truth for _, truth, share in choices)
    less = sum(share is not None and share < truth for _, truth, share in choices)
    print(f"\nThe same share in {same} of {len(choices)}, less replay in {less}, more in {len(choices) - same - less}.")


if __name__ == "__main__":
    sys.exit(main())
