"""Batches that change: a ramp in the base, a stage with a scaled batch, through the command line."""

from __future__ import annotations

import json

import pytest

from keepwarm.cli.main import main
from keepwarm.plan.load import load_plan
from keepwarm.report.legs import legs, rates


def train_records(run, attempt: str) -> list[dict]:
    lines = (run / "arms" / attempt / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "train"]


ONE_STAGE = (
    "  - {name: stage3, new: d2, tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}]}\n"
    "  - {name: stage4, new: d3, tokens: 5_120, ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}]}\n"
)


@pytest.fixture
def changing(edit_plan):
    """A base ramped 2, 4, 6, 8 sequences over 2k tokens; stage2 at twice the batch, LR by the square root."""
    return edit_plan(
        (ONE_STAGE, ""),
        ("base: {corpus: d0, tokens: 10_240}", "base: {corpus: d0, tokens: 10_240, batch_ramp: {start: 2, increment: 2, tokens: 2k}}"),
        ("clip: 1.0}", "clip: 1.0, lr_scaling: sqrt}"),
        ("new: d1, tokens: 5_120,", "new: d1, tokens: 5_120, global_batch_size: 16,"),
    )  # fmt: skip


def test_a_ramped_base_and_a_scaled_stage(changing, workplace, manifest_of):
    assert main(["run", str(changing)]) == 0
    base = train_records(workplace / "run", "cookbook/base/00-base")
    sizes = [sum(record["samples"].values()) for record in base]
    assert sizes == sorted(sizes) and set(sizes) == {2, 4, 6, 8}
    assert sizes.count(2) == 11 and sizes.count(4) == 5  # a third of 63 samples each, in whole steps
    assert base[-1]["tokens"] == sum(sizes) * 32 >= 10_240
    assert manifest_of(workplace / "run", "cookbook/base/00-base")["global_batch_size"] == 8
    stage = train_records(workplace / "run", "cookbook/stage2/00-replay")
    assert {sum(record["samples"].values()) for record in stage} == {16}
    assert {record["lr"] for record in stage} == {3e-3 * 2**0.5}
    end = manifest_of(workplace / "run", "cookbook/stage2/00-replay")
    assert (end["lr_max"], end["phase"], end["global_batch_size"]) == (3e-3 * 2**0.5, "peak", 16)


def test_the_plan_says_what_the_run_does(changing, workplace, capsys):
    plan = load_plan(changing)
    base, stage, cooldown = legs(plan)
    assert [base.batches.size(step) for step in (0, 10, 11, 15, 16, 10**6)] == [2, 2, 4, 4, 6, 8]
    assert (stage.batches.size(0), stage.steps, cooldown.batches.size(0)) == (16, 10, 16)
    found = {(lr, phase) for _, lr, phase, _ in rates(legs(plan), range(stage.first_step, stage.first_step + 2))}
    assert found == {(3e-3 * 2**0.5, "peak")}
    assert main(["plan", str(changing), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["lr"] == [3e-3 * 2**0.5] * 2


def test_a_stop_within_a_ramp_loses_nothing(changing, workplace, monkeypatch):
    """A run stopped in its third step and gone on with writes the same losses as one that was not stopped."""
    assert main(["run", str(changing)]) == 0
    whole = [(r["step"], r["tokens"], r["loss"]) for r in train_records(workplace / "run", "cookbook/base/00-base")]
    from keepwarm.engine.loop import Training

    original, seen = Training._train_step, []

    def stopping(self, loader):
        seen.append(self.step)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return original(self, loader)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_step", stopping)
        arguments = ["run", str(changing), "--set", "run.folder=again", "--set", "run.save_every=64"]
        assert main(arguments) == 130
    assert main(arguments) == 0
    again = [(r["step"], r["tokens"], r["loss"]) for r in train_records(workplace / "again", "cookbook/base/00-base")]
    assert again == whole


REFUSALS = {
    "no rule for LR": (("new: d1, tokens: 5_120,", "new: d1, tokens: 5_120, global_batch_size: 16,"), "say what LR_max does then"),
    "a ramp that leads elsewhere": (("tokens: 10_240}", "tokens: 10_240, batch_ramp: {start: 3, increment: 2, tokens: 2k}}"), "does not come to global_batch_size 8"),
    "a micro batch": (("global_batch_size: 8", "global_batch_size: 8\nmicro_batch_size: 3"), "3 does not divide global_batch_size 8"),
    "decay without infinite": (("warmup: 5%,", "warmup: 5%, decay: 20%,"), "only there"),
    "infinite without decay": (("kind: wsd", "kind: infinite-cosine"), "only there"),
    "a plateau above the peak": (("kind: wsd,", "kind: infinite-cosine, decay: 20%, constant_lr: 2 lr_max,"), "does not lie between 0 and lr_max 0.003"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, edit_plan, capsys):
    change, message = REFUSALS[case]
    assert main(["plan", str(edit_plan(change))]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["infinite-cosine", "infinite-inv-sqrt"])
def test_stages_go_on_from_the_plateau_of_an_infinite_schedule(kind, edit_plan, workplace, manifest_of):
    plan = edit_plan((ONE_STAGE, ""), ("kind: wsd,", f"kind: {kind}, decay: 40%, constant_lr: lr_max/2,"))
    assert main(["run", str(plan)]) == 0
    base = train_records(workplace / "run", "cookbook/base/00-base")
    assert max(record["lr"] for record in base) == 3e-3 and base[-1]["lr"] == 1.5e-3
    end = manifest_of(workplace / "run", "cookbook/base/00-base")
    assert (end["phase"], end["lr_max"]) == ("peak", 1.5e-3)
    assert {record["lr"] for record in train_records(workplace / "run", "cookbook/stage2/00-replay")} == {1.5e-3}
    shown = {step: lr for step, lr, _, stage in rates(legs(load_plan(plan)), range(0, 60)) if stage == "base"}
    assert [record["lr"] for record in base] == [shown[step] for step in range(len(base))]
