"""`keepwarm data verify`: each damage is found by its name and numbers, repaired where that is certain, else told."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepwarm.cli.main import main
from keepwarm.corpora import lenient
from keepwarm.corpora.identity import hash_path
from keepwarm.corpora.indexed import IndexedWriter, Sidecar, index_bytes, open_indexed, sidecar_path
from keepwarm.corpora.verify import repair, verify
from keepwarm.errors import DataError, KeepwarmError

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
DOCUMENTS = [[10, 11, 12, 0], [20, 21, 0], [30, 31, 32, 33, 0], [40, 0]]  # as the reference's builder was given them
LENGTHS = struct.calcsize("<9sQBQQ")  # where the lengths begin


def write(prefix: Path, documents, dtype="<u2", sidecar=False) -> Path:
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(np.array(document, dtype=np.int64))
        if sidecar:
            writer.sidecar = Sidecar(
                tokenizer_sha256="0" * 64, vocab_size=100, eod=0, documents=len(documents), tokens=writer.tokens,
                text_bytes=7, content_id=writer.content_id(),
            )  # fmt: skip
    return prefix


@pytest.fixture
def made(tmp_path):
    return write(tmp_path / "x", DOCUMENTS)


def edit(prefix: Path, suffix: str, place: int, data: bytes) -> None:
    path = Path(f"{prefix}{suffix}")
    content = bytearray(path.read_bytes())
    content[place : place + len(data)] = data
    path.write_bytes(bytes(content))


def cut(prefix: Path, suffix: str, size: int) -> None:
    os.truncate(f"{prefix}{suffix}", size)


def append(prefix: Path, data: bytes) -> None:
    with open(f"{prefix}.bin", "ab") as file:
        file.write(data)


def uncount(prefix: Path, documents=DOCUMENTS, dtype="<u2") -> None:
    """Write the index that the reference's --append-eod writes."""
    lengths = [len(document) - 1 for document in documents]
    Path(f"{prefix}.idx").write_bytes(index_bytes(np.dtype(dtype), lengths, range(len(documents) + 1)))


def set_pointers(prefix: Path, sequences: int, pointers) -> None:
    edit(prefix, ".idx", LENGTHS + 4 * sequences, np.array(pointers, "<i8").tobytes())


def read_back(prefix: Path) -> list[list[int]]:
    opened = open_indexed(prefix)
    return [opened.document(number).tolist() for number in range(opened.n_documents)]


def kinds(report) -> list[str]:
    return [finding.kind for finding in report.findings]


def only(report, kind: str) -> str:
    assert kinds(report) == [kind], report.findings
    return report.findings[0].what


@pytest.fixture
def digests(tmp_path):
    """Of all files in the folder: what must not change."""

    def read() -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir() if p.is_file()}

    return read


# A clean file.


@pytest.mark.parametrize("name", ["a0", "a1", "b0", "c0", "multi"])
def test_what_the_reference_wrote_is_well(name):
    report = verify(GOLDEN / name)
    opened = open_indexed(GOLDEN / name)
    assert report.ok and report.fix is None
    assert (report.tokens, report.documents, report.sequences) == (
        opened.n_tokens, opened.n_documents, opened.n_sequences
    )  # fmt: skip
    assert report.highest_id == max(opened.tokens) and report.bin_bytes == opened.tokens.nbytes


def test_the_facts(made):
    report = verify(f"{made}.idx", vocab_size=41)
    assert report.ok
    assert (report.prefix, report.bin_bytes, report.dtype) == (made, 28, "uint16")
    assert (report.sequences, report.documents, report.tokens, report.empty_documents) == (4, 4, 14, 0)
    assert (report.highest_id, report.vocab_size, report.eod, report.eod_from) == (40, 41, 0, "inferred")
    assert (report.documents_without_eod, report.eods_inside_documents) == (0, 0)


def test_the_content_is_the_writers(tmp_path):
    with IndexedWriter(tmp_path / "x", "<i4") as writer:
        for document in DOCUMENTS:
            writer.add(np.array(document))
        expected = writer.content_id()
    assert verify(tmp_path / "x").content_id == expected


def test_documents_without_an_end_and_ends_within_them(tmp_path):
    write(tmp_path / "x", [[5, 9, 6, 9], [7, 8], [], [9]])
    report = verify(tmp_path / "x", eod=9)
    assert (report.ok, report.eod_from, report.empty_documents) == (True, "asked", 1)
    assert (report.documents_without_eod, report.eods_inside_documents) == (1, 1)


def test_no_end_is_inferred_where_documents_end_otherwise(tmp_path):
    write(tmp_path / "x", [[5, 6], [7, 8]])
    report = verify(tmp_path / "x")
    assert (report.ok, report.eod, report.documents_without_eod) == (True, None, None)


def test_a_file_without_documents(tmp_path):
    write(tmp_path / "x", [])
    report = verify(tmp_path / "x", vocab_size=5, eod=0)
    assert (report.ok, report.tokens, report.documents, report.highest_id) == (True, 0, 0, None)


def test_blocks_do_not_show(tmp_path, monkeypatch):
    write(tmp_path / "x", DOCUMENTS, "<i4")
    whole = verify(tmp_path / "x", vocab_size=33)
    monkeypatch.setattr(lenient, "BLOCK_BYTES", 8)
    assert verify(tmp_path / "x", vocab_size=33) == whole


def test_progress_is_told_in_bytes(made):
    told = []
    verify(made, progress=lambda done, total: told.append((done, total)))
    assert told == [(28, 28)]


# The reference tokenizer's off-by-one.


def test_uncounted_document_ends_are_found_and_repaired(made, digests):
    uncount(made)
    before = digests()
    assert read_back_leniently(made) == [[10, 11, 12], [0, 20], [21, 0, 30, 31], [32]]  # recorded from the reference
    report = verify(made)
    said = only(report, "uncounted-eod")
    assert "holds 14 tokens" in said and "counts 10" in said and "Of 4 documents 3 start at a wrong place" in said
    assert "Token 0 stands at each of the 4 true ends" in said
    assert (report.eod, report.eod_from) == (0, "inferred")
    target = repair(made, report)
    assert target == Path(f"{made}.repaired") and read_back(target) == DOCUMENTS
    assert verify(target).ok
    assert os.stat(f"{target}.bin").st_ino == os.stat(f"{made}.bin").st_ino
    after = digests()
    assert {name: after.pop(name) for name in before} == before
    assert sorted(after) == ["x.repaired.bin", "x.repaired.idx"]


def read_back_leniently(prefix: Path) -> list[list[int]]:
    raw = lenient.read_raw(Path(f"{prefix}.idx"))
    tokens = np.fromfile(f"{prefix}.bin", raw.dtype).tolist()
    return [tokens[p // 2 : p // 2 + n] for p, n in zip(raw.pointers.tolist(), raw.lengths.tolist(), strict=True)]


def test_ends_that_are_not_all_the_same_are_not_certain(made):
    edit(made, ".bin", 2 * 6, struct.pack("<H", 7))  # the end of the second document
    uncount(made)
    report = verify(made)
    said = only(report, "uncounted-eod")
    assert "Not certain: token 0 stands at 3 of 4 places where a sequence would end" in said
    assert report.fix is None
    with pytest.raises(DataError, match="nothing that was found can be repaired"):
        repair(made, report)


def test_one_document_is_certain_only_with_the_end_named(tmp_path):
    made = write(tmp_path / "x", [[5, 6, 3]])
    uncount(made, [[5, 6, 3]])
    assert verify(made).fix is None
    assert verify(made, eod=4).fix is None
    report = verify(made, eod=3)
    assert read_back(repair(made, report)) == [[5, 6, 3]]


def test_a_token_for_each_document_that_is_no_end_is_trailing(made):
    append(made, struct.pack("<4H", 50, 51, 52, 53))
    report = verify(made)
    assert "8 bytes follow the last document" in only(report, "trailing-bytes")
    assert read_back(repair(made, report)) == DOCUMENTS


def test_the_end_of_documents_of_several_sentences(tmp_path):
    with IndexedWriter(tmp_path / "x", "<u2") as writer:
        for document in ([[5, 6], [7, 0]], [[8, 0]], [[9], [10], [11, 0]]):
            for number, sentence in enumerate(document):
                writer.add(np.array(sentence), end_document=number == len(document) - 1)
    (tmp_path / "x.idx").write_bytes(index_bytes(np.dtype("<u2"), [2, 1, 1, 1, 1, 1], [0, 2, 3, 6]))
    report = verify(tmp_path / "x")
    assert "one fewer for each document" in only(report, "uncounted-eod")
    assert read_back(repair(tmp_path / "x", report)) == [[5, 6, 7, 0], [8, 0], [9, 10, 11, 0]]


# Documents that are shifted though the sizes look like something else.


def texts_of(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[*rng.integers(2, 60_000, rng.integers(8, 40)).tolist(), 1] for _ in range(count)]


def merged_with_uncounted(prefix: Path, documents, uncounted: range, *, cut_off: bool = False) -> None:
    """Write what merging by the reference makes of files of which some do not count their ends: lengths in a row, and
    tokens in a row. `cut_off`: what the lengths do not reach is gone, as if somebody had repaired it by size.
    """
    write(prefix, documents)
    lengths = [len(document) - (number in uncounted) for number, document in enumerate(documents)]
    Path(f"{prefix}.idx").write_bytes(index_bytes(np.dtype("<u2"), lengths, range(len(documents) + 1)))
    if cut_off:
        cut(prefix, ".bin", 2 * sum(lengths))


@pytest.mark.parametrize("eod", [None, 1])
@pytest.mark.parametrize("uncounted", [range(100), range(149, 249), range(60, 160)])
def test_merged_files_of_which_one_does_not_count_its_ends(tmp_path, eod, uncounted):
    documents, made = texts_of(249, 0), tmp_path / "x"
    merged_with_uncounted(made, documents, uncounted)
    report = verify(made, eod=eod)
    said = only(report, "shifted")
    tokens = sum(map(len, documents))
    assert f"holds {tokens:,} tokens, {made}.idx counts {tokens - 100:,}" in said
    lengths = np.array([len(document) - (number in uncounted) for number, document in enumerate(documents)])
    closed = np.count_nonzero(np.concatenate(documents)[np.cumsum(lengths) - 1] == 1)  # some by chance
    assert f"Token 1 stands in it 249 times, and ends {closed} of 249 documents" in said
    assert "the index counts one token too few for 100 of them" in said
    target = repair(made, report)
    assert read_back(target) == documents
    assert verify(target, eod=eod).ok
    assert os.path.samefile(f"{target}.bin", f"{made}.bin")


@pytest.mark.parametrize("eod", [None, 1])
@pytest.mark.parametrize("uncounted", [range(100), range(149, 249)])
def test_a_shifted_file_that_was_cut_to_what_its_lengths_count_is_not_well(tmp_path, eod, uncounted):
    made = tmp_path / "x"
    merged_with_uncounted(made, texts_of(249, 1), uncounted, cut_off=True)
    report = verify(made, eod=eod)
    assert "documents: they are cut at wrong places. Not certain" in only(report, "shifted")
    assert report.fix is None


def test_shifted_documents_of_several_sentences_with_ends_inside(tmp_path):
    """A document end inside a document and an empty document: the number of ends is not that of documents."""
    with IndexedWriter(tmp_path / "x", "<u2") as writer:
        for document in ([[5, 6], [7, 0]], [[8, 0]], [], [[9, 0, 9], [10], [11, 0]], [[12, 0]]):
            for number, sentence in enumerate(document or [[]]):
                writer.add(np.array(sentence, dtype=np.int64), end_document=number == max(len(document), 1) - 1)
    whole = read_back(tmp_path / "x")
    (tmp_path / "x.idx").write_bytes(index_bytes(np.dtype("<u2"), [2, 1, 1, 0, 3, 1, 2, 1], [0, 2, 3, 4, 7, 8]))
    report = verify(tmp_path / "x")
    assert "Token 0 stands in it 5 times, and ends 1 of 4 documents" in only(report, "shifted")
    target = repair(tmp_path / "x", report)
    assert read_back(target) == whole
    assert open_indexed(target).lengths.tolist() == [2, 2, 2, 0, 3, 1, 2, 2]


def test_lengths_that_are_of_no_use_where_ends_are_as_many_as_documents(tmp_path):
    documents, made = texts_of(40, 2), tmp_path / "x"
    write(made, documents)
    tokens = sum(map(len, documents))
    lengths = [tokens // 40] * 39 + [tokens - tokens // 40 * 39]
    Path(f"{made}.idx").write_bytes(index_bytes(np.dtype("<u2"), lengths, range(41)))
    assert verify(made).ok  # nothing says that token 1 ends a document
    report = verify(made, eod=1)
    assert "There are as many as documents, so each ends where one stands" in only(report, "shifted")
    assert read_back(repair(made, report)) == documents


def test_shifted_without_an_answer(tmp_path):
    documents, made = texts_of(40, 3), tmp_path / "x"
    write(made, [*documents, [5, 6]])
    Path(f"{made}.idx").write_bytes(index_bytes(np.dtype("<u2"), [len(d) - 3 for d in documents] + [122], range(42)))
    report = verify(made, eod=1)
    assert "Not certain: the places where it stands do not tell" in only(report, "shifted")
    assert report.fix is None


def test_an_end_that_begins_documents_is_meant_so(tmp_path):
    documents = [[1, *document[:-1]] for document in texts_of(40, 4)]
    assert verify(write(tmp_path / "x", documents), eod=1).ok


def test_few_documents_without_their_end_are_not_shifted(tmp_path):
    documents = [document[:-1] if number % 10 == 0 else document for number, document in enumerate(texts_of(90, 5))]
    report = verify(write(tmp_path / "x", documents), eod=1)
    assert (report.ok, report.documents_without_eod, report.eods_inside_documents) == (True, 9, 0)


def test_the_command_repairs_shifted_documents(tmp_path, capsys):
    documents, made = texts_of(30, 6), tmp_path / "x"
    merged_with_uncounted(made, documents, range(10))
    assert main(["data", "verify", str(made)]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "to do: " in line)
    command = line.partition("to do: keepwarm ")[2]
    assert command == f"data verify {made} --repair  # to end each document where its end stands"
    assert main(command.partition("  #")[0].split()) == 1
    assert read_back(f"{made}.repaired") == documents


# Other damages, one at a time.


@pytest.mark.parametrize(
    ("size", "complete", "missing"), [(27, 3, 1), (25, 3, 3), (24, 3, 4), (15, 2, 13), (14, 2, 14), (9, 1, 19)]
)
def test_a_truncated_bin(made, size, complete, missing):
    cut(made, ".bin", size)
    report = verify(made)
    said = only(report, "truncated-bin")
    assert f"{missing} bytes are missing" in said and f"{complete} of 4 documents are complete" in said
    assert f"document {complete} (counted from 0) is the first" in said
    target = repair(made, report)
    assert report.fix.left_out == 4 - complete
    assert read_back(target) == DOCUMENTS[:complete]
    fits = size in (24, 14)  # cut where a document ends: nothing is to be left out of the .bin
    assert os.path.samefile(f"{target}.bin", f"{made}.bin") == fits
    assert os.path.getsize(f"{made}.bin") == size


def test_a_bin_without_a_complete_document(made):
    cut(made, ".bin", 5)
    report = verify(made)
    assert "0 of 4 documents are complete" in only(report, "truncated-bin")
    assert report.fix is None


def test_half_a_bin_is_truncated_not_of_another_dtype(tmp_path):
    made = write(tmp_path / "x", [[7, 0], [8, 0], [9, 0], [6, 0]], "<i4")
    cut(made, ".bin", 16)
    report = verify(made)
    assert "2 of 4 documents are complete" in only(report, "truncated-bin")
    assert read_back(repair(made, report)) == [[7, 0], [8, 0]]


@pytest.mark.parametrize(("true", "said"), [("<u2", 4), ("<u2", 1), ("<i4", 8), ("<i4", 3), ("<i8", 4), ("u1", 8)])
def test_a_dtype_code_that_the_size_and_pointers_contradict(tmp_path, true, said):
    made = write(tmp_path / "x", DOCUMENTS, true)
    edit(made, ".idx", 17, bytes([said]))
    report = verify(made)
    assert f"holds {np.dtype(true).name}: 14 tokens of {np.dtype(true).itemsize} bytes" in only(report, "wrong-dtype")
    target = repair(made, report)
    assert read_back(target) == DOCUMENTS and open_indexed(target).dtype == np.dtype(true)


@pytest.mark.parametrize(("true", "said"), [("<u2", "<i4"), ("<i4", "<u2")])
def test_an_index_made_throughout_for_another_dtype(tmp_path, true, said):
    documents = [[5000, 60000, 0], [40000, 7, 8, 0], [12345, 0]]
    made = write(tmp_path / "x", documents, true)
    Path(f"{made}.idx").write_bytes(index_bytes(np.dtype(said), [3, 4, 2], range(4)))
    report = verify(made)
    assert f"holds {np.dtype(true).name}: 9 tokens" in only(report, "wrong-dtype")
    assert read_back(repair(made, report)) == documents


def test_ids_that_are_negative_as_read(tmp_path):
    documents = [[5000, 60000, 0], [40000, 7, 8, 0]]
    made = write(tmp_path / "x", documents)
    edit(made, ".idx", 17, b"\x03")
    report = verify(made)
    assert "read as int16 ids run from -25,536 to 5,000, as uint16 from 0 to 60,000" in only(report, "wrong-dtype")
    assert read_back(repair(made, report)) == documents


def test_int32_counted_as_twice_as_many_uint16(tmp_path):
    documents = [[*range(1, 20), 0], [*range(100, 140), 0], [7, 0]]
    made = write(tmp_path / "x", documents, "<i4")
    Path(f"{made}.idx").write_bytes(index_bytes(np.dtype("<u2"), [2 * len(d) for d in documents], range(4)))
    report = verify(made)
    assert "read as uint16 every second token is 0" in only(report, "wrong-dtype")
    assert read_back(repair(made, report)) == documents


def test_documents_of_one_token_and_a_zero_are_no_int32(tmp_path):
    assert verify(write(tmp_path / "x", [[number, 0] for number in range(1, 100)])).ok
    assert verify(write(tmp_path / "y", [[number, 0, number, 9] for number in range(1, 100)])).ok


def test_ids_beyond_the_vocabulary(made):
    report = verify(made, vocab_size=32)
    assert only(report, "ids-out-of-range").endswith(
        "3 ids are not below 32, the size of the vocabulary, or negative; the highest id is 40, the lowest 0, the first "
        "wrong one stands at token 9, in document 2 (both counted from 0)"
    )
    assert report.fix is None


def test_negative_ids(tmp_path):
    made = write(tmp_path / "x", [[5, 0], [6, -7, 0]], "<i4")
    said = only(verify(made), "ids-out-of-range")
    assert "1 ids are negative; the highest id is 6, the lowest -7, the first wrong one stands at token 3" in said


def test_the_vocabulary_of_the_sidecar(tmp_path):
    made = write(tmp_path / "x", [[5, 0], [100, 0]], sidecar=True)
    report = verify(made)
    assert "not below 100" in only(report, "ids-out-of-range")
    assert (report.vocab_size, report.eod, report.eod_from) == (100, 0, "sidecar")
    assert verify(made, vocab_size=101).ok


@pytest.mark.parametrize("data", [b"\x01", b"\x01\x00", b"abcdefg"])
def test_trailing_bytes(made, data):
    append(made, data)
    report = verify(made)
    assert f"{len(data)} bytes follow the last document" in only(report, "trailing-bytes")
    target = repair(made, report)
    assert read_back(target) == DOCUMENTS and os.path.getsize(f"{target}.bin") == 28


def test_trailing_bytes_are_no_ids(made):
    append(made, struct.pack("<3H", 0, 65_000, 0))
    report = verify(made, vocab_size=41, eod=0)
    assert "6 bytes follow" in only(report, "trailing-bytes")
    assert (report.highest_id, report.eods_inside_documents) == (40, 0)


@pytest.mark.parametrize(
    ("pointers", "said"),
    [
        ([0, 7, 14, 24], "1 of 4 pointers are not where the sequence before ends, the first is that of sequence 1; "
                         "1 lie between two tokens"),
        ([0, 8, 14, 1000], "the first is that of sequence 3; 1 lie outside the .bin"),
        ([0, 8, 2, 4], "2 of 4 pointers are not where the sequence before ends, the first is that of sequence 2; "
                       "1 are smaller than the one before"),
        ([0, -2, 14, 24], "1 lie outside the .bin; 1 are smaller than the one before"),
    ],
)  # fmt: skip
def test_pointers(made, pointers, said):
    set_pointers(made, 4, pointers)
    report = verify(made)
    assert said in only(report, "pointers")
    assert read_back(repair(made, report)) == DOCUMENTS


def test_another_order_of_all_documents_may_be_meant_so(made):
    set_pointers(made, 4, [20, 14, 4, 0])  # fits: lengths 4 3 5 2
    report = verify(made)
    assert "Every token is reached exactly once" in only(report, "pointers")
    assert report.fix is None


def test_pointers_that_the_size_contradicts_too_are_not_repaired(made):
    set_pointers(made, 4, [0, 7, 14, 24])
    cut(made, ".bin", 26)
    report = verify(made)
    assert "The lengths count 28 bytes" in only(report, "pointers")
    assert report.fix is None


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([1, 1, 2, 3, 4], "start at 1; they must rise from 0 to 4"),
        ([0, 1, 2, 3, 5], "end at 5"),
        ([0, 3, 2, 3, 4], "fall 1 times"),
    ],
)
def test_document_boundaries(made, documents, said):
    edit(made, ".idx", LENGTHS + 12 * 4, np.array(documents, "<i8").tobytes())
    report = verify(made)
    assert said in only(report, "document-indices")
    assert read_back(repair(made, report)) == DOCUMENTS


def test_negative_lengths_are_told_by_the_pointers(made):
    edit(made, ".idx", LENGTHS + 4, struct.pack("<i", -3))
    report = verify(made)
    assert "1 lengths are negative" in only(report, "lengths")
    assert read_back(repair(made, report)) == DOCUMENTS


def test_negative_lengths_that_nothing_tells(made):
    edit(made, ".idx", LENGTHS + 4, struct.pack("<i", -3))
    set_pointers(made, 4, [0, 9, 14, 24])
    report = verify(made)
    assert only(report, "lengths") and report.fix is None


@pytest.mark.parametrize(
    ("place", "data", "said"),
    [
        (0, b"TNTIDX", "does not begin with MMIDIDX (an older format, TNTIDX)"),
        (3, b"X", "does not begin with MMIDIDX"),
        (9, struct.pack("<Q", 2), "says version 2; version 1 is known"),
        (17, b"\x63", "says dtype code 99"),
        (17, b"\x07", "says dtype code 7"),
    ],
)
def test_a_header_that_is_wrong_where_the_rest_fits(made, place, data, said):
    edit(made, ".idx", place, data)
    report = verify(made)
    assert said in only(report, "header")
    assert read_back(repair(made, report)) == DOCUMENTS


def test_an_index_cut_in_its_last_part_loses_only_what_pointers_and_boundaries_say(made):
    whole = os.path.getsize(f"{made}.idx")
    for size in (whole - 3, whole - 40, whole - 41, LENGTHS + 16):
        cut(made, ".idx", size)
        report = verify(made)
        assert f"has {size} bytes, its header promises {whole}" in only(report, "header")
        target = repair(made, report)
        assert read_back(target) == DOCUMENTS
        for suffix in (".bin", ".idx"):
            os.unlink(f"{target}{suffix}")


@pytest.mark.parametrize(
    ("size", "said"), [(LENGTHS + 15, "its header promises"), (20, "has 20 bytes, a header alone has 34"), (0, "has 0")]
)
def test_an_index_without_its_lengths_tells_nothing(made, size, said):
    cut(made, ".idx", size)
    report = verify(made)
    assert said in only(report, "header")
    assert report.fix is None and report.tokens is None and report.bin_bytes == 28


def test_something_else_called_idx(made):
    Path(f"{made}.idx").write_bytes(b"\xff" * 100)
    report = verify(made)
    assert kinds(report) == ["header"] * 4 and report.fix is None


def test_floats_are_no_tokens(tmp_path):
    made = write(tmp_path / "x", DOCUMENTS, "<i4")
    np.arange(1, 15, dtype="<f4").tofile(f"{made}.bin")
    edit(made, ".idx", 17, b"\x07")
    report = verify(made)
    assert "dtype code 7" in only(report, "header")
    assert report.fix is None


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_half_a_pair(made, suffix):
    os.unlink(f"{made}{suffix}")
    report = verify(made)
    assert f"x{suffix}: no such file" in only(report, "missing-file")
    assert report.fix is None


def test_two_damages_are_both_told(made):
    edit(made, ".idx", LENGTHS + 12 * 4, np.array([0, 3, 2, 3, 4], "<i8").tobytes())
    cut(made, ".bin", 26)
    report = verify(made, vocab_size=33)
    assert kinds(report) == ["document-indices", "truncated-bin", "ids-out-of-range"]
    assert read_back(repair(made, report)) == DOCUMENTS[:3]


# What lies beside a pair.


def test_a_sidecar_that_fits(tmp_path):
    assert verify(write(tmp_path / "x", DOCUMENTS, sidecar=True)).ok


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 15}, "says 15 tokens, the pair has 14"),
        ({"documents": 3}, "says 3 documents, the pair has 4"),
        ({"content_id": "0123456789abcdef"}, "says content 0123456789abcdef, the pair has "),
    ],
)
def test_a_sidecar_of_other_content(tmp_path, change, said):
    made = write(tmp_path / "x", DOCUMENTS, sidecar=True)
    content = json.loads(sidecar_path(made).read_text())
    sidecar_path(made).write_text(json.dumps({**content, **change}))
    assert said in only(verify(made), "sidecar")


def test_a_changed_token_is_told_by_the_sidecar(tmp_path):
    made = write(tmp_path / "x", DOCUMENTS, sidecar=True)
    edit(made, ".bin", 0, b"\x0b")
    assert "tokens or document ends were changed" in only(verify(made), "sidecar")


def test_a_damaged_sidecar(made):
    sidecar_path(made).write_text("{")
    assert "x.meta.json: damaged" in only(verify(made), "sidecar")


@pytest.mark.parametrize(
    ("array", "said"),
    [(np.zeros(3, np.uint64), "holds 3 hashes, the pair has 4"), (np.zeros(4, np.int32), "holds int32 (4,)")],
)
def test_hashes_of_another_file(made, array, said):
    np.save(hash_path(made), array)
    assert said in only(verify(made), "hashes")


def test_damaged_hashes(made):
    hash_path(made).write_bytes(b"no array")
    assert "can't be read" in only(verify(made), "hashes")


# Refusals.


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="x.idx: no such file"):
        verify(tmp_path / "x")


@pytest.mark.parametrize("asked", [{"vocab_size": 0}, {"eod": -1}, {"vocab_size": 5, "eod": 5}])
def test_what_can_not_be_a_vocabulary_or_an_end(made, asked):
    with pytest.raises(DataError, match="--(vocab-size 0|eod -1|eod 5)"):
        verify(made, **asked)


def test_a_repair_of_what_is_well(made):
    with pytest.raises(DataError, match="nothing is wrong"):
        repair(made, verify(made))


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_repair_overwrites_nothing(made, suffix, digests):
    uncount(made)
    report = verify(made)
    Path(f"{made}.repaired{suffix}").write_bytes(b"mine")
    before = digests()
    with pytest.raises(DataError, match=f"x.repaired{suffix}: exists already"):
        repair(made, report)
    assert digests() == before


def test_a_bin_that_changed_since(made, digests):
    uncount(made)
    report = verify(made)
    append(made, b"12")
    before = digests()
    with pytest.raises(DataError, match="changed since it was verified"):
        repair(made, report)
    assert digests() == before


def test_a_repair_that_does_not_hold_is_taken_back(made, digests):
    cut(made, ".bin", 27)
    report = verify(made)
    uncount(made)  # the report is another file's now: its fix is for three documents, with all ends counted
    edit(made, ".bin", 0, b"\xff" * 2)
    before = digests()
    wrong = verify(made)
    assert wrong.fix is None or wrong.fix is not report.fix
    bad = type(report)(
        prefix=report.prefix, bin_bytes=27, findings=report.findings,
        fix=type(report.fix)(lenient.reading(np.dtype("<u2"), np.array([1, 1]), np.array([0, 2, 1]))),
    )  # fmt: skip
    with pytest.raises(DataError, match="the repaired pair is not whole either"):
        repair(made, bad)
    assert digests() == before


def test_a_full_disk_leaves_nothing(made, digests, monkeypatch):
    cut(made, ".bin", 27)
    report, before = verify(made), digests()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeepwarmError, match="the disk is full"):
        repair(made, report)
    assert digests() == before


def test_a_symbolic_link_where_hard_links_are_impossible(made, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    uncount(made)
    monkeypatch.setattr(os, "link", refuse)
    target = repair(made, verify(made))
    assert os.readlink(f"{target}.bin") == "x.bin" and read_back(target) == DOCUMENTS


# Any documents, any one fault.

WORDS = st.lists(st.integers(1, 60_000), min_size=1, max_size=30)
MANY = st.lists(WORDS, min_size=3, max_size=30).map(lambda documents: [[*words, 0] for words in documents])


def inject(kind: str, prefix: Path, documents, data) -> list[list[int]] | None:
    """Damage a uint16 pair in one way; the documents that a repair gives back, None where there is none."""
    count, size = len(documents), os.path.getsize(f"{prefix}.bin")
    if kind == "uncounted-eod":
        uncount(prefix, documents)
        return documents
    if kind == "truncated-bin":
        kept = data.draw(st.integers(1, count - 1))
        bytes_kept = 2 * sum(map(len, documents[:kept]))
        cut(prefix, ".bin", data.draw(st.integers(bytes_kept, bytes_kept + 2 * len(documents[kept]) - 1)))
        return documents[:kept]
    if kind == "wrong-dtype":
        edit(prefix, ".idx", 17, bytes([data.draw(st.sampled_from([1, 2, 4, 5]))]))
        return documents
    if kind == "trailing-bytes":
        append(prefix, data.draw(st.binary(min_size=1, max_size=2 * count - 1)))
        return documents
    if kind == "pointers":
        victim = data.draw(st.integers(0, count - 1))
        wrong = data.draw(st.sampled_from([1, -1, 3, size + 1, 1 << 40, -(1 << 40)]))
        pointers = 2 * np.cumsum([0, *map(len, documents)])[:-1]
        pointers[victim] += wrong
        set_pointers(prefix, count, pointers)
        return documents
    if kind == "document-indices":
        victim = data.draw(st.integers(0, count))
        edit(prefix, ".idx", LENGTHS + 12 * count + 8 * victim, struct.pack("<q", count + 7 if victim else 1))
        return documents
    if kind == "header":
        place, wrong = data.draw(st.sampled_from([(0, b"X"), (8, b"X"), (9, b"\x02"), (17, b"\x40")]))
        edit(prefix, ".idx", place, wrong)
        return documents
    assert kind == "ids-out-of-range"
    edit(prefix, ".bin", 2 * data.draw(st.integers(0, size // 2 - 1)), struct.pack("<H", 65_535))
    return None


KINDS = [
    "uncounted-eod", "truncated-bin", "wrong-dtype", "trailing-bytes", "pointers", "document-indices", "header",
    "ids-out-of-range",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(documents=MANY, data=st.data())
def test_one_fault_of_any_kind_is_found_as_that_and_repaired(kind, documents, data):
    with tempfile.TemporaryDirectory() as folder:
        made = write(Path(folder) / "x", documents)
        expected = inject(kind, made, documents, data)
        vocab = 60_001 if kind == "ids-out-of-range" else None
        report = verify(made, vocab_size=vocab, eod=0)
        assert kinds(report) == [kind], report.findings
        if expected is not None:
            assert read_back(repair(made, report)) == expected
        else:
            assert report.fix is None


@given(
    st.lists(st.lists(st.integers(0, 65_535), max_size=20), max_size=30),
    st.sampled_from(["<u2", "<i4", "<i8"]),
    st.none() | st.integers(0, 65_535),
)
def test_a_clean_file_has_no_finding(documents, dtype, eod):
    with tempfile.TemporaryDirectory() as folder:
        report = verify(write(Path(folder) / "x", documents, dtype), vocab_size=65_536, eod=eod)
        assert report.findings == ()
        assert (report.documents, report.tokens) == (len(documents), sum(map(len, documents)))
        assert report.highest_id == max((token for document in documents for token in document), default=None)


@given(st.binary(max_size=120), st.binary(max_size=60))
def test_any_bytes_are_diagnosed_without_a_crash(index, binary):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "x"
        header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, len(index) // 20, len(index) // 40)
        for content in (index, header + index):
            Path(f"{prefix}.idx").write_bytes(content)
            Path(f"{prefix}.bin").write_bytes(binary)
            report = verify(prefix)
            try:
                open_indexed(prefix)
            except DataError:
                assert not report.ok


# The command.


def test_the_command_says_all_is_well(made, capsys):
    assert main(["data", "verify", str(made)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{made}: all is well\n")
    assert "documents              4" in said and "0 (inferred: it stands at the end of every document)" in said


def test_the_command_finds_and_repairs(made, capsys):
    uncount(made)
    assert main(["data", "verify", str(made), "--repair"]) == 1
    said = capsys.readouterr().out
    assert "uncounted-eod: " in said and f"to do: keepwarm data verify {made} --repair" in said
    assert f"repaired: {made}.repaired.idx, 4 documents and 14 tokens" in said and "second name" in said
    assert main(["data", "verify", f"{made}.repaired"]) == 0
    assert main(["data", "verify", str(made), "--repair"]) == 2
    assert f"fix: rm {made}.repaired.bin {made}.repaired.idx" in capsys.readouterr().err


def test_the_command_to_paste_keeps_the_end_that_was_named(tmp_path, capsys):
    made = write(tmp_path / "x", [[5, 6, 3]])
    uncount(made, [[5, 6, 3]])
    assert main(["data", "verify", str(made)]) == 1
    assert f"keepwarm data verify {made} --eod ID --repair" in capsys.readouterr().out
    assert main(["data", "verify", str(made), "--eod", "3"]) == 1
    assert f"to do: keepwarm data verify {made} --eod 3 --repair\n" in capsys.readouterr().out


def test_the_command_says_how_many_documents_are_left_out(made, capsys):
    cut(made, ".bin", 15)
    assert main(["data", "verify", str(made), "--repair"]) == 1
    said = capsys.readouterr().out
    assert "2 documents and 7 tokens" in said and "a copy up to there" in said and "2 documents are left out" in said


def test_the_command_says_what_to_do_where_nothing_repairs(made, capsys):
    assert main(["data", "verify", str(made), "--repair", "--vocab-size", "30", "--eod", "0"]) == 1
    said = capsys.readouterr().out
    assert "ids-out-of-range: " in said and "(--vocab-size N), or tokenize the text again" in said
    assert "not repaired" in said and not Path(f"{made}.repaired.idx").exists()


def test_the_command_takes_many_files_and_names_each_pair_once(made, tmp_path, capsys):
    other = write(tmp_path / "y", [[1, 0], [2, 0]])
    append(other, b"1")
    assert main(["data", "verify", "--json", f"{made}.bin", f"{made}.idx", str(other)]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["prefix"], first["ok"], first["tokens"], first["repaired"]) == (str(made), True, 14, None)
    assert (second["ok"], second["repairable"]) == (False, True)
    assert [(one["kind"], one["repairable"]) for one in second["findings"]] == [("trailing-bytes", True)]


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "no token file is named"), (["nowhere"], "nowhere.idx: no such file"), (["x", "--eod", "-1"], "--eod -1")],
)
def test_the_command_refuses(made, words, said, capsys, monkeypatch):
    monkeypatch.chdir(made.parent)
    assert main(["data", "verify", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "fix: " in printed.err and printed.out == ""


def test_a_mistyped_name_stops_before_anything_is_read(made, capsys):
    assert main(["data", "verify", str(made), "nowhere"]) == 2
    assert capsys.readouterr().out == ""
