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
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000)[:40], "truncated or damaged"),
        ("x.jsonl.gz", b"not gzip", "truncated or damaged"),
        ("x.jsonl.zst", b"not zstd", "truncated or damaged"),
        ("x.parquet", b"not parquet", "truncated or damaged"),
        ("x.csv", b"a,b", "unknown kind of file"),
    ],
)  # fmt: skip
def test_refusals(files, name, content, said):
    (files / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(iter_documents([name]))
    assert said in refused.value.what


def test_a_truncated_zst_is_refused(files):
    data = zstandard.compress(b"".join(json.dumps({"text": str(i)}).encode() + b"\n" for i in range(20000)))
    (files / "x.jsonl.zst").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        list(iter_documents(["x.jsonl.zst"]))


def test_parquet_without_text(files):
    pq.write_table(pa.table({"body": TEXTS}), files / "b.parquet")
    with pytest.raises(DataError, match="no column 'text'"):
        list(iter_documents(["b.parquet"]))
    pq.write_table(pa.table({"text": ["a", None]}), files / "c.parquet")
    with pytest.raises(DataError, match="row 2 has no text"):
        list(iter_documents(["c.parquet"]))


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
