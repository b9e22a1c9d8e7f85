"""A mix that is steered while an attempt trains, through the command line: events, ledger, resume, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keepwarm.attempt.model import from_json, to_json
from keepwarm.attempt.records import read_attempt, read_metrics
from keepwarm.attempt.steered import as_fed
from keepwarm.blend.stream import Stream
from keepwarm.cli.main import main
from keepwarm.corpora.source import Source
from keepwarm.engine.loop import Training
from keepwarm.errors import LineageError

ATTEMPT = "arms/cookbook/stage2/00-thermostat"
STEP = 256
RAISES, LOWERS = "verdict.tolerance=0.1 nats", "verdict.tolerance=3 nats"


def steered_plan(text: str, texts: Path) -> str:
    """The tiny plan with a steered second stage, whose run folder may be copied: its text lies where it lies."""
    for old, new in (
        ("text: text/", f"text: {texts}/"),
        ("base: {corpus: d0, tokens: 10_240}", "base: {corpus: d0, tokens: 30_720}"),
        (
            "tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]",
            "tokens: 25_600, ladder: [{rung: thermostat}]",
        ),
        ("holdout: {tokens: 2k}", "holdout: {tokens: 1_100}"),
        ("run: {folder: run, threads: 1}", "run: {folder: run, threads: 1, save_every: 2_560}"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def finished(tmp_path_factory, real_text, plan_text):
    """One base; from it a stage whose tolerance makes the share rise, never interrupted."""
    folder = tmp_path_factory.mktemp("steered")
    (folder / "plan.yaml").write_text(steered_plan(plan_text, real_text))
    with contextlib.chdir(folder):
        main(["run", "plan.yaml", "--stage", "stage2", "--set", RAISES])
    return folder


@pytest.fixture
def based(finished, workplace, plan_text, real_text):
    """A folder with the same base, where stage 2 has not begun."""
    (workplace / "plan.yaml").write_text(steered_plan(plan_text, real_text))
    shutil.copytree(finished / "run", workplace / "run", ignore=shutil.ignore_patterns("stage*", "buffer"))
    return workplace


def changes(run: Path, attempt: str = ATTEMPT) -> list[dict]:
    return [record for record in read_metrics(run / attempt / "metrics.jsonl") if record.get("event") == "mix"]


def trained(run: Path, attempt: str = ATTEMPT) -> list[dict]:
    found = read_metrics(run / attempt / "metrics.jsonl")
    of_time = ("tokens_per_second", "mfu", "memory_bytes")
    return [{k: v for k, v in r.items() if k not in of_time} for r in found if r["kind"] in ("train", "eval")]


def weights(run: Path) -> dict[str, str]:
    paths = sorted((run / ATTEMPT / "checkpoints").glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in paths}


def counted(run: Path, attempt: str = ATTEMPT) -> dict[str, int]:
    """Samples by source, as the training records say."""
    found: dict[str, int] = {}
    for record in trained(run, attempt):
        for source, samples in record.get("samples", {}).items():
            found[source] = found.get(source, 0) + samples
    return found


def test_a_tight_tolerance_raises_the_share_and_every_change_is_an_event(finished):
    found = changes(finished / "run")
    shares = [Fraction(event["shares"]["previous"]) for event in found]
    assert len(shares) >= 2 and shares[0] == Fraction(1, 10) and max(shares) > Fraction(1, 10)
    assert all(Fraction(1, 100) <= share <= Fraction(1, 2) for share in shares)
    assert all("d0 has forgotten" in event["text"] and "tolerance 0.100" in event["text"] for event in found)
    header = read_metrics(finished / "run" / ATTEMPT / "metrics.jsonl")[0]
    assert header["steering"] == {
        "by": "thermostat", "old": "previous", "new": "new", "start": "1/20", "least": "1/100", "most": "1/2", "stairs": [],
    }  # fmt: skip


def test_the_ledger_is_what_was_really_fed(finished):
    run = finished / "run"
    verdict = json.loads((run / ATTEMPT / "verdict.json").read_text())
    names = read_metrics(run / ATTEMPT / "metrics.jsonl")[0]["sources"]
    assert {names[s]: n * 32 for s, n in counted(run).items()} == {r["source"]: r["fed_tokens"] for r in verdict["fed"]}
    assert sum(row["asked_tokens"] for row in verdict["fed"]) == pytest.approx(verdict["step"] * STEP)
    assert all(abs(r["asked_tokens"] - r["fed_tokens"]) <= 32 * (1 + len(changes(run))) for r in verdict["fed"])


def test_every_manifest_has_the_cursors_of_what_was_fed_up_to_it(finished):
    run, fed = finished / "run", {}
    base = json.loads(
        sorted((run / "arms/cookbook/base/00-base/checkpoints").iterdir())[-1].joinpath("manifest.json").read_text()
    )
    by_step = {record["step"]: record.get("samples", {}) for record in trained(run) if record["kind"] == "train"}
    for path in sorted((run / ATTEMPT / "checkpoints").glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        fed = dict(base["cursors"])
        for step in range(1, manifest["step"] + 1):
            for source, samples in by_step[step].items():
                fed[source] = fed.get(source, 0) + samples
        assert manifest["cursors"] == fed
        assert manifest["source_tokens"] == {source: samples * 32 for source, samples in fed.items()}


def test_a_wide_tolerance_lowers_the_share_to_the_least(based, capsys):
    assert main(["run", "plan.yaml", "--stage", "stage2", "--set", LOWERS]) == 0
    shares = [event["shares"]["previous"] for event in changes(based / "run")]
    assert shares == ["1/40", "13/1000", "1/100"]
    said = capsys.readouterr().out
    assert "mix previous 5% + new 95%, previous steered from 5% within 1% to 50%" in said
    assert "mix previous 5% -> 2.5%: d0 has forgotten" in said
    assert main(["status", "plan.yaml", "--json", "--set", LOWERS]) == 0
    attempt = json.loads(capsys.readouterr().out)["stages"][0]["attempts"][0]
    assert attempt["steered"] == "previous steered from 5% within 1% to 50%, changed 3 times, last to 1%"
    assert attempt["asked"] == {"previous": 0.05, "new": 0.95} and attempt["fed"]["previous"] < 0.03
    # The cooldown branch goes on with the mix that was fed last, the next stage with what was recorded.
    assert main(["run", "plan.yaml", "--branch", "cooldown", "--from", "stage2@peak", "--set", LOWERS]) == 0
    cooldown = read_attempt(next((based / "run").glob("arms/*/stage2/*-cooldown")))
    assert {part.role: part.share for part in cooldown.parts} == {
        "previous": Fraction(1, 100),
        "new": Fraction(99, 100),
    }
    assert main(["run", "plan.yaml", "--stage", "stage3", "--set", LOWERS]) == 0
    after = read_attempt(based / "run/arms/cookbook/stage3/00-replay-previous-mix")
    d0, d1 = (next(s.id for s in after.sources if s.corpus == name) for name in ("d0", "d1"))
    mixture, fed = after.segments[0].mixture, counted(based / "run")
    assert mixture.share(d0) / mixture.share(d1) == Fraction(fed[d0], fed[d1])


class Killed(BaseException):
    """As kill -9: nothing is saved."""


def test_killed_before_at_and_after_changes_and_run_again_gives_the_same_bits(finished, based, monkeypatch):
    steps = [event["step"] for event in changes(finished / "run")]
    train_step, last = Training._train_step, len(trained(finished / "run"))
    for at in (steps[0] - 1, steps[0], steps[0] + 1, steps[1], steps[1] + 13):

        def killed(self, loader, at=at):
            if self.attempt.stage == "stage2" and self.step == at:
                raise Killed
            return train_step(self, loader)

        monkeypatch.setattr(Training, "_train_step", killed)
        with pytest.raises(Killed):
            main(["run", "plan.yaml", "--stage", "stage2", "--set", RAISES])
    monkeypatch.setattr(Training, "_train_step", train_step)
    main(["run", "plan.yaml", "--stage", "stage2", "--set", RAISES])
    assert len(trained(based / "run")) == last
    assert trained(based / "run") == trained(finished / "run")
    assert changes(based / "run") == changes(finished / "run")
    assert weights(based / "run") == weights(finished / "run")
    mine, theirs = (json.loads((f / "run" / ATTEMPT / "verdict.json").read_text()) for f in (based, finished))
    assert mine == theirs


def test_kill_9_behind_a_change_and_run_again_gives_the_same_bits(finished, based):
    command = [sys.executable, "-m", "keepwarm.cli.main", "run", "plan.yaml", "--stage", "stage2", "--set", RAISES]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = based / "run" / ATTEMPT / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and b'"mix"' in path.read_bytes()):
        time.sleep(0.001)
    process.kill()
    process.wait()
    main(command[3:])
    assert weights(based / "run") == weights(finished / "run")
    assert trained(based / "run") == trained(finished / "run")


def test_stopped_by_ctrl_c_right_behind_a_change(finished, based, monkeypatch):
    """A checkpoint at the very step of a change: the next run goes on with the new mix."""
    at = changes(finished / "run")[0]["step"]
    watched = Training._watched

    def interrupted(self):
        ends = watched(self)
        if self.step == at:
            os.kill(os.getpid(), signal.SIGINT)
        return ends

    monkeypatch.setattr(Training, "_watched", interrupted)
    assert main(["run", "plan.yaml", "--stage", "stage2", "--set", RAISES]) == 130
    monkeypatch.setattr(Training, "_watched", watched)
    main(["run", "plan.yaml", "--stage", "stage2", "--set", RAISES])
    assert trained(based / "run") == trained(finished / "run")


def test_another_split_of_the_batch_feeds_the_same_samples(finished, based):
    """The mixes that the records give, cut in other batches and ranks: the same order of samples."""
    records = read_metrics(finished / "run" / ATTEMPT / "metrics.jsonl")
    attempt = as_fed(read_attempt(finished / "run" / ATTEMPT), records)
    assert len(attempt.segments) == 1 + len(changes(finished / "run"))
    sources = {s.id: Source(s.id, s.name, Path(s.name), np.array([[0, 32 * 10_000 + 1]])) for s in attempt.sources}
    samples = max(record["step"] for record in trained(finished / "run")) * 8

    def order(batch: int, world: int) -> list[tuple[int, int]]:
        stream, found = Stream(attempt.segments, sources, attempt.seed, 32), []
        for first in range(0, samples - batch + 1, batch):
            for rank in range(world):
                begin = first + rank * batch // world
                located = stream.locate(begin, begin + batch // world)
                found += zip(located.source_index.tolist(), located.window.tolist(), strict=True)
        return found

    assert order(8, 1) == order(8, 4) == order(16, 2)[: len(order(8, 1))]


def test_incremental_tied_to_the_verdict_rises_on_the_way(based):
    ladder = "{rung: incremental, alpha_0: 20%, schedule: peak, advance: verdict}"
    text = (based / "plan.yaml").read_text().replace("{rung: thermostat}", ladder)
    (based / "plan.yaml").write_text(text)
    assert main(["run", "plan.yaml", "--stage", "stage2", "--set", LOWERS]) == 0
    attempt = "arms/cookbook/stage2/00-incremental"
    found = changes(based / "run", attempt)
    assert [event["shares"]["d0"] for event in found] == ["4/5", "3/5", "1/5"]
    firsts = [0, *(event["step"] for event in found)]
    assert all(12.5 <= after - before <= 50 for before, after in pairwise(firsts))
    verdict = json.loads((based / "run" / attempt / "verdict.json").read_text())
    names = read_metrics(based / "run" / attempt / "metrics.jsonl")[0]["sources"]
    fed = {names[s]: n * 32 for s, n in counted(based / "run", attempt).items()}
    assert fed == {row["source"]: row["fed_tokens"] for row in verdict["fed"]}


@pytest.mark.parametrize(
    ("rung", "words"),
    [
        ("{rung: thermostat, least: 10%}", "least 10%, start 5%, most 50%: they must rise, above 0 and below 1"),
        ("{rung: thermostat, most: 4%}", "least 1%, start 5%, most 4%: they must rise"),
        ("{rung: thermostat, least: 0%}", "least 0%, start 5%, most 50%: they must rise"),
        ("{rung: thermostat, most: 100%}", "most 100%: they must rise, above 0 and below 1"),
        ("{rung: thermostat, least: 5%, most: 5%}", "leave room to steer; a fixed share: replay-previous-mix"),
        ("{rung: incremental, advance: verdict}", "write schedule: peak beside it"),
    ],
)
def test_bounds_that_leave_nothing_to_steer_are_refused(edit_plan, capsys, rung, words):
    edit_plan(("{rung: replay, shares: [5%, 25%]}", rung))
    assert main(["plan", "plan.yaml"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_epochs_are_those_of_the_worst_that_the_bounds_allow(based):
    """With the share it starts at D_0 is read once; with the most it may come to, too often: it can't start."""
    ladder = "tokens: 153_600, ladder: [{rung: thermostat, most: 90%}, {rung: replay, shares: [5%]}]"
    text = (based / "plan.yaml").read_text().replace("tokens: 25_600, ladder: [{rung: thermostat}]", ladder)
    (based / "plan.yaml").write_text(text)
    assert main(["run", "plan.yaml", "--stage", "stage2", "--set", LOWERS]) == 0
    refused = json.loads((based / "run" / ATTEMPT / "verdict.json").read_text())
    assert refused["outcome"] == "refused"
    assert re.search(r"d0 would be repeated 4\.\d\d times, max_epochs is 4", refused["reasons"][0])
    started = json.loads((based / "run/arms/cookbook/stage2/01-replay/verdict.json").read_text())
    assert started["outcome"] == "recovered"


def test_a_change_that_the_attempt_does_not_allow_is_refused(finished):
    attempt = read_attempt(finished / "run" / ATTEMPT)
    for shares in ({"previous": "9/10", "new": "1/10"}, {"previous": "1/10", "new": "1/10"}, {"d0": "1/10"}, {}):
        with pytest.raises(LineageError, match="the mix at step 40 can't be"):
            as_fed(attempt, [{"kind": "event", "event": "mix", "step": 40, "shares": shares}])


def test_the_record_of_an_attempt_has_steering_only_where_it_is_steered(finished):
    attempt = read_attempt(finished / "run" / ATTEMPT)
    assert from_json(to_json(attempt)) == attempt and attempt.steering is not None
    base_samples, samples = 30_720 // 32, 25_600 // 32
    (row,) = (
        r for r in json.loads((finished / "run" / ATTEMPT / "verdict.json").read_text())["fed"] if r["source"] == "d0"
    )
    epochs = row["epochs_before"] * (base_samples + samples / 2) / base_samples  # at `most` all the way
    assert attempt.warnings == (f"d0: {epochs:.2f} epochs over the line at the most that its mix may come to",)
    base = read_attempt(finished / "run/arms/cookbook/base/00-base")
    assert "steering" not in to_json(base) and from_json(to_json(base)) == base
