"""`keepwarm launch`: every rung's launches, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keepwarm.attempt.records import read_attempt
from keepwarm.backends.megatron import lists
from keepwarm.backends.megatron.record import launches_of, read_launch
from keepwarm.cli.main import main
from keepwarm.corpora.filelist import read_filelist
from keepwarm.corpora.indexed import open_indexed

ENDS = ("--seed=2", "--exit-duration-in-mins=45")
ANEW = ("--finetune", "--universal-checkpoint")


@pytest.fixture
def look(based, capsys, monkeypatch):
    """What `keepwarm launch --json` says."""
    monkeypatch.chdir(based)

    def ask(*words: str) -> dict:
        assert main(["launch", "plan.yaml", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def refused(based, capsys, monkeypatch):
    """The error of a `keepwarm launch`, with nothing written."""
    monkeypatch.chdir(based)

    def ask(*words: str) -> str:
        before = everything(based)
        assert main(["launch", "plan.yaml", *words]) == 2
        assert everything(based) == before
        return capsys.readouterr().err

    return ask


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.name != ".lock")


def rates(launch: dict) -> dict[str, str]:
    names = ("LR", "LR_DECAY_STYLE", "LR_WARMUP_FRAC", "LR_DECAY_ITERS", "TRAIN_ITERS", "OVERRIDE_CKPT_OPT_PARAM")
    return {name: launch["environment"][name] for name in names if name in launch["environment"]}


def test_nothing_is_written_before_it_is_asked_for(workplace, megatron_text, capsys):
    (workplace / "plan.yaml").write_text(megatron_text.replace("TRAINER", "/lus/mds"))
    before = everything(workplace)
    assert main(["launch", "plan.yaml", "--rate", "1000"]) == 0
    assert everything(workplace) == before
    out = capsys.readouterr().out
    assert "base: train the base, 40 steps = 10,240 tokens" in out
    assert "cost at 1,000 tokens/s: 0.0 h, 0 node-hours, 1 job" in out
    assert "LR: the trainer's own schedule is the attempt's within 0 on every step" in out
    assert "nothing was written. --write writes" in out


def test_the_trunk(based):
    folder = based / "run/arms/cookbook/base/00-base"
    ((path, launch),) = launches_of(folder)
    assert (launch.begins, launch.load, launch.prepare, launch.arguments) == ("trunk", None, (), ENDS)
    assert (launch.begin_iteration, launch.end_iteration, launch.train_iterations, launch.save_iterations) == (
        0,
        40,
        40,
        10,
    )
    assert launch.attempt == read_attempt(folder).sha256
    assert launch.environment["LR_WARMUP_FRAC"] == "0.1" and launch.environment["LR_DECAY_STYLE"] == "constant"
    assert launch.environment["LOAD"] == launch.environment["SAVE"] == str(folder / "checkpoints-megatron")
    assert launch.padded_vocab_size == 512 and launch.world_size == 2 and launch.environment["GRAD_ACC_STEPS"] == "4"
    assert launch.data_cache.startswith(f"{path}/trainer-{launch.data_list_sha256[:16]}/")
    assert "TRAIN_TOKENS" not in launch.environment and "LR_WARMUP_FRACTION" not in launch.environment
    assert (path / "data-list.txt").read_text() == f"1.0 {path}/views/d0.d0 d0.d0\n"
    assert int(open_indexed(path / "views/d0.d0").lengths.sum()) >= 320 * 32


def test_the_trunk_goes_on(look):
    found = look()
    (launch,) = found["launches"]
    assert (found["stage"], found["label"], launch["name"], launch["begins"]) == (
        "stage2",
        "replay 5%",
        "1-train",
        "continue",
    )
    assert tuple(launch["arguments"]) == (*ANEW, *ENDS) and tuple(launch["resume_arguments"]) == ENDS
    assert rates(launch) == {
        "LR": "0.0002", "LR_DECAY_STYLE": "constant", "LR_WARMUP_FRAC": "0", "LR_DECAY_ITERS": "6", "TRAIN_ITERS": "6",
    }  # fmt: skip
    start, copy = launch["prepare"][2:4]
    assert start.endswith("base/00-base/checkpoints-megatron/global_step40") and "--moments" not in launch["prepare"]
    assert copy == f"{launch['load']}/global_step40_universal"
    assert [(each["corpus"], each["weight"], each["first_position"]) for each in launch["sources"]] == [
        ("d0.d0", "0.05", 320), ("new.d1", "0.95", 0),
    ]  # fmt: skip
    assert ("optimizer moments", "kept") in [(row["what"], row["how"]) for row in found["kept"]]


def test_a_restart_begins_from_a_copy_without_moments(look):
    found = look("--rung", "replay-rewarm")
    (launch,) = found["launches"]
    assert launch["begins"] == "restart" and tuple(launch["arguments"]) == (*ANEW, *ENDS)
    assert launch["prepare"][4:] == ["--to", "universal", "--moments", "reset", "--trust"]
    assert (
        float(rates(launch)["LR_WARMUP_FRAC"]) * 6 == pytest.approx(1) and rates(launch)["LR_DECAY_STYLE"] == "constant"
    )
    assert ("optimizer moments", "reset") in [(row["what"], row["how"]) for row in found["kept"]]


@pytest.mark.parametrize(
    ("label", "steps", "switch", "style", "words"),
    [
        ("decay-then-introduce cosine to lr_max/100", 21, 15, "cosine", ["--min-lr=2e-06"]),
        ("decay-then-introduce 1-sqrt to lr_max/100", 18, 12, "constant",
         ["--min-lr=2e-06", "--lr_constant_plus_cooldown", "--lr_constant_plus_cooldown_frac=1.0"]),
    ],
)  # fmt: skip
def test_data_is_introduced_by_a_second_launch(label, steps, switch, style, words, look):
    first, second = look("--rung", label)["launches"]
    assert [each["name"] for each in (first, second)] == ["1-decay", "2-introduce"]
    assert (first["begin_iteration"], first["end_iteration"], first["train_iterations"]) == (0, switch, switch)
    assert (second["begin_iteration"], second["end_iteration"], second["train_iterations"]) == (switch, steps, steps)
    assert (first["begins"], second["begins"], second["load"]) == ("continue", "resume", first["save"])
    assert first["arguments"] == [*ANEW, *words, *ENDS] and second["arguments"] == [*words, *ENDS]
    for each in (first, second):
        assert rates(each)["LR_DECAY_STYLE"] == style and rates(each)["LR_DECAY_ITERS"] == str(steps)
        assert each["lr_difference"] == 0
    assert [each["corpus"] for each in first["sources"]] == ["base-data.d0"]
    assert [each["corpus"] for each in second["sources"]] == ["base-data.d0", "new.d1"]
    assert first["data_cache"] != second["data_cache"]
    assert f"follows={second['folder']}" in first["files"]["job.sh"] and "follows=''" in second["files"]["job.sh"]


def test_a_rung_from_a_converged_checkpoint_launches_its_cooldown_first(look):
    found = look("--rung", "rewarm-converged")
    (launch,) = found["launches"]
    assert found["why"] == "rewarm-converged lr_max/2 with 25% starts from the line's end, cooled"
    assert (launch["name"], launch["begins"], launch["first_iteration"]) == ("1-cooldown", "cooldown", 40)
    assert (launch["begin_iteration"], launch["end_iteration"]) == (40, 48)
    assert launch["load"].endswith("base/00-base/checkpoints-megatron") and launch["prepare"] == []
    assert launch["arguments"][:2] == ["--load-tag=global_step40", "--override-opt_param-scheduler"]
    assert "--load-tag=global_step40" not in launch["resume_arguments"]
    assert rates(launch)["OVERRIDE_CKPT_OPT_PARAM"] == "1" and rates(launch)["TRAIN_ITERS"] == "48"
    assert launch["sources"][0]["skipped"] == 320  # a resume passes over what the trunk was fed


def test_a_cooldown_far_into_a_trunk_goes_on_as_new_data_does(look, monkeypatch):
    """A resume's list would be mostly what it passes over; the moments and the curve are the same."""
    monkeypatch.setattr("keepwarm.backends.megatron.starts.MOST_IN_FRONT", 319)
    (launch,) = look("--rung", "rewarm-converged")["launches"]
    assert (launch["name"], launch["begins"], launch["first_iteration"]) == ("1-cooldown", "continue", 0)
    assert (launch["begin_iteration"], launch["end_iteration"]) == (0, 8)
    words = ["--min-lr=2e-05", "--lr_constant_plus_cooldown", "--lr_constant_plus_cooldown_frac=1.0"]
    assert launch["arguments"] == [*ANEW, *words, *ENDS] and launch["lr_difference"] == 0
    assert launch["sources"][0]["skipped"] == 0


def test_a_mix_that_changes_on_the_way_is_materialized(line):
    assert main(["launch", "plan.yaml", "--rung", "incremental", "--write"]) == 0
    ((folder, launch),) = launches_of(line / "run/arms/cookbook/stage2/06-incremental")
    assert (folder / "data-list.txt").read_text() == f"1 {folder}/samples/samples-00000 samples\n"
    assert (folder / "samples/samples-00000.idx").is_file() and launch.begins == "continue"


def test_a_launch_is_written_once_and_whole(line, capsys):
    assert main(["launch", "plan.yaml", "--rung", "replay", "--write"]) == 0
    folder = line / "run/arms/cookbook/stage2/00-replay/launches/1-train"
    assert f"to submit it: cd {folder} && qsub job.sh" in capsys.readouterr().out
    heldout = read_filelist(folder / "holdouts.txt")
    assert [each.corpus for each in heldout] == ["d0", "d1", "d2", "d3"]
    assert all(open_indexed(each.prefix).n_tokens >= 2_000 for each in heldout)
    launch = read_launch(folder)
    assert launch.resume_arguments == ENDS
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert main(["launch", "plan.yaml", "--write"]) == 0  # the same again changes nothing
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    capsys.readouterr()
    assert main(["launch", "plan.yaml", "--write", "--set", "run.megatron.nodes=2"]) == 2
    assert "is another launch's" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("scheduler", ["pbs", "slurm"])
def test_a_job_is_submitted_once(scheduler, line, capsys, tmp_path, monkeypatch):
    command = {"pbs": "qsub", "slurm": "sbatch"}[scheduler]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / command).write_text('#!/bin/bash\necho "$PWD $*" >>"$SEEN"\necho 17.aurora\n')
    (tmp_path / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    assert main(["launch", "plan.yaml", "--submit", "--scheduler", scheduler]) == 0
    folder = line / "run/arms/cookbook/stage2/00-replay/launches/1-train"
    assert "submitted: 17.aurora" in capsys.readouterr().out
    words = {"pbs": "job.sh", "slurm": "--parsable job.sh"}[scheduler]
    assert (tmp_path / "seen").read_text() == f"{folder} {words}\n"
    assert json.loads((folder / "submitted.json").read_text())["job_id"] == "17.aurora"
    assert main(["launch", "plan.yaml", "--submit", "--scheduler", scheduler]) == 2
    assert "was submitted before, as 17.aurora" in capsys.readouterr().err
    assert (tmp_path / "seen").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "global_batch_size=9"], "global_batch_size 9 is not what 1 nodes of aurora make: 2 copies of the model x "
         "micro_batch_size 1"),
        (["--set", "run.megatron.gradient_accumulation_steps=3"], "gradient_accumulation_steps 3 = 6"),
        (["--set", "run.megatron.tensor_parallel=3"], "2 processes are no multiple of tensor_parallel 3 x pipeline_parallel 1"),
        (["--set", "run.megatron.environment={LR_WARMUP_FRACTION: 0.01}"], "train_alcf.sh does not read LR_WARMUP_FRACTION, "
         "but LR_WARMUP_FRAC"),
        (["--set", "run.megatron.environment={TRAIN_TOKENS: 5}"], "TRAIN_TOKENS is keepwarm's to say"),
        (["--set", "run.megatron.architecture=AuroraGPT-2B"], "hidden_size 32, but AuroraGPT-2B has 2048"),
        (["--set", "run.folder=my run"], "run.folder: "),
        (["--stage", "stage9"], "--stage stage9: the plan has no such stage"),
        (["--rung", "naive"], "--rung naive: nothing of it is left to launch"),
        (["--submit", "--scheduler", "none", "--rung", "balance"], "--rung balance"),
        (["--stage", "base", "--verbatim-cookbook"], "the cookbook has no command for it"),
        (["--set", "run.megatron.queue=null", "--machine", "sophia"], "lacks queue for pbs on machine sophia"),
    ],
)  # fmt: skip
def test_what_cannot_be_launched_is_refused(words, said, refused):
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.clip=0.5", "optimizer.clip: not with the backend megatron"),
        ("optimizer.no_decay=embeddings", "optimizer.no_decay: not with the backend megatron"),
        ("document_mask=true", "document_mask: not with the backend megatron"),
        ("precision=fp32", "precision: not with the backend megatron"),
        ("base.batch_ramp={start: 2, increment: 2, tokens: 2560}", "base.batch_ramp: not with the backend megatron"),
    ],
)
def test_what_the_trainer_does_otherwise_is_refused(change, said, based, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tokens").symlink_to(based / "run/tokens")
    (tmp_path / "plan.yaml").write_text((based / "plan.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "plan.yaml", "--set", change]) == 2
    assert said in capsys.readouterr().err


def test_a_start_at_another_rate_is_refused_with_the_difference(refused):
    """The trainer's first step would use the checkpoint's LR."""
    words = refused("--set", "global_batch_size=16", "--set", "optimizer.lr_scaling=sqrt")
    assert "LR of iteration 1 would be 0.0002, the attempt's is 0.000282843" in words


def test_a_vanished_part_of_the_mix_is_refused(refused, monkeypatch):
    whole = lists.list_of
    monkeypatch.setattr(lists, "list_of", lambda *a, **k: replace(made := whole(*a, **k), views=made.views[1:]))
    assert "data-list.txt: no sample would come from d0 (d0), of 48" in refused("--rung", "replay")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shares: [5%, 25%]", "shares: [10%]", "replay 5% was launched with other label, parts"),
        ("global_batch_size: 8", "global_batch_size: 4", "other "),
    ],
)
def test_another_plan_leaves_what_was_launched(old, new, said, line, capsys):
    assert main(["launch", "plan.yaml", "--rung", "replay", "--write"]) == 0
    capsys.readouterr()
    text = (line / "plan.yaml").read_text()
    assert old in text
    scaled = text.replace("optimizer: {", "optimizer: {lr_scaling: none, ").replace(old, new)
    (line / "plan.yaml").write_text(scaled)
    assert main(["launch", "plan.yaml", "--rung", "replay"]) == 2
    error = capsys.readouterr().err
    assert said in error and "what was launched stays as it is" in error


def test_the_base_is_not_waited_for_and_not_trained_here(line, capsys):
    shutil.rmtree(line / "run/arms/cookbook/base/00-base/checkpoints")
    assert main(["launch", "plan.yaml", "--stage", "stage2"]) == 2
    assert "the base it starts from is not trained yet" in capsys.readouterr().err
    assert main(["launch", "plan.yaml"]) == 0
    assert "the base is not there yet; launched before" in capsys.readouterr().out
