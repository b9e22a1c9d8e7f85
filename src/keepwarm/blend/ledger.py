"""What was fed, exactly: tokens asked and fed and epochs of every source, at any sample, from the stream's arithmetic.

Asked = sum over the segments of share * samples * sequence_length, a rational; fed = whole samples * sequence_length.
Epochs count the whole line: a source's cursor over its windows. Nothing is measured or rounded, so a cap on
repetition can be checked before a single sample is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keepwarm.blend.stream import Stream


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One source in one attempt."""

    source_id: str
    name: str
    asked_tokens: Fraction
    fed_tokens: int
    samples: int
    repeated_samples: int  # of these, windows that the line had been fed before
    epochs_before: Fraction  # of the whole line, when the attempt starts
    epochs_after: Fraction


@dataclass(frozen=True, slots=True)
class Share:
    """What a corpus or role got in one attempt, as shares of all tokens fed."""

    asked: Fraction
    fed: Fraction


def ledger(stream: Stream, samples: int) -> tuple[LedgerRow, ...]:
    """One row for each source that the stream feeds, after `samples` samples of its attempt."""
    before, after = stream.cursors(0), stream.cursors(samples)
    asked = _asked_samples(stream, samples)
    rows = []
    for source_id in stream.source_ids:
        windows = stream.windows(source_id)
        start, stop = before.get(source_id, 0), after.get(source_id, 0)
        rows.append(
            LedgerRow(
                source_id=source_id,
                name=stream.sources[source_id].name,
                asked_tokens=asked[source_id] * stream.sequence_length,
                fed_tokens=(stop - start) * stream.sequence_length,
                samples=stop - start,
                repeated_samples=max(0, stop - max(start, windows)),
                epochs_before=Fraction(start, windows),
                epochs_after=Fraction(stop, windows),
            )
        )
    return tuple(rows)


def shares(rows: Sequence[LedgerRow], group_of: Mapping[str, str]) -> dict[str, Share]:
    """Exact shares by group (corpus or role), with `group_of` from source id to group; they sum to 1.

    The rows must be of an attempt that has fed at least one sample.
    """
    total = sum(row.fed_tokens for row in rows)
    asked: dict[str, Fraction] = {}
    fed: dict[str, Fraction] = {}
    for row in rows:
        group = group_of[row.source_id]
        asked[group] = asked.get(group, Fraction(0)) + row.asked_tokens / total
        fed[group] = fed.get(group, Fraction(0)) + Fraction(row.fed_tokens, total)
    return {group: Share(asked[group], fed[group]) for group in fed}


def over_cap(rows: Sequence[LedgerRow], max_epochs: Fraction | int) -> tuple[LedgerRow, ...]:
    """The rows fed more than `max_epochs` times over by the end of the attempt, to the window."""
    return tuple(row for row in rows if row.epochs_after > max_epochs)


def _asked_samples(stream: Stream, samples: int) -> dict[str, Fraction]:
    asked = dict.fromkeys(stream.source_ids, Fraction(0))
    ends = [*(segment.first_sample for segment in stream.segments[1:]), samples]
    for segment, end in zip(stream.segments, ends, strict=True):
        length, total = max(0, min(samples, end) - segment.first_sample), segment.mixture.total
        for source_id, weight in segment.mixture.weights:
            asked[source_id] += Fraction(length * weight, total)
    return asked
