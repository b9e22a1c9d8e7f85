"""Retention: what may be deleted, why, and that no rung of the plan ever misses it; deleting that survives a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.attempt import decay, resolve, rewarm
from keepwarm.attempt.candidates import resolve as start_of
from keepwarm.attempt.line import Line
from keepwarm.attempt.resolve import Request
from keepwarm.errors import GuardError, LineageError, PlanError
from keepwarm.lineage import deletion
from keepwarm.lineage.manifest import Manifest, checkpoint_name, read_manifest, verify_files, write_manifest
from keepwarm.lineage.retention import BASE, Branch, decide
from keepwarm.plan.model import Plan
from keepwarm.plan.rungs import candidates
from keepwarm.schedule import schedule as schedules

LR, STEP = 3e-3, 32


def plan_of(*ladders, **more) -> Plan:
    stages = [{"name": f"stage{n}", "new": f"d{n - 1}", "tokens": 320, "ladder": ladder} | more.get(f"stage{n}", {})
              for n, ladder in enumerate(ladders, start=2)]  # fmt: skip
    return Plan.model_validate({
        "name": "p", "model": {"hf": "none"}, "sequence_length": 8, "global_batch_size": 4,
        "optimizer": {"lr_max": LR} | more.get("optimizer", {}), "holdout": {"tokens": 256},
        "corpora": {f"d{n}": {"text": "t"} for n in range(len(ladders) + 1)}, "base": {"corpus": "d0", "tokens": 1280},
        "stages": stages, "control": more.get("control", "none"), "run": {"folder": "run"},
    })  # fmt: skip


REPLAY = [{"rung": "replay", "shares": ["5%", "25%"]}]
DECAY = [{"rung": "decay-then-introduce", "decay": ["cosine"], "horizon": "stage"}]


def attempt_of(stage: int, number: int, start: Manifest | None, schedule, every: int = 10, **facts) -> Branch:
    """An attempt at the place `stage`, saved every so many steps, as it would stand on the disk at its end."""
    name, rung = ("base" if stage == BASE else f"stage{stage + 2}"), facts.pop("rung", "replay")
    arm, batch = facts.pop("arm", "cookbook"), facts.pop("batch", 4)
    folder = f"arms/{arm}/{name}/{number:02d}-{rung}"
    tokens_of_step, begin = 8 * batch, start.line_tokens if start else 0
    steps = schedule.tokens // tokens_of_step
    saved = []
    for step in sorted({*range(every, steps, every), steps}):
        tokens = step * tokens_of_step
        phase = schedule.phase(tokens)
        saved.append(Manifest(
            id=f"{folder}/checkpoints/{checkpoint_name(begin + tokens, phase)}", parent=start.id if start else None,
            arm=arm, stage=name, rung=rung, attempt=folder, plan="", step=step, samples=step * batch,
            attempt_tokens=tokens, line_tokens=begin + tokens, lr=schedule.lr(tokens), lr_max=schedule.lr_max, phase=phase,
            sequence_length=8, global_batch_size=batch,
        ))  # fmt: skip
    usual = {
        "label": f"{rung} {number}",
        "control": arm != "cookbook",
        "cooldown": rung == "cooldown",
        "finished": True,
    }
    usual |= {"accepted": stage == BASE and rung != "cooldown", "outcome": None, "stage_name": name}
    return Branch(arm=arm, stage=stage, start=start.id if start else None, checkpoints=tuple(saved), **usual | facts)


@pytest.fixture
def base() -> Branch:
    return attempt_of(BASE, 0, None, schedules.wsd(LR, 64, 1280), rung="base")


def flat(steps: int = 10):
    return schedules.constant(LR, steps * STEP)


def of(decisions, keep: bool) -> dict[str, str]:
    """Folder and tokens of what is kept (or deleted), with the reason."""
    return {
        f"{d.checkpoint.stage}/{d.checkpoint.attempt.rpartition('/')[2]} {d.checkpoint.line_tokens}": d.reason
        for d in decisions
        if d.keep is keep
    }


def accepted(branch: Branch) -> Branch:
    return replace(branch, accepted=True, outcome="recovered")


def test_all_deletes_nothing(base):
    rejected = attempt_of(0, 0, base.checkpoints[-1], flat(), outcome="not-recovering")
    found = decide(plan_of(REPLAY), [base, rejected], (), "all")
    assert len(found) == 5 and {d.reason for d in found if d.keep} == {"the plan keeps all"}


def test_a_stage_that_is_not_accepted_keeps_every_attempt_and_the_base_its_end(base):
    rejected = attempt_of(0, 0, base.checkpoints[-1], flat(20), outcome="not-recovering")
    found = decide(plan_of(REPLAY), [base, rejected], (), "needed")
    why = "stage2 is not accepted yet: any of its attempts may still be"
    assert of(found, True) == {
        "base/00-base 1280": "the base",
        "stage2/00-replay 1600": why,
        "stage2/00-replay 1920": why,
    }
    assert list(of(found, False)) == ["base/00-base 320", "base/00-base 640", "base/00-base 960"]


@pytest.mark.parametrize("policy", ["needed", "peak-before-each-cooldown"])
def test_after_acceptance_rejected_attempts_go_and_the_ends_at_peak_by_the_policy(base, policy):
    end = base.checkpoints[-1]
    rejected = attempt_of(0, 0, end, flat(20), outcome="not-recovering")
    first = accepted(attempt_of(0, 1, end, flat(20)))
    second = accepted(attempt_of(1, 0, first.checkpoints[-1], flat(20)))
    found = decide(plan_of(REPLAY, REPLAY), [base, rejected, first, second], (), policy)
    gone = of(found, False)
    assert gone["stage2/00-replay 1920"] == "not-recovering; stage2 went on with replay 1"
    assert gone["stage2/01-replay 1600"] == "on the way; no rung of the plan goes back to it"
    assert ("stage2/01-replay 1920" in gone) == (policy == "needed")
    kept = of(found, True)
    assert kept["stage3/00-replay 2560"] == "the end of the cookbook line" and kept["base/00-base 1280"] == "the base"
    if policy != "needed":
        assert kept["stage2/01-replay 1920"] == "the end of stage2, at peak"


def test_decay_then_introduce_keeps_the_newest_it_may_start_from_and_all_that_is_newer(base):
    """A cosine of 10 steps crosses LR/5 in step 8: 256 tokens before the end of the line at 1920."""
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20)))
    found = decide(plan_of(REPLAY, DECAY), [base, first], (), "needed")
    kept = of(found, True)
    why = "stage3 decay-then-introduce cosine to lr_max/100 may start 256 tokens before the line's end"
    assert kept["stage2/00-replay 1600"] == why
    assert list(of(found, False)) == ["base/00-base 320", "base/00-base 640", "base/00-base 960"]


def test_a_later_stage_is_asked_from_where_an_earlier_decay_would_end(base):
    """stage3's decay of 13 steps starts 11 before 1920, at 1280, and ends at 1696; stage4's starts 17 steps before that."""
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20)))
    linear = [DECAY[0] | {"decay": ["linear"]}]
    plan = plan_of(REPLAY, linear, linear, stage3={"tokens": 416}, stage4={"tokens": 640, "allow": ["phase-match"]})
    found = decide(plan, [base, first], (), "needed")
    assert list(of(found, False)) == ["base/00-base 320", "base/00-base 640"]  # 960 is the newest up to 1152


ABSOLUTE = [DECAY[0] | {"decay": ["linear"], "introduce_at": 6e-4}]


def test_a_rewarm_to_come_moves_where_an_absolute_rate_is_crossed(base):
    """6e-4 is crossed in step 17 of 20 from LR_max, and in step 19 from the 2 LR_max that stage3 may warm up to."""
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20), every=1))
    later = plan_of(REPLAY, [{"rung": "replay-rewarm", "lr": ["2 lr_max"]}], ABSOLUTE, stage4={"tokens": 640})
    same = plan_of(REPLAY, REPLAY, ABSOLUTE, stage4={"tokens": 640})
    oldest = [min(int(k.split()[1]) for k in of(decide(plan, [base, first], (), "needed"), True) if k.startswith("stage2"))
              for plan in (same, later)]  # fmt: skip
    assert oldest == [1920 - 17 * STEP, 1920 - 19 * STEP]


def test_a_larger_batch_moves_it_likewise(base):
    """Twice the batch, LR scaled linearly: 19 of 20 steps of 64 tokens."""
    long = attempt_of(BASE, 0, None, schedules.wsd(LR, 64, 1280), 2, rung="base")
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20), every=1))
    plan = plan_of(
        REPLAY, ABSOLUTE, optimizer={"lr_scaling": "linear"}, stage3={"tokens": 1280, "global_batch_size": 8}
    )
    kept = of(decide(plan, [long, first], (), "needed"), True)
    assert min(int(k.split()[1]) for k in kept) == 1920 - 19 * 64


def test_the_cooled_end_of_the_line_is_kept_and_an_earlier_one_is_not(base):
    old = attempt_of(BASE, 1, base.checkpoints[-1], schedules.cooldown(LR, 320), rung="cooldown", every=5)
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat()))
    cooled = attempt_of(0, 1, first.checkpoints[-1], schedules.cooldown(LR, 320), rung="cooldown", every=5)
    found = decide(plan_of(REPLAY), [base, old, first, cooled], (), "needed")
    assert of(found, True)["stage2/01-cooldown 1920"] == "the end of the line, cooled"
    gone = of(found, False)
    assert gone["base/01-cooldown 1600"] == "cooled off the line where it no longer ends"
    assert gone["stage2/01-cooldown 1760"] == "on the way down"


def test_what_is_not_finished_keeps_its_newest_checkpoint_or_its_start(base):
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20)))
    middle = first.checkpoints[0]
    cooling = attempt_of(0, 1, first.checkpoints[-1], schedules.cooldown(LR, 640), rung="cooldown", finished=False)
    begun = replace(cooling, start=middle.id, checkpoints=(), label="cooldown 2")
    kept = of(decide(plan_of(REPLAY), [base, first, cooling, begun], (), "needed"), True)
    assert kept["stage2/01-cooldown 2560"] == "stage2 cooldown 1 is not finished: it goes on from here"
    assert kept["stage2/00-replay 1600"] == "stage2 cooldown 2 is not finished: it starts from here"


def test_a_control_arm_keeps_its_end_until_it_is_done(base):
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20), arm="no-replay", rung="naive"))
    plan = plan_of(REPLAY, REPLAY, control="no-replay")
    kept = of(decide(plan, [base, first], (), "peak-before-each-cooldown"), True)
    assert kept["stage2/00-naive 1920"] == "the end of the no-replay line"
    second = accepted(attempt_of(1, 0, first.checkpoints[-1], flat(20), arm="no-replay", rung="naive"))
    gone = of(decide(plan, [base, first, second], (), "peak-before-each-cooldown"), False)
    assert gone["stage2/00-naive 1920"] == "the no-replay line went on from it"


def test_what_lies_elsewhere_is_merged_or_is_not_in_the_plan_is_kept(base):
    first = accepted(attempt_of(0, 0, base.checkpoints[-1], flat(20)))
    middle, end = first.checkpoints
    away = replace(first, checkpoints=(replace(middle, location="/lab/step100"), end))
    merged = replace(
        first, accepted=False, checkpoints=(replace(end, id="m", phase="merged", merged_from=(middle.id, end.id)),)
    )
    foreign = replace(
        first, stage=None, arm="branches", accepted=False, checkpoints=(replace(middle, id="b", arm="branches"),)
    )
    kept = {
        d.checkpoint.id: d.reason
        for d in decide(plan_of(REPLAY), [base, away, merged, foreign], (), "needed")
        if d.keep
    }
    assert kept[middle.id] == "its tensors lie outside of the run folder"
    assert kept["m"] == "merged from others, which may be gone"
    assert kept["b"] == "outside of the plan's stages and arms (branches stage2)"


def test_what_is_deleted_is_not_decided_on_again_and_nothing_goes_before_the_base_is_there(base):
    names = [manifest.id for manifest in base.checkpoints]
    assert [d.checkpoint.id for d in decide(plan_of(REPLAY), [base], names[:2], "needed")] == names[2:]
    begun = replace(base, finished=False)
    assert all(d.keep for d in decide(plan_of(REPLAY), [begun], (), "needed"))


RATES = st.sampled_from(["lr_max", "lr_max/2", "2 lr_max"])
RUNGS = st.one_of(
    st.just({"rung": "naive"}),
    st.builds(lambda lr: {"rung": "replay-rewarm", "lr": [lr]}, RATES),
    st.builds(lambda lr: {"rung": "rewarm-converged", "lr": [lr], "shares": ["25%"]}, RATES),
    st.builds(lambda lr: {"rung": "legacy-replay-rewarm", "lr": [lr], "to": "lr_max/10"}, RATES),
    st.builds(lambda kind: {"rung": "incremental", "schedule": kind}, st.sampled_from(["peak", "decay"])),
    st.just({"rung": "special-continuation"}),
    st.builds(
        lambda shape, to, at, horizon: {"rung": "decay-then-introduce", "decay": [shape], "to": [to], "introduce_at": at, "horizon": horizon},
        st.sampled_from(["cosine", "linear", "1-sqrt"]), st.sampled_from(["lr_max/100", "lr_max/10", 1e-4]),
        st.sampled_from(["lr_max/5", 6e-4]), st.sampled_from(["new-data", "stage"]),
    ),
)  # fmt: skip


@st.composite
def lines(draw):
    """A plan, and how its run goes: save intervals, which candidate each stage accepts, when it is pruned."""
    count = draw(st.integers(1, 3))
    guards = ["phase-match", "peak-start", "optimizer-state"]
    more = {
        f"stage{n}": {
            "tokens": draw(st.integers(3, 25)) * STEP, "global_batch_size": draw(st.sampled_from([None, 2, 8])),
            "allow": draw(st.sampled_from([[], guards])), "shift": "strong",
        }
        for n in range(2, 2 + count)
    }  # fmt: skip
    more["optimizer"] = {"lr_scaling": draw(st.sampled_from(["none", "sqrt", "linear"]))}
    plan = plan_of(*(draw(st.lists(RUNGS, min_size=1, max_size=4)) for _ in range(count)), **more)
    return plan, draw(st.integers(1, 9)), draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))


@settings(max_examples=150)
@given(lines())
def test_no_rung_to_come_ever_misses_a_start(drawn):
    """Every start that the plan's own resolvers choose is there, whatever the ladders come to, though all is pruned."""
    plan, every, outcomes = drawn
    corpora = {name: SimpleNamespace(weights={name: Fraction(1)}) for name in plan.corpora}
    feed = SimpleNamespace(corpora=corpora)
    with pytest.MonkeyPatch.context() as patch:
        for module in (decay, resolve, rewarm):
            patch.setattr(module, "identity", lambda plan, feed: {})
            patch.setattr(module, "make_attempt", lambda plan, feed, mixes, schedule, **more: SimpleNamespace(
                schedule=schedule, batch=plan.global_batch_size))  # fmt: skip
        follow(plan, feed, every, outcomes)


def follow(plan: Plan, feed, every: int, outcomes: list[int]) -> None:
    base = attempt_of(BASE, 0, None, schedules.wsd(LR, 64, 1280), every, rung="base")
    branches, deleted, line_branches = [base], set(), [base]
    end, begin = base.checkpoints[-1], None
    for place, stage in enumerate(plan.stages):
        tried = [each for rung in stage.ladder for each in candidates(rung)]
        began: list[tuple[Branch, Manifest]] = []
        for number, candidate in enumerate(tried):
            deleted |= {d.checkpoint.id for d in decide(plan, branches, deleted, "needed") if not d.keep}
            cooled = end if end.phase == "cooled" else cooled_from(branches, end, place - 1, every)
            trunk = [m for branch in line_branches for m in branch.checkpoints]
            line = Line("cookbook", end, begin, (("d0", base.checkpoints[-1]),))
            asked = Request(plan, stage, feed, line, number, candidate, trunk, cooled)
            try:
                attempt, start = start_of(asked)
            except (GuardError, PlanError):
                continue
            assert start.id not in deleted, candidate.label
            assert start_of(replace(asked, deleted=deleted))[1].id == start.id
            facts = {"rung": candidate.rung, "batch": attempt.batch, "outcome": "not-recovering"}
            branches.append(attempt_of(place, number, start, attempt.schedule, every, **facts))
            began.append((branches[-1], start))
        if not began:
            return
        chosen, begin = began[min(outcomes[place], len(began) - 1)]
        branches = [accepted(each) if each is chosen else each for each in branches]
        line_branches.append(chosen)
        end = chosen.checkpoints[-1]


def cooled_from(branches: list[Branch], end: Manifest, place: int, every: int) -> Manifest:
    """The cooldown branch off the line's end, trained once."""
    for branch in branches:
        if branch.cooldown and branch.start == end.id:
            return branch.checkpoints[-1]
    schedule = schedules.cooldown(end.lr_max, 4 * 8 * end.global_batch_size)
    branches.append(attempt_of(place, 90, end, schedule, every, rung="cooldown", batch=end.global_batch_size))
    return branches[-1].checkpoints[-1]


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint on the disk: config, and tensors in state/."""
    folder = tmp_path / "arms/cookbook/stage2/00-replay/checkpoints/000000000001600-peak"
    (folder / "state").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in ("__0_0.distcp", ".metadata"):
        (folder / "state" / name).write_bytes(b"12345")
    (folder / "model.safetensors").write_bytes(b"12345")
    write_manifest(folder, attempt_of(0, 0, None, flat()).checkpoints[-1])
    return folder


def test_deleting_leaves_the_manifest_the_config_and_the_reason(checkpoint):
    before = (checkpoint / "manifest.json").read_bytes()
    assert deletion.delete(checkpoint, read_manifest(checkpoint).files, "rejected") == 15
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "deleted.json", "manifest.json"]
    assert (checkpoint / "manifest.json").read_bytes() == before
    record = json.loads((checkpoint / "deleted.json").read_text())
    assert record["why"] == "rejected" and record["bytes"] == 15 and record["when"].endswith("+00:00")


def test_a_deleted_checkpoint_is_refused_with_the_reason(checkpoint):
    manifest = read_manifest(checkpoint)
    verify_files(checkpoint, manifest)
    deletion.delete(checkpoint, manifest.files, "not-recovering; stage2 went on with replay 25%")
    with pytest.raises(
        LineageError, match="its tensors were deleted on .*not-recovering; stage2 went on with replay 25%"
    ):
        verify_files(checkpoint, manifest)


def test_a_kill_between_the_record_and_the_tensors_is_finished_the_next_time(checkpoint, monkeypatch):
    manifest, unlink = read_manifest(checkpoint), deletion.Path.unlink

    def killed(path, missing_ok=False):
        if path.name == "__0_0.distcp":
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(deletion.Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        deletion.delete(checkpoint, manifest.files, "rejected")
    monkeypatch.undo()
    record = (checkpoint / "deleted.json").read_bytes()
    assert (checkpoint / "state/__0_0.distcp").exists()
    with pytest.raises(LineageError, match="its tensors were deleted"):
        verify_files(checkpoint, manifest)  # it never counts as whole again
    assert 0 < deletion.delete(checkpoint, manifest.files, "another reason") <= 15
    assert not (checkpoint / "state").exists() and (checkpoint / "deleted.json").read_bytes() == record


def test_a_damaged_record_is_named(checkpoint):
    (checkpoint / "deleted.json").write_text("{")
    with pytest.raises(LineageError, match=r"deleted\.json: damaged"):
        deletion.deletion_of(checkpoint)
