"""What two attempts share is trained once, and gives the same bits as training it alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from keepwarm.attempt.records import read_attempt, read_metrics
from keepwarm.attempt.rewinds import begin
from keepwarm.attempt.shared import lasting_changes, shared_steps, take_over
from keepwarm.attempt.spikes import Finding
from keepwarm.blend.mixture import combine
from keepwarm.cli.main import main

STAGE2 = "tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]"
DECAY = "tokens: 1_024, ladder: [{rung: decay-then-introduce, decay: [cosine], alpha_0: %s}]"
FIRST, SECOND = (f"run/arms/cookbook/stage2/0{n}-decay-then-introduce" for n in (0, 1))


@pytest.fixture(scope="module")
def introduced(tmp_path_factory, real_text, plan_text):
    """Two candidates that differ in the mix behind the switch, both trained."""
    folder = tmp_path_factory.mktemp("introduced")
    (folder / "text").symlink_to(real_text)
    text = plan_text.replace(STAGE2, DECAY % "[60%, 80%]").replace("control: none", "search: {choose: best}")
    (folder / "plan.yaml").write_text(text)
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    return folder


def numbers(folder: Path) -> list[tuple]:
    return [(r["kind"], r["step"], r["loss"], r["lr"]) for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]


def end(folder: Path) -> dict:
    return json.loads((sorted((folder / "checkpoints").iterdir())[-1] / "manifest.json").read_text())


def test_the_decay_is_trained_once_for_all_mixes_behind_it(introduced, monkeypatch, capsys):
    monkeypatch.chdir(introduced)
    first, second = (read_attempt(introduced / name) for name in (FIRST, SECOND))
    assert (first.label, second.label) == tuple(
        f"decay-then-introduce cosine to lr_max/100 with {n}%" for n in (60, 80)
    )
    assert (first.steps, shared_steps(first, second), lasting_changes(first)) == (14, 10, {10})
    event = next(r for r in read_metrics(introduced / SECOND / "metrics.jsonl") if r.get("event") == "shared")
    assert (event["step"], event["tokens"]) == (10, 2_560) and event["from"].startswith(FIRST.removeprefix("run/"))
    # alone, in a run of its own: the same losses at every step, the same weights
    plan = (introduced / "plan.yaml").read_text()
    (introduced / "alone.yaml").write_text(plan.replace("[60%, 80%]", "80%").replace("folder: run,", "folder: alone,"))
    assert main(["run", "alone.yaml", "--stage", "stage2"]) == 0
    alone = introduced / FIRST.replace("run", "alone", 1)
    assert numbers(introduced / SECOND) == numbers(alone)
    mine, theirs = end(introduced / SECOND), end(alone)
    for key in ("weights_sha256", "cursors", "source_tokens", "line_tokens", "lr", "phase", "schedule", "evaluation"):
        assert mine[key] == theirs[key], key
    # the account has the shared tokens once
    capsys.readouterr()
    assert main(["status", "plan.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    total = found["account"]["total"]
    assert total["shared_tokens"] == 2_560
    of_stage = {row["kind"]: row["tokens"] for row in found["account"]["rows"]}
    assert of_stage["kept"] + of_stage["rejected"] == 2 * 14 * 256 - 2_560
    assert main(["lineage", "plan.yaml"]) == 0  # the checkpoint that was taken over is one like any other
    assert main(["status", "plan.yaml"]) == 0
    assert "not trained again" in capsys.readouterr().out


def test_how_far_two_attempts_are_the_same_training(introduced):
    a = read_attempt(introduced / FIRST)
    assert shared_steps(a, a) == 14
    for change in (
        {"seed": 9}, {"start": "another"}, {"moments": "reset"}, {"micro_batch_size": 2}, {"sequence_length": 16},
        {"global_batch_size": 4, "micro_batch_size": 4}, {"optimizer": replace(a.optimizer, clip=2.0)}, {"stage": "x"},
        {"steps": 13}, {"evaluation": replace(a.evaluation, subset={"d0": 1})},
    ):  # fmt: skip
        assert shared_steps(a, replace(a, **change)) == 0, change
    pieces = a.schedule.pieces
    lower = replace(a.schedule, pieces=(replace(pieces[0], lr_end=pieces[0].lr_end / 2), *pieces[1:]))
    assert shared_steps(a, replace(a, schedule=lower)) == 1  # the first step is at LR_max in both
    earlier = replace(a.segments[1], first_sample=a.segments[1].first_sample - 8)
    assert shared_steps(a, replace(a, segments=(a.segments[0], earlier))) == 9
    assert shared_steps(a, replace(a, segments=a.segments[:1])) == 10
    moved = tuple((source, place + 1) for source, place in a.segments[0].cursors)
    assert shared_steps(a, replace(a, segments=(replace(a.segments[0], cursors=moved), a.segments[1]))) == 0
    other = combine([(Fraction(1), {a.sources[0].id: Fraction(1)})])
    assert shared_steps(a, replace(a, segments=(a.segments[0], replace(a.segments[1], mixture=other)))) == 10
    assert shared_steps(a, replace(a, evaluation=replace(a.evaluation, steps=(*a.evaluation.steps, 4)))) == 3


def test_a_kill_while_a_prefix_is_taken_over_begins_anew(introduced, monkeypatch):
    """The metrics are there and the checkpoint is not: nothing is taken for trained."""
    monkeypatch.chdir(introduced)
    shutil.copytree("run", "again")
    first, second = (introduced / name.replace("run", "again", 1) for name in (FIRST, SECOND))
    for folder in (first, second):
        (folder / "verdict.json").unlink()
    shutil.rmtree(second / "checkpoints")
    plan = (introduced / "plan.yaml").read_text()
    (introduced / "again.yaml").write_text(plan.replace("folder: run,", "folder: again,"))
    assert main(["run", "again.yaml", "--stage", "stage2"]) == 0
    mine, theirs = end(second), end(introduced / SECOND)
    assert mine["weights_sha256"] == theirs["weights_sha256"] and numbers(second) == numbers(introduced / SECOND)
    assert len([r for r in read_metrics(second / "metrics.jsonl") if r.get("event") == "shared"]) == 1


def test_what_a_rewind_touched_is_not_shared(introduced, tmp_path):
    """An attempt that went back is no donor behind what it passed over, and one that went back to its start has none."""
    run = tmp_path / "run"
    shutil.copytree(introduced / "run", run)
    first, second = (run / name.removeprefix("run/") for name in (FIRST, SECOND))
    attempt, header = read_attempt(second), read_metrics(second / "metrics.jsonl")[0]
    shutil.rmtree(second / "checkpoints")
    spike = Finding("spike", 9.0, 1.0, "far above")
    begin(first, spike, step=14, rewind_steps=4, saved_steps=[10])  # 11 to 14: what is shared ends at 10
    assert take_over(run, attempt, header, "plan", None)["step"] == 10
    shutil.rmtree(second / "checkpoints")
    begin(second, spike, step=12, rewind_steps=8, saved_steps=[10])
    assert take_over(run, attempt, header, "plan", None) is None
    (second / "rewinds.json").unlink()
    begin(first, spike, step=13, rewind_steps=4, saved_steps=[])  # 10 to 13: the checkpoint before is at 8
    assert take_over(run, attempt, header, "plan", None)["step"] == 8
