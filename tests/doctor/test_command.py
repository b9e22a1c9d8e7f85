"""Launch commands: every recorded dry run of train_alcf.sh, and what was not recorded but can be typed."""

from __future__ import annotations

import json
import shlex
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doctor.told import GOLDEN, names, only
from keepwarm.doctor.settings import Command
from keepwarm.doctor.shell import read_shell

CASES = {case["name"]: case for case in json.loads((GOLDEN / "launch/dry_runs.json").read_text())["cases"]}
# By reading each case's argv and printed lines: a LOAD of the older script's name without its tokenizer (--tokenizer-model
# google/gemma-7B) and no SAVE (--save=checkpoints/AuroraGPT-..) are in most of them.
OLD, SAVE, UNIVERSAL = "tokenizer-of-another-age", "default-save", "finetune-universal"
EXPECTED = {
    "cookbook_2nodes": ["unread-variable", OLD, UNIVERSAL, SAVE],
    "cookbook_fixed_LR_WARMUP_FRAC": [UNIVERSAL, SAVE],
    "cookbook_minlr": [OLD, UNIVERSAL],
    "cooldown_doc": ["cooldown-share", SAVE],
    "infinite_cosine": [OLD, "rate-flags-ignored", SAVE],
    "cli_overridden_by_script": [OLD, *["overridden-flag"] * 6, SAVE],
    "train_iters_and_tokens": ["tokens-beat-iterations", OLD, SAVE],
    "nothing_set": ["no-length", "batch-by-nodes", "no-load", SAVE],
    "agpt2b": ["batch-by-nodes", "fixed-by-architecture", "fixed-by-architecture", "no-load", SAVE],
    "unknown_model_arch": ["batch-by-nodes", "unknown-architecture", "no-load", SAVE],
    "global_batch_mismatch": [OLD, SAVE, "global-batch"],
    "gas_default_32nodes": ["batch-by-nodes", "no-load", SAVE],
    "gas_default_1node": ["batch-by-nodes", "no-load", SAVE],
    "perlmutter_nid": [OLD, UNIVERSAL, SAVE],
    "sophia": [OLD, UNIVERSAL, SAVE],
    "no_pbs_o_workdir": [OLD, "no-working-folder", SAVE],
    "tokens_sci": [OLD, SAVE, "tokens-not-a-number"],
    "arg_with_space": [OLD, "split-argument", SAVE],
    "zero0": ["zero-stage-0", OLD, SAVE],
    "ds_adamw": [OLD, SAVE, "deepspeed-optimizer"],
    "act_ckpt": [OLD, SAVE],
    "comment_in_list": [OLD, SAVE, "comment-in-list"],
    "data_list_default": ["batch-by-nodes", "no-list", "no-load", SAVE],
    "fail_launcher": [OLD, SAVE],  # what failed is not in the command
}
GOOD = "DATA_FILE_LIST=x.txt LOAD=/elsewhere/a SAVE=/elsewhere/b TRAIN_ITERS=100 GRAD_ACC_STEPS=16"


def machine(case: dict) -> str:
    return "perlmutter" if case["machine"].startswith("nid") else case["machine"]


def typed(case: dict, **variables: str) -> str:
    own = {name: value for name, value in case["env"].items() if name != "DRY_ARGV"} | variables
    words = [f"{name}={shlex.quote(value)}" for name, value in own.items()]
    return f"{' '.join(words)} bash train_alcf.sh {shlex.join(case['cli'])}"


def environment(tmp_path, case: dict):
    lines = [f"MACHINE={machine(case)}", f"NHOSTS={case['nodes']}", f"NGPU_PER_HOST={case['gpus_per_node']}"]
    lines += [f"PBS_O_WORKDIR={tmp_path}"] if case["name"] != "no_pbs_o_workdir" else []
    path = tmp_path / "environment"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_dry_run_has_the_traps_that_its_record_shows(doctor, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = CASES[name]
    if name == "comment_in_list":
        (tmp_path / "comment.txt").write_text("# weight prefix corpus\n0.9 a A\n0.1 b B\n")
    more = {"DATA_FILE_LIST": "comment.txt"} if name == "comment_in_list" else {}
    found = doctor(typed(case, **more), environment=environment(tmp_path, case))
    assert sorted(set(names(found)) - {"listed-file-missing"}) == sorted(set(EXPECTED[name]))
    assert [each for each in names(found) if each != "listed-file-missing"].count("overridden-flag") == EXPECTED[
        name
    ].count("overridden-flag")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["argv"]])
def test_what_reaches_the_trainer_is_the_recorded_argv(name):
    case = CASES[name]
    text = read_shell(typed(case), "x", {"NGPU_PER_HOST": str(case["gpus_per_node"])})
    command = Command(text.launches[0], {}, machine(case), case["nodes"])
    words = [word for each in command.words(command.global_batch, command.train_iterations) for word in each.split()]
    recorded = iter(case["argv"])
    assert all(word in recorded for word in words)  # all of them, in the recorded order
    assert f"--save={command.save}" in case["argv"]


def test_the_seed_says_which_variable_it_means(doctor, tmp_path):
    found = doctor(typed(CASES["cookbook_2nodes"]))
    trap = only(found, "unread-variable")
    assert trap == {
        "name": "unread-variable", "grade": "silent", "where": "the command: LR_WARMUP_FRACTION=0.01", "thing": "the command",
        "evidence": "LR_WARMUP_FRACTION is not read by ALCF/helpers.sh; LR_WARMUP_FRAC is read, and stays 0.05",
        "harm": "the script keeps its own default, without a word", "fix": "LR_WARMUP_FRAC=0.01",
        "source": "golden/launch/dry_runs.json: cookbook_2nodes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "evidence", "fix"),
    [
        ("TRAIN_ITER=5 TRAIN_TOKENS=22000000000", "TRAIN_ITER=5 is ignored", "leave out TRAIN_TOKENS, or TRAIN_ITER"),
        ("MODEL_ARCH=agpt-2B", "agpt-2B is none of AuroraGPT-7B", "MODEL_ARCH=2B"),
        ("TRAIN_TOKENS=22e9", "22e9 is no whole number in digits", "TRAIN_TOKENS=22000000000"),
        ("WEIGHT_DECY=0.1", "WEIGHT_DECY is not read by ALCF/helpers.sh; WEIGHT_DECAY is read", "WEIGHT_DECAY=0.1"),
        ("SOMETHING=1", "SOMETHING is not read by ALCF/helpers.sh", "leave out SOMETHING=1"),
    ],
)
def test_a_variable(doctor, line, evidence, fix):
    found = doctor(f"{line} LOAD=/elsewhere/a SAVE=/elsewhere/b DATA_FILE_LIST=x bash train_alcf.sh")
    assert any(trap["evidence"].startswith(evidence) and trap["fix"] == fix for trap in found), found


def test_a_good_command_has_none(doctor):
    assert doctor(f"{GOOD} CCL_WORKER_COUNT=1 WANDB_MODE=off bash train_alcf.sh --exit-duration-in-mins=50") == []


def test_more_than_a_hundredth_is_cut_off(doctor, tmp_path):
    (tmp_path / "environment").write_text("MACHINE=aurora\nNHOSTS=2\nNGPU_PER_HOST=12\nPBS_O_WORKDIR=/x\n")
    line = GOOD.replace("TRAIN_ITERS=100", "TRAIN_TOKENS={}")
    found = doctor(line.format(1_000_000) + " bash train_alcf.sh", environment=tmp_path / "environment")
    assert (
        only(found, "tokens-cut")["evidence"] == "1,000,000 tokens are 0.64 iterations of 1,572,864 tokens, 0 are run"
    )
    assert only(found, "tokens-cut")["harm"] == "TRAIN_ITERS is 0: the job starts, and trains nothing"
    found = doctor(line.format(10**10) + " bash train_alcf.sh", environment=tmp_path / "environment")
    assert "tokens-cut" not in names(found)


@pytest.mark.parametrize(
    ("flags", "variables", "name", "evidence"),
    [
        ("--override-opt_param-scheduler", "", "both-scheduler-flags", "the script adds --use-checkpoint-opt_param-scheduler"),
        ("", "OVERRIDE_CKPT_OPT_PARAM=1", "neither-scheduler-flag", "--override-opt_param-scheduler is not among the flags"),
        (
            "--lr_constant_plus_cooldown", "LR_DECAY_STYLE=constant", "rate-flags-ignored",
            "the script adds --use-checkpoint-opt_param-scheduler: style, LR, minimum and lengths are those of LOAD's checkpoint",
        ),
        (
            "--finetune --min-lr 1e-6", "LR_DECAY_STYLE=infinite-cosine", "constant-lr-default",
            "--constant-lr is not given: 1.1e-4, and --lr is 0.0002",
        ),
        ("--lr_constant_plus_cooldwn", "", "refused-flags", "--lr_constant_plus_cooldwn: the trainer has no such flag"),
        ("--min-lr 1e-3", "", "refused-flags", "the reference stops at start: AssertionError: --min-lr 0.001 is above --lr 0.0002"),
        ("--save-interval=7", "", "overridden-flag", "the script's own --save-interval=50 comes later"),
        ("--data-cache-path x", "", "overridden-flag", "the script's own --data-cache-path comes later"),
        (
            "--finetune --constant-lr=1e-4 --min-lr=0", "LR_DECAY_STYLE=infinite-cosine", "frozen-schedule",
            "from iteration 71 on the reference's scheduler raises",
        ),
        (
            "--finetune --constant-lr=1e-4 --min-lr=1e-6 --lr-cooldown-fraction=.5 --lr-constant-fraction=.5",
            "LR_DECAY_STYLE=infinite-cosine", "cut-off-decay", "the run ends at LR 0.0001, not at the minimum 1e-06",
        ),
        (
            "--finetune --min-lr=1e-6 --lr-decay-tokens 1000000", "LR_DECAY_STYLE=infinite-cosine", "frozen-schedule",
            "from iteration 6 on the reference's scheduler raises AttributeError",
        ),
    ],
)  # fmt: skip
def test_a_flag(doctor, flags, variables, name, evidence):
    found = doctor(f"{GOOD} {variables} bash train_alcf.sh {flags}")
    assert only(found, name)["evidence"].startswith(evidence), found


def test_a_flag_with_the_scripts_own_value_is_none(doctor):
    assert doctor(f"{GOOD} bash train_alcf.sh --train-iters=100 --save-interval 50 --lr 1e-4") == []


def test_a_longer_decay_by_name_is_meant_so(doctor):
    assert doctor(f"{GOOD} LR_DECAY_ITERS=200 bash train_alcf.sh --finetune") == []


@pytest.fixture
def checkpoint(tmp_path):
    with tarfile.open(GOLDEN / "checkpoint/real_ckB.tar.gz") as archive:
        archive.extractall(tmp_path / "ck", filter="data")
    (tmp_path / "ck/latest").write_text("global_step10")
    return tmp_path / "ck"


def test_a_checkpoint_that_is_here_decides_what_a_resume_ignores(doctor, checkpoint):
    line = f"{GOOD.replace('/elsewhere/a', str(checkpoint))} NGPU_PER_HOST=2 WORLD_SIZE=2 bash train_alcf.sh"
    found = [trap for trap in doctor(line) if trap["name"] == "flag-without-effect"]
    assert found[0]["evidence"] == "--lr-warmup-fraction is ignored on this resume: given 160 samples, used 16 samples"
    assert found[0]["fix"] == "OVERRIDE_CKPT_OPT_PARAM=1 in front of bash, and --override-opt_param-scheduler"
    assert (
        names(doctor(line.replace("WORLD_SIZE=2", ""))) == []
    )  # the batch is not known, so nothing can be held against it


def test_a_resume_with_another_batch_or_nothing_left(doctor, checkpoint):
    """The checkpoint: 10 iterations of 8 samples."""
    line = f"{GOOD.replace('/elsewhere/a', str(checkpoint)).replace('=100', '=10')} WORLD_SIZE=2 bash train_alcf.sh"
    found = doctor(line)
    assert only(found, "batch-moved-position")["evidence"] == (
        "the scheduler stands at sample 80, but 10 iterations of this batch size make 320"
    )
    trap = only(found, "nothing-to-train")
    assert trap["evidence"] == "the checkpoint is at iteration 10, and the run ends at 10"
    assert trap["fix"] == "TRAIN_ITERS=1010"


@pytest.mark.parametrize(
    "line", ["numactl -l bash -x ./train_alcf.sh", "nohup /x/train_alcf.sh", "cd /x && source train_alcf.sh"]
)
def test_a_launch_behind_other_words(line):
    assert len(read_shell(line, "x").launches) == 1


@pytest.mark.parametrize("line", ["echo bash train_alcf.sh", "ls train_alcf.sh", "chmod +x train_alcf.sh"])
def test_what_is_no_launch(line):
    assert read_shell(line, "x").launches == ()


def test_the_first_step_after_a_universal_finetune(doctor, checkpoint):
    """global_step10's optimizer stands at LR 1.17e-4 (golden/runs/lr0_finetune_universal..)."""
    line = f"{GOOD.replace('/elsewhere/a', str(checkpoint))} LR_WARMUP_FRAC={{}} LR={{}} bash train_alcf.sh --finetune --universal-checkpoint"
    trap = only(doctor(line.format(0.01, 2e-4)), "finetune-universal")
    assert trap["evidence"].startswith("the first step uses LR 0.000117365 and Adam's moments")
    assert names(doctor(line.format(0, 0.00011736481776669303))) == []


@pytest.mark.parametrize(
    ("spoil", "evidence"),
    [
        (lambda folder: (folder / "latest").unlink(), "has no file `latest`"),
        (lambda folder: (folder / "latest").write_text("global_step20"), "names global_step20, which is not there"),
        (lambda folder: folder.rename(folder.with_name("moved")), "no such folder"),
    ],
)
def test_a_load_that_trains_random_weights(doctor, checkpoint, spoil, evidence):
    spoil(checkpoint)
    trap = only(
        doctor(f"{GOOD.replace('/elsewhere/a', str(checkpoint))} bash train_alcf.sh --finetune"), "load-missing"
    )
    assert evidence in trap["evidence"]
    assert trap["harm"] == "the trainer trains random weights, with exit code 0"


def test_a_new_run_that_saves_where_it_loads_is_none(doctor, tmp_path):
    line = GOOD.replace("/elsewhere/a", str(tmp_path / "new")).replace("/elsewhere/b", str(tmp_path / "new"))
    assert doctor(f"{line} bash train_alcf.sh") == []
    assert names(doctor(f"{line} bash train_alcf.sh --finetune")) == ["load-missing"]


def test_the_shell_is_read_as_bash_reads_it():
    text = read_shell(
        "#!/bin/bash\nB=$((2*10**3))  # a comment\nexport N=4 M='a b'\nLR=1e-4\n"
        'TOK=$((B*N)) TRAIN_TOKENS=$((22*10**9/2)) \\\n  LOAD="$HOME/x" SAVE=${OUT:-out} \\\n'
        '  bash ./train_alcf.sh --wandb-exp-name "my run" -- "$@" |& tee log && echo done\n',
        "job.sh",
    )
    (launch,) = text.launches
    assert {one.name: one.value for one in launch.own} == {
        "TOK": "8000", "TRAIN_TOKENS": "11000000000", "LOAD": "$HOME/x", "SAVE": "out",
    }  # fmt: skip
    assert {one.name: one.value for one in launch.exported} == {"N": "4", "M": "a b"}
    assert [one.name for one in launch.unexported] == ["B", "LR"]
    assert launch.arguments == ("--wandb-exp-name", "my run", "--")
    assert (launch.place, launch.status_used) == ("job.sh:5", "")


def test_a_variable_on_a_line_of_its_own_is_not_seen(doctor, tmp_path):
    script = tmp_path / "run.sh"
    script.write_text(f"#!/bin/bash\nLR=1e-4\nexport {GOOD}\nbash train_alcf.sh\n")
    trap = only(doctor(script), "not-exported")
    assert (trap["where"], trap["fix"]) == (f"{script}:2: LR=1e-4", "export LR=1e-4")


@given(st.text(alphabet=" \t\n\"'$(){}|&;<>#=\\`ab1-", max_size=60))
def test_no_text_breaks_the_reading(text):
    read_shell(text + "\nA=1 bash train_alcf.sh --x", "x")
