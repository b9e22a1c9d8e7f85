"""The economy of the ladder end to end: what is put off, the budget, the best, side by side, and the account."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keepwarm.attempt.choices import read_choices
from keepwarm.cli.main import main

KEEPWARM = [sys.executable, "-m", "keepwarm.cli.main"]
STAGE = "arms/cookbook/stage2"
LADDER = "[{rung: naive}, {rung: replay, shares: [5%, 10%, 25%]}, {rung: replay-previous-mix, shares: [95%]}]"


@pytest.fixture(scope="module")
def climbed(tmp_path_factory, real_text, one_stage_text):
    """A climb of one stage to its last candidate; other tests begin from a copy of its base."""
    folder = tmp_path_factory.mktemp("climbed")
    (folder / "text").symlink_to(real_text)
    text = one_stage_text.replace("tokens: 10_240}", "tokens: 61_440}")
    text = text.replace(
        "tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]", f"tokens: 10_240, ladder: {LADDER}"
    )
    (folder / "plan.yaml").write_text(text.replace("tolerance: 9 nats", "tolerance: {d0: 0.02 nats}"))
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    return folder


@pytest.fixture
def based(climbed, tmp_path, monkeypatch) -> Path:
    """A run folder of the test's own with the trained base, beside the climbed one; `plan.yaml` in it is its plan."""
    folder = climbed / tmp_path.name
    shutil.copytree(climbed / "run", folder)
    shutil.rmtree(folder / STAGE)
    shutil.rmtree(folder / "buffer")
    text = (climbed / "plan.yaml").read_text().replace("folder: run,", f"folder: {folder.name},")
    (climbed / f"{folder.name}.yaml").write_text(text)
    monkeypatch.chdir(climbed)
    return folder


def words(folder: Path, *settings: str) -> list[str]:
    plan = "plan.yaml" if folder.name == "run" else f"{folder.name}.yaml"
    return [plan, *(word for each in settings for word in ("--set", each))]


def run(folder: Path, *settings: str, code: int = 0) -> None:
    assert main(["run", *words(folder, *settings), "--stage", "stage2"]) == code


def status(folder: Path, capsys) -> dict:
    capsys.readouterr()
    assert main(["status", *words(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def verdicts(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted((folder / STAGE).glob("*/verdict.json"))}


def trained(folder: Path) -> dict[str, list[tuple]]:
    """What decides every attempt's weights, step by step, and where they ended."""
    found = {}
    for path in sorted((folder / STAGE).glob("*/metrics.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [
            (r["kind"], r["step"], str(r["loss"])) for r in records if r["kind"] in ("train", "eval")
        ]
        for manifest in sorted(path.parent.glob("checkpoints/*/manifest.json"))[-1:]:
            found[path.parent.name].append(json.loads(manifest.read_text())["weights_sha256"])
    return found


def test_what_the_law_calls_hopeless_is_put_off(climbed, monkeypatch, capsys):
    choices = read_choices(climbed / "run" / STAGE)
    assert [choice["label"] for choice in choices] == ["naive", "replay 5%", "replay 10%", "replay-previous-mix 95%"]
    assert [each["label"] for each in choices[-1]["put_off"]] == ["replay 25%"]
    assert choices[-1]["put_off"][0]["why"].startswith("d0 would be forgotten by ")
    assert not (climbed / "run" / STAGE / "03-replay").exists()
    monkeypatch.chdir(climbed)
    assert status(climbed / "run", capsys)["stages"][0]["choices"] == choices


def test_a_second_run_makes_the_same_choices(climbed, monkeypatch):
    monkeypatch.chdir(climbed)
    before = {path: path.stat().st_mtime_ns for path in (climbed / "run/arms").rglob("*")}
    run(climbed / "run")
    assert {path: path.stat().st_mtime_ns for path in (climbed / "run/arms").rglob("*")} == before


def test_a_damaged_choice_is_named(based, capsys):
    (based / STAGE).mkdir()
    (based / STAGE / "choices.jsonl").write_text('{"candidate": "x"}\n')
    run(based, code=2)
    assert "choices.jsonl:1: not a choice" in capsys.readouterr().err


def test_every_token_is_in_the_account(climbed, monkeypatch, capsys):
    monkeypatch.chdir(climbed)
    found = status(climbed / "run", capsys)
    rows = {row["kind"]: row for row in found["account"]["rows"]}
    assert {kind: (row["attempts"], row["tokens"]) for kind, row in rows.items()} == {
        "base": (1, 61_440), "kept": (1, 10_240), "rejected": (3, 30_720),
    }  # fmt: skip
    by_hand = {"tokens": 0, "evaluation_tokens": 0}
    for path in climbed.glob("run/arms/*/*/*/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        by_hand["tokens"] += [r["tokens"] for r in records if r["kind"] == "train"][-1]
        measured = [r for r in records if r["kind"] == "eval" and r["measured_by"] is None]
        by_hand["evaluation_tokens"] += sum(32 * len(w) for r in measured for w in r["windows"].values())
    total = found["account"]["total"]
    assert {key: total[key] for key in by_hand} == by_hand and found["spent_tokens"] == by_hand["tokens"]
    assert total["compute_tokens"] == pytest.approx(by_hand["tokens"] + by_hand["evaluation_tokens"] / 3)
    share = by_hand["evaluation_tokens"] / 3 / total["compute_tokens"]
    assert found["account"]["evaluation_share"] == pytest.approx(share)
    spent = [choice["spent_tokens"] for choice in found["stages"][0]["choices"]]
    of_stage = sum(rows[kind]["compute_tokens"] for kind in ("kept", "rejected"))
    assert spent[0] == 0 and spent[-1] == pytest.approx(of_stage * 3 / 4, abs=1)
    assert main(["status", "plan.yaml"]) == 0
    said = capsys.readouterr().out
    assert "account, tokens" in said and "102,400" in said and "a measured token costs a third" in said


def test_a_budget_that_is_spent_ends_the_search_and_the_best_is_offered(based, capsys):
    run(based, "search={budget: 30k tokens}", code=1)
    assert "stage2: the budget of the search is spent, no candidate was accepted (naive" in capsys.readouterr().err
    assert sorted(verdicts(based)) == ["00-naive", "01-replay"]
    found = status(based, capsys)
    assert (
        found["stages"][0]["state"] == "exhausted"
        and found["stages"][0]["ended"] == "the budget of the search is spent"
    )
    assert read_choices(based / STAGE)[-1]["budget_tokens"] == 30_000
    assert found["account"]["total"]["compute_tokens"] - found["account"]["rows"][0]["compute_tokens"] <= 30_000
    assert main(["status", *words(based)]) == 0
    assert "stage2: the search ended: the budget of the search is spent" in capsys.readouterr().out
    assert main(["decide", *words(based), "accept", "--stage", "stage2", "--because", "good enough"]) == 0
    assert "replay 5%: accept" in capsys.readouterr().out
    run(based, "search={budget: 30k tokens}")
    assert sorted(verdicts(based)) == ["00-naive", "01-replay"] and verdicts(based)["01-replay"]["label"] == "replay 5%"


def test_hours_bound_a_search_at_the_measured_rate(based, capsys):
    run(based, "search={budget: 0.000001 hours}", code=1)
    assert "the budget of the search is spent, no candidate was accepted (none was tried)" in capsys.readouterr().err


def test_the_best_of_a_ladder_is_accepted(based, capsys):
    settings = ("search={choose: best}", "verdict.tolerance=9 nats", "stages.stage2.tokens=5_120")
    run(based, *settings)
    found = verdicts(based)
    assert len(found) == 5 and {each["outcome"] for each in found.values()} == {"recovered"}
    means = {name: sum(c["loss"] for k in ("old", "new") for c in each[k].values()) for name, each in found.items()}
    (accepted,) = (name for name, each in found.items() if each["accepted"])
    assert accepted == min(means, key=means.__getitem__) != "00-naive"
    assert found[accepted]["reasons"][-1].startswith("the best of 5: held-out losses -")
    assert f"stage2: {found[accepted]['label']} is the best of 5" in capsys.readouterr().out
    assert status(based, capsys)["stages"][0]["state"] == "accepted"
    before = trained(based)
    run(based, *settings)
    assert (trained(based), verdicts(based)) == (before, found)


def test_side_by_side_decides_the_same_with_the_same_bits(climbed, based, capsys):
    run(based, "search={side_by_side: 2}")
    alone, mine = trained(climbed / "run"), trained(based)
    assert {name: mine[name] for name in alone} == alone
    wanted, found = read_choices(climbed / "run" / STAGE), read_choices(based / STAGE)
    for key in ("candidate", "label", "why", "put_off"):
        assert [choice[key] for choice in found] == [choice[key] for choice in wanted]
    ahead = verdicts(based)["03-replay"]
    assert (ahead["outcome"], ahead["accepted"]) == ("stopped", False)
    assert ahead["reasons"] == ["not needed, replay-previous-mix 95% was accepted first"]
    account = status(based, capsys)["account"]
    rows = {row["kind"]: row["tokens"] for row in account["rows"]}
    assert rows["not needed"] == ahead["tokens"] and sum(rows.values()) == account["total"]["tokens"]


def _owner(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_side_by_side_stopped_and_run_again_gives_the_same_bits(climbed, based, kill):
    command = [*KEEPWARM, "run", *words(based, "search={side_by_side: 2}"), "--stage", "stage2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wanted = [based / STAGE / name / "metrics.jsonl" for name in ("00-naive", "01-replay")]
    while process.poll() is None and not all(path.exists() and '"train"' in path.read_text() for path in wanted):
        time.sleep(0.01)
    children = [path for path in Path("/proc").glob("[0-9]*") if _owner(path) == process.pid]
    assert len(children) >= 2
    process.send_signal(kill)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if kill == signal.SIGINT else -signal.SIGKILL)
    assert kill == signal.SIGKILL or said.strip() == "stopped; nothing is lost, the same command goes on or starts over"
    deadline = time.monotonic() + 20
    while any(child.exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.exists() for child in children)
    run(based, "search={side_by_side: 2}")
    alone, mine = trained(climbed / "run"), trained(based)
    assert {name: mine[name] for name in alone} == alone


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("search={budget: 5k tokens}", "5000 tokens: stage2 takes 10,240 tokens a candidate, so none could be tried"),
        ("search={budget: 3M}", "'3M' is not a budget such as 3M tokens or 12 hours"),
        ("search={side_by_side: 0}", "greater than or equal to 1"),
        ("search={choose: cheapest}", "search.choose"),
    ],
)
def test_refusals(climbed, monkeypatch, capsys, setting, said):
    monkeypatch.chdir(climbed)
    run(climbed / "run", setting, code=2)
    assert said in capsys.readouterr().err
