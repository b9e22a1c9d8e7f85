"""Merging and splitting: byte for byte what the writer writes of the same documents."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm import files
from keepwarm.cli.main import main
from keepwarm.corpora import reindex
from keepwarm.corpora.identity import hash_path
from keepwarm.corpora.indexed import IndexedWriter, Sidecar, index_bytes, open_indexed, read_sidecar, sidecar_path
from keepwarm.corpora.reindex import merge, split
from keepwarm.corpora.verify import verify
from keepwarm.errors import DataError, KeepwarmError

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
RECORDED = json.loads((GOLDEN / "documents.json").read_text())


def write(prefix: Path, documents, dtype="<u2", **sidecar) -> Path:
    """A pair of documents, each a list of sequences; with a sidecar if anything is said about it."""
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            for number, sequence in enumerate(document):
                writer.add(np.array(sequence, dtype=np.int64), end_document=number == len(document) - 1)
        if sidecar:
            known = {"tokenizer_sha256": "a" * 64, "vocab_size": 100, "eod": 0, "text_bytes": 1, **sidecar}
            writer.sidecar = Sidecar(
                documents=len(documents), tokens=writer.tokens, content_id=writer.content_id(), **known
            )
    return prefix


def content(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def documents_of(prefix: Path) -> list[list[int]]:
    opened = open_indexed(prefix)
    return [opened.document(number).tolist() for number in range(opened.n_documents)]


def lengths(prefixes) -> list[list[int]]:
    return [[len(document) for document in documents_of(prefix)] for prefix in prefixes]


# Merging.


def test_files_of_the_reference_merge_to_what_its_builder_would_have_written(tmp_path):
    written = merge([GOLDEN / "a0", GOLDEN / "a1"], tmp_path / "m")
    whole = [[document] for name in ("a0", "a1") for document in RECORDED["documents"][name]]
    assert content(tmp_path / "m") == content(write(tmp_path / "w", whole))
    assert (written.documents, written.tokens) == (len(whole), sum(len(document[0]) for document in whole))


def test_sequences_and_empty_documents_are_kept(tmp_path):
    one = write(tmp_path / "a", [[[1, 2], [3]], [[]], [[4]]])
    other = write(tmp_path / "b", [[[]], [[5], [6, 7]]])
    merge([one, other], tmp_path / "m")
    assert content(tmp_path / "m") == content(write(tmp_path / "w", [[[1, 2], [3]], [[]], [[4]], [[]], [[5], [6, 7]]]))


def test_documents_without_a_sequence_are_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.bin").write_bytes(np.array([5, 6, 7], "<u2").tobytes())
        (tmp_path / f"{name}.idx").write_bytes(index_bytes(np.dtype("<u2"), [2, 1], [0, 0, 1, 2, 2]))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert (tmp_path / "m.idx").read_bytes() == index_bytes(np.dtype("<u2"), [2, 1, 2, 1], [0, 0, 1, 2, 2, 2, 3, 4, 4])
    split(tmp_path / "m", 2, tmp_path / "s")
    assert (tmp_path / "s-00000.idx").read_bytes() == index_bytes(np.dtype("<u2"), [2, 1], [0, 0, 1, 2])
    assert (tmp_path / "s-00001.idx").read_bytes() == index_bytes(np.dtype("<u2"), [2, 1], [0, 0, 0, 1, 2, 2])


def test_documents_come_in_the_order_of_the_index(tmp_path):
    write(tmp_path / "a", [[[1, 2]], [[3]], [[4, 5]]])
    index = bytearray((tmp_path / "a.idx").read_bytes())
    index[34 + 12 : 34 + 12 + 24] = np.array([6, 4, 0], "<i8").tobytes()
    (tmp_path / "a.idx").write_bytes(bytes(index))
    assert documents_of(tmp_path / "a") == [[4, 5], [3], [1, 2]]
    merge([tmp_path / "a", write(tmp_path / "b", [[[6]]])], tmp_path / "m")
    assert content(tmp_path / "m") == content(write(tmp_path / "w", [[[4, 5]], [[3]], [[1, 2]], [[6]]]))


def test_files_without_documents_merge(tmp_path):
    merge([write(tmp_path / "a", []), write(tmp_path / "b", [[[1]]]), write(tmp_path / "c", [])], tmp_path / "m")
    assert content(tmp_path / "m") == content(tmp_path / "b")


def test_blocks_do_not_show(tmp_path, monkeypatch):
    monkeypatch.setattr(reindex, "_BLOCK_TOKENS", 7)
    told = []
    merge([GOLDEN / "a0", GOLDEN / "a1"], tmp_path / "m", progress=lambda done, total: told.append((done, total)))
    size = os.path.getsize(GOLDEN / "a0.bin") + os.path.getsize(GOLDEN / "a1.bin")
    assert (tmp_path / "m.bin").read_bytes() == content(GOLDEN / "a0")[0] + content(GOLDEN / "a1")[0]
    assert sum(done for done, _ in told) == size and {total for _, total in told} == {size}
    assert max(done for done, _ in told) == 14


def test_sidecars_are_merged(tmp_path):
    one = write(
        tmp_path / "a", [[[1, 0]]], text_bytes=3, source_files=[{"path": "a.txt"}], empty_documents=1,
        special_tokens_escaped=2, shuffled_with_seed=1,
    )  # fmt: skip
    other = write(
        tmp_path / "b", [[[2, 3, 0]], [[4, 0]]], text_bytes=5, source_files=[{"path": "b.txt"}], empty_documents=4,
        special_tokens_escaped=8, shuffled_with_seed=1,
    )  # fmt: skip
    assert merge([one, other], tmp_path / "m").notes == (
        "no m.hash.npy: " + str(hash_path(one)) + " is missing", "no m.hash.npy: " + str(hash_path(other)) + " is missing"
    )  # fmt: skip
    whole = write(tmp_path / "w", [[[1, 0]], [[2, 3, 0]], [[4, 0]]], text_bytes=8)
    merged = read_sidecar(tmp_path / "m")
    assert (merged.documents, merged.tokens, merged.text_bytes) == (3, 7, 8)
    assert (merged.empty_documents, merged.special_tokens_escaped, merged.shuffled_with_seed) == (5, 10, None)
    assert merged.source_files == [{"path": "a.txt"}, {"path": "b.txt"}]
    assert merged.content_id == read_sidecar(whole).content_id
    assert verify(tmp_path / "m").ok


def test_no_sidecar_where_one_is_missing(tmp_path):
    one, other = write(tmp_path / "a", [[[1, 0]]], text_bytes=3), write(tmp_path / "b", [[[2, 0]]])
    assert f"no m.meta.json: {sidecar_path(other)} is missing" in merge([one, other], tmp_path / "m").notes
    assert read_sidecar(tmp_path / "m") is None


def test_hashes_are_merged_if_all_have_them(tmp_path):
    one, other = write(tmp_path / "a", [[[1]], [[2]]]), write(tmp_path / "b", [[[3]]])
    np.save(hash_path(one), np.array([11, 12], np.uint64))
    merge([one, other], tmp_path / "without")
    assert not hash_path(tmp_path / "without").exists()
    np.save(hash_path(other), np.array([13], np.uint64))
    merge([one, other], tmp_path / "with")
    assert np.load(hash_path(tmp_path / "with")).tolist() == [11, 12, 13]


# Splitting.


def test_parts_are_as_equal_as_documents_allow(tmp_path):
    made = write(tmp_path / "x", [[[7] * size] for size in (3, 3, 3, 1, 5, 3)])  # 18 tokens: ends at 3 6 9 10 15 18
    assert [(one.documents, one.tokens) for one in split(made, 3, tmp_path / "s")] == [(2, 6), (2, 4), (2, 8)]
    assert [(one.documents, one.tokens) for one in split(made, 2, tmp_path / "t")] == [(3, 9), (3, 9)]
    assert sorted(path.name for path in tmp_path.glob("s-*")) == [
        "s-00000.bin", "s-00000.idx", "s-00001.bin", "s-00001.idx", "s-00002.bin", "s-00002.idx"
    ]  # fmt: skip


def test_every_part_holds_a_document_even_beside_a_giant(tmp_path):
    for giant in range(4):
        made = write(tmp_path / f"x{giant}", [[[7] * (100 if number == giant else 1)] for number in range(4)])
        parts = split(made, 4, tmp_path / f"s{giant}")
        assert lengths(one.prefix for one in parts) == [[100 if n == giant else 1] for n in range(4)]


def test_hashes_go_along(tmp_path):
    made = write(tmp_path / "x", [[[1]], [[2]], [[3]]], text_bytes=3)
    np.save(hash_path(made), np.array([11, 12, 13], np.uint64))
    split(made, 2, tmp_path / "s")
    kept = [np.load(hash_path(tmp_path / f"s-0000{number}")).tolist() for number in range(2)]
    assert kept == [[11], [12, 13]]
    assert not sidecar_path(tmp_path / "s-00000").exists()  # how much text it is made of, nobody knows


def test_one_part_writes_documents_in_a_row(tmp_path):
    (tmp_path / "x.bin").write_bytes(np.array([9, 9, 1, 9, 2, 3], "<u2").tobytes())
    index = bytearray(index_bytes(np.dtype("<u2"), [1, 2], [0, 1, 2]))
    index[34 + 8 : 34 + 24] = np.array([4, 8], "<i8").tobytes()
    (tmp_path / "x.idx").write_bytes(bytes(index))
    split(tmp_path / "x", 1, tmp_path / "s")
    assert content(tmp_path / "s-00000") == content(write(tmp_path / "w", [[[1]], [[2, 3]]]))


CORPUS = st.lists(
    st.lists(st.lists(st.integers(0, 65_535), max_size=12), min_size=1, max_size=4), min_size=1, max_size=25
)


@given(CORPUS, st.data())
def test_what_is_split_merges_to_what_it_was(documents, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = write(folder / "x", documents)
        parts = data.draw(st.integers(1, len(documents)))
        pieces = [one.prefix for one in split(made, parts, folder / "s")]
        assert len(pieces) == parts
        assert all(verify(piece).ok and open_indexed(piece).n_documents for piece in pieces)
        if parts > 1:
            merge(pieces, folder / "m")
            assert content(folder / "m") == content(made)
        else:
            assert content(pieces[0]) == content(made)
        sizes = [sum(map(len, document)) for document in documents]
        ends = np.cumsum([open_indexed(piece).n_tokens for piece in pieces])
        if sum(sizes) >= 2 * max(sizes) * parts:  # else a part may have to take a document that it would leave
            ideal = [sum(sizes) * number / parts for number in range(1, parts + 1)]
            assert max(abs(ends - ideal)) <= max(sizes) / 2


@given(st.lists(CORPUS, min_size=2, max_size=4))
def test_merging_is_writing_all_to_one_file(corpora):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pieces = [write(folder / f"x{number}", documents) for number, documents in enumerate(corpora)]
        merge(pieces, folder / "m")
        assert content(folder / "m") == content(write(folder / "w", [one for corpus in corpora for one in corpus]))


# Refusals: nothing is written.


@pytest.fixture
def two(tmp_path):
    return [write(tmp_path / "a", [[[1, 0]], [[2, 0]]], text_bytes=1), write(tmp_path / "b", [[[3, 0]]], text_bytes=1)]


@pytest.fixture
def unchanged(tmp_path):
    yield
    assert not list(tmp_path.glob("out*"))


def test_one_file_is_no_merge(two, tmp_path, unchanged):
    with pytest.raises(DataError, match="one file is named"):
        merge(two[:1], tmp_path / "out")


def test_a_file_named_twice(two, tmp_path, unchanged):
    with pytest.raises(DataError, match="a: named 2 times"):
        merge([two[0], two[1], f"{two[0]}.bin"], tmp_path / "out")


def test_other_dtypes(two, tmp_path, unchanged):
    with pytest.raises(DataError, match=r"a.idx holds uint16, .*c.idx int32"):
        merge([*two, write(tmp_path / "c", [[[1]]], "<i4")], tmp_path / "out")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"tokenizer_sha256": "b" * 64}, "the tokenizer differs"),
        ({"vocab_size": 101}, "the vocabulary size differs \\(100 and 101\\)"),
        ({"eod": 1}, "the document end differs \\(0 and 1\\)"),
    ],
)
def test_other_tokenizers(two, tmp_path, unchanged, other, said):
    with pytest.raises(DataError, match=said):
        merge([*two, write(tmp_path / "c", [[[1]]], **other)], tmp_path / "out")


def test_a_damaged_file(two, tmp_path, unchanged):
    os.truncate(f"{two[1]}.bin", 3)
    with pytest.raises(DataError, match=r"b.bin: truncated") as refused:
        merge(two, tmp_path / "out")
    assert refused.value.fix == f"keepwarm data verify {two[1]} --repair"


def test_hashes_of_another_file(two, tmp_path, unchanged):
    for prefix, count in ((two[0], 5), (two[1], 1)):
        np.save(hash_path(prefix), np.zeros(count, np.uint64))
    with pytest.raises(DataError, match="holds 5 hashes, .* has 2 documents"):
        split(two[0], 1, tmp_path / "out")
    with pytest.raises(DataError, match="holds 5 hashes, .* has 2 documents"):
        merge(two, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".meta.json", ".hash.npy"])
def test_a_name_that_is_taken(two, tmp_path, suffix):
    for name in ("out", "out-00001"):
        (tmp_path / (name + suffix)).write_bytes(b"mine")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DataError, match=f"out{suffix}: exists already"):
        merge(two, tmp_path / "out")
    with pytest.raises(DataError, match=f"out-00001{suffix}: exists already"):
        split(two[0], 2, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("output", ["a", "b.bin", "./a", "../{folder}/b.idx"])
def test_merging_into_one_of_the_files(two, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="is one of the files to merge") as refused:
        merge(two, output.format(folder=tmp_path.name))
    assert refused.value.fix.startswith("--output ") and refused.value.fix.endswith(("a-merged", "b-merged"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_name_is_suggested_for_one_that_is_taken(two, tmp_path):
    (tmp_path / "out-00001.bin").touch()
    with pytest.raises(DataError) as refused:
        split(two[0], 2, tmp_path / "out")
    assert refused.value.fix == f"--output {tmp_path / 'out'}-2"


@pytest.mark.parametrize("output", ["", ".", "..", "/"])
def test_an_output_that_names_no_file(two, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    for work in (lambda: merge(two, Path(output)), lambda: split(two[0], 2, Path(output))):
        with pytest.raises(DataError, match="names no file"):
            work()
    assert sorted(os.listdir(tmp_path)) == before


def test_of_two_merges_into_one_output_the_second_leaves_the_first_alone(two, tmp_path):
    refused = []

    def second(*_):
        if not refused:
            with pytest.raises(DataError, match="out.bin: another keepwarm is writing it") as error:
                merge(two, tmp_path / "out")
            refused.append(error)

    merge(two, tmp_path / "out", progress=second)
    assert refused and documents_of(tmp_path / "out") == [[1, 0], [2, 0], [3, 0]]


@pytest.fixture
def begun(tmp_path):
    """A file with hashes, and the first of the three parts that a killed split had written of it."""
    made = write(tmp_path / "x", [[[1, 2]], [[3], [4]], [[5, 6]]])
    np.save(hash_path(made), np.array([11, 12, 13], np.uint64))
    split(made, 3, tmp_path / "s")
    for path in [*tmp_path.glob("s-00001*"), *tmp_path.glob("s-00002*")]:
        path.unlink()
    os.link(tmp_path / "s-00000.bin", tmp_path / "s-00001.bin")
    os.link(tmp_path / "s-00000.bin", tmp_path / "s-00001.bin.partial")  # named, then killed
    return made


def test_a_killed_split_goes_on(begun, tmp_path):
    before = os.stat(tmp_path / "s-00000.bin")
    told = []
    made = split(begun, 3, tmp_path / "s", progress=lambda done, total: told.append((done, total)))
    assert [(one.documents, one.tokens) for one in made] == [(1, 2)] * 3
    assert lengths(one.prefix for one in made) == [[2]] * 3
    assert [np.load(hash_path(one.prefix)).tolist() for one in made] == [[11], [12], [13]]
    assert os.path.samestat(before, os.stat(tmp_path / "s-00000.bin"))
    assert sum(done for done, _ in told) == 12 and {total for _, total in told} == {12}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("s-00000.bin", lambda data: data[:-1] + b"\x7f"),
        ("s-00000.bin", lambda data: data + b"\0\0"),
        ("s-00000.idx", lambda data: data[:-1] + b"\x7f"),
        ("s-00000.hash.npy", lambda data: data[:-1] + b"\x7f"),
        ("s-00000.hash.npy", None),
        ("s-00000.meta.json", lambda data: b"{}"),
    ],
)
def test_a_part_that_is_other_than_the_split_would_write_is_refused(begun, tmp_path, name, change):
    path = tmp_path / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="s-00000.bin: exists already"):
        split(begun, 3, tmp_path / "s")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_split_that_fails_leaves_the_parts_of_another_alone(begun, tmp_path):
    (tmp_path / "s-00001.bin").unlink()
    with files.owned(tmp_path / "s-00001.bin.partial"), pytest.raises(DataError, match="s-00001.bin: another keepwarm"):
        split(begun, 3, tmp_path / "s")
    assert documents_of(tmp_path / "s-00000") == [[1, 2]]


def test_a_file_without_documents_is_not_split(tmp_path, unchanged):
    with pytest.raises(DataError, match="a: has no documents"):
        split(write(tmp_path / "a", []), 1, tmp_path / "out")


@pytest.mark.parametrize("parts", [0, -1, 3])
def test_a_number_of_parts_that_can_not_be(two, tmp_path, unchanged, parts):
    with pytest.raises(DataError, match=f"--parts {parts}: .*a has 2 documents"):
        split(two[0], parts, tmp_path / "out")


def test_a_full_disk_leaves_nothing(two, tmp_path, unchanged, monkeypatch):
    for number, prefix in enumerate(two):
        np.save(hash_path(prefix), np.zeros(2 - number, np.uint64))
    real, left = os.fsync, 0

    def full(descriptor):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for work in (lambda: merge(two, tmp_path / "out"), lambda: split(two[0], 2, tmp_path / "out")):
        for allowed in range(7):
            left = allowed
            with pytest.raises(KeepwarmError, match="the disk is full"):
                work()
            assert not list(tmp_path.glob("out*"))


# The commands.


def test_the_commands(two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "merge", "a", "b.bin", "--output", "m"]) == 0
    assert capsys.readouterr().out == (
        "m: 3 documents, 6 tokens\n  no m.hash.npy: a.hash.npy is missing\n  no m.hash.npy: b.hash.npy is missing\n"
    )
    assert main(["data", "split", "m", "--parts", "2", "--output", "s"]) == 0
    assert capsys.readouterr().out == "s-00000: 1 documents, 2 tokens\ns-00001: 2 documents, 4 tokens\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merge", "--output", "out"], "no file is named"),
        (["merge", "a", "--output", "out"], "one file is named"),
        (["merge", "a", "nowhere", "--output", "out"], "nowhere.idx: no such file"),
        (["merge", "a", "b"], "--output"),
        (["split", "a", "--parts", "9", "--output", "out"], "--parts 9: a has 2 documents"),
    ],
)
def test_the_commands_refuse(two, tmp_path, unchanged, words, said, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "\n  fix: " in printed.err and printed.out == ""
