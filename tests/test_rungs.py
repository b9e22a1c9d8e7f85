"""Every rung driven through on real text: where it starts, what it is fed, what the rate does, what it is judged by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepwarm.attempt.records import read_attempt
from keepwarm.cli.main import main

STAGE2 = "{name: stage2, new: d1, tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]}"
STEP = 256


@pytest.fixture
def climb(edit_plan, workplace, capsys):
    """Run stage 2 with a ladder; returns the attempts that were tried, by folder name."""

    def run(ladder: str, *more: str, tokens: int = 5_120, code: int = 0, upto: str = "stage2") -> dict[str, dict]:
        edit_plan((STAGE2, f"{{name: stage2, new: d1, tokens: {tokens}, ladder: [{ladder}]}}"))
        for pair in more:
            edit_plan(tuple(pair.split(" => ")))
        assert main(["run", "plan.yaml", "--stage", upto]) == code, capsys.readouterr().err
        found = {}
        for folder in sorted((workplace / f"run/arms/cookbook/{upto}").iterdir()):
            if (folder / "verdict.json").exists():
                found[folder.name] = json.loads((folder / "verdict.json").read_text())
        return found

    return run


def rates(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["lr"] for record in records if record["kind"] == "train"]


def test_replay_rewarm_warms_up_over_one_percent_and_stays(climb, workplace, manifest_of):
    found = climb("{rung: replay-rewarm, lr: [lr_max/2]}", tokens=51_200)
    assert found["00-replay-rewarm"]["outcome"] == "recovered"
    folder = workplace / "run/arms/cookbook/stage2/00-replay-rewarm"
    attempt = read_attempt(folder)
    assert attempt.moments == "reset" and {p.role: float(p.share) for p in attempt.parts} == {"d0": 0.05, "new": 0.95}
    assert rates(folder)[:4] == [0.0, 0.00075, 0.0015, 0.0015]  # 2 of 200 steps
    end = manifest_of(workplace / "run", "cookbook/stage2/00-replay-rewarm")
    assert (end["phase"], end["lr"], end["lr_max"]) == ("peak", 0.0015, 0.0015)


def test_after_a_rewarm_its_plateau_is_the_lines_lr_max(climb, workplace, manifest_of):
    climb("{rung: replay-rewarm, lr: [lr_max/2]}", upto="stage3")
    end = manifest_of(workplace / "run", "cookbook/stage3/00-replay-previous-mix")
    assert (end["phase"], end["lr"], end["lr_max"]) == ("peak", 0.0015, 0.0015)


def test_replay_rewarm_takes_the_replay_candidate_that_did_best(climb, workplace):
    found = climb(
        "{rung: replay, shares: [1%, 10%]}, {rung: replay-rewarm, lr: [lr_max]}",
        "tolerance: 9 nats => tolerance: 0 nats", "base: {corpus: d0, tokens: 10_240} => base: {corpus: d0, tokens: 61_440}",
        code=1,
    )  # fmt: skip
    excess = {name: v["old"]["d0"]["forgetting"] for name, v in found.items() if "old" in v}
    best = min((name for name in excess if "rewarm" not in name), key=excess.__getitem__)
    share = {"00-replay": 0.01, "01-replay": 0.1}[best]
    attempt = read_attempt(workplace / "run/arms/cookbook/stage2/02-replay-rewarm")
    assert float(attempt.parts[0].share) == share


def test_balance_ends_with_the_final_cooldown_and_the_line_goes_on_cooled(climb, workplace, manifest_of):
    found = climb(
        "{rung: replay, shares: [5%]}",
        "ladder: [{rung: replay-previous-mix, shares: [25%]}] => ladder: [{rung: balance}]",
        "ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}] => ladder: [{rung: naive}, {rung: rewarm-converged, lr: [lr_max/2], shares: [25%]}]",
        upto="stage4",
    )  # fmt: skip
    run = workplace / "run"
    balanced = read_attempt(run / "arms/cookbook/stage3/00-balance")
    assert {p.role: str(p.share) for p in balanced.parts} == {"d0": "33/100", "new": "33/100", "buffer": "17/50"}
    cooled = manifest_of(run, "cookbook/stage3/01-cooldown")
    assert cooled["phase"] == "cooled" and cooled["lr"] == 0.0
    assert found["00-naive"]["outcome"] == "refused" and "is cooled at LR 0" in found["00-naive"]["reasons"][0]
    assert found["01-rewarm-converged"]["outcome"] == "recovered"
    assert manifest_of(run, "cookbook/stage4/01-rewarm-converged")["parent"] == cooled["id"]


def test_decay_then_introduce_crosses_where_computed_and_ends_exactly(climb, workplace, manifest_of):
    found = climb("{rung: decay-then-introduce, decay: [cosine], to: [lr_max/100]}", tokens=1_024)
    assert found["00-decay-then-introduce"]["outcome"] == "recovered", found
    run, folder = workplace / "run", workplace / "run/arms/cookbook/stage2/00-decay-then-introduce"
    attempt = read_attempt(folder)
    # cos to LR/100 crosses LR/5 at 71.1 %: the decay is sized so that 4 steps of new mix remain
    switch = attempt.segments[1].first_sample // 8
    assert (attempt.steps, switch) == (14, 10)
    schedule = attempt.schedule
    assert schedule.lr(switch * STEP) <= 3e-3 / 5 < schedule.lr((switch - 1) * STEP)
    assert schedule.where(3e-3 / 5) == pytest.approx(0.71118 * attempt.tokens, abs=2)
    end = manifest_of(run, "cookbook/stage2/00-decay-then-introduce")
    assert (end["lr"], end["phase"]) == (3e-5, "cooled")
    assert rates(folder) == [schedule.lr(step * STEP) for step in range(14)]
    # from a checkpoint at peak one decay segment before the base's end; its own mix first, then a mix, never new alone
    start = json.loads((run / attempt.start / "manifest.json").read_text())
    assert (start["phase"], start["line_tokens"]) == ("peak", 30 * STEP)
    first, second = (segment.mixture for segment in attempt.segments)
    d0 = next(s.id for s in attempt.sources if s.corpus == "d0")
    assert first.share(d0) == 1 and float(second.share(d0)) == 0.6
    assert attempt.moments == "keep"


def test_what_ends_cooled_is_judged_against_cooled_references(climb, workplace):
    climb("{rung: decay-then-introduce, decay: [linear]}", tokens=1_024)
    run = workplace / "run/arms/cookbook"
    header = json.loads((run / "stage2/00-decay-then-introduce/metrics.jsonl").read_text().splitlines()[0])
    base = json.loads(sorted((run / "base/00-base/checkpoints").iterdir())[-1].joinpath("manifest.json").read_text())
    cooled = json.loads(
        sorted((run / "base/01-cooldown/checkpoints").iterdir())[-1].joinpath("manifest.json").read_text()
    )
    reference = header["references"]["d0"]
    assert reference["phase"] == "cooled" and "less the cooldown drop measured at" in reference["phase_is"]
    assert reference["loss"] == pytest.approx(cooled["evaluation"]["d0"]["loss"], abs=1e-5)
    assert header["before"]["d1"]["loss"] == pytest.approx(cooled["evaluation"]["d1"]["loss"], abs=1e-5)
    assert base["evaluation"]["d0"]["loss"] != pytest.approx(reference["loss"], abs=1e-4)


def test_the_anchor_says_whose_lr_max_a_decay_starts_from(climb, workplace):
    """Behind a rewarm to LR_max/2 the earlier checkpoint stands at twice the line's LR_max: its own, if it is named."""
    introduce = "{rung: decay-then-introduce, decay: [cosine], anchor: %s}"
    found = climb(
        "{rung: replay-rewarm, lr: [lr_max/2]}",
        "ladder: [{rung: replay-previous-mix, shares: [25%]}] => "
        f"ladder: [{introduce % 'base-lr-max'}, {introduce % 'start-lr'}]",
        upto="stage3", code=1,
    )  # fmt: skip
    assert "LR 0.003 (200% of LR_max 0.0015)" in found["00-decay-then-introduce"]["reasons"][0]
    attempt = read_attempt(workplace / "run/arms/cookbook/stage3/01-decay-then-introduce")
    assert "/base/" in str(attempt.start)
    assert (attempt.schedule.lr(0), attempt.schedule.lr(attempt.tokens)) == (3e-3, pytest.approx(3e-5, rel=1e-12))
    switch = attempt.segments[1].first_sample // 8
    assert attempt.schedule.lr(switch * STEP) <= 3e-3 / 5 < attempt.schedule.lr((switch - 1) * STEP)


def test_decay_then_introduce_without_an_earlier_checkpoint_is_refused(climb):
    found = climb("{rung: decay-then-introduce, decay: [cosine], to: [lr_max/100]}, {rung: naive}", tokens=5_120)
    assert "the line has none" in found["00-decay-then-introduce"]["reasons"][0]


def test_the_new_data_alone_is_never_introduced(climb):
    found = climb("{rung: decay-then-introduce, alpha_0: 0%}, {rung: naive}", tokens=1_024)
    assert "would introduce the new data alone" in found["00-decay-then-introduce"]["reasons"][0]


def test_the_special_continuation_goes_on_decaying(climb, workplace, manifest_of):
    climb(
        "{rung: decay-then-introduce, decay: [cosine]}",
        "tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}] => tokens: 1_024, ladder: [{rung: replay-previous-mix}, {rung: special-continuation}]",
        tokens=1_024, upto="stage3",
    )  # fmt: skip
    run = workplace / "run"
    before = manifest_of(run, "cookbook/stage2/00-decay-then-introduce")
    attempt = read_attempt(run / "arms/cookbook/stage3/01-special-continuation")
    assert attempt.start == before["id"] and attempt.moments == "keep"
    assert attempt.schedule.lr(0) == before["lr"] == 3e-5
    assert attempt.schedule.lr(attempt.tokens) == pytest.approx(3e-7, rel=1e-12)
    switch = attempt.segments[1].first_sample // 8
    assert attempt.schedule.lr(switch * STEP) <= 3e-5 / 5 < attempt.schedule.lr((switch - 1) * STEP)
    corpora = {s.corpus for s in attempt.sources if s.role == "base data"}
    assert corpora == {"d0", "d1"}  # D_2^CPT, as recorded


def test_rewarm_converged_branches_a_cooldown_first(climb, workplace, manifest_of):
    found = climb("{rung: rewarm-converged, lr: [2 lr_max], shares: [30%]}")
    assert found["00-rewarm-converged"]["outcome"] == "recovered"
    run = workplace / "run"
    cooled = manifest_of(run, "cookbook/base/01-cooldown")
    end = manifest_of(run, "cookbook/stage2/00-rewarm-converged")
    assert cooled["attempt_tokens"] == 8 * STEP  # 20 % of the base's tokens, on the disk and in the account
    assert (end["parent"], end["phase"], end["lr"]) == (cooled["id"], "cooled", 0.0)
    folder = run / "arms/cookbook/stage2/00-rewarm-converged"
    assert rates(folder)[:2] == [0.0, 0.006] and read_attempt(folder).moments == "reset"


def test_legacy_replay_rewarm_from_a_cosine_base(climb, workplace, manifest_of):
    found = climb(
        "{rung: replay, shares: [5%]}, {rung: legacy-replay-rewarm, lr: [lr_max/2], to: lr_max/10}",
        "kind: wsd => kind: cosine",
    )  # fmt: skip
    assert found["00-replay"]["outcome"] == "refused"
    assert found["01-legacy-replay-rewarm"]["outcome"] == "recovered"
    end = manifest_of(workplace / "run", "cookbook/stage2/01-legacy-replay-rewarm")
    assert (end["lr"], end["phase"]) == (pytest.approx(3e-4), "cooled")
    attempt = read_attempt(workplace / "run/arms/cookbook/stage2/01-legacy-replay-rewarm")
    assert {p.role: float(p.share) for p in attempt.parts} == {"d0": 0.1, "new": 0.9} and attempt.moments == "reset"


def test_legacy_from_an_at_peak_base_is_refused(climb):
    found = climb("{rung: legacy-replay-rewarm}, {rung: naive}")
    refused = [v for name, v in found.items() if "legacy" in name]
    assert len(refused) == 3 and all("starts from a converged checkpoint, but" in v["reasons"][0] for v in refused)


@pytest.mark.parametrize(
    ("schedule", "kind", "phase"), [("peak", "wsd", "peak"), ("decay", "wsd", "cooled"), ("decay", "cosine", "cooled")]
)
def test_incremental_raises_the_new_share_in_equal_steps(climb, workplace, manifest_of, schedule, kind, phase):
    found = climb(f"{{rung: incremental, alpha_0: 20%, schedule: {schedule}}}", f"kind: wsd => kind: {kind}")
    assert found["00-incremental"]["outcome"] == "recovered"
    attempt = read_attempt(workplace / "run/arms/cookbook/stage2/00-incremental")
    new = next(s.id for s in attempt.sources if s.corpus == "d1")
    assert [s.first_sample for s in attempt.segments] == [0, 40, 80, 120]
    assert [float(s.mixture.share(new)) for s in attempt.segments] == [0.08, 0.2, 0.4, 0.8]
    assert manifest_of(workplace / "run", "cookbook/stage2/00-incremental")["phase"] == phase
    assert attempt.moments == ("keep" if kind == "wsd" else "reset")
    assert attempt.schedule.lr(0) == (3e-3 if kind == "wsd" else 0.0)


def test_a_climb_through_three_rungs_to_the_one_that_holds(climb, workplace, manifest_of):
    """Nothing of the new data may cost D_0 anything: only a mix that is nearly all D_0 holds."""
    found = climb(
        "{rung: naive}, {rung: replay, shares: [5%]}, {rung: rewarm-converged, lr: [2 lr_max], shares: [25%]}, {rung: replay, shares: [95%]}",
        "tolerance: 9 nats => tolerance: {d0: 0.02 nats}", "base: {corpus: d0, tokens: 10_240} => base: {corpus: d0, tokens: 61_440}",
        tokens=10_240,
    )  # fmt: skip
    outcomes = {name: verdict["outcome"] for name, verdict in found.items()}
    assert outcomes == {
        "00-naive": "not-recovering", "01-replay": "not-recovering", "02-rewarm-converged": "not-recovering", "03-replay": "recovered",
    }  # fmt: skip
    base = manifest_of(workplace / "run", "cookbook/base/00-base")["id"]
    assert manifest_of(workplace / "run", "cookbook/stage2/00-naive")["parent"] == base
    assert (
        manifest_of(workplace / "run", "cookbook/stage2/03-replay")["parent"] == base
    )  # a rejected attempt moves nothing
    cursors = read_attempt(workplace / "run/arms/cookbook/stage2/03-replay").segments[0].cursors
    assert dict(cursors) == manifest_of(workplace / "run", "cookbook/base/00-base")["cursors"]


def test_the_d0_only_arm_gives_regret(workplace, edit_plan, capsys):
    edit_plan(("control: none", "control: [no-replay, d0-only]"))
    assert main(["run", "plan.yaml"]) == 0
    capsys.readouterr()
    assert main(["status", "plan.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    arms = found["arms"]
    assert arms["d0-only"]["regret"] == {"d0": 0.0}
    expected = arms["cookbook"]["loss"]["d0"]["peak"] - arms["d0-only"]["loss"]["d0"]["peak"]
    assert arms["cookbook"]["regret"]["d0"] == pytest.approx(expected)
    attempt = read_attempt(workplace / "run/arms/d0-only/stage3/00-d0-only")
    assert [(p.role, p.share) for p in attempt.parts] == [("d0", 1)] and attempt.new is None
    every = [json.loads(p.read_text()) for p in (workplace / "run").glob("arms/*/*/*/attempt.json")]
    assert found["spent_tokens"] == sum(each["steps"] for each in every) * STEP


def test_what_cannot_recover_is_stopped_early_and_costs_less(climb, workplace):
    found = climb(
        "{rung: naive}", "tolerance: 9 nats => tolerance: 0 nats",
        "base: {corpus: d0, tokens: 10_240} => base: {corpus: d0, tokens: 61_440}", tokens=51_200, code=1,
    )  # fmt: skip
    verdict = found["00-naive"]
    assert verdict["outcome"] == "not-recovering" and verdict["reasons"][0].startswith(
        "stopped early: d0 has forgotten"
    )
    assert 60 <= verdict["step"] < 200
    # the same command does not train it any further
    lines = (workplace / "run/arms/cookbook/stage2/00-naive/metrics.jsonl").read_text()
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 1
    assert (workplace / "run/arms/cookbook/stage2/00-naive/metrics.jsonl").read_text() == lines


def test_a_ramp_brings_the_new_data_in_piece_by_piece(edit_plan, workplace, capsys):
    edit_plan((STAGE2, STAGE2.replace("tokens: 5_120", "tokens: 10_240, ramp: 20%")))
    assert main(["plan", "plan.yaml", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["stages"][0]["candidates"][0]["shares"]
    assert planned == pytest.approx({"previous": 0.1, "d0": 0.045, "new": 0.855})
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    folder = workplace / "run/arms/cookbook/stage2/00-replay"
    attempt = read_attempt(folder)
    assert [segment.first_sample for segment in attempt.segments] == [8 * step for step in range(9)]  # 8 of 40 steps
    new = next(source.id for source in attempt.sources if source.role == "new")
    shares = [float(segment.mixture.share(new)) for segment in attempt.segments]
    assert shares == pytest.approx([0.95 * (2 * k + 1) / 16 for k in range(8)] + [0.95])
    assert {part.role: float(part.share) for part in attempt.parts} == pytest.approx(planned)
    fed = {row["role"]: row for row in json.loads((folder / "verdict.json").read_text())["fed"]}
    assert fed["new"]["asked_tokens"] == pytest.approx(0.855 * 10_240)
    assert abs(fed["new"]["fed_tokens"] - 0.855 * 10_240) <= 32 * len(shares)


def test_the_control_arm_has_no_ramp(edit_plan, workplace):
    edit_plan(
        (STAGE2, STAGE2.replace("tokens: 5_120", "tokens: 5_120, ramp: 50%")), ("control: none", "control: no-replay")
    )
    assert main(["run", "plan.yaml"]) == 0
    control = read_attempt(next((workplace / "run/arms/no-replay/stage2").iterdir()))
    assert len(control.segments) == 1 and [part.role for part in control.parts] == ["new"]
