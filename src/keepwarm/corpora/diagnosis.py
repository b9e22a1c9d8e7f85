"""What is wrong with a token file, judged from its parts and from what one pass over its `.bin` saw.

Sizes decide first, then pointers, then contents: ids far beyond every vocabulary, or a document end where one must be.
Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm.corpora.indexed import CODES
from keepwarm.corpora.lenient import Longs, RawIndex, Reading, Seen, reading, reading_by_pointers
from keepwarm.corpora.shifted import Shift

STRUCTURAL = (
    "header", "lengths", "pointers", "document-indices", "uncounted-eod", "shifted", "truncated-bin", "wrong-dtype",
    "trailing-bytes",
)  # fmt: skip
LARGEST_VOCABULARY = 1 << 20  # four times the largest in use: ids beyond are no ids
_LARGE_ID = 1 << 10  # a file with an id so large does not hold the upper halves of small ids
_HALVED_FROM = 64  # tokens; fewer may be zero at every second place by chance
_BY_WIDTH = {1: "u1", 2: "<u2", 4: "<i4", 8: "<i8"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: its kind, exact numbers in a sentence, and whether a new `.idx` mends it."""

    kind: str
    what: str
    repairable: bool


@dataclass(frozen=True, eq=False, slots=True)
class Fix:
    """How the `.bin` is to be read instead, and how many documents at its end that leaves out."""

    reading: Reading
    left_out: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """Everything that a judgement needs."""

    binary: Path
    index: Path
    size: int  # of .bin, bytes
    raw: RawIndex
    lengths: Longs
    readings: Mapping[str, Reading]
    seen: Mapping[str, Seen]
    vocab_size: int | None
    eod_known: bool
    shift: Shift | None = None

    def confirmed(self, name: str) -> bool:
        """Every document of a reading ends with the same token, and that is no accident."""
        ends, seen = len(self.readings[name].ends), self.seen[name]
        return ends >= (1 if self.eod_known else 2) and seen.closed == ends

    def plausible(self, name: str) -> bool:
        """The ids of a reading may be ids."""
        seen = self.seen[name]
        limit = self.vocab_size or LARGEST_VOCABULARY
        return seen.low is not None and seen.high is not None and seen.low >= 0 and seen.high < limit


def sound_lengths(raw: RawIndex, size: int) -> Longs | None:
    """The lengths; negative ones as the pointers tell them; None where that is impossible."""
    lengths, pointers = raw.lengths, raw.pointers
    if lengths is None or not (lengths < 0).any():
        return lengths
    if pointers is None or raw.dtype is None or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        return None
    gaps, rest = np.divmod(np.diff(pointers, append=size), raw.dtype.itemsize)
    known = lengths >= 0
    agree = not rest.any() and (gaps >= 0).all() and bool((gaps[known] == lengths[known]).all())
    return gaps if agree else None


def sound_documents(raw: RawIndex, sequences: int) -> Longs:
    """The first sequence of each document; one document a sequence where the index does not say it."""
    documents = raw.documents
    if documents is None or documents_fault(documents, sequences):
        return np.arange(sequences + 1, dtype=np.int64)
    return documents


def documents_fault(documents: Longs, sequences: int) -> str | None:
    """What is wrong with the document boundaries, in words."""
    if not len(documents):
        return "its document boundaries are missing"
    falls = int(np.count_nonzero(np.diff(documents) < 0))
    faults = [f"start at {documents[0]:,}"] if documents[0] else []
    faults += [f"end at {documents[-1]:,}"] if documents[-1] != sequences else []
    faults += [f"fall {falls:,} times"] if falls else []
    return f"its document boundaries {', '.join(faults)}; they must rise from 0 to {sequences:,}" if faults else None


def packed(pointers: Longs | None, lengths: Longs, width: int) -> bool:
    """Sequences lie one after the other, in bytes of tokens of `width`."""
    return pointers is None or np.array_equal(pointers, (np.cumsum(lengths) - lengths) * width)


def possible_readings(raw: RawIndex, size: int, lengths: Longs, documents: Longs) -> dict[str, Reading]:
    """The readings to try: "declared", "uncounted", "halved", and by the dtype's name those whose size fits."""
    found: dict[str, Reading] = {}
    total = int(lengths.sum())
    dtype = raw.dtype
    for width, name in _BY_WIDTH.items():
        if total and total * width == size and dtype != np.dtype(name):
            found[name] = reading(np.dtype(name), lengths, documents)
    if dtype is None:
        return found
    if packed(raw.pointers, lengths, dtype.itemsize):
        found["declared"] = reading(dtype, lengths, documents)
        if (counted := _one_more(dtype, lengths, documents, size / dtype.itemsize - total)) is not None:
            found["uncounted"] = counted
    else:
        assert raw.pointers is not None
        found["declared"] = reading_by_pointers(dtype, lengths, documents, raw.pointers)
    enough = dtype == np.dtype("<u2") and total * 2 == size and total >= _HALVED_FROM
    if enough and lengths.max() > 2 and not (lengths & 1).any():
        found["halved"] = reading(np.dtype("<i4"), lengths // 2, documents)
    return found


def _one_more(dtype: np.dtype[Any], lengths: Longs, documents: Longs, extra: float) -> Reading | None:
    """The reading with document ends counted: of every sequence, or of the last one in every document."""
    closing = (documents[1:] - 1)[np.diff(documents) > 0]
    if extra <= 0 or extra not in (len(lengths), len(closing)):
        return None
    closing = np.arange(len(lengths)) if extra == len(lengths) else closing
    counted = lengths.copy()
    counted[closing] += 1
    return Reading(dtype, counted, documents, (np.cumsum(counted) - 1)[closing], int(counted.sum()))


def judge(case: Case) -> tuple[list[Finding], Fix | None, str | None]:
    """What is wrong with the index and the size of `.bin`, the fix, and the name of the reading that is right."""
    finding, fix, name = _judge_size(case)
    faults = list(case.raw.faults)
    if faults and case.raw.documents is None:
        faults[-1] += "; where documents begin is lost, each sequence is taken for one"
    found = [Finding("header", f"{case.index}: {fault}", fix is not None) for fault in faults]
    negative = int(np.count_nonzero(case.raw.lengths < 0)) if case.raw.lengths is not None else 0
    if negative:
        found.append(Finding("lengths", f"{case.index}: {negative:,} lengths are negative", fix is not None))
    if case.raw.documents is not None and (fault := documents_fault(case.raw.documents, len(case.lengths))):
        found.append(Finding("document-indices", f"{case.index}: {fault}", fix is not None))
    found += [finding] if finding is not None else []
    return found, fix if found else None, name


Judged = tuple[Finding | None, Fix | None, str | None]


def _judge_size(case: Case) -> Judged:
    dtype = case.raw.dtype
    if dtype is None:
        return _judge_unknown_dtype(case)
    others = [name for name in case.readings if name in _BY_WIDTH.values()]
    if not packed(case.raw.pointers, case.lengths, dtype.itemsize):
        for name in others:
            if packed(case.raw.pointers, case.lengths, np.dtype(name).itemsize):
                return _wrong_dtype(case, name, "its pointers are theirs too")
        return _judge_pointers(case)
    if "uncounted" in case.readings and case.confirmed("uncounted"):
        return _uncounted(case)
    for name in [*others, *(["halved"] if "halved" in case.readings else [])]:
        if _contents_prefer(case, name):
            return _wrong_dtype(case, name, _ids_in_words(case, name))
    if case.shift is not None:
        return _shifted(case, case.shift)
    counted = case.readings["declared"].bytes
    if counted == case.size:
        return None, Fix(case.readings["declared"]), "declared"
    if counted > case.size:
        return _truncated(case)
    if "uncounted" in case.readings and not case.confirmed("declared"):
        return _uncounted(case)
    return _trailing(case)


def _judge_unknown_dtype(case: Case) -> Judged:
    """The header's own finding tells it; a fix exists where one width fits the size and gives ids."""
    for name, one in case.readings.items():
        if packed(case.raw.pointers, case.lengths, one.dtype.itemsize) and case.plausible(name):
            return None, Fix(one), name
    return None, None, None


def _contents_prefer(case: Case, name: str) -> bool:
    declared, other = case.seen["declared"], case.seen[name]
    if declared.high is None or other.high is None or not case.plausible(name):
        return False
    width = case.readings["declared"].dtype.itemsize
    if case.readings[name].dtype.itemsize > width:  # narrow tokens that are halves of wider ones?
        upper_halves_are_zero = other.high < 1 << (8 * width)
        if name == "halved":
            return upper_halves_are_zero
        return upper_halves_are_zero or declared.high >= _LARGE_ID
    return not case.plausible("declared")


def _ids_in_words(case: Case, name: str) -> str:
    declared, other = case.seen["declared"], case.seen[name]
    theirs, ours = case.readings[name].dtype.name, case.readings["declared"].dtype.name
    spans = [f"read as {ours} ids run from {declared.low:,} to {declared.high:,}"]
    if name == "halved":
        spans = [f"read as {ours} every second token is 0"]
    return f"{spans[0]}, as {theirs} from {other.low:,} to {other.high:,}"


def _wrong_dtype(case: Case, name: str, why: str) -> Judged:
    one = case.readings[name]
    tokens = int(one.lengths.sum())
    what = (
        f"{case.index}: says {case.readings['declared'].dtype.name}, but {case.binary} holds {one.dtype.name}: "
        f"{tokens:,} tokens of {one.dtype.itemsize} bytes are its {case.size:,} bytes, and {why}"
    )
    return Finding("wrong-dtype", what, True), Fix(one), name


def _uncounted(case: Case) -> Judged:
    one, seen = case.readings["uncounted"], case.seen["uncounted"]
    before, ends = int(case.lengths.sum()), len(one.ends)
    holding = int(np.count_nonzero(np.diff(one.documents)))
    unit = "sequence" if ends == len(case.lengths) else "document"
    what = (
        f"{case.binary}: holds {before + ends:,} tokens, {case.index} counts {before:,}: one fewer for each {unit}, as "
        f"the reference tokenizer's --append-eod writes it. Of {holding:,} documents {holding - 1:,} start at a wrong "
        f"place and {holding:,} lose their end. "
    )
    if case.confirmed("uncounted"):
        what += f"Token {seen.eod} stands at each of the {ends:,} true ends"
        return Finding("uncounted-eod", what, True), Fix(one), "uncounted"
    what += f"Not certain: token {seen.eod} stands at {seen.closed:,} of {ends:,} places where a {unit} would end"
    return Finding("uncounted-eod", what, False), None, "declared"


def _shifted(case: Case, shift: Shift) -> Judged:
    one, name = case.readings["declared"], "whole" if "whole" in case.readings else "declared"
    documents, tokens = len(one.ends), case.size // one.dtype.itemsize
    what = (
        f"{case.binary}: holds {tokens:,} tokens, {case.index} counts {int(one.lengths.sum()):,}. Token {shift.eod} "
        f"stands in it {shift.eods:,} times, and ends {shift.closed:,} of {documents:,} documents: they are cut at wrong "
        "places. "
    )
    if shift.reading is None:
        what += (
            "Not certain: the places where it stands do not tell where each document ends"
            if shift.eods != documents
            else "Not certain: tokens follow the last one, so it does not tell where each document ends"
        )
        return Finding("shifted", what, False), None, name
    longer = int(shift.reading.lengths.sum() - one.lengths.sum())
    what += (
        f"All end with it if the index counts one token too few for {longer:,} of them, as where files of the reference "
        "tokenizer's --append-eod are merged with others"
        if shift.by_lengths
        else "There are as many as documents, so each ends where one stands; the lengths in the index are of no use"
    )
    return Finding("shifted", what, True), Fix(shift.reading), name


def _truncated(case: Case) -> Judged:
    one = case.readings["declared"]
    width = one.dtype.itemsize
    stops = np.cumsum(one.lengths, dtype=np.int64) * width
    stops = np.concatenate([[0], stops])[one.documents[1:]]
    complete = int(np.searchsorted(stops, case.size, side="right"))
    in_all = len(one.documents) - 1
    what = (
        f"{case.binary}: {case.size:,} bytes, {case.index} counts {one.bytes:,}: {one.bytes - case.size:,} bytes are "
        f"missing at its end. {complete:,} of {in_all:,} documents are complete; document {complete:,} (counted from 0) "
        "is the first that is not"
    )
    if not complete or not stops[complete - 1]:
        return Finding("truncated-bin", what, False), None, "declared"
    sequences = int(one.documents[complete])
    kept = reading(one.dtype, one.lengths[:sequences], one.documents[: complete + 1])
    return Finding("truncated-bin", what, True), Fix(kept, in_all - complete), "declared"


def _trailing(case: Case) -> Judged:
    one = case.readings["declared"]
    what = (
        f"{case.binary}: {case.size:,} bytes, {case.index} counts {one.bytes:,}: {case.size - one.bytes:,} bytes follow "
        "the last document and belong to none"
    )
    return Finding("trailing-bytes", what, True), Fix(one), "declared"


def _judge_pointers(case: Case) -> Judged:
    pointers, lengths, dtype = case.raw.pointers, case.lengths, case.readings["declared"].dtype
    assert pointers is not None
    width = dtype.itemsize
    wrong = pointers != (np.cumsum(lengths) - lengths) * width
    counts = {
        "lie between two tokens": np.count_nonzero(pointers % width),
        "lie outside the .bin": np.count_nonzero((pointers < 0) | (pointers > case.size)),
        "are smaller than the one before": np.count_nonzero(pointers[1:] < pointers[:-1]),
    }
    said = "".join(f"; {count:,} {words}" for words, count in counts.items() if count)
    what = (
        f"{case.index}: {np.count_nonzero(wrong):,} of {len(pointers):,} pointers are not where the sequence before "
        f"ends, the first is that of sequence {int(wrong.argmax()):,}{said}"
    )
    counted = int(lengths.sum()) * width
    if counted != case.size:
        what += f". The lengths count {counted:,} bytes, {case.binary} has {case.size:,}"
        return Finding("pointers", what, False), None, "declared"
    full = lengths > 0
    order = np.argsort(pointers[full], kind="stable")
    sizes = lengths[full][order]
    if np.array_equal(pointers[full][order], (np.cumsum(sizes) - sizes) * width):
        what += ". Every token is reached exactly once, in another order than it lies: this may be meant so"
        return Finding("pointers", what, False), None, "declared"
    straight = reading(dtype, lengths, sound_documents(case.raw, len(lengths)))
    return Finding("pointers", what, True), Fix(straight), "declared"


def judge_ids(case: Case, name: str) -> Finding | None:
    """Ids that are negative or beyond the vocabulary, under the reading that is right."""
    seen, one = case.seen[name], case.readings[name]
    if not seen.foreign or seen.first_foreign is None:
        return None
    limit = f"not below {case.vocab_size:,}, the size of the vocabulary, or negative" if case.vocab_size else "negative"
    document = _document_of(case, one, seen.first_foreign)
    where = "in no document" if document is None else f"in document {document:,}"
    what = (
        f"{case.binary}: {seen.foreign:,} ids are {limit}; the highest id is {seen.high:,}, the lowest {seen.low:,}, "
        f"the first wrong one stands at token {seen.first_foreign:,}, {where} (both counted from 0)"
    )
    return Finding("ids-out-of-range", what, False)


def _document_of(case: Case, one: Reading, position: int) -> int | None:
    width = one.dtype.itemsize
    pointers = case.raw.pointers
    straight = one is not case.readings.get("declared") or packed(pointers, one.lengths, width)
    starts = np.cumsum(one.lengths) - one.lengths if straight or pointers is None else pointers // width
    holding = np.flatnonzero((starts <= position) & (position < starts + one.lengths))
    if not len(holding):
        return None
    return int(np.searchsorted(one.documents, holding[0], side="right")) - 1


def dtype_name(raw: RawIndex) -> str | None:
    """The dtype that the index says, as numpy names it."""
    return raw.dtype.name if raw.dtype is not None else None


assert set(_BY_WIDTH.values()) <= set(CODES.values())
