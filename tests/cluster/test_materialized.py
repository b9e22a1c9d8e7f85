"""The attempt's samples copied for the trainer: what it reads is the attempt, sample by sample."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.attempts import attempt_of, feed_of, token_file
from cluster.loader import Blend
from keepwarm.attempt.line import open_stream
from keepwarm.backends.megatron import materialized
from keepwarm.backends.megatron.materialized import materialized_list, write_materialized
from keepwarm.corpora.indexed import open_indexed
from keepwarm.errors import KeepwarmError, PlanError

LENGTH = 8
SEGMENTS = [
    (0, {"base": Fraction(1)}),
    (50, {"base": Fraction(3, 4), "new": Fraction(1, 4)}),
    (90, {"new": Fraction(9, 10), "base": Fraction(1, 10)}),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    left_out = [(401, 417), (999, 1000)]
    return {
        "new": token_file(folder / "new", 2000, first=0, left_out=left_out),
        "base": token_file(folder / "old", 1500, first=5000),
    }


@settings(max_examples=20)
@given(
    st.integers(0, 100), st.integers(1, 120), st.integers(0, 150), st.integers(0, 60), st.none() | st.integers(7, 90),
    st.integers(0, 2**31),
)  # fmt: skip
def test_any_range_is_read_sample_by_sample(tmp_path_factory, sources, first, samples, skipped, more, shard, seed):
    folder = tmp_path_factory.mktemp("any")
    attempt = attempt_of(sources, SEGMENTS, steps=220, batch=1, length=LENGTH)
    data = materialized_list(
        attempt, folder / "out", first_sample=first, last_sample=first + samples, skipped_samples=skipped,
        built_samples=skipped + samples + more, shard_samples=shard, seed=seed,
    )  # fmt: skip
    write_materialized(attempt, feed_of(sources), data)
    assert len(data.shards) == (1 if shard is None else -(-samples // shard))
    blend = Blend(folder / "out" / "data-list.txt", skipped + samples + more, LENGTH, seed=seed)
    read = np.stack([blend[n][:-1] for n in range(skipped, skipped + samples)])
    ours, _ = open_stream(attempt, feed_of(sources)).batch(first, first + samples)
    assert read.tolist() == ours[:, :-1].tolist()


def test_one_shard_is_the_attempt_and_what_validates_comes_behind_it(tmp_path, sources):
    attempt = attempt_of(sources, SEGMENTS, steps=20, batch=8, length=LENGTH)
    told = []
    data = materialized_list(attempt, tmp_path / "out")
    write_materialized(attempt, feed_of(sources), data, lambda done, total: told.append((done, total)))
    shard = data.shards[0]
    ours, _ = open_stream(attempt, feed_of(sources)).batch(0, 160 + shard.validating)
    raw = np.fromfile(f"{shard.prefix}.bin", "<i4")
    assert raw.tolist() == ours[:, :-1].reshape(-1).tolist()
    assert sum(done for done, _ in told) == told[0][1] == raw.nbytes
    opened = open_indexed(shard.prefix)
    assert set(opened.lengths.tolist()) == {LENGTH} and opened.n_sequences == shard.windows + shard.validating
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert (meta["attempt"], meta["first_sample"], meta["samples"]) == (attempt.sha256, 0, 160)
    assert meta["sha256"]["samples-00000"] == hashlib.sha256(raw.tobytes()).hexdigest()
    assert (tmp_path / "out/data-list.txt").read_text() == f"1 {tmp_path}/out/samples-00000 samples\n"


def test_validating_windows_are_not_trained_on(tmp_path, sources):
    attempt = attempt_of(sources, SEGMENTS, steps=20, batch=8, length=LENGTH)
    write_materialized(attempt, feed_of(sources), materialized_list(attempt, tmp_path / "out"))
    path = tmp_path / "out" / "data-list.txt"
    trained = {tuple(Blend(path, 160, LENGTH)[n][:-1].tolist()) for n in range(160)}
    valid = Blend(path, 20, LENGTH, part=1)
    assert not trained & {tuple(valid[n][:-1].tolist()) for n in range(20)}


def test_the_same_folder_stays_and_another_is_refused(tmp_path, sources):
    attempt = attempt_of(sources, SEGMENTS, steps=20, batch=8, length=LENGTH)
    data = materialized_list(attempt, tmp_path / "out")
    write_materialized(attempt, feed_of(sources), data)
    before = (tmp_path / "out/samples-00000.bin").stat().st_mtime_ns
    write_materialized(attempt, feed_of(sources), data)
    assert (tmp_path / "out/samples-00000.bin").stat().st_mtime_ns == before
    with pytest.raises(KeepwarmError, match="exists already, and holds something else"):
        write_materialized(attempt, feed_of(sources), materialized_list(attempt, tmp_path / "out", last_sample=80))


def test_a_disk_without_room_is_refused_before_writing(tmp_path, sources, monkeypatch):
    attempt = attempt_of(sources, SEGMENTS, steps=20, batch=8, length=LENGTH)
    usage = type("usage", (), {"free": 5000})
    monkeypatch.setattr(materialized.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(KeepwarmError, match=r"out: 5.18 kB are needed, 5 kB are free"):
        write_materialized(attempt, feed_of(sources), materialized_list(attempt, tmp_path / "deep" / "out"))
    assert not (tmp_path / "deep").exists()


def test_ctrl_c_leaves_nothing(tmp_path, sources):
    def stop(done, total):
        raise KeyboardInterrupt

    attempt = attempt_of(sources, SEGMENTS, steps=20, batch=8, length=LENGTH)
    with pytest.raises(KeyboardInterrupt):
        write_materialized(attempt, feed_of(sources), materialized_list(attempt, tmp_path / "out"), stop)
    assert list(tmp_path.iterdir()) == []


def test_a_steered_mix_is_refused(tmp_path, sources):
    from dataclasses import replace

    attempt = attempt_of(sources, SEGMENTS, steps=20, batch=8, length=LENGTH)
    with pytest.raises(PlanError, match="its mix is decided while it is trained"):
        materialized_list(replace(attempt, steering=object()), tmp_path / "out")  # type: ignore[arg-type]
