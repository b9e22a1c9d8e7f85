"""`keepwarm ladder suggest` on a real earlier run: whose outcomes are counted, by whose tolerance, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import yaml

from keepwarm.cli.main import main

LADDER = "[{rung: naive}, {rung: replay, shares: [5%, 95%]}]"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, real_text, one_stage_text) -> Path:
    """A folder with a plan whose one stage was trained: 95 % is the first that holds by its tolerance."""
    folder = tmp_path_factory.mktemp("earlier")
    (folder / "text").symlink_to(real_text)
    text = one_stage_text.replace("tokens: 10_240}", "tokens: 30_720}")
    text = text.replace("ladder: [{rung: replay, shares: [5%, 25%]}]", f"ladder: {LADDER}")
    (folder / "plan.yaml").write_text(text.replace("tolerance: 9 nats", "tolerance: {d0: 0.02 nats}"))
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml"]) == 0
    return folder


@pytest.fixture
def at(earlier, monkeypatch) -> Path:
    monkeypatch.chdir(earlier)
    return earlier


def suggest(capsys, *words: str, code: int = 0) -> dict:
    capsys.readouterr()
    assert main(["ladder", "suggest", "plan.yaml", "--stage", "stage2", "--from", "run", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(["ladder", "suggest", *words]) == 2
    return capsys.readouterr().err


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_evidence_is_what_the_run_recorded(at, capsys):
    before = snapshot(at)
    found = suggest(capsys)
    assert snapshot(at) == before
    verdicts = [
        json.loads(path.read_text()) for path in sorted((at / "run/arms/cookbook/stage2").glob("*/verdict.json"))
    ]
    assert sorted((each["outcome"], each["tokens"]) for each in found["evidence"]) == sorted(
        (each["outcome"], each["tokens"]) for each in verdicts
    )
    assert [each["similarity"] for each in found["evidence"]] == [1] * len(verdicts)
    assert found["shift"] == json.loads((at / "run/arms/cookbook/stage2/shift.json").read_text())
    assert found["expected"]["suggested"] <= found["expected"]["written"]


def test_outcomes_are_by_the_tolerance_of_the_plan_that_asks(at, capsys):
    all_hold = suggest(capsys, "--set", "verdict.tolerance={d0: 8 nats}")
    finished = [each for each in all_hold["evidence"] if not each["stopped_early"]]
    assert finished and {each["outcome"] for each in finished} == {"recovered"}
    strict = suggest(capsys, "--set", "verdict.tolerance={d0: 0.0001 nats}")
    outcomes = {each["candidate"]: each["outcome"] for each in strict["evidence"]}
    assert outcomes["naive"] == outcomes["replay 5%"] == "not-recovering"


def test_the_ladder_that_is_shown_can_be_pasted(at, capsys):
    found = suggest(capsys)
    capsys.readouterr()
    assert main(["ladder", "suggest", "plan.yaml", "--stage", "stage2", "--from", "run"]) == 0
    pasted = capsys.readouterr().out.split("of the plan:\n")[1]
    assert yaml.safe_load(pasted)["ladder"] == found["ladder"]
    plan = yaml.safe_load((at / "plan.yaml").read_text())
    plan["stages"][0]["ladder"] = yaml.safe_load(pasted)["ladder"]
    plan["run"]["folder"] = "elsewhere"
    (at / "pasted.yaml").write_text(yaml.safe_dump(plan))
    assert main(["plan", "pasted.yaml", "--json"]) == 0
    tried = [each["label"] for each in json.loads(capsys.readouterr().out)["stages"][0]["candidates"]]
    assert tried == [each["candidate"] for each in found["order"]]


def test_a_shift_that_the_plan_declares_is_enough(at, capsys):
    text = (at / "plan.yaml").read_text().replace("folder: run,", "folder: new,")
    (at / "new.yaml").write_text(text.replace("name: stage2,", "name: stage2, shift: strong,"))
    capsys.readouterr()
    assert main(["ladder", "suggest", "new.yaml", "--stage", "stage2", "--from", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shift"]["grade"], found["shift_from"]) == ("strong", "the plan says so")
    assert not (at / "new").exists()


def test_a_shift_that_is_not_known(at, capsys):
    (at / "new2.yaml").write_text((at / "plan.yaml").read_text().replace("folder: run,", "folder: new2,"))
    message = refused(capsys, "new2.yaml", "--stage", "stage2", "--from", "run")
    assert "stage2: its shift is not known" in message and "{name: stage2, shift: strong}" in message
    assert not (at / "new2").exists()


def test_a_stage_that_is_not_there(at, capsys):
    message = refused(capsys, "plan.yaml", "--stage", "stage9", "--from", "run")
    assert "--stage stage9: the plan has no such stage" in message and "one of: stage2" in message


def test_a_folder_that_is_no_run(at, capsys):
    assert "holds no plan.yaml" in refused(capsys, "plan.yaml", "--stage", "stage2", "--from", "text")


def test_a_run_named_twice(at, capsys):
    message = refused(capsys, "plan.yaml", "--stage", "stage2", "--from", "run", str(at / "run"))
    assert "the same run as run" in message


def test_a_damaged_shift(at, capsys):
    path = at / "run/arms/cookbook/stage2/shift.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    try:
        message = refused(capsys, "plan.yaml", "--stage", "stage2", "--from", "run")
    finally:
        path.write_text(whole)
    assert "shift.json: damaged" in message and "rm " in message


def test_a_person_s_word_counts(at, capsys):
    rejected = next(
        path.parent.name
        for path in sorted((at / "run/arms/cookbook/stage2").glob("*/verdict.json"))
        if not json.loads(path.read_text())["accepted"]
    )
    path = at / "run/arms/cookbook/stage2" / rejected / "verdict.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"accepted": True, "decision": {"verb": "accept"}}))
    try:
        found = suggest(capsys)
    finally:
        path.write_text(whole)
    assert sum(each["accepted"] for each in found["evidence"]) == 2
