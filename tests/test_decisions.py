"""People have the last word: `run --approve` waits for it, `keepwarm decide` records it."""

from __future__ import annotations

import json

import pytest

from keepwarm.cli.main import main

ALONE = (
    ("  - {name: stage3, new: d2, tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}]}\n", ""),
    ("  - {name: stage4, new: d3, tokens: 5_120, ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}]}\n", ""),
)


def decide(*words: str) -> int:
    return main(["decide", "plan.yaml", *words, "--stage", "stage2", "--because", "we looked at the samples"])


def stage(capsys) -> dict:
    capsys.readouterr()
    assert main(["status", "plan.yaml", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["stages"][0]


def test_approval_of_every_rung_waits_and_a_rejection_climbs(edit_plan, workplace, capsys):
    edit_plan(*ALONE)
    assert main(["run", "plan.yaml", "--approve", "each-rung"]) == 0
    assert "keepwarm decide plan.yaml accept --stage stage2" in capsys.readouterr().out
    assert not (workplace / "run/buffer").exists()
    assert main(["run", "plan.yaml", "--approve", "each-rung"]) == 0  # still waiting, nothing more was trained
    assert [each["label"] for each in stage(capsys)["attempts"]] == ["replay 5%"]
    assert decide("reject") == 0
    assert main(["run", "plan.yaml", "--approve", "each-rung"]) == 0
    assert [(each["outcome"], each["accepted"], each["waiting"]) for each in stage(capsys)["attempts"]] == [
        ("recovered", False, False), ("recovered", False, True),
    ]  # fmt: skip
    assert decide("accept") == 0
    assert main(["run", "plan.yaml", "--approve", "each-rung"]) == 0
    found = stage(capsys)
    assert found["state"] == "accepted" and found["attempts"][1]["decision"]["because"] == "we looked at the samples"
    assert (workplace / "run/buffer/v1").exists()


def test_approval_of_a_stage_waits_for_what_would_be_accepted(edit_plan, workplace, capsys):
    edit_plan(*ALONE)
    assert main(["run", "plan.yaml", "--approve", "each-stage"]) == 0
    assert "Your word, then run again" in capsys.readouterr().out
    assert main(["status", "plan.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["stages"][0]["state"] == "running" and "keepwarm decide PLAN accept --stage stage2" in found["next"]["do"]
    )
    assert main(["status", "plan.yaml"]) == 0
    assert "waits" in capsys.readouterr().out  # the cell is folded
    assert main(["lineage", "plan.yaml"]) == 0
    assert "stage2 replay 5%: waits for a person's word, recovered" in capsys.readouterr().out
    assert main(["run", "plan.yaml", "--branch", "average", "--from", "stage2@peak"]) == 0
    assert decide("accept") == 0 and main(["run", "plan.yaml"]) == 0
    assert main(["status", "plan.yaml"]) == 0
    assert "person" in capsys.readouterr().out


def test_nothing_is_deleted_that_the_ladder_needs_after_a_rejection(edit_plan, workplace, capsys):
    """While a person's word is waited for, the stage is not accepted: rungs behind it may go back along the base."""
    edit_plan(
        *ALONE,
        (
            "shares: [5%, 25%]}]",
            "shares: [5%]}, {rung: decay-then-introduce, decay: [linear], to: [lr_max/10], horizon: stage}]",
        ),
    )
    assert main(["run", "plan.yaml", "--approve", "each-stage"]) == 0
    assert main(["lineage", "prune", "plan.yaml", "--keep", "needed"]) == 0
    assert decide("reject") == 0
    assert main(["run", "plan.yaml"]) == 0
    assert [each["outcome"] for each in stage(capsys)["attempts"]] == ["recovered", "recovered"]


def test_a_run_that_does_not_ask_any_more_goes_on(edit_plan, workplace, capsys):
    edit_plan(*ALONE)
    assert main(["run", "plan.yaml", "--approve", "each-stage"]) == 0
    assert main(["run", "plan.yaml"]) == 0
    assert stage(capsys)["state"] == "accepted"


def test_an_exhausted_ladder_offers_to_accept_its_best(edit_plan, workplace, capsys, manifest_of):
    edit_plan(
        *ALONE, ("tolerance: 9 nats", "tolerance: 0 nats"),
        ("base: {corpus: d0, tokens: 10_240}", "base: {corpus: d0, tokens: 61_440}"),
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", "ladder: [{rung: naive}, {rung: replay, shares: [10%]}]"),
    )  # fmt: skip
    assert main(["run", "plan.yaml"]) == 1
    capsys.readouterr()
    assert main(["status", "plan.yaml", "--json"]) == 0
    assert "keepwarm decide PLAN accept --stage stage2" in json.loads(capsys.readouterr().out)["next"]["do"]
    before = {a["label"]: a["outcome"] for a in stage(capsys)["attempts"]}
    assert set(before.values()) == {"not-recovering"}
    assert decide("accept") == 0
    assert "replay 10%: accept" in capsys.readouterr().out
    assert main(["run", "plan.yaml"]) == 0
    assert stage(capsys)["state"] == "accepted"
    assert manifest_of(workplace / "run", "cookbook/stage2/02-cooldown")["phase"] == "cooled"


def test_next_goes_on_to_the_rung_a_person_chose(edit_plan, workplace, capsys):
    edit_plan(
        *ALONE,
        ("ladder: [{rung: replay, shares: [5%, 25%]}]", "ladder: [{rung: naive}, {rung: replay, shares: [5%, 10%]}, {rung: incremental}]"),
    )  # fmt: skip
    assert main(["run", "plan.yaml", "--approve", "each-rung"]) == 0
    assert decide("next", "incremental") == 0
    assert main(["run", "plan.yaml"]) == 0
    outcomes = [(each["rung"], each["outcome"], each["accepted"]) for each in stage(capsys)["attempts"]]
    assert outcomes == [
        ("naive", "recovered", False), ("replay", "skipped", False), ("replay", "skipped", False), ("incremental", "recovered", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["accept", "replay"], "next takes a rung"),
        (["next"], "next takes a rung"),
        (["next", "retry"], "retry is not a rung"),
        (["accept"], "no attempt has come to its end"),
    ],
)
def test_refusals(workplace, capsys, words, said):
    assert decide(*words) == 2
    assert said in capsys.readouterr().err
    assert main(["decide", "plan.yaml", "accept", "--stage", "stage9", "--because", "x"]) == 2
    assert main(["decide", "plan.yaml", "accept", "--stage", "stage2", "--because", " "]) == 2


def test_a_decision_is_given_once(edit_plan, workplace, capsys):
    edit_plan(*ALONE)
    assert main(["run", "plan.yaml", "--approve", "each-rung"]) == 0
    assert decide("reject") == 0
    assert decide("accept") == 2
    assert "nothing is overwritten silently" in capsys.readouterr().err


def test_a_stage_that_others_went_on_from_is_not_taken_back(workplace, capsys):
    assert main(["run", "plan.yaml", "--stage", "stage3"]) == 0
    for words in (["reject"], ["next", "buffer-mix"]):
        assert decide(*words) == 2
        assert "replay 5%: stage3 went on from it already" in capsys.readouterr().err
    assert not (workplace / "run/arms/cookbook/stage2/00-replay/decision.json").exists()
