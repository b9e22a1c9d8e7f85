"""`keepwarm data materialize`, on a run as it stands."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from cluster.loader import Blend
from keepwarm.api import open_attempt
from keepwarm.attempt.line import open_stream
from keepwarm.cli.main import main


@pytest.fixture
def at_run(searched, monkeypatch):
    """The run that the `searched` fixture made, as the current folder."""
    monkeypatch.chdir(searched)
    return searched


def test_an_attempt_on_record_is_read_sample_by_sample(at_run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["data", "materialize", "plan.yaml", str(out), "--stage", "stage2", "--rung", "replay", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    opened = open_attempt(next((at_run / "run/arms/cookbook/stage2").glob("*-replay")))
    attempt, samples = opened.attempt, opened.attempt.batches.samples(opened.attempt.steps)
    assert found["materialized"]["attempt"] == attempt.sha256 and found["train_iterations"] == attempt.steps
    assert found["tokens"] == attempt.tokens and found["bytes"] == os.path.getsize(out / "samples-00000.bin")
    blend = Blend(out / "data-list.txt", samples, attempt.sequence_length)
    read = np.stack([blend[n][:-1] for n in range(samples)])
    ours, _ = open_stream(attempt, opened.feed).batch(0, samples)
    assert read.tolist() == ours[:, :-1].tolist()


def test_a_part_in_several_files_says_how_it_is_read(at_run, tmp_path, capsys):
    out = tmp_path / "part"
    words = ["data", "materialize", "plan.yaml", str(out), "--stage", "stage2", "--rung", "replay 95%"]
    assert main([*words, "--samples", "16:176", "--shard-tokens", "2k"]) == 0
    text = capsys.readouterr().out
    assert "samples 16 to 176 of 320, 3 shards" in text
    assert f"DATA_FILE_LIST={out}/data-list.txt TRAIN_ITERS=20 GLOBAL_BATCH=8 SEQ=32" in text
    assert sorted(path.name for path in out.glob("*.bin")) == [f"samples-0000{number}.bin" for number in range(3)]
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples", "0:900"], "--samples 0:900: the attempt has the samples 0 to 320"),
        (["--samples", "8:21"], "13 samples are no whole number of steps of 8"),
        (["--samples", "8"], "--samples 8: is not A:B"),
        (["--shard-tokens", "0"], "--shard-tokens 0"),
        (["--rung", "nothing"], "nothing of it is left to launch"),
    ],
)
def test_what_can_not_be_is_refused(at_run, tmp_path, capsys, words, message):
    rung = [] if "--rung" in words else ["--rung", "replay"]
    assert main(["data", "materialize", "plan.yaml", str(tmp_path / "x"), "--stage", "stage2", *rung, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_folder_that_exists_is_refused_before_anything_is_prepared(workplace, capsys):
    (workplace / "there").mkdir()
    assert main(["data", "materialize", "plan.yaml", "there"]) == 2
    assert "there: exists already" in capsys.readouterr().err and not (workplace / "run").exists()


def test_the_next_candidate_is_taken_where_none_is_named(workplace, capsys):
    assert main(["data", "materialize", "plan.yaml", "out"]) == 0
    assert "arms/cookbook/base/00-base (train the base), samples 0 to 320 of 320" in capsys.readouterr().out
    assert not (workplace / "run/arms").exists()
