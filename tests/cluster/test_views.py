"""What the trainer really reads of a list of views: keepwarm's own windows, source by source in keepwarm's own order."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.attempts import attempt_of, feed_of, token_file
from cluster.loader import Blend, File
from keepwarm.attempt.line import open_stream
from keepwarm.backends.megatron.view_files import write_views
from keepwarm.backends.megatron.views import list_of
from keepwarm.blend.ledger import ledger
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError, KeepwarmError, PlanError

LENGTH = 8


@pytest.fixture
def sources(tmp_path):
    """Three token files whose ids tell where a token lies: two with left-out spans, one so small that it repeats."""
    new = token_file(tmp_path / "new", 4000, first=0, left_out=[(401, 417), (999, 1000), (2003, 2005)])
    old = token_file(tmp_path / "old", 3000, first=10_000, left_out=[(0, 3)])
    few = token_file(tmp_path / "few", 200, first=20_000)
    return {"new": new, "base": old, "buffer": few}


def read_of(data, blend_samples, skipped, samples):
    """What a trainer built for `blend_samples` reads: the (samples, LENGTH + 1) tokens, and the corpus of each."""
    path = data.folder.parent / "data-list.txt"
    path.write_text(data.text)
    blend = Blend(path, blend_samples, LENGTH)
    tokens = np.stack([blend[n] for n in range(skipped, skipped + samples)])
    return tokens, [blend.names[blend.turns[n, 0]] for n in range(skipped, skipped + samples)]


def check(attempt, feed, folder, *, first, samples, skipped=0, built=None, seed=1234):
    data = list_of(
        attempt, folder, first_sample=first, last_sample=first + samples, skipped_samples=skipped,
        built_samples=built or skipped + samples, seed=seed,
    )  # fmt: skip
    write_views(attempt, feed, data)
    tokens, corpora = read_of(data, built or skipped + samples, skipped, samples)
    stream = open_stream(attempt, feed)
    for view in data.views:
        mine = tokens[[corpus == view.corpus for corpus in corpora]]
        assert len(mine) == view.windows
        ours = stream_windows(stream, view.source_id, view.first_position, view.windows)
        assert mine[:, :-1].tolist() == ours
    return data, corpora, stream


def stream_windows(stream, source_id, first, count):
    """keepwarm's own windows of a source at positions [first, first + count), without their last target."""
    source, number = stream.sources[source_id], stream.source_ids.index(source_id)
    if count == 0:  # the share comes to none in this range
        return []
    positions = np.arange(first, first + count)
    _, windows = stream._turns.locate(np.full(count, number), positions)
    out = np.empty((count, stream.sequence_length + 1), dtype=np.int32)
    stream._reader.read(np.full(count, number), windows, out)
    assert source.id == source_id
    return out[:, :-1].tolist()


def test_a_whole_attempt_is_read_as_the_ledger_says(tmp_path, sources):
    mix = {"new": Fraction(7, 10), "base": Fraction(1, 4), "buffer": Fraction(1, 20)}
    attempt = attempt_of(sources, [(0, mix)], steps=40, batch=8, length=LENGTH)
    data, corpora, stream = check(attempt, feed_of(sources), tmp_path / "views", first=0, samples=320)
    assert [view.corpus for view in data.views] == ["new.new", "base.old", "buffer.few"] and not data.left_out
    rows = {row.source_id: row for row in ledger(stream, 320)}
    for n in range(8, 321, 8):
        rows = {row.source_id: row.samples for row in ledger(stream, n)}
        assert all(abs(corpora[:n].count(view.corpus) - rows[view.source_id]) <= 3 for view in data.views)
    for view in data.views:
        opened = open_indexed(view.prefix)
        assert opened.lengths.max() == LENGTH and opened.n_tokens < sources[view.role].tokens + 300
        assert (tmp_path / "views" / f"{view.corpus}.bin").samefile(str(sources[view.role].prefix) + ".bin")
    assert not any((tmp_path / "views").glob("*.partial*"))


def test_nothing_that_is_left_out_is_in_a_view(tmp_path, sources):
    attempt = attempt_of(sources, [(0, {"new": Fraction(1)})], steps=45, batch=10, length=LENGTH)
    data = list_of(attempt, tmp_path / "views")
    write_views(attempt, feed_of(sources), data)
    file = File(str(data.views[0].prefix))
    there = np.concatenate([file.sequence(n) for n in range(len(file.sizes))])
    kept = np.concatenate([np.arange(*span) for span in sources["new"].kept])
    assert set(there.tolist()) <= set(kept.tolist())
    assert (file.sizes < LENGTH).any()  # a window that goes on behind a left-out span


def test_cursors_are_where_the_windows_begin_and_the_next_epoch_follows(tmp_path, sources):
    mix = {"new": Fraction(1, 2), "buffer": Fraction(1, 2)}
    cursors = {"new": 100, "buffer": 17}  # buffer: 24 windows an epoch
    attempt = attempt_of(sources, [(0, mix)], steps=20, batch=8, length=LENGTH, cursors=cursors)
    data, _, _ = check(attempt, feed_of(sources), tmp_path / "views", first=0, samples=160)
    assert [(view.first_position, view.windows) for view in data.views] == [(100, 80), (17, 80)]


def test_a_second_launch_reads_the_tail_of_its_list(tmp_path, sources):
    """Decay-then-introduce: the second list is built for all iterations, and its sampler begins behind the decay."""
    segments = [(0, {"base": Fraction(1)}), (120, {"base": Fraction(1, 20), "new": Fraction(19, 20)})]
    attempt = attempt_of(sources, segments, steps=40, batch=8, length=LENGTH)
    feed = feed_of(sources)
    first, _, _ = check(attempt, feed, tmp_path / "1", first=0, samples=120)
    second, corpora, _ = check(attempt, feed, tmp_path / "2", first=120, samples=200, skipped=120, built=320)
    assert [view.windows for view in first.views] == [120]
    assert [(view.role, view.first_position) for view in second.views] == [("base", 120), ("new", 0)]
    assert sum(view.windows for view in second.views) == 200 and 9 <= corpora.count("base.old") <= 11


def test_a_range_inside_of_a_segment_begins_at_its_cursors(tmp_path, sources):
    mix = {"new": Fraction(3, 4), "base": Fraction(1, 4)}
    attempt = attempt_of(sources, [(0, mix)], steps=40, batch=8, length=LENGTH)
    data, _, stream = check(attempt, feed_of(sources), tmp_path / "views", first=160, samples=160, skipped=64)
    assert {view.source_id: view.first_position for view in data.views} == stream.cursors(160)


@settings(max_examples=20)
@given(
    st.integers(1, 60), st.integers(1, 300), st.integers(0, 200), st.integers(0, 400), st.integers(0, 2**31),
    st.sampled_from([Fraction(1, 2), Fraction(1, 20), Fraction(99, 100), Fraction(1, 3)]), st.integers(0, 90),
)  # fmt: skip
def test_any_range_of_any_run_is_read_exactly(tmp_path_factory, first, samples, skipped, more, seed, share, cursor):
    folder = tmp_path_factory.mktemp("any")
    sources = {
        "new": token_file(folder / "n", 900, first=0, left_out=[(16, 17), (17, 19), (100, 131), (890, 895)]),
        "base": token_file(folder / "b", 90, first=1000),
    }
    mix = {"new": share, "base": 1 - share}
    attempt = attempt_of(
        sources, [(0, mix)], steps=first + samples, batch=1, length=LENGTH, cursors={"new": cursor, "base": cursor}
    )
    data = list_of(
        attempt, folder / "v", first_sample=first, last_sample=first + samples, skipped_samples=skipped,
        built_samples=skipped + samples + more, seed=seed,
    )  # fmt: skip
    write_views(attempt, feed_of(sources), data)
    (folder / "l").write_text(data.text)
    blend = Blend(folder / "l", skipped + samples + more, LENGTH, seed=seed)
    stream = open_stream(attempt, feed_of(sources))
    order = [blend.names[blend.turns[n, 0]] for n in range(skipped, skipped + samples)]
    for view in data.views:
        mine = [blend[skipped + n][:-1].tolist() for n, corpus in enumerate(order) if corpus == view.corpus]
        assert mine == stream_windows(stream, view.source_id, view.first_position, view.windows)
    assert len(data.views) + len(data.left_out) == 2 and sum(view.windows for view in data.views) == samples


def test_the_validating_part_is_the_windows_behind(tmp_path, sources):
    attempt = attempt_of(sources, [(0, {"new": Fraction(1)})], steps=40, batch=10, length=LENGTH)
    data = list_of(attempt, tmp_path / "views")
    write_views(attempt, feed_of(sources), data)
    path = tmp_path / "data-list.txt"
    path.write_text(data.text)
    trained = {tuple(row[:-1]) for row in read_of(data, 400, 0, 400)[0].tolist()}
    valid = Blend(path, 20, LENGTH, part=1)
    assert len(trained) == 400
    for n in range(20):
        assert not any(tuple(valid[n][k : k + LENGTH].tolist()) in trained for k in range(2))


def test_a_share_that_comes_to_nothing_is_left_out_and_named(tmp_path, sources):
    mix = {"new": Fraction(9999, 10000), "base": Fraction(1, 10000)}
    attempt = attempt_of(sources, [(0, mix)], steps=20, batch=8, length=LENGTH)
    data, corpora, _ = check(
        attempt, feed_of(sources), tmp_path / "views", first=0, samples=160, skipped=80, built=9000
    )
    assert data.left_out == ("old: left out, its share 0.0001 of 160 samples comes to none",)
    assert set(corpora) == {"new.new"} and data.text.count("\n") == 1


@pytest.mark.parametrize("samples", [150, 1000])
def test_many_small_sources_do_not_outweigh_a_large_one(samples):
    """The trainer rounds up for each file: with the shares as weights a 50 % source would get 30 % of these samples."""
    sources = {"new": Source("new", "big", Path("/big"), np.array([[0, 90_000]]))}
    sources |= {f"s{n}": Source(f"s{n}", f"id{n}", Path(f"/s{n}"), np.array([[0, 9000]])) for n in range(200)}
    mix = {role: Fraction(1, 2) if role == "new" else Fraction(1, 400) for role in sources}
    attempt = attempt_of(sources, [(0, mix)], steps=samples, batch=1, length=LENGTH)
    data = list_of(attempt, Path("/views"))
    rows = {row.source_id: row.samples for row in ledger(open_stream(attempt, feed_of(sources)), samples)}
    assert abs(data.views[0].windows - rows["big"]) <= 3 and data.views[0].source_id == "big"
    assert {view.source_id for view in data.views} == {source for source, count in rows.items() if count}
    assert all(abs(view.windows - rows[view.source_id]) <= 3 for view in data.views)


def test_two_sources_of_one_name_have_two_lines(tmp_path):
    (tmp_path / "a b").mkdir()
    sources = {
        "new": token_file(tmp_path / "a b" / "x", 900, first=0, name="part/x y"),
        "base": token_file(tmp_path / "x", 900, first=1000, name="other/x y"),
    }
    mix = {"new": Fraction(1, 2), "base": Fraction(1, 2)}
    attempt = attempt_of(sources, [(0, mix)], steps=10, batch=8, length=LENGTH, roles={"new": "new", "base": "new"})
    data, _, _ = check(attempt, feed_of(sources), tmp_path / "views", first=0, samples=80)
    assert [view.corpus for view in data.views] == ["new.x-y", "new.x-y.2"]
    assert all(len(line.split()) == 3 for line in data.text.splitlines())


def test_a_mix_that_changes_is_refused(tmp_path, sources):
    segments = [(0, {"base": Fraction(1)}), (80, {"new": Fraction(1)})]
    attempt = attempt_of(sources, segments, steps=20, batch=8, length=LENGTH)
    with pytest.raises(
        PlanError, match=r"its mix changes at sample 80.*\n.*same weights.*\n.*data materialize PLAN OUT"
    ):
        list_of(attempt, tmp_path / "views")
    list_of(attempt, tmp_path / "views", last_sample=80)


def test_a_folder_that_a_list_can_not_name_is_refused(tmp_path, sources):
    attempt = attempt_of(sources, [(0, {"new": Fraction(1)})], steps=20, batch=8, length=LENGTH)
    for folder in (tmp_path / "a b" / "views", Path("views"), tmp_path / "x.bin" / "views"):
        with pytest.raises(PlanError, match="the trainer's list can't name"):
            list_of(attempt, folder)


def test_views_that_are_there_stay_and_others_are_refused(tmp_path, sources):
    attempt = attempt_of(sources, [(0, {"new": Fraction(1)})], steps=20, batch=8, length=LENGTH)
    data = list_of(attempt, tmp_path / "views")
    write_views(attempt, feed_of(sources), data)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "views").iterdir()}
    write_views(attempt, feed_of(sources), data)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "views").iterdir()} == before
    with pytest.raises(KeepwarmError, match=r"holds other views \(new.new.view.json\)"):
        write_views(attempt, feed_of(sources), list_of(attempt, tmp_path / "views", seed=5))
    facts = json.loads((tmp_path / "views/new.new.view.json").read_text())
    assert (facts["first_position"], facts["windows"], facts["trainer_seed"]) == (0, 160, 1234)


def test_a_source_that_is_gone_is_named(tmp_path, sources):
    attempt = attempt_of(sources, [(0, {"new": Fraction(1)})], steps=20, batch=8, length=LENGTH)
    with pytest.raises(DataError, match=r"\(new\) was not opened"):
        write_views(attempt, feed_of({"base": sources["base"]}), list_of(attempt, tmp_path / "views"))
    assert not (tmp_path / "views").exists()
