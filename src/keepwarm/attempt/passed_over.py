"""Steps without an update, and why: their events, how many count against the bound, and what people are told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keepwarm.attempt.records import DIVERGED, NON_FINITE, REWOUND, SKIPPED, Record
from keepwarm.attempt.rewinds import Rewind
from keepwarm.attempt.spikes import Finding

BY_REWIND = "rewind"  # why a step is passed over that no finding of its own was made at
_TOLD = 3  # of them with their place


def skipped_event(finding: Finding, samples: tuple[int, int], located: Sequence[dict[str, Any]] = ()) -> Record:
    """The event of a step that is skipped; `samples` [first, end) are its batch. Its train record is not written."""
    text = "; ".join([finding.text, *_culprits(located)])
    content = {**finding.numbers(), "samples": list(samples), "located": list(located)}
    return {"event": SKIPPED, "text": f"no update: {text}", **content}


def passed_over_event(rewind: Rewind, samples: tuple[int, int]) -> Record:
    """The event of a step that a rewind passes over."""
    text = f"no update: passed over since the rewind at step {rewind.last_step:,}"
    return {"event": SKIPPED, "text": text, "why": BY_REWIND, "samples": list(samples), "rewind": rewind.number}


def given_up_event(
    finding: Finding, why: str, *, step: int, samples: tuple[int, int], located: Sequence[dict[str, Any]] = ()
) -> Record:
    """The event that ends an attempt as diverged at `step` (from 1), which is not trained; `why` as `Stability.answer`
    says it."""
    event = DIVERGED if finding.kind == "spike" else NON_FINITE
    show = next((f"look at it: {each['show'][0]}" for each in located if each.get("culprit")), "")
    told = [f"at step {step:,} {finding.text}", *_culprits(located), show, why]
    text = "; ".join(words for words in told if words)
    return {"event": event, "text": text, **finding.numbers(), "samples": list(samples), "located": list(located)}


def skipped_steps(records: Iterable[Record]) -> int:
    """Steps skipped so far by findings of their own: what `most_skipped` bounds."""
    return sum(record.get("event") == SKIPPED and record["why"] != BY_REWIND for record in records)


def given_up(records: Iterable[Mapping[str, Any]]) -> bool:
    """True where an unstable step ended the attempt; a held-out loss that is not finite does not end it on the way."""
    return any(record.get("event") in (NON_FINITE, DIVERGED) and "what" not in record for record in records)


def broken_words(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Why an attempt ended as diverged, by its records; None where it did not."""
    broken = next((record for record in records if record.get("event") in (NON_FINITE, DIVERGED)), None)
    if broken is None:
        return None
    if "what" in broken:  # a held-out loss, or of a record from before findings had their numbers
        return f"{broken['what']} was not a finite number at step {broken['step']}"
    return str(broken["text"])


def passed_over_words(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """What an attempt was not trained on, for its verdict and for status: a line for skipped steps, one a rewind."""
    events = [record for record in records if record.get("event") in (SKIPPED, REWOUND)]
    skipped = [each for each in events if each["event"] == SKIPPED and each["why"] != BY_REWIND]
    lines = [f"rewound {each['text']}" for each in events if each["event"] == REWOUND]
    if skipped:
        told = "; ".join(
            f"step {each['step']:,}: {each['text'].removeprefix('no update: ')}" for each in skipped[:_TOLD]
        )
        more = f"; and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
        lines.append(f"no update at {len(skipped)} step{'' if len(skipped) == 1 else 's'}: {told}{more}")
    return tuple(lines)


def _culprits(located: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the samples lie that stand out, at most three by name."""
    words = [each["words"] for each in located if each.get("culprit")]
    return [f"in {', '.join(words[:_TOLD])}{' and more' if len(words) > _TOLD else ''}"] if words else []
