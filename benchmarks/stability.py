"""How often the rule for a spike is wrong on ordinary training, and what it finds: on recorded runs.

    python benchmarks/record.py stability FOLDER ...

Reads every attempt's metrics below the folders (equal curves count once); nothing is trained. A false alarm is a finding
on a curve as it was recorded: none of these attempts broke. Found: of the curves, those where the last loss is a spike
when it is made so many times as large. Peers, over the same steps: mean and standard deviation in place of median and
MAD, and the gradient's norm in place of the loss.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.attempt.model import Attempt
from keepwarm.attempt.passed_over import broken_words
from keepwarm.attempt.records import Record, attempt_in, read_metrics
from keepwarm.attempt.spikes import DEVIATION_OF_MAD, Recent
from keepwarm.attempt.stability import STANDARD
from keepwarm.attempt.steered import as_fed
from keepwarm.errors import KeepwarmError
from keepwarm.plan.stability import LEAST_STEPS

THRESHOLDS = (4.0, 6.0, 8.0, 10.0, 15.0)
TIMES = (1.25, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """A recorded attempt, its training records, and which of them can be judged, with the losses and norms before each."""

    attempt: Attempt
    trained: list[Record]
    judged: dict[int, NDArray[np.float64]]  # place -> (2, steps)


def curves(folders: Sequence[Path]) -> Iterator[Curve]:
    """Each distinct attempt that did not break."""
    seen = set[str]()
    for path in sorted(each for folder in folders for each in folder.rglob("metrics.jsonl")):
        try:
            attempt, records = attempt_in(path.parent), read_metrics(path)
        except (KeepwarmError, OSError):
            continue
        trained = [record for record in records if record["kind"] == "train"]
        key = hashlib.sha256(repr([record["loss"] for record in trained]).encode()).hexdigest()
        if attempt is None or len(trained) <= LEAST_STEPS or broken_words(records) is not None or key in seen:
            continue
        seen.add(key)
        attempt = as_fed(attempt, records)
        begin, judged = Recent(STANDARD, attempt.batches, attempt.segments, ()).begin, {}
        for place, record in enumerate(trained):
            past = trained[max(0, place - STANDARD.window_steps) : place]
            numbers = [(each["loss"], each["grad_norm"]) for each in past if each["step"] > begin(record["step"])]
            if len(numbers) >= LEAST_STEPS:
                judged[place] = np.array(numbers).T
        if judged:
            yield Curve(attempt, trained, judged)


def alarms(curve: Curve, threshold: float, times: float = 1.0) -> list[int]:
    """The steps that the rule finds; the last loss is made `times` as large."""
    recent = Recent(replace(STANDARD, threshold=threshold), curve.attempt.batches, curve.attempt.segments, ())
    found = []
    for record in curve.trained:
        loss = record["loss"] * (times if record is curve.trained[-1] else 1.0)
        if recent.find(record["step"], loss, record["grad_norm"]):
            found.append(record["step"])
        recent.add(record)
    return found


def peers(curve: Curve, threshold: float) -> tuple[int, int]:
    """What mean and deviation of the loss would find, and median and MAD of the gradient's norm."""
    by_mean = by_norm = 0
    for place, (losses, norms) in curve.judged.items():
        record = curve.trained[place]
        by_mean += record["loss"] - losses.mean() > threshold * losses.std()
        typical = np.median(norms)
        by_norm += record["grad_norm"] - typical > threshold * DEVIATION_OF_MAD * np.median(np.abs(norms - typical))
    return int(by_mean), int(by_norm)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    found = list(curves(parser.parse_args().folders))
    judged = sum(len(curve.judged) for curve in found)
    print(
        f"{len(found)} attempts of {sum(len(curve.trained) for curve in found):,} trained steps, {judged:,} of them judged"
    )
    planted = " | ".join(f"found: x {times:g}" for times in TIMES)
    print(f"\n| threshold | false alarms | of mean and deviation | of the norm | {planted} |")
    print(f"|---|---|---|---|{'---|' * len(TIMES)}")
    ends = [curve for curve in found if len(curve.trained) - 1 in curve.judged]
    for threshold in THRESHOLDS:
        alone = sum(len(alarms(curve, threshold)) for curve in found)
        by_mean, by_norm = (sum(counts) for counts in zip(*(peers(curve, threshold) for curve in found), strict=True))
        power = [
            sum(curve.trained[-1]["step"] in alarms(curve, threshold, times) for curve in ends) / len(ends)
            for times in TIMES
        ]
        shares = " | ".join(f"{share:.0%}" for share in power)
        print(f"| {threshold:g} | {alone} | {by_mean} | {by_norm} | {shares} |")
        if threshold == STANDARD.threshold and alone:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
