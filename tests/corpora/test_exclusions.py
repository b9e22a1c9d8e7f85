"""Exclusion lists: read by file:line, resolved to spans of tokens, subtracted exactly."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.corpora.exclusions import (
    by_file,
    excluded_spans,
    exclusions_of,
    file_of,
    joined,
    of_documents,
    read_exclusions,
    refuse_foreign,
    refuse_taken,
    subtract,
    write_exclusions,
)
from keepwarm.corpora.indexed import IndexedWriter, open_indexed, source_id
from keepwarm.errors import DataError, KeepwarmError


@pytest.fixture
def made(tmp_path):
    """Documents at [0, 3), [3, 5), [5, 9) and an empty one, under data/x."""
    with IndexedWriter(tmp_path / "data" / "x", "u2") as writer:
        for document in ([1, 2, 0], [3, 0], [4, 5, 6, 0], []):
            writer.add(np.array(document, dtype=np.int64))
    return tmp_path / "data" / "x"


def listing(made: Path, text: str) -> Path:
    path = made.parent.parent / "list.exclude"
    path.write_text(text)
    return path


def spans(made: Path, text: str) -> list[list[int]]:
    return exclusions_of(made, read_exclusions(listing(made, text)), open_indexed(made)).tolist()


def test_lines_say_documents_and_tokens(made):
    path = listing(made, "# why\n\n data/x document 1  # a comment\ndata/x\ttokens 5:8\nother#1.bin document 0\n")
    found = read_exclusions(path)
    assert [(each.prefix, each.document, each.tokens, each.place) for each in found] == [
        ("data/x", 1, None, f"{path}:3"),
        ("data/x", None, (5, 8), f"{path}:4"),
        ("other#1.bin", 0, None, f"{path}:5"),
    ]
    assert found[0].path == made
    assert exclusions_of(made, found, open_indexed(made)).tolist() == [[3, 8]]


def test_a_list_may_be_empty(made):
    assert read_exclusions(listing(made, "# nothing\r\n")) == ()
    assert exclusions_of(made, (), open_indexed(made)).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("data/x document 0\ndata/x document 1\n", [[0, 5]]),
        ("data/x document 2\ndata/x document 0\ndata/x document 0\n", [[0, 3], [5, 9]]),
        ("data/x tokens 0:9\ndata/x tokens 2:3\n", [[0, 9]]),
        ("data/x document 3\n", []),
        ("data/x.bin tokens 8:9\n./data/../data/x.idx tokens 1:2\n", [[1, 2], [8, 9]]),
    ],
)
def test_spans_are_sorted_and_joined(made, text, wanted):
    assert spans(made, text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data/x document\n", "list.exclude:1: 2 fields, not 3"),
        ("# c\ndata/my file document 1\n", "list.exclude:2: 4 fields, not 3"),
        ("data/x line 3\n", "list.exclude:1: 'line' is neither `document` nor `tokens`"),
        ("data/x document x\n", "list.exclude:1: 'x' is not a number"),
        ("data/x document 1_0\n", "list.exclude:1: '1_0' is not a number"),
        ("data/x document ²\n", "list.exclude:1: '²' is not a number"),
        ("data/x document -1\n", "list.exclude:1: -1 is negative"),
        ("data/x tokens 3\n", "list.exclude:1: '3' is not a span A:B"),
        ("data/x tokens 1:b\n", "list.exclude:1: 'b' is not a number"),
        ("data/x tokens :4\n", "list.exclude:1: '' is not a number"),
        ("data/x tokens -1:4\n", "list.exclude:1: -1 is negative"),
        ("data/x tokens 4:4\n", "list.exclude:1: the span 4:4 is empty"),
        ("data/x tokens 4:3\n", "list.exclude:1: the span 4:3 is empty"),
        ("data/x content 12\n", "list.exclude:1: '12' is not 16 hex digits"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named(made, text, said):
    with pytest.raises(DataError) as refused:
        read_exclusions(listing(made, text))
    assert said in refused.value.what and refused.value.fix


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "l").write_bytes(b"# fine\ndata/\xe9 document 1\n")
    with pytest.raises(DataError, match="l:2: not UTF-8 text"):
        read_exclusions(tmp_path / "l")


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nope: no such file"):
        read_exclusions(tmp_path / "nope")
    with pytest.raises(DataError, match="is a directory"):
        read_exclusions(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data/x document 3\ndata/x document 4\n", "list.exclude:2: document 4 of 4, counted from 0"),
        ("data/x tokens 0:9\ndata/x tokens 8:10\n", "list.exclude:2: position 10 lies beyond the file's 9 tokens"),
    ],
)
def test_what_lies_beyond_the_file_is_named(made, text, said):
    with pytest.raises(DataError) as refused:
        spans(made, text)
    assert said in refused.value.what


def test_a_line_about_no_file_of_the_corpus_is_refused(made):
    found = read_exclusions(listing(made, "data/x document 0\ndata/y document 0\n"))
    refuse_foreign(found[:1], [made])
    with pytest.raises(DataError, match="list.exclude:2: data/y is no file of this plan"):
        refuse_foreign(found, [made])


def test_names_are_suggested_from_the_list_s_own_folder(made):
    (made.parent.parent / "lists").mkdir()
    path = made.parent.parent / "lists" / "l"
    path.write_text("../data/deep/y document 0\n")
    with pytest.raises(DataError, match="name one of: ../data/x$"):
        refuse_foreign(read_exclusions(path), [made])


def test_a_list_made_for_other_content_is_refused(made):
    lines = f"data/x document 1\ndata/x content {source_id(made)}\n"
    assert spans(made, lines) == [[3, 5]]
    with pytest.raises(DataError) as refused:
        spans(made, "data/x document 1\ndata/x content 0123456789abcdef\n")
    assert "list.exclude:2: the list was made for the content 0123456789abcdef of data/x, " in refused.value.what
    assert f"now it holds {source_id(made)}" in refused.value.what


def test_a_name_may_stand_for_a_token_file(made):
    found = read_exclusions(listing(made, "d0 document 0\ndata/x document 1\n"), {"d0": made})
    assert exclusions_of(made, found, open_indexed(made)).tolist() == [[0, 5]]
    assert list(by_file(found)) == [file_of(made)]


def test_the_disk_is_asked_once_for_each_file_of_a_list(made, monkeypatch):
    asked, ask = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **more: asked.append(path) or ask(path, **more))
    found = read_exclusions(listing(made, "data/x document 1\ndata/y tokens 0:1\n" * 500))
    assert excluded_spans(made, by_file(found)).tolist() == [[3, 5]]
    assert len(asked) < 10


def test_a_written_list_reads_back(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("lists/a.exclude")
    wanted = [*of_documents(Path("data/x.bin"), [2, 0], path), *of_documents(made, [1], path)]
    write_exclusions(path, wanted, why="because\nof this")
    assert path.read_text() == (
        "# Left out of training when it is read. In a plan: corpora: {NAME: {..., exclude: FILE}}\n"
        f"# because\n# of this\n../data/x content {source_id(made)}\n../data/x document 2\n../data/x document 0\n"
        f"{made} content {source_id(made)}\n{made} document 1\n"
    )
    assert exclusions_of(made, read_exclusions(path), open_indexed(made)).tolist() == [[0, 9]]
    tokens = read_exclusions(listing(made, "data/x tokens 1:2\n"))
    write_exclusions(tmp_path / "b", tokens, why="")
    assert (tmp_path / "b").read_text().endswith("#\ndata/x tokens 1:2\n")


def test_a_list_is_never_written_over_another(made, tmp_path):
    path = tmp_path / "a.exclude"
    for _ in range(2):
        write_exclusions(path, of_documents(made, [1], path), why="the same")
    before = path.read_bytes()
    with pytest.raises(KeepwarmError, match="exists already with other content"):
        write_exclusions(path, of_documents(made, [2], path), why="the same")
    assert path.read_bytes() == before and not list(tmp_path.glob("*.partial*"))


def test_a_path_that_cannot_be_written_is_refused_before_the_work(made, tmp_path):
    path = tmp_path / "a.exclude"
    refuse_taken(path, why="a")
    write_exclusions(path, of_documents(made, [1], path), why="a")
    refuse_taken(path, why="a")
    for taken, why, said in (
        (path, "b", "exists already with other content"),
        (tmp_path, "a", "is a folder"),
        (path / "in" / "it", "a", "a.exclude is a file, not a folder"),
    ):
        with pytest.raises(KeepwarmError, match=said):
            refuse_taken(taken, why=why)


def test_a_prefix_with_a_space_cannot_be_listed(tmp_path):
    with pytest.raises(DataError, match="my data: an exclusion list can't name it"):
        of_documents(tmp_path / "my data", [1], tmp_path / "l")


def test_a_list_in_a_linked_folder_finds_its_files(made, tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    os.symlink(tmp_path / "deep" / "er", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    write_exclusions(Path("link/l"), of_documents(Path("data/x"), [0], Path("link/l")), why="")
    assert exclusions_of(Path("data/x"), read_exclusions("link/l"), open_indexed(made)).tolist() == [[0, 3]]


def of(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize(
    ("kept", "without", "wanted"),
    [
        ([(0, 10)], [], [[0, 10]]),
        ([], [(0, 10)], []),
        ([(0, 10)], [(0, 10)], []),
        ([(2, 8)], [(0, 2), (8, 9)], [[2, 8]]),
        ([(0, 10)], [(3, 4), (6, 7)], [[0, 3], [4, 6], [7, 10]]),
        ([(0, 4), (6, 9), (20, 30)], [(2, 7), (25, 40)], [[0, 2], [7, 9], [20, 25]]),
    ],
)
def test_what_remains(kept, without, wanted):
    assert subtract(of(kept), of(without)).tolist() == wanted


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12)


def mask(pairs: list[list[int]]) -> set[int]:
    return {place for start, stop in pairs for place in range(start, stop)}


@given(SPANS, SPANS)
def test_what_remains_is_the_difference_of_sets(kept, without):
    kept, without = (joined(of([(start, start + length) for start, length in each])) for each in (kept, without))
    found = subtract(kept, without).tolist()
    assert mask(found) == mask(kept.tolist()) - mask(without.tolist())
    assert all(start < stop for start, stop in found)
    assert all(stop < start for (_, stop), (start, _) in pairwise(found))


@given(SPANS)
def test_joined_spans_are_the_same_set_in_order(spans):
    pairs = [(start, start + length) for start, length in spans]
    found = joined(of(pairs)).tolist()
    assert mask(found) == mask([list(each) for each in pairs])
    assert all(stop < start for (_, stop), (start, _) in pairwise(found))
    assert all(start < stop for start, stop in found)
