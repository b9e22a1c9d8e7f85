"""Every way to start: what the guards refuse, what `--allow` records, and the table of what is kept and changed."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from keepwarm.attempt.records import read_attempt, read_metrics
from keepwarm.cli.main import main
from keepwarm.engine.loop import Training

STAGE2 = "ladder: [{rung: replay, shares: [5%, 25%]}]"
MODEL = "model: {config: {type: llama, hidden_size: 32, layers: 1, heads: 2, kv_heads: 2}}\n"
TOKENIZER = "tokenizer: {train: {vocab_size: 512}}\n"
BASE = "base: {corpus: d0, tokens: 10_240}"
COSINE = ("kind: wsd", "kind: cosine")
PEAK_WORDS = (
    "allowed peak-start: replay 5% starts at peak, but arms/cookbook/base/00-base/checkpoints/000000000010240-cooled is "
    "cooled at LR 0 (0% of LR_max 0.003)"
)


@pytest.fixture
def stage2(capsys):
    """Run up to stage 2; returns what was printed, after a check of the exit code."""

    def run(*more: str, code: int = 0) -> str:
        assert main(["run", "plan.yaml", "--stage", "stage2", *more]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def rows_of(said: str, head: str) -> list[str]:
    """The six lines of the table below the first line that begins so."""
    lines = said.splitlines()
    begun = next(number for number, line in enumerate(lines) if line.startswith(head))
    return lines[begun + 1 : begun + 7]


@pytest.fixture
def given(edit_plan, stage2, manifest_of, workplace):
    """The base of one run, given as the base of a second one; returns its manifest."""
    stage2()
    found = manifest_of(workplace / "run", "cookbook/base/00-base")
    edit_plan(
        (BASE, f"base: {{corpus: d0, checkpoint: run/{found['id']}}}"), ("run: {folder: run,", "run: {folder: second,"),
        (TOKENIZER, "tokenizer: {file: run/tokens/tokenizer.json}\n"),
    )  # fmt: skip
    return found


@pytest.fixture
def hugging_face(publish_llama):
    """A tiny Llama of 500 entries with its tokenizer, as people publish them."""
    return publish_llama(500)


def test_what_is_recorded_is_what_was_overridden(edit_plan, workplace, stage2, manifest_of, capsys):
    edit_plan(COSINE)
    said = stage2("--allow", "peak-start", "--allow", "mixed-introduction")
    assert f"  note: {PEAK_WORDS}\n" in said and "recovered, allowed" in said
    folder = workplace / "run/arms/cookbook/stage2/00-replay"
    attempt = read_attempt(folder)
    assert attempt.allow == ("peak-start",) and attempt.warnings == (PEAK_WORDS,)
    assert manifest_of(workplace / "run", "cookbook/stage2/00-replay")["allowed"] == ["peak-start"]
    assert manifest_of(workplace / "run", "cookbook/base/00-base")["allowed"] == []
    assert json.loads((folder / "verdict.json").read_text())["warnings"] == [PEAK_WORDS]
    assert main(["status", "plan.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["attempts"][0]["allowed"] == ["peak-start"]
    assert main(["lineage", "plan.yaml"]) == 0
    assert "15,360 tokens  at peak  LR 0.003; allowed peak-start" in capsys.readouterr().out
    assert PEAK_WORDS in (workplace / "run/report.html").read_text()


def test_what_was_allowed_once_stays_allowed_for_that_attempt(edit_plan, workplace, stage2):
    edit_plan(COSINE)
    stage2("--allow", "stage2:peak-start")
    before = {path: path.stat().st_mtime_ns for path in (workplace / "run/arms").rglob("*")}
    stage2()
    stage2("--allow", "optimizer-state")
    assert {path: path.stat().st_mtime_ns for path in (workplace / "run/arms").rglob("*")} == before


def test_the_plans_own_allow_does_the_same(edit_plan, workplace, stage2):
    edit_plan(COSINE, ("new: d1, tokens: 5_120,", "new: d1, tokens: 5_120, allow: [peak-start, buffer-clean],"))
    stage2()
    assert read_attempt(workplace / "run/arms/cookbook/stage2/00-replay").allow == ("peak-start",)


def test_allowed_elsewhere_is_not_allowed_here(edit_plan, stage2):
    edit_plan(COSINE)
    said = stage2("--allow", "stage3:peak-start", "--allow", "base:peak-start", code=2)
    assert "replay 5% starts at peak, but" in said
    assert said.rstrip().endswith("(or in the plan, in the stage or the base: allow: [peak-start])")


def test_a_refused_candidate_says_what_to_do(edit_plan, stage2):
    edit_plan((STAGE2, "ladder: [{rung: legacy-replay-rewarm, lr: [lr_max]}, {rung: naive}]"))
    assert "    fix: use replay or replay-rewarm here; or, to go on all the same" in stage2()


@pytest.mark.parametrize(
    ("word", "what", "fix"),
    [
        ("peak-strat", "'peak-strat' is not a guard", "--allow peak-start"),
        ("stage3:peak-strat", "'peak-strat' is not a guard", "--allow stage3:peak-start"),
        ("everything", "'everything' is not a guard", "one of: peak-start, phase-match, mixed-introduction, buffer-clean, "
         "budget-and-identity, optimizer-state"),
        ("append-only", "append-only can't be overridden", "use another run folder: --set run.folder=..."),
        ("stage3:append-only", "append-only can't be overridden", "use another run folder: --set run.folder=..."),
        ("stage9:peak-start", "the plan has no stage 'stage9'", "--allow peak-start (everywhere), or one of: "
         "base:peak-start, stage2:peak-start, stage3:peak-start, stage4:peak-start"),
    ],
)  # fmt: skip
def test_a_word_that_allows_nothing_is_refused(workplace, stage2, word, what, fix):
    said = stage2("--allow", word, code=2).splitlines()
    assert (said[0], said[2]) == (f"error: --allow {word}: {what}", f"  fix: {fix}")
    assert not (workplace / "run").exists()


def test_an_interrupted_attempt_goes_on_without_its_allow_and_says_that_all_is_kept(
    edit_plan, workplace, stage2, monkeypatch
):
    edit_plan(COSINE)
    write = Training._write

    def interrupted(self, record):
        write(self, record)
        if self.attempt.stage == "stage2" and self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "_write", interrupted)
    stage2("--allow", "peak-start", code=130)
    monkeypatch.setattr(Training, "_write", write)
    assert rows_of(stage2(), "cookbook stage2: replay 5%") == [
        "  weights            kept     of step 7 of 20, bit for bit",
        "  optimizer moments  kept     as they were saved",
        "  LR                 kept     0.003, the schedule goes on at token 1,792 of 5,120",
        "  data               kept     goes on at sample 56 of the attempt",
        "  random state       kept     of every step from seed 1",
        "  evaluation         kept     what was measured up to there stays",
    ]
    header = read_metrics(workplace / "run/arms/cookbook/stage2/00-replay/metrics.jsonl")[0]
    assert {row["what"]: row["how"] for row in header["kept"]}["LR"] == "changed"  # the start's table stays on record


def test_a_base_that_reads_its_corpus_too_often(edit_plan, workplace, stage2):
    edit_plan(("max_epochs: 4", "max_epochs: 0.01"))
    assert "would be repeated 0." in stage2(code=2)
    stage2("--allow", "base:budget-and-identity", "--allow", "stage2:budget-and-identity")
    for attempt in ("base/00-base", "stage2/00-replay"):
        recorded = read_attempt(workplace / "run/arms/cookbook" / attempt)
        assert recorded.allow == ("budget-and-identity",) and recorded.warnings[0].startswith(
            "allowed budget-and-identity: d"
        )
    stage2()


def test_the_table_of_a_start(workplace, stage2):
    said = stage2()
    assert rows_of(said, "cookbook base:") == [
        "  weights             new      random, seed 1",
        "  optimizer moments   new      AdamW begins without any",
        "  LR                  new      0, warm-up over 512 tokens to 0.003 -> 0.003 (peak)",
        "  data: d0            new      starts at 0",
        "  random state        new      of every step from seed 1, as the order of data",
        "  evaluation windows  new      at both ends all",
    ]
    assert rows_of(said, "cookbook stage2: replay 5%") == [
        "  weights             kept     arms/cookbook/base/00-base/checkpoints/000000000010240-peak, 10,240 tokens of the "
        "line",
        "  optimizer moments   kept     AdamW goes on with the checkpoint's",
        "  LR                  kept     peak at LR 0.003 -> 0.003, no warm-up -> 0.003 (peak)",
        "  data: d0            kept     goes on at sample 320",
        "  data: d1            new      starts at 0",
        "  random state        new      of every step from seed 1, as the order of data",
    ]
    header = read_metrics(workplace / "run/arms/cookbook/stage2/00-replay/metrics.jsonl")[0]
    assert header["kept"][3] == {"what": "data: d0", "how": "kept", "numbers": "goes on at sample 320"}


def test_the_table_of_a_rewarm_with_another_batch(edit_plan, stage2):
    edit_plan(
        (STAGE2, "global_batch_size: 16, ladder: [{rung: replay-rewarm, lr: [lr_max/2]}]"),
        ("clip: 1.0}", "clip: 1.0, lr_scaling: linear}"),
    )
    said = stage2()
    assert "  optimizer moments   reset    AdamW begins without any\n" in said
    assert (
        "  LR                  changed  peak at LR 0.003 -> 0, warm-up over 512 tokens to 0.003 -> 0.003 (peak)\n"
        in said
    )
    assert "  batch size          changed  8 -> 16 sequences\n" in said
    assert "  random state        new      of every step from seed 1, as the order of data\n" in said


def planned(capsys):
    assert main(["plan", "plan.yaml", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["stages"]


def test_the_plan_knows_the_table_before_the_run(edit_plan, workplace, capsys):
    edit_plan(
        (STAGE2, "ladder: [{rung: naive}, {rung: rewarm-converged, lr: [lr_max/2], shares: [25%], optimizer: keep}, "
         "{rung: decay-then-introduce, decay: [linear]}, {rung: merge}]"),
    )  # fmt: skip
    tables = [
        {row["what"]: (row["how"], row["numbers"]) for row in each["kept"]} for each in planned(capsys)[0]["candidates"]
    ]
    naive, rewarm, decay, merge = tables
    assert naive == {
        "weights": ("kept", "the line's end at peak"),
        "optimizer moments": ("kept", "AdamW goes on with the checkpoint's"),
        "LR": ("kept", "peak at LR 0.003 -> 0.003, no warm-up -> 0.003 (peak)"),
        "data: d1": ("new", "starts at 0"),
        "data: old": ("kept", "every source goes on where the line stands"),
        "random state": ("new", "of every step from seed 1, as the order of data"),
        "evaluation windows": ("kept", "the same of every corpus"),
    }
    assert (
        rewarm["optimizer moments"][0] == "kept"
        and rewarm["weights"][1] == "the line's end cooled, or a cooldown of it"
    )
    assert rewarm["LR"] == ("changed", "cooled -> 0, warm-up over 256 tokens to 0.0015 -> 0 (cooled)")
    assert decay["LR"] == ("kept", "peak at LR 0.003 -> 0.003, no warm-up -> 3e-05 (cooled)")
    assert merge == {}
    assert main(["plan", "plan.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "stage2 naive the line's end at peak kept peak at LR 0.003 -> 0.003, no warm-up" in said


def test_the_planned_table_is_the_runs(edit_plan, workplace, stage2, capsys):
    edit_plan((STAGE2, "global_batch_size: 16, " + STAGE2), ("clip: 1.0}", "clip: 1.0, lr_scaling: sqrt}"))
    before = {row["what"]: row for row in planned(capsys)[0]["candidates"][0]["kept"]}
    stage2()
    header = read_metrics(workplace / "run/arms/cookbook/stage2/00-replay/metrics.jsonl")[0]
    after = {row["what"]: row for row in header["kept"]}
    for what in ("optimizer moments", "LR", "batch size", "data: d1", "random state"):
        assert before[what] == after[what]
    assert after["LR"]["how"] == "changed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("weight_decay: 0.1", "weight_decay: 0.2"), "has weight decay 0.1, this plan has 0.2"),
        (("betas: [0.9, 0.95]", "betas: [0.9, 0.99]"), "has betas [0.9, 0.95], this plan has [0.9, 0.99]"),
        (("holdout: {tokens: 2k}", "holdout: {tokens: 3k}"), "has holdout of d0 "),
        (("sequence_length: 32", "sequence_length: 16"), "has sequence length 32, this plan has 16"),
        (("seed: 1", "seed: 1\ndocument_mask: true"), "has document mask False, this plan has True"),
    ],
)
def test_what_a_stage_may_not_change_is_refused_unless_it_says_so(
    given, edit_plan, stage2, workplace, manifest_of, change, words
):
    edit_plan(change, (MODEL, ""))
    said = stage2(code=2)
    assert words in said and "--allow budget-and-identity" in said
    stage2("--allow", "stage2:budget-and-identity")
    end = manifest_of(workplace / "second", "cookbook/stage2/00-replay")
    assert end["allowed"] == ["budget-and-identity"]


def test_every_difference_is_named(given, edit_plan, stage2):
    edit_plan(("weight_decay: 0.1", "weight_decay: 0.2"), ("sequence_length: 32", "sequence_length: 16"), (MODEL, ""))
    assert "has sequence length 32, this plan has 16; weight decay 0.1, this plan has 0.2" in stage2(code=2)


def test_another_sequence_length_goes_on_behind_the_tokens_that_were_fed(
    given, edit_plan, stage2, workplace, manifest_of
):
    """320 windows of 32 tokens are behind D_0: as many tokens are 640 windows of 16."""
    edit_plan(("sequence_length: 32", "sequence_length: 16"), (MODEL, ""))
    stage2("--allow", "stage2:budget-and-identity")
    begin = json.loads((workplace / "second/arms/cookbook/base/00-given/manifest.json").read_text())
    (source,) = begin["cursors"]
    assert begin["cursors"] == {source: 320}
    attempt = read_attempt(workplace / "second/arms/cookbook/stage2/00-replay")
    assert dict(attempt.segments[0].cursors) == {source: 640}
    end = manifest_of(workplace / "second", "cookbook/stage2/00-replay")
    assert end["cursors"][source] == 640 + 16  # 5 % of 5,120 tokens


def test_a_plan_changes_the_optimizer_from_a_stage_on_by_name(edit_plan, stage2, workplace, manifest_of, capsys):
    stage2()
    command = ["run", "plan.yaml", "--stage", "stage3", "--set", "optimizer.weight_decay=0.2"]
    assert main(command) == 2
    assert (
        "to change it from a stage on and have it recorded: --allow STAGE:budget-and-identity"
        in capsys.readouterr().err
    )
    assert main([*command, "--allow", "stage3:budget-and-identity"]) == 0
    found = [
        manifest_of(workplace / "run", f"cookbook/{at}") for at in ("stage2/00-replay", "stage3/00-replay-previous-mix")
    ]
    assert [each["optimizer"]["weight_decay"] for each in found] == [0.1, 0.2]
    assert [each["allowed"] for each in found] == [[], ["budget-and-identity"]]


def test_an_attempt_in_training_keeps_its_optimizer(stage2, workplace, capsys):
    stage2()
    for path in (workplace / "run/arms/cookbook/stage2/00-replay").iterdir():
        if path.name == "verdict.json":
            path.unlink()
    last = sorted((workplace / "run/arms/cookbook/stage2/00-replay/checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    change = ("--set", "optimizer.weight_decay=0.2", "--allow", "budget-and-identity")
    assert "stage2/00-replay/attempt.json: was made with other optimizer" in stage2(*change, code=2)


def test_a_branch_is_held_against_its_trunk_too(edit_plan, stage2, workplace, capsys):
    stage2()
    command = [
        "run",
        "plan.yaml",
        "--branch",
        "cooldown",
        "--from",
        "stage2@peak",
        "--set",
        "optimizer.weight_decay=0.3",
    ]
    assert main(command) == 2
    assert "has weight decay 0.1, this plan has 0.3" in capsys.readouterr().err
    assert main([*command, "--allow", "stage2:budget-and-identity"]) == 0


def test_the_plans_lr_max_is_the_lines(given, edit_plan, stage2, workplace):
    edit_plan(("lr_max: 3e-3", "lr_max: 1e-3"))
    said = stage2(code=2)
    assert "is peak at LR 0.003 (300% of LR_max 0.001)" in said
    assert "fix: go on at the checkpoint's own rate: optimizer: {lr_max: 0.003}" in said
    assert "  LR                  changed  peak at LR 0.003 -> 0.001, no warm-up" in stage2("--allow", "peak-start")
    assert read_attempt(workplace / "second/arms/cookbook/stage2/00-replay").schedule.lr_max == 1e-3


def test_an_average_is_no_start_at_peak_and_can_be_rewarmed(edit_plan, stage2, workplace, manifest_of):
    stage2()
    assert main(["run", "plan.yaml", "--branch", "average", "--from", "base@peak"]) == 0
    merged = manifest_of(workplace / "run", "branches/base/00-average")
    rewarm = "rung: rewarm-converged, lr: [lr_max], shares: [25%]"
    edit_plan(
        (BASE, f"base: {{corpus: d0, checkpoint: run/{merged['id']}}}"), ("run: {folder: run,", "run: {folder: second,"),
        (TOKENIZER, "tokenizer: {file: run/tokens/tokenizer.json}\n"),
        (STAGE2, f"ladder: [{{rung: naive}}, {{{rewarm}, optimizer: keep}}, {{{rewarm}}}]"),
    )  # fmt: skip
    stage2()
    folder = workplace / "second/arms/cookbook/stage2"
    naive, keep = (json.loads((folder / name / "verdict.json").read_text())["reasons"][0]
                   for name in ("00-naive", "01-rewarm-converged"))  # fmt: skip
    assert "naive starts at peak, but" in naive and "is merged at LR 0.003" in naive
    assert "goes on with the optimizer's moments, but" in keep
    attempt = read_attempt(folder / "02-rewarm-converged")
    assert attempt.start == str(workplace / "run" / merged["id"]) and attempt.moments == "reset"
    stage2("--set", "run.folder=third", "--set", "stages.stage2.ladder=[{rung: incremental}]")
    attempt = read_attempt(workplace / "third/arms/cookbook/stage2/00-incremental")  # not at peak: warmed up
    assert attempt.moments == "reset" and attempt.schedule.lr(0) == 0.0


def test_a_public_model_at_peak_needs_its_moments_in_every_rung_that_keeps_them(
    hugging_face, edit_plan, stage2, workplace
):
    edit_plan(
        (MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf, lr: 3e-3, phase: peak}"),
        (STAGE2, "ladder: [{rung: incremental}, {rung: incremental, schedule: peak}, {rung: naive}, {rung: replay-rewarm, lr: [lr_max]}]"),
    )  # fmt: skip
    said = stage2()
    for name in ("00-incremental", "01-incremental", "02-naive"):
        verdict = json.loads((workplace / f"run/arms/cookbook/stage2/{name}/verdict.json").read_text())
        assert "has no optimizer state (guard optimizer-state)" in verdict["reasons"][0]
    assert "peak (declared) at LR 0.003 (declared) -> 0, warm-up over 256 tokens to 0.003 -> 0.003 (peak)" in said


def test_a_vocabulary_too_small_for_the_tokenizer(hugging_face, edit_plan, stage2):
    edit_plan((MODEL, ""), (BASE, "base: {corpus: d0, checkpoint: hf, lr: 3e-3, phase: peak}"))
    assert "base.checkpoint: its vocabulary has 500 entries, the tokenizer" in stage2(code=2)


def test_another_architecture_than_the_given_bases(hugging_face, edit_plan, stage2, workplace, manifest_of):
    edit_plan(
        (TOKENIZER, "tokenizer: {file: hf}\n"), (BASE, "base: {corpus: d0, checkpoint: hf, lr: 3e-3, phase: peak}")
    )
    said = stage2("--allow", "stage2:budget-and-identity", "--allow", "optimizer-state", code=2)
    assert "has another architecture than the plan's model.config" in said
    stage2("--allow", "base:budget-and-identity", "--allow", "optimizer-state")
    assert manifest_of(workplace / "run", "cookbook/stage2/00-replay")["allowed"] == [
        "budget-and-identity",
        "optimizer-state",
    ]
    assert read_attempt(workplace / "run/arms/cookbook/stage2/00-replay").allow == ("optimizer-state",)


def test_the_special_continuation_passes_guard_2_and_not_guard_3(edit_plan, stage2, workplace, capsys):
    edit_plan(
        ("new: d1, tokens: 5_120, " + STAGE2, "new: d1, tokens: 1_024, ladder: [{rung: decay-then-introduce, decay: [cosine]}]"),
        ("new: d2, tokens: 5_120, ladder: [{rung: replay-previous-mix, shares: [25%]}]",
         "new: d2, tokens: 1_024, ladder: [{rung: decay-then-introduce, decay: [cosine]}, {rung: special-continuation, alpha_0: 0%}, "
         "{rung: special-continuation}]"),
    )  # fmt: skip
    assert main(["run", "plan.yaml", "--stage", "stage3"]) == 0
    folder = workplace / "run/arms/cookbook/stage3"
    reasons = [json.loads((path / "verdict.json").read_text())["reasons"][0] for path in sorted(folder.glob("*-*"))]
    assert "converged (guard phase-match)" in reasons[0]
    assert reasons[1].startswith("special-continuation cosine would introduce the new data alone (alpha_0 is 0)")
    assert read_attempt(folder / "02-special-continuation").allow == ()


def test_control_arms_pass_the_guards_and_record_what_they_overrode(edit_plan, workplace, stage2):
    edit_plan(COSINE, ("control: none", "control: no-replay"))
    stage2("--allow", "peak-start")
    assert read_attempt(workplace / "run/arms/no-replay/stage2/00-naive").allow == ("peak-start",)


@pytest.mark.parametrize(
    "change", ["train: {vocab_size: 600}", "train: {vocab_size: 512, corpora: [d1]}", "file: other.json"]
)
def test_a_run_keeps_the_tokenizer_it_began_with(change, edit_plan, workplace, capsys):
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    text = (workplace / "run/tokens/tokenizer.json").read_text()
    (workplace / "other.json").write_text(text + " ")
    edit_plan(("train: {vocab_size: 512}", change))
    before = {path: path.read_bytes() for path in (workplace / "run").rglob("*") if path.is_file()}
    assert main(["run", "plan.yaml"]) == 2
    assert "put the plan's tokenizer back as it was" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    (workplace / "other.json").write_text(text)
    if change.startswith("file"):
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0  # the same tokenizer, by its file
