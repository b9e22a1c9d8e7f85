"""The decision record in words: what `keepwarm status` says was tried, seen, decided and paid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keepwarm.attempt.rewinds import begin
from keepwarm.attempt.spikes import Finding
from keepwarm.cli.main import main
from keepwarm.report.decisions import decision_lines, said

STAGE = "run/arms/cookbook/stage2"
FORGETTING = (
    "     trouble: forgetting; helps: from the checkpoint before the switch with more old data (1, then 5, then 25 %), or "
    "with B: replay, replay-previous-mix, buffer-mix, thermostat, merge"
)


@pytest.fixture
def mine(searched, tmp_path, monkeypatch) -> Path:
    """A copy of the run, as the current folder."""
    shutil.copytree(searched, tmp_path / "mine", symlinks=True)
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def record(capsys):
    """The decision record that `keepwarm status` prints, less what was measured of the shift."""

    def lines() -> list[str]:
        capsys.readouterr()
        assert main(["status", "plan.yaml"]) == 0
        printed = capsys.readouterr().out.splitlines()
        begin = printed.index("decisions")
        end = next(n for n, line in enumerate(printed) if line.startswith("account"))
        return [line for line in printed[begin:end] if not line.startswith("  shift ")]

    return lines


def records(folder: Path, attempt: str) -> list[dict]:
    return [json.loads(line) for line in (folder / STAGE / attempt / "metrics.jsonl").read_text().splitlines()]


def verdict(folder: Path, attempt: str) -> dict:
    return json.loads((folder / STAGE / attempt / "verdict.json").read_text())


def at(record: dict) -> str:
    """Where in the 40 steps of 256 tokens."""
    return f"     at {record['step'] / 40:.0%}, {256 * record['step'] / 1000:.3g}k tokens: "


def changes(found: list[dict]) -> list[str]:
    """A line of every decision that differs from the one before."""
    decided = [r for r in found if r.get("event") == "decision"]
    kinds = [None, *((r["outcome"], r["sure"]) for r in decided)]
    return [at(r) + r["text"] for r, before, kind in zip(decided, kinds, kinds[1:], strict=False) if before != kind]


def test_the_record_of_a_real_run(mine, record):
    """Two attempts: one stopped early, one accepted; every text as it was written down while they trained."""
    naive, replay = records(mine, "00-naive"), records(mine, "01-replay")
    stop = next(r for r in naive if r.get("event") == "stopped-early")
    lost, kept = verdict(mine, "00-naive")["reasons"], verdict(mine, "01-replay")["reasons"]
    assert lost[0] == f"stopped early: {stop['text']}" and len(lost) == 3 and len(kept) == 2
    assert record() == [
        "decisions",
        "stage2: d1, accepted",
        "  1. naive: the first of the ladder",
        *changes(naive),
        f"{at(stop)}stopped as not-recovering: {stop['text']}",
        "     not-recovering",
        f"       {lost[1]}",
        f"       {lost[2]}",
        FORGETTING,
        f"     cost: {256 * stop['step'] / 1000:.3g}k tokens",
        "  2. replay 95%: the next of the ladder",
        *changes(replay),
        "     recovered -> accepted",
        f"       {kept[0]}",
        f"       {kept[1]}",
        "     cost: 10.2k tokens",
    ]
    for line in changes(replay):
        assert line.count("recovered") + line.count("under-adapting") + line.count("recovering") == 1


def test_the_same_in_json(mine, capsys):
    assert main(["status", "plan.yaml", "--json"]) == 0
    naive, replay = json.loads(capsys.readouterr().out)["stages"][0]["attempts"]
    assert [each["sure"] for each in naive["said"]][-1] == "stopped" and naive["trouble"] == "forgetting"
    assert [each["step"] for each in replay["said"]] == sorted(each["step"] for each in replay["said"])
    assert replay["trouble"] is None and replay["said"][-1]["outcome"] == "recovered"


def test_an_attempt_on_the_way_says_where_it_is(mine, record):
    """A run that was killed in the middle of a line."""
    folder = mine / STAGE / "01-replay"
    whole = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    upto = next(
        n for n, line in enumerate(whole) if json.loads(line)["kind"] == "train" and json.loads(line)["step"] == 21
    )
    (folder / "metrics.jsonl").write_text("".join(whole[:upto]) + whole[upto][:20])
    (folder / "verdict.json").unlink()
    for later in sorted((folder / "checkpoints").iterdir())[2:]:  # of steps 10, 20, 30 and 40
        shutil.rmtree(later)
    lines = record()
    begin = lines.index("  2. replay 95%: the next of the ladder")
    kept = [json.loads(line) for line in whole[:upto]]
    assert lines[1] == "stage2: d1, running"
    assert lines[begin + 1 :] == [*changes(kept), "     at step 20 of 40", "     cost: 5.12k tokens"]


def test_a_persons_word_is_in_the_record(mine, record):
    assert main(["decide", "plan.yaml", "reject", "--stage", "stage2", "--because", "its samples are odd"]) == 0
    lines = record()
    begin = lines.index("  2. replay 95%: the next of the ladder")
    assert lines[1] == "stage2: d1, running" and "     recovered" in lines[begin:]
    assert lines[-2:] == ["     a person: reject, because its samples are odd", "     cost: 10.2k tokens"]


def decided(step, outcome, sure="clear", text="numbers"):
    return {
        "kind": "event", "event": "decision", "step": step, "tokens": 10 * step, "outcome": outcome, "sure": sure,
        "text": text, "corpora": {},
    }  # fmt: skip


def test_only_what_changed_is_said():
    found = said([
        {"kind": "header"}, decided(1, "recovering"), decided(2, "recovering", text="other numbers"),
        {"kind": "train", "step": 3}, decided(3, "recovering", "close"), decided(4, "recovering"), decided(5, "recovered"),
    ])  # fmt: skip
    assert [(each["step"], each["outcome"], each["sure"]) for each in found] == [
        (1, "recovering", "clear"), (3, "recovering", "close"), (4, "recovering", "clear"), (5, "recovered", "clear"),
    ]  # fmt: skip
    assert found[0] == {"step": 1, "tokens": 10, "outcome": "recovering", "sure": "clear", "text": "numbers"}


def test_what_stopped_it_comes_last():
    stop = {"kind": "event", "event": "stopped-early", "step": 2, "tokens": 20, "outcome": "diverged", "text": "broken"}
    found = said([decided(1, "diverged"), decided(2, "diverged"), stop])
    assert found[1:] == [{"step": 2, "tokens": 20, "outcome": "diverged", "sure": "stopped", "text": "broken"}]
    assert said([]) == []


def attempt(number, label, outcome, **more):
    values = {
        "folder": f"run/arms/cookbook/s/{number:02d}-x", "label": label, "outcome": outcome, "accepted": False, "step": 0,
        "steps": 10, "reasons": [], "decision": None, "tokens": 0, "trouble": None, "helps": None,
    }  # fmt: skip
    return values | more


def test_attempts_come_in_the_order_they_were_chosen_and_what_was_put_off_last():
    put_off = [{"label": "replay 25%", "why": "d0 would be forgotten"}]
    choices = [
        {"candidate": 3, "why": "the most promising", "put_off": []},
        {"candidate": 0, "why": "the next of the ladder", "put_off": put_off},
    ]
    attempts = [
        attempt(0, "naive", "not-recovering", tokens=2000, reasons=["lost"]),
        attempt(2, "merge", "skipped", reasons=["one checkpoint"]),
        attempt(3, "replay 10%", "under-adapting", tokens=500),
    ]
    stage = {"name": "s", "new": "d1", "state": "running", "shift": None, "forecast": []}
    stage |= {"attempts": attempts, "choices": choices}
    pending = stage | {"name": "later", "attempts": [], "choices": []}
    assert decision_lines({"stages": [stage, pending]}) == [
        "decisions",
        "s: d1, running",
        "  1. replay 10%: the most promising",
        "     under-adapting",
        "     cost: 500 tokens",
        "  2. naive: the next of the ladder",
        "     not-recovering",
        "       lost",
        "     cost: 2k tokens",
        "  3. merge",
        "     skipped",
        "       one checkpoint",
        "     cost: nothing was trained",
        "  put off: replay 25%: d0 would be forgotten",
    ]


def test_before_the_first_attempt_there_is_no_record():
    assert decision_lines({"stages": [{"attempts": []}]}) == []


def test_steps_that_were_passed_over_are_told_before_the_verdict_is_there(mine, record, capsys):
    folder = mine / STAGE / "01-replay"
    (folder / "verdict.json").unlink()
    for checkpoint in sorted((folder / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    text = "no update: the loss 9.000 is far above; in papers document 17 (tokens 0-9)"
    event = {"kind": "event", "step": 3, "tokens": 768, "event": "skipped", "why": "spike", "text": text}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(event) + "\n")
    told = "no update at 1 step: step 3: the loss 9.000 is far above; in papers document 17 (tokens 0-9)"
    assert f"       {told}" in record()
    assert main(["status", "plan.yaml", "--json"]) == 0
    attempts = json.loads(capsys.readouterr().out)["stages"][0]["attempts"]
    assert [each["passed_over"] for each in attempts] == [[], [told]]


def test_what_a_rewind_gave_up_is_in_the_account(mine, capsys):
    def spent() -> int:
        capsys.readouterr()
        assert main(["status", "plan.yaml", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["account"]["total"]["tokens"]

    before = spent()
    spike = Finding("spike", 9.0, 3.0, "far above")
    begin(mine / STAGE / "01-replay", spike, step=30, rewind_steps=4, saved_steps=[10, 20])
    assert spent() == before + 10 * 256
