"""`keepwarm run` end to end on real text through the command line: four stages, kills, reruns, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keepwarm.attempt.progress import end_of
from keepwarm.cli.main import main
from keepwarm.engine.loop import Training

KEEPWARM = [sys.executable, "-m", "keepwarm.cli.main"]
LINE_END = "cookbook/stage4/01-cooldown"


def metrics(run: Path, attempt: str) -> list[dict]:
    lines = (run / "arms" / attempt / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def fed(run: Path, attempt: str) -> dict[str, float]:
    verdict = json.loads((run / "arms" / attempt / "verdict.json").read_text())
    total = sum(row["fed_tokens"] for row in verdict["fed"])
    shares: dict[str, float] = {}
    for row in verdict["fed"]:
        shares[row["role"]] = shares.get(row["role"], 0) + row["fed_tokens"] / total
    return shares


@pytest.fixture(scope="module")
def finished(tmp_path_factory, real_text, plan_text):
    """The tiny plan with its control arm, run once to its end."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text").symlink_to(real_text)
    (folder / "plan.yaml").write_text(plan_text.replace("control: none", "control: no-replay"))
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml"]) == 0
    return folder


def test_four_stages_each_from_the_checkpoint_before(finished, manifest_of):
    run = finished / "run"
    base = manifest_of(run, "cookbook/base/00-base")
    stage2 = manifest_of(run, "cookbook/stage2/00-replay")
    stage3 = manifest_of(run, "cookbook/stage3/00-replay-previous-mix")
    stage4 = manifest_of(run, "cookbook/stage4/00-buffer-mix")
    assert [m["parent"] for m in (base, stage2, stage3, stage4)] == [None, base["id"], stage2["id"], stage3["id"]]
    assert [m["phase"] for m in (base, stage2, stage3, stage4)] == ["peak"] * 4
    assert [m["lr"] for m in (base, stage2, stage3, stage4)] == [3e-3] * 4
    assert [m["line_tokens"] for m in (base, stage2, stage3, stage4)] == [10240, 15360, 20480, 25600]
    cooled = manifest_of(run, LINE_END)
    assert (cooled["phase"], cooled["lr"], cooled["parent"]) == ("cooled", 0.0, stage4["id"])
    assert cooled["line_tokens"] == 25600 + 1024


def test_every_corpus_is_measured_before_and_after_on_the_same_windows(finished):
    for attempt in ("cookbook/stage2/00-replay", "cookbook/stage4/00-buffer-mix"):
        full = [r for r in metrics(finished / "run", attempt) if r["kind"] == "eval" and r["full"]]
        assert [r["step"] for r in full] == [0, 20]
        assert all(set(r["loss"]) == {"d0", "d1", "d2", "d3"} for r in full)
        for name in ("d0", "d3"):
            assert len(full[0]["windows"][name]) == len(full[1]["windows"][name]) >= 32
            assert full[1]["loss"][name] == pytest.approx(
                sum(full[1]["windows"][name]) / len(full[1]["windows"][name]), abs=1e-5
            )


def test_the_loss_before_a_stage_is_the_loss_at_the_end_of_the_one_before(finished):
    run = finished / "run"
    end = [r for r in metrics(run, "cookbook/stage2/00-replay") if r["kind"] == "eval" and r["full"]][-1]
    begin = next(r for r in metrics(run, "cookbook/stage3/00-replay-previous-mix") if r["kind"] == "eval")
    assert begin["loss"] == end["loss"]
    assert "cookbook/stage2/00-replay" in begin["measured_by"]


def test_the_stage_learns_its_corpus(finished):
    full = [r for r in metrics(finished / "run", "cookbook/stage2/00-replay") if r["kind"] == "eval" and r["full"]]
    assert full[1]["loss"]["d1"] < full[0]["loss"]["d1"] - 0.02


def test_what_was_fed_is_what_was_asked_to_a_sample(finished):
    run = finished / "run"
    samples = 20 * 8
    assert fed(run, "cookbook/stage2/00-replay")["d0"] == pytest.approx(0.05, abs=1.5 / samples)
    assert fed(run, "cookbook/stage3/00-replay-previous-mix")["previous"] == pytest.approx(0.25, abs=3 / samples)
    shares = fed(run, "cookbook/stage4/00-buffer-mix")
    assert shares == pytest.approx({"d0": 0.25, "new": 0.5, "buffer": 0.25}, abs=3 / samples)
    assert fed(run, "no-replay/stage2/00-naive") == {"new": 1.0}


def test_the_training_records_count_the_same_as_the_ledger(finished):
    run, attempt = finished / "run", "cookbook/stage4/00-buffer-mix"
    counted: dict[str, int] = {}
    for record in metrics(run, attempt):
        for source, samples in record.get("samples", {}).items():
            counted[source] = counted.get(source, 0) + samples
    names = metrics(run, attempt)[0]["sources"]
    verdict = json.loads((run / "arms" / attempt / "verdict.json").read_text())
    assert {names[s]: n * 32 for s, n in counted.items()} == {r["source"]: r["fed_tokens"] for r in verdict["fed"]}


def test_the_previous_mix_is_the_recorded_one(finished):
    verdict = json.loads((finished / "run/arms/cookbook/stage3/00-replay-previous-mix/verdict.json").read_text())
    asked = {row["corpus"]: row["asked_tokens"] / 5120 for row in verdict["fed"]}
    before = fed(finished / "run", "cookbook/stage2/00-replay")
    assert asked == pytest.approx({"d0": 0.25 * before["d0"], "d1": 0.25 * before["new"], "d2": 0.75})


def test_cursors_go_on_across_stages(finished, manifest_of):
    run = finished / "run"
    base = manifest_of(run, "cookbook/base/00-base")
    stage2 = manifest_of(run, "cookbook/stage2/00-replay")
    d0 = next(source for source, name in base["source_names"].items() if name == "d0")
    assert base["cursors"][d0] == 320
    assert stage2["cursors"][d0] == 320 + round(fed(run, "cookbook/stage2/00-replay")["d0"] * 160)


def test_the_buffer_is_filled_after_acceptance_and_knows_where_its_text_comes_from(finished):
    versions = sorted(path.name for path in (finished / "run" / "buffer").glob("v*"))
    assert versions == ["v1", "v2", "v3"]
    last = json.loads((finished / "run/buffer/v3/manifest.json").read_text())
    assert [(e["stage"], e["corpus"]) for e in last["entries"]] == [
        ("stage2", "d1"),
        ("stage3", "d2"),
        ("stage4", "d3"),
    ]
    assert 0 < sum(entry["tokens"] for entry in last["entries"]) <= 40_000
    assert all(entry["documents"] > 0 for entry in last["entries"])


def test_the_control_arm_starts_from_the_same_base_and_forgets_more(finished, manifest_of, capsys):
    base = manifest_of(finished / "run", "cookbook/base/00-base")
    control = manifest_of(finished / "run", "no-replay/stage2/00-naive")
    assert control["parent"] == base["id"]
    assert manifest_of(finished / "run", "no-replay/stage4/01-cooldown")["phase"] == "cooled"
    assert main(["status", str(finished / "plan.yaml"), "--json"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert arms["no-replay"]["forgetting"]["d0"] > arms["cookbook"]["forgetting"]["d0"]
    assert set(arms["cookbook"]["loss"]["d3"]) == {"peak", "cooled"}


def test_status_json_has_the_promised_shape(finished, capsys):
    assert main(["status", str(finished / "plan.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["state"] for stage in found["stages"]] == ["accepted"] * 3
    attempt = found["stages"][0]["attempts"][0]
    assert (attempt["rung"], attempt["outcome"], attempt["tokens"]) == ("replay", "recovered", 5120)
    assert found["arms"]["cookbook"]["regret"] is None
    assert found["next"] == {"stage": None, "do": "nothing: every stage is accepted"}


def test_a_second_run_reads_and_does_not_repeat(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    before = {path: path.stat().st_mtime_ns for path in (finished / "run" / "arms").rglob("*")}
    assert main(["run", "plan.yaml"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "run" / "arms").rglob("*")} == before
    assert "held-out loss" in capsys.readouterr().out


def test_a_changed_plan_is_refused_and_changes_nothing(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    before = {
        path: path.read_bytes() for path in (finished / "run").rglob("*") if path.is_file() and path.name != ".lock"
    }
    for change, words in (
        ("optimizer.weight_decay=0.2", "other optimizer"),
        ("stages.stage4.tokens=6k", "other schedule"),
    ):
        assert main(["run", "plan.yaml", "--set", change]) == 2
        assert f"was made with {words}" in capsys.readouterr().err
    after = {
        path: path.read_bytes() for path in (finished / "run").rglob("*") if path.is_file() and path.name != ".lock"
    }
    assert after == before


def test_a_ladder_is_climbed_from_the_same_start_until_a_candidate_holds(edit_plan, workplace, manifest_of, capsys):
    edit_plan(
        ("  - {name: stage3, new: d2, tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}]}\n", ""),
        ("  - {name: stage4, new: d3, tokens: 5_120, ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}]}\n", ""),
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", "ladder: [{rung: buffer-mix}, {rung: merge}, {rung: naive}]"),
        ("tolerance: 9 nats", "tolerance: {d0: 0.0001 nats}"),
        ("base: {corpus: d0, tokens: 10_240}", "base: {corpus: d0, tokens: 102_400}"),
    )
    assert main(["run", "plan.yaml"]) == 1
    said = capsys.readouterr()
    assert "the ladder is exhausted" in said.err
    assert (
        "buffer-mix 5/48/47" in said.out
        and "not-recovering" in said.out
        and "next: keepwarm decide PLAN accept" in said.out
    )
    assert main(["status", "plan.yaml", "--json"]) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    assert stage["state"] == "exhausted"
    outcomes = {attempt["rung"]: attempt["outcome"] for attempt in stage["attempts"]}
    assert outcomes == {"buffer-mix": "refused", "merge": "skipped", "naive": "not-recovering"}
    assert not (workplace / "run" / "buffer").exists()
    # A lengthened ladder goes on from the same start; what was tried stands.
    edit_plan(("{rung: naive}]", "{rung: naive}, {rung: replay, shares: [95%]}]"))
    assert main(["run", "plan.yaml"]) == 0
    tried = [m for m in sorted((workplace / "run/arms/cookbook/stage2").iterdir()) if m.is_dir()]
    assert [path.name for path in tried[-3:]] == ["03-naive", "04-replay", "05-cooldown"]
    parent = manifest_of(workplace / "run", "cookbook/stage2/04-replay")["parent"]
    assert parent == manifest_of(workplace / "run", "cookbook/base/00-base")["id"]


def test_a_stage_without_its_own_ladder_takes_the_cookbooks_by_the_measured_shift(edit_plan, workplace, capsys):
    edit_plan((", ladder: [{rung: replay, shares: [5%, 25%]}]", ""))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    said = capsys.readouterr().out
    assert "-> ladder strong" in said
    stage = workplace / "run/arms/cookbook/stage2"
    verdict = json.loads((stage / "01-replay-previous-mix/verdict.json").read_text())
    assert verdict["label"] == "replay-previous-mix 5%" and verdict["accepted"]
    shift = json.loads((stage / "shift.json").read_text())
    assert (shift["grade"], shift["starting_share"]) == ("strong", 0.05)
    (choice,) = map(json.loads, (stage / "choices.jsonl").read_text().splitlines())
    waits = {"label": "replay-previous-mix 1%", "why": "the measured shift asks for 5% to begin with"}
    assert (choice["label"], choice["put_off"]) == ("replay-previous-mix 5%", [waits])
    assert {row["role"] for row in verdict["fed"]} == {"previous", "new"}


def weights(run: Path) -> dict[str, str]:
    found = {}
    for path in sorted(run.glob("arms/*/*/*/checkpoints/*/manifest.json")):
        manifest = json.loads(path.read_text())
        found[manifest["id"]] = manifest["weights_sha256"]
    return found


def losses(run: Path) -> list[tuple]:
    found = []
    for path in sorted(run.glob("arms/*/*/*/metrics.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] in ("train", "eval"):
                found.append((str(path.parent.relative_to(run)), record["kind"], record["step"], str(record["loss"])))
    return found


LONGER = ["max_epochs=40", "base.tokens=204_800", *(f"stages.stage{n}.tokens=51_200" for n in (2, 3, 4))]


@pytest.fixture(scope="module")
def longer_finished(tmp_path_factory, real_text, plan_text):
    """A run of some 1,500 steps, never interrupted, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("longer")
    (folder / "text").symlink_to(real_text)
    (folder / "plan.yaml").write_text(plan_text.replace("control: none", "control: no-replay"))
    command = [*KEEPWARM, "run", str(folder / "plan.yaml"), *(word for each in LONGER for word in ("--set", each))]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return folder, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "least"), [(signal.SIGKILL, 3), (signal.SIGINT, 2)])
def test_killed_at_any_moment_and_run_again_gives_the_same_bits(longer_finished, workplace, edit_plan, kill, least):
    """Kill after random waits (starting, tokenizing, training, saving), run again until done: weights and losses are
    equal. A wait is a part of what the whole run takes here: importing torch alone is seconds on a slow machine.
    """
    finished_folder, seconds = longer_finished
    edit_plan(("control: none", "control: no-replay"))
    command = [*KEEPWARM, "run", "plan.yaml", *(word for each in LONGER for word in ("--set", each))]
    waits, kills = random.Random(int(kill)), 0
    for _ in range(80):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.communicate(timeout=seconds * waits.uniform(0.1, 0.45))
        except subprocess.TimeoutExpired:
            process.send_signal(kill)
            process.communicate()
            kills += 1
            continue
        break
    assert process.returncode == 0 and kills >= least, (process.returncode, kills)
    mine, theirs = weights(workplace / "run"), weights(finished_folder / "run")
    assert set(theirs) <= set(mine)  # Ctrl-C saves where it stops: there may be more checkpoints, never fewer
    assert {name: mine[name] for name in theirs} == theirs
    assert losses(workplace / "run") == losses(finished_folder / "run")


def test_killed_while_training_and_run_again_gives_the_same_bits(finished, workplace, edit_plan):
    """One kill in the middle of a stage, after its first checkpoint."""
    edit_plan(("control: none", "control: no-replay"))
    process = subprocess.Popen([*KEEPWARM, "run", "plan.yaml"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wanted = workplace / "run/arms/cookbook/stage3/00-replay-previous-mix/checkpoints"
    while process.poll() is None and not (wanted.is_dir() and any(wanted.glob("*-peak"))):
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    assert main(["run", "plan.yaml"]) == 0
    assert weights(workplace / "run") == weights(finished / "run")
    assert losses(workplace / "run") == losses(finished / "run")


def test_the_batch_split_changes_neither_order_nor_samples(finished, workplace, edit_plan):
    edit_plan(("global_batch_size: 8\n", "global_batch_size: 8\nmicro_batch_size: 2\n"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    attempt = "cookbook/stage2/00-replay"
    mine, theirs = metrics(workplace / "run", attempt), metrics(finished / "run", attempt)
    mine_train, theirs_train = ([r for r in each if r["kind"] == "train"] for each in (mine, theirs))
    assert [r["samples"] for r in mine_train] == [r["samples"] for r in theirs_train]
    assert [r["loss"] for r in mine_train] == pytest.approx([r["loss"] for r in theirs_train], rel=1e-3)


def test_ctrl_c_during_the_last_evaluation_of_an_attempt_is_not_forgotten(workplace, monkeypatch, capsys):
    """The attempt is whole then, so it is saved as such, but nothing after it is begun."""
    evaluate = Training._evaluate

    def interrupted(self, *, full):
        if self.attempt.stage == "stage2" and self.step == self.attempt.steps:
            os.kill(os.getpid(), signal.SIGINT)
        evaluate(self, full=full)

    monkeypatch.setattr(Training, "_evaluate", interrupted)
    assert main(["run", "plan.yaml"]) == 130
    assert "stopped; nothing is lost" in capsys.readouterr().err
    (attempt,) = (workplace / "run/arms/cookbook/stage2").glob("*-replay")
    assert end_of(attempt) is not None
    assert not (workplace / "run/arms/cookbook/stage3").exists()


def _trains(stage):
    return any('"train"' in path.read_text() for path in stage.glob("*/metrics.jsonl"))


def test_ctrl_c_reaches_every_arm_and_says_that_nothing_is_lost(workplace, edit_plan):
    """Interrupt the owner while both arms train: all processes end, and the same command goes on to the end."""
    edit_plan(("control: none", "control: no-replay"))
    command = [*KEEPWARM, "run", "plan.yaml", *(word for each in LONGER for word in ("--set", each))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wanted = [workplace / "run/arms/cookbook/stage2", workplace / "run/arms/no-replay/stage2"]
    while process.poll() is None and not all(_trains(folder) for folder in wanted):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "stopped; nothing is lost, the same command goes on or starts over"
    for folder in wanted:
        assert list(folder.glob("*/checkpoints/*/manifest.json")), folder  # each saved where it stood
    assert main(command[3:]) == 0
