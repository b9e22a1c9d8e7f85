import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.blend import buffer
from keepwarm.blend.buffer import BufferVersion, buffer_sources, fill, load_buffer
from keepwarm.blend.fed import fed_documents, fed_windows
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Segment, Stream
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError, KeepwarmError, PlanError

MakeSource = Callable[..., Source]
SEQUENCE, SEED, EOD = 4, 11, 0


def corpus(first: int, documents: int, tokens: int) -> list[list[int]]:
    """Documents of distinct token ids, each ending with EOD; document k has `tokens` + k % 3 of them."""
    ids = iter(range(first, 10**6))
    return [[*(next(ids) for _ in range(tokens + k % 3 - 1)), EOD] for k in range(documents)]


def stored(version: BufferVersion, number: int) -> list[list[int]]:
    indexed = open_indexed(version.entries[number].prefix)
    return [indexed.sequence(k).tolist() for k in range(len(indexed.lengths))]


def fill_one(source: Source, folder: Path, budget: int, positions: int, previous: BufferVersion | None = None,
             stage: str = "stage2", stage_tokens: int = 100) -> BufferVersion:  # fmt: skip
    fed = [(source, 0, positions)]
    return fill(previous, stage, f"corpus of {stage}", fed, budget, SEED, SEQUENCE, folder, EOD, stage_tokens)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 5), (3, 10), (8, 13), (10, 20), (0, 40), (7, 8)])
def test_fed_windows_are_those_a_stream_reads(first: int, last: int) -> None:
    source = Source("a", "a", Path("a"), np.array([[0, 10 * SEQUENCE + 1]]))
    stream = Stream([Segment(0, Mixture((("a", 1),)))], {"a": source}, SEED, SEQUENCE)
    read = set(stream.locate(first, last).window.tolist()) if last > first else set()
    assert set(np.flatnonzero(fed_windows(source, first, last, SEED, SEQUENCE)).tolist()) == read


def brute_parts(source: Source, documents: Sequence[Sequence[int]], fed: np.ndarray) -> list[tuple[int, int, int]]:
    """(document, first token, tokens) of each run of fed tokens, token by token."""
    real = [t for start, stop in source.kept.tolist() for t in range(start, stop)]
    seen = {real[t] for w in np.flatnonzero(fed) for t in range(w * SEQUENCE, w * SEQUENCE + SEQUENCE + 1)}
    parts, position = [], 0
    for number, document in enumerate(documents):
        run = 0
        for t in range(position, position + len(document) + 1):
            if t in seen and t < position + len(document):
                run += 1
            elif run:
                parts.append((number, t - run, run))
                run = 0
        position += len(document)
    return parts


@pytest.mark.parametrize("held_out", [[], [0], [3, 4], [9], [1, 3, 5, 7, 8]])
def test_fed_documents_are_those_with_a_fed_token(make_source: MakeSource, held_out: list[int]) -> None:
    documents = [list(range(1, 2 + n % 11 * 2)) for n in range(10)]
    source = make_source("a", documents, held_out)
    rng = np.random.default_rng(5)
    for share in (0.0, 0.1, 0.3, 0.6, 1.0):
        fed = rng.random(source.windows(SEQUENCE)) < share
        parts = fed_documents(source, fed, SEQUENCE)
        expected = brute_parts(source, documents, fed)
        assert [tuple(int(row[k]) for k in ("document", "first_token", "tokens")) for row in parts] == expected


def test_held_out_documents_never_enter(make_source: MakeSource, tmp_path: Path) -> None:
    documents = corpus(1, 40, 9)
    held_out = [0, 7, 8, 20, 39]
    source = make_source("a", documents, held_out)
    version = fill_one(source, tmp_path / "buffer", 10**6, 10**6)
    forbidden = {token for k in held_out for token in documents[k]} - {EOD}
    assert not forbidden & {token for part in stored(version, 0) for token in part}
    assert not set(held_out) & set(buffer.provenance(version.entries[0])["document"].tolist())
    # everything else is there but what lies behind the last whole window
    kept = {token for k, d in enumerate(documents) if k not in held_out for token in d} - {EOD}
    missing = kept - {token for part in stored(version, 0) for token in part}
    assert len(missing) <= (source.tokens - 1) % SEQUENCE


def test_parts_are_what_their_provenance_says_and_end_with_eod(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("a", corpus(1, 60, 12))
    version = fill_one(source, tmp_path / "buffer", 200, 60)
    tokens, rows = open_indexed(source.prefix).tokens, buffer.provenance(version.entries[0])
    parts = stored(version, 0)
    assert len(parts) == len(rows) > 10
    for part, row in zip(parts, rows, strict=True):
        copied = tokens[row["first_token"] : row["first_token"] + row["tokens"]].tolist()
        assert part == (copied if copied[-1] == EOD and len(part) == len(copied) else [*copied, EOD])
    assert np.all(np.diff(rows["order"].astype(object)) >= 0)
    fed = fed_windows(source, 0, 60, SEED, SEQUENCE)
    whole = {
        (int(r["document"]), int(r["first_token"]), int(r["tokens"])) for r in fed_documents(source, fed, SEQUENCE)
    }
    assert {(int(r["document"]), int(r["first_token"]), int(r["tokens"])) for r in rows[:-1]} <= whole


def test_an_eod_alone_is_not_stored(make_source: MakeSource, tmp_path: Path) -> None:
    # documents of 5 tokens in windows of 4: many windows begin with the EOD of a document that was not fed otherwise
    source = make_source("a", [[k, k, k, k, EOD] for k in range(1, 101)])
    version = fill_one(source, tmp_path / "buffer", 60, 30)
    assert min(len(part) for part in stored(version, 0)) == 2
    assert version.tokens == 60


def test_the_quota_is_filled_to_the_token(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("a", corpus(1, 60, 12))
    for budget in range(30, 60):
        version = fill_one(source, tmp_path / f"buffer{budget}", budget, 10**6)
        held = sum(len(part) for part in stored(version, 0))
        # one token can be left over: an EOD alone is no document
        assert budget - 1 <= held == version.tokens <= budget


def test_a_smaller_quota_holds_the_beginning_of_a_larger(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("a", corpus(1, 60, 12))
    large = stored(fill_one(source, tmp_path / "large", 300, 10**6), 0)
    small = stored(fill_one(source, tmp_path / "small", 100, 10**6), 0)
    assert small[:-1] == large[: len(small) - 1]
    assert small[-1][:-1] == large[len(small) - 1][: len(small[-1]) - 1]


def test_a_second_corpus_shrinks_the_first_as_if_it_had_been_so_from_the_start(
    make_source: MakeSource, tmp_path: Path
) -> None:
    a, b = make_source("a", corpus(1, 60, 12)), make_source("b", corpus(5000, 60, 12), dtype=np.int32)
    first = fill_one(a, tmp_path / "buffer", 400, 10**6, stage_tokens=300)
    direct = fill_one(a, tmp_path / "direct", 300, 10**6, stage_tokens=300)
    for file in tmp_path.glob("a.*"):  # shrinking needs no source
        file.unlink()
    second = fill_one(b, tmp_path / "buffer", 400, 10**6, first, "stage3", stage_tokens=100)
    assert [entry.stage for entry in second.entries] == ["stage2", "stage3"]
    assert [entry.tokens for entry in second.entries] == pytest.approx([300, 100], abs=1)
    assert second.tokens <= 400
    assert (second.version, second.parent) == (2, 1) and second.folder.name == "v2"
    assert stored(second, 0) == stored(direct, 0)
    assert buffer.provenance(second.entries[0]).tolist() == buffer.provenance(direct.entries[0]).tolist()
    assert second.entries[0].id == direct.entries[0].id
    assert load_buffer(first.folder) == first  # the parent stays as it was


def test_several_sources_of_a_corpus_share_one_order(make_source: MakeSource, tmp_path: Path) -> None:
    a, b = make_source("a", corpus(1, 40, 12)), make_source("b", corpus(5000, 40, 12), dtype=np.int32)
    both = fill(None, "s", "c", [(a, 0, 30), (b, 0, 99)], 200, SEED, SEQUENCE, tmp_path / "x", EOD, 5)
    rows = buffer.provenance(both.entries[0])
    assert set(rows["source"].tolist()) == {0, 1} and np.all(np.diff(rows["order"].astype(object)) >= 0)
    assert [(origin.name, origin.id) for origin in both.entries[0].sources] == [("a", a.id), ("b", b.id)]
    assert open_indexed(both.entries[0].prefix).dtype == np.int32
    assert both.entries[0].documents == len({(r["source"], r["document"]) for r in rows})


def test_the_choice_depends_on_the_seed_and_not_on_the_files_order(make_source: MakeSource, tmp_path: Path) -> None:
    a, b = make_source("a", corpus(1, 40, 12)), make_source("b", corpus(5000, 40, 12))

    def held(folder: str, seed: int, fed: list[tuple[Source, int, int]]) -> list[list[int]]:
        return stored(fill(None, "s", "c", fed, 200, seed, SEQUENCE, tmp_path / folder, EOD, 5), 0)

    one = held("1", SEED, [(a, 0, 999), (b, 0, 999)])
    assert held("2", SEED, [(b, 0, 999), (a, 0, 999)]) == one
    assert held("3", SEED + 1, [(a, 0, 999), (b, 0, 999)]) != one


def test_buffer_sources_feed_what_is_stored(make_source: MakeSource, tmp_path: Path) -> None:
    version = fill_one(make_source("a", corpus(1, 60, 12)), tmp_path / "buffer", 200, 10**6)
    (source,) = buffer_sources(version)
    assert (source.name, source.tokens, source.id) == ("buffer/stage2", version.tokens, version.entries[0].id)
    stream = Stream([Segment(0, Mixture(((source.id, 1),)))], {source.id: source}, SEED, SEQUENCE)
    tokens, _ = stream.batch(0, source.windows(SEQUENCE))
    flat = [token for part in stored(version, 0) for token in part]
    assert sorted(map(tuple, tokens.tolist())) == sorted(
        tuple(flat[k : k + SEQUENCE + 1]) for k in range(0, len(flat) - SEQUENCE, SEQUENCE)
    )


def test_manifest(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("a", corpus(1, 60, 12))
    version = fill_one(source, tmp_path / "buffer", 200, 10**6)
    content = json.loads((version.folder / "manifest.json").read_text())
    assert {k: content[k] for k in ("version", "parent", "budget_tokens", "policy")} == {
        "version": 1, "parent": None, "budget_tokens": 200, "policy": "proportional",
    }  # fmt: skip
    (entry,) = content["entries"]
    assert (entry["stage"], entry["corpus"], entry["prefix"]) == ("stage2", "corpus of stage2", "stage2")
    assert (entry["tokens"], entry["stage_tokens"]) == (200, 100)
    assert entry["sources"] == [{"id": source.id, "name": "a", "prefix": str(source.prefix)}]
    assert load_buffer(version.folder) == version


def test_a_version_is_never_written_again(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("a", corpus(1, 60, 12))
    fill_one(source, tmp_path / "buffer", 200, 10**6)
    with pytest.raises(KeepwarmError, match="v1: exists already"):
        fill_one(source, tmp_path / "buffer", 200, 10**6)


def test_a_stage_enters_once(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("a", corpus(1, 60, 12))
    first = fill_one(source, tmp_path / "buffer", 200, 10**6)
    with pytest.raises(DataError, match="the buffer holds stage stage2 already"):
        fill_one(source, tmp_path / "buffer", 200, 10**6, first)


def test_nothing_fed_is_refused_and_leaves_nothing(make_source: MakeSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stage stage2 was fed no window of corpus of stage2"):
        fill_one(make_source("a", corpus(1, 60, 12)), tmp_path / "buffer", 200, 0)
    assert not (tmp_path / "buffer").exists()


@pytest.mark.parametrize(("budget", "stage_tokens"), [(1, 100), (0, 100), (100, 0)])
def test_a_budget_for_nothing_is_refused(
    make_source: MakeSource, tmp_path: Path, budget: int, stage_tokens: int
) -> None:
    with pytest.raises(PlanError, match=f"a buffer of {budget} tokens leaves [01] for stage stage2"):
        fill_one(make_source("a", corpus(1, 60, 12)), tmp_path, budget, 99, stage_tokens=stage_tokens)


@pytest.mark.parametrize("text", [None, "{", '{"version": 1}', "[]"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="not the manifest of a buffer version"):
        load_buffer(tmp_path)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 200), st.integers(0, 100))
def test_fed_windows_count(windows: int, first: int, count: int) -> None:
    source = Source("a", "a", Path("a"), np.array([[0, windows * SEQUENCE + 1]]))
    fed = fed_windows(source, first, first + count, SEED, SEQUENCE)
    assert fed.shape == (windows,)
    assert min(windows, count) >= fed.sum() >= min(windows, -(-count // 2))


def test_held_out_text_in_a_version_is_counted(tmp_path: Path) -> None:
    """The same version against sources whose kept spans leave its documents out, as after a changed holdout."""
    from dataclasses import replace

    from keepwarm.blend.buffer import outside_kept

    source = _source_for_guard(tmp_path)
    version = fill(
        None, stage="stage2", corpus="d1", fed=[(source, 0, source.windows(8))], budget_tokens=10_000, seed=1,
        sequence_length=8, folder=tmp_path / "buffer", eod=0, stage_tokens=8 * source.windows(8),
    )  # fmt: skip
    assert outside_kept(version, {source.id: source}) == 0
    narrowed = replace(source, kept=np.array([[0, 20]], dtype=np.int64))
    assert outside_kept(version, {source.id: narrowed}) > 0


def _source_for_guard(folder: Path) -> Source:
    from keepwarm.corpora.indexed import IndexedWriter

    with IndexedWriter(folder / "guarded", "u2") as writer:
        for number in range(30):
            writer.add(np.append(np.full(11, number + 1), 0))
    return Source("guarded", "f" * 16, folder / "guarded", np.array([[0, 360]], dtype=np.int64))
