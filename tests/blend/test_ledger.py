from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from keepwarm.blend.ledger import LedgerRow, Share, ledger, over_cap, shares
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Segment, Stream, next_segment
from keepwarm.corpora.source import Source

SEQUENCE = 8
SOURCES = {
    name: Source(name.upper(), name, Path(name), np.array([[0, windows * SEQUENCE + 1]]))
    for name, windows in {"a": 10, "b": 100, "c": 1000}.items()
}


@pytest.fixture
def stream() -> Stream:
    first = Stream([Segment(0, Mixture((("a", 1), ("b", 19))), (("a", 5),))], SOURCES, 1, SEQUENCE)
    second = next_segment(first, 100, Mixture((("b", 1), ("c", 2))))
    return Stream([*first.segments, second], SOURCES, 1, SEQUENCE)


def test_rows_are_exact(stream: Stream) -> None:
    a, b, c = ledger(stream, 160)
    assert a == LedgerRow("a", "A", Fraction(40), 40, 5, 0, Fraction(1, 2), Fraction(1))
    assert (b.asked_tokens, b.fed_tokens, b.samples) == (115 * 8, 115 * 8, 115)
    assert (b.epochs_before, b.epochs_after) == (0, Fraction(115, 100))
    assert (c.asked_tokens, c.samples, c.epochs_after) == (40 * 8, 40, Fraction(40, 1000))


def test_asked_may_be_a_part_of_a_sample(stream: Stream) -> None:
    assert [row.asked_tokens for row in ledger(stream, 7)] == [Fraction(7 * 8, 20), Fraction(7 * 8 * 19, 20), 0]


@pytest.mark.parametrize("samples", [0, 1, 99, 100, 101, 333])
def test_fed_is_what_the_stream_gives(stream: Stream, samples: int) -> None:
    rows = ledger(stream, samples)
    given = stream.locate(0, samples).source_index if samples else np.zeros(0, dtype=np.int64)
    assert [row.samples for row in rows] == np.bincount(given, minlength=3).tolist()
    assert sum(row.asked_tokens for row in rows) == sum(row.fed_tokens for row in rows) == samples * SEQUENCE


def test_repeats_are_what_the_line_was_fed_before() -> None:
    begun = Stream([Segment(0, Mixture((("a", 1),)), (("a", 5),))], SOURCES, 1, SEQUENCE)
    assert [ledger(begun, n)[0].repeated_samples for n in (5, 6, 25)] == [0, 1, 20]
    again = Stream([Segment(0, Mixture((("a", 1),)), (("a", 30),))], SOURCES, 1, SEQUENCE)
    assert [(row.samples, row.repeated_samples) for row in ledger(again, 7)] == [(7, 7)]


def test_shares_by_group(stream: Stream) -> None:
    roles = {"a": "old", "b": "old", "c": "new"}
    assert shares(ledger(stream, 160), roles) == {
        "old": Share(Fraction(120, 160), Fraction(120, 160)),
        "new": Share(Fraction(40, 160), Fraction(40, 160)),
    }


def test_a_cap_is_exact_to_the_window(stream: Stream) -> None:
    assert [row.source_id for row in over_cap(ledger(stream, 160), 1)] == ["b"]
    assert over_cap(ledger(stream, 160), Fraction(115, 100)) == ()
    assert [row.source_id for row in over_cap(ledger(stream, 160), Fraction(115, 100) - Fraction(1, 10**9))] == ["b"]
