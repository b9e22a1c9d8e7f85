"""Documents from every kind of file, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from keepwarm.corpora import documents
from keepwarm.corpora.documents import iter_documents, parts, read_slice, text_files
from keepwarm.errors import DataError

TEXTS = ["one", "zwei\nzeilen", "drei é"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    for number, text in enumerate(TEXTS):
        (tmp_path / f"doc{number}.txt").write_text(text)
    (tmp_path / "doc9.txt.gz").write_bytes(gzip.compress(b"packed"))
    return tmp_path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "doc?.txt"])
def test_every_kind_gives_the_same_documents(files, name):
    assert [text for text, _ in iter_documents([name])] == TEXTS


def test_places_and_order(files):
    assert [place for _, place in iter_documents(["doc1.txt", "doc*.txt", "a.jsonl"])] == [
        "a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "doc0.txt", "doc1.txt", "doc2.txt",
    ]  # fmt: skip
    assert [text for text, _ in iter_documents(["doc9.txt.gz"])] == ["packed"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl:2: not JSON"),
        ("x.jsonl", b'{"body": "a", "id": 1}\n', "x.jsonl:1: no string under the key 'text' (found: body, id)"),
        ("x.jsonl", b"[1]\n", "(found: a list)"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "x.jsonl:2: not UTF-8"),
        ("x.txt", b"ok\n\xff", "x.txt:2: not UTF-8"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:40], "truncated or damaged"),
        ("x.jsonl.gz", b"not gzip", "truncated or damaged"),
        ("x.jsonl.zst", b"not zstd", "truncated or damaged"),
        ("x.parquet", b"not parquet", "truncated or damaged"),
        ("x.csv", b"a,b", "unknown kind of file"),
        ("x.jsonl", b'{"text": 5}\n', "x.jsonl:1: no string under the key 'text' (found: text: 5)"),
        ("x.jsonl", b"[" * 100_000, "x.jsonl:1: not JSON (nested too deeply)"),
    ],
)  # fmt: skip
def test_refusals(files, name, content, said):
    (files / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(iter_documents([name]))
    assert said in refused.value.what and "\n" not in refused.value.what


def test_a_truncated_zst_is_refused(files):
    data = zstandard.compress(b"".join(json.dumps({"text": str(i)}).encode() + b"\n" for i in range(20000)))
    (files / "x.jsonl.zst").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        list(iter_documents(["x.jsonl.zst"]))


def blocks_of_text():
    """40,000 lines of text and their .zst: frames of blocks, each of which is whole after a flush."""
    lines = [json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(40_000)]
    packer = zstandard.ZstdCompressor().compressobj()
    half = packer.compress(b"".join(lines[:20_000])) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return half, half + packer.compress(b"".join(lines[20_000:])) + packer.flush()


@pytest.mark.parametrize("name", ["cut.jsonl.zst", "cut.txt.zst"])
def test_a_zst_that_ends_between_two_blocks_is_refused(files, name):
    half, whole = blocks_of_text()
    for cut in (b"", whole[:6], half, whole[:-1], whole + half):
        (files / name).write_bytes(cut)
        with pytest.raises(DataError, match="truncated or damaged \\(it ends inside a frame\\)"):
            list(iter_documents([name]))


def test_a_zst_of_several_frames(files):
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"  # what pzstd writes between frames
    one = (files / "a.jsonl.zst").read_bytes()
    (files / "b.jsonl.zst").write_bytes(one + skippable + blocks_of_text()[1] + one)
    texts = [text for text, _ in iter_documents(["b.jsonl.zst"])]
    assert texts == [*TEXTS, *(f"document {i}" for i in range(40_000)), *TEXTS]


def test_parquet_without_text(files):
    pq.write_table(pa.table({"body": TEXTS}), files / "b.parquet")
    with pytest.raises(DataError, match="no column 'text'"):
        list(iter_documents(["b.parquet"]))
    pq.write_table(pa.table({"text": ["a", None]}), files / "c.parquet")
    with pytest.raises(DataError, match="row 2 has no text"):
        list(iter_documents(["c.parquet"]))


@pytest.mark.parametrize("place", [4, 200, 2000])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_page_of_parquet(files, compression, place):
    texts = [f"document {i} " + "x" * 50 for i in range(5000)]
    pq.write_table(pa.table({"text": texts}), "d.parquet", compression=compression, use_dictionary=False)
    data = bytearray(Path("d.parquet").read_bytes())
    data[place : place + 16] = b"\xff" * 16
    Path("d.parquet").write_bytes(data)
    with pytest.raises(DataError, match="d.parquet: truncated or damaged"):
        list(iter_documents(["d.parquet"]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_is_removed_while_it_is_read(files, name):
    with pytest.raises(DataError, match=f"{name}: was removed while it was read"):
        for part in parts(text_files([name])):
            (files / name).unlink()
            list(read_slice(part[0]))


def test_a_pattern_that_matches_nothing(files):
    with pytest.raises(DataError, match="z.jsonl: no such file"):
        list(iter_documents(["a.jsonl", "z.jsonl"]))


@pytest.mark.parametrize("part_bytes", [1, 7, 64, 1000, 10**9])
def test_parts_hold_every_document_once_and_in_order(tmp_path, monkeypatch, part_bytes):
    monkeypatch.chdir(tmp_path)
    texts = [f"document {i} " + "x" * (i * 7 % 40) for i in range(60)]
    rows = "".join(json.dumps({"text": text}) + ("\n\n" if len(text) % 3 else "\n") for text in texts[:50])
    Path("a.jsonl").write_text(rows.rstrip("\n"))
    pq.write_table(pa.table({"text": texts[50:58]}), "b.parquet", row_group_size=2)
    for number in (58, 59):
        Path(f"c{number}.txt").write_text(texts[number])
    found = parts(text_files(["*"]), part_bytes)
    assert [text for part in found for piece in part for text, _ in read_slice(piece)] == texts
    sizes = [sum(piece.input_bytes for piece in part) for part in found]
    assert (
        len(found) == 1
        if part_bytes > 10**6
        else max(sizes) <= max(part_bytes, max(map(os.path.getsize, os.listdir())))
    )


def test_a_bad_line_far_into_a_file_is_named_by_its_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "fine"}\n' * 700 + '{"text": 3}\n' + '{"text": "fine"}\n' * 100)
    with pytest.raises(DataError, match="a.jsonl:701: no string"):
        for part in parts([Path("a.jsonl")], 1000):
            for piece in part:
                list(read_slice(piece))


def test_half_a_surrogate_pair_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    with pytest.raises(DataError, match="a.jsonl:1: holds half of a surrogate pair"):
        list(iter_documents(["a.jsonl"]))


def test_dividing_looks_at_each_file_a_few_times_however_many_there_are(tmp_path, monkeypatch):
    class Counted:
        looked = 0

        @property
        def input_bytes(self):
            Counted.looked += 1
            return 1

    (tmp_path / "a.txt").write_text("x" * 5000)
    monkeypatch.setattr(documents, "_slices", lambda path, target: [Counted() for _ in range(5000)])
    assert [len(part) for part in parts([tmp_path / "a.txt"], 2000)] == [2000, 2000, 1000]
    assert Counted.looked < 3 * 5000


@pytest.mark.parametrize("pattern", ["a[1].jsonl", "a[[]1].jsonl", "a?1?.jsonl"])
def test_a_name_with_brackets(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    Path("a[1].jsonl").write_text('{"text": "brackets"}\n')
    Path("a1.jsonl").write_text('{"text": "none"}\n')
    assert list(iter_documents([pattern])) == [("brackets", "a[1].jsonl:1")]
    Path("a[1].jsonl").unlink()
    assert [path.name for path in text_files(["a[1].jsonl"])] == ["a1.jsonl"]


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(DataError, match="a folder") as refused:
        text_files([f"{tmp_path}/"])
    assert refused.value.fix == f"name its files: {tmp_path}/*.jsonl"
