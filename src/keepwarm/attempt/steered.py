"""What a steered attempt was really fed: its planned mixes and those that the events in its metrics put in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from keepwarm.attempt.cap import within_caps
from keepwarm.attempt.line import Feed, Mixes, Role, open_stream
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.steering import MIX, Pole, Steering
from keepwarm.blend.ledger import LedgerRow, ledger
from keepwarm.blend.stream import followed
from keepwarm.errors import LineageError
from keepwarm.plan.model import Plan
from keepwarm.schedule.batch import Batches
from keepwarm.units import format_share


def as_fed(attempt: Attempt, records: Sequence[Mapping[str, Any]]) -> Attempt:
    """The attempt with the mixes that its records say it was fed, for those who read what it was fed; its identity is
    still that of the attempt as it was made. LineageError for a change that it does not allow."""
    for record in records:
        if record.get("event") == MIX:
            share = _allowed(attempt, record)
            assert attempt.steering is not None
            sample = attempt.batches.samples(int(record["step"]))
            segments = followed(attempt.segments, sample, attempt.steering.mixture(share))
            attempt = replace(attempt, segments=segments)
    return attempt


def steered_words(attempt: Attempt, records: Sequence[Mapping[str, Any]]) -> str:
    """What was asked of a steered mix and what became of it, in words."""
    assert attempt.steering is not None
    shares = [_allowed(attempt, record) for record in records if record.get("event") == MIX]
    times = "once" if len(shares) == 1 else f"{len(shares)} times"
    became = f"changed {times}, last to {format_share(shares[-1])}" if shares else "not changed yet"
    return f"{attempt.steering.words()}, {became}"


def roles_at(steering: Steering, share: Fraction) -> list[Role]:
    """The mix at a share of the old data, by role."""
    both = ((steering.old, share), (steering.new, 1 - share))
    return [Role(pole.role, part, pole.members) for pole, part in both if part]


def capped(
    plan: Plan, feed: Feed, mixes: Mixes, steering: Steering | None, cut: Batches, steps: int,
    cursors: Mapping[str, int],
) -> tuple[Mixes, Steering | None, tuple[str, ...]]:  # fmt: skip
    """Mixes and poles within `plan.max_epochs`, as far as they can be wherever the share may stand; what was lowered."""
    words = list[str]()
    if steering is not None:
        poles = []
        for pole, share in ((steering.old, steering.most), (steering.new, steering.least)):
            bound = [*mixes[:-1], (mixes[-1][0], roles_at(steering, share))]
            found, lowered = within_caps(plan, feed, bound, cut, steps, cursors)
            members = next((role.members for role in found[-1][1] if role.name == pole.role), pole.members)
            poles.append(Pole.of(pole.role, members))
            words += lowered
        steering = replace(steering, old=poles[0], new=poles[1])
        mixes = [*mixes[:-1], (mixes[-1][0], roles_at(steering, steering.start))]
    mixes, lowered = within_caps(plan, feed, mixes, cut, steps, cursors)
    return mixes, steering, (*words, *lowered)


def worst_rows(attempt: Attempt, feed: Feed) -> tuple[LedgerRow, ...]:
    """Of each source the ledger's row at that bound of the steering where it is read most: no path between the bounds
    reads more, to two samples a change."""
    assert attempt.steering is not None
    samples, worst = attempt.batches.samples(attempt.steps), dict[str, LedgerRow]()
    for share in (attempt.steering.most, attempt.steering.least):
        last = replace(attempt.segments[-1], mixture=attempt.steering.mixture(share))
        bound = replace(attempt, segments=(*attempt.segments[:-1], last))
        for row in ledger(open_stream(bound, feed), samples):
            if row.source_id not in worst or worst[row.source_id].epochs_after < row.epochs_after:
                worst[row.source_id] = row
    return tuple(worst.values())


def _allowed(attempt: Attempt, record: Mapping[str, Any]) -> Fraction:
    """The old data's share that an event gives, within the attempt's bounds."""
    steering, shares = attempt.steering, record.get("shares", {})
    try:
        assert steering is not None
        share, new = Fraction(shares[steering.old.role]), Fraction(shares[steering.new.role])
        if not (steering.least <= share <= steering.most and share + new == 1):
            raise ValueError("outside of its bounds")
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise LineageError(
            f"{attempt.folder}/metrics.jsonl: the mix at step {record.get('step')} can't be ({shares})",
            "what was fed follows from this record; with a wrong one the ledger would be wrong",
            f"remove the attempt: rm -r {attempt.folder} (in the run folder)",
        ) from error
    return share
