"""The stub trainer is launched as the real one is, and does what that was recorded to do, number for number.

From the real checkpoint it goes on with the real run's losses: so what it reads of a list, its model, its optimizer and
its learning rate are the real ones.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from cluster.trainer import checkpoints
from cluster.trainer.pretrain_gpt_alcf import Trainer
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.log_points import read_console

TRAINER, GOLDEN = Path(__file__).parent / "trainer", Path(__file__).parents[1] / "golden"
STEP = re.compile(r"iteration= *(\d+)/.*?learning_rate=(\S+)(?:.*?lm loss=(\S+))?")
SHAPE = {"HIDDEN": "32", "NLAYERS": "2", "HEADS": "4", "NUM_KV_HEAD": "2", "FFN_HIDDEN_SIZE": "96"}


def steps_in(text: str) -> dict[int, tuple[str, str]]:
    """(learning rate, loss) as printed, by iteration."""
    return {int(found[1]): (found[2], found[3]) for found in STEP.finditer(text)}


@pytest.fixture
def launch(tmp_path, capsys, monkeypatch):
    """launch(*arguments, VARIABLE=value): a run by train_alcf.sh's own command line, in this process; what it printed."""
    real = GOLDEN / "runs/data"
    listing = tmp_path / "list.txt"
    listing.write_text(
        "".join(f"{w} {real / p} {c}\n" for w, p, c in map(str.split, (real / "list.txt").read_text().splitlines()))
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(128)}}}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text('#!/bin/bash\nprintf "%s\\n" "${@:2}"\n')
    (tmp_path / "bin/python3").chmod(0o755)
    monkeypatch.setenv("WORLD_SIZE", "2")

    def run(*arguments: str, **variables: str) -> str:
        environment = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "WORLD_SIZE": "2", "SEQ": "16", "GLOBAL_BATCH": "8", "TRAIN_ITERS": "20",
            "TOKENIZER_MODEL": str(tmp_path / "tokenizer.json"), "DATA_FILE_LIST": str(listing), "EVAL_INTERVAL": "5",
            "EVAL_ITERS": "1", "SAVE_INTERVAL": "10", "LR_WARMUP_FRAC": "0.1", "TRAIN_SPLIT": "90", "VAL_SPLIT": "10",
            "CKPT_DIR": str(tmp_path / "own"), "SAVE": str(tmp_path / "save"), **SHAPE, **variables,
        }  # fmt: skip
        script = ["bash", str(TRAINER / "train_alcf.sh"), *arguments]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        words = lines[next(n for n, line in enumerate(lines) if line.startswith("exec ")) + 1 :]
        capsys.readouterr()
        assert Trainer(words).train() == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def real(tmp_path):
    """The folder of the real checkpoint at step 10 of 20, plain and universal."""
    with tarfile.open(GOLDEN / "checkpoint/real_ckB.tar.gz") as file:
        file.extractall(tmp_path / "real", filter="data")
    folder = next(path.parent for path in (tmp_path / "real").rglob("latest"))
    (folder / "latest").write_text("global_step10")
    return folder


@pytest.mark.parametrize("arguments", [(), ("--universal-checkpoint",)])
def test_a_resume_of_the_real_checkpoint_goes_on_with_the_real_losses(launch, real, arguments):
    found = launch(*arguments, LOAD=str(real))
    recorded = (GOLDEN / "logs/baseB.log").read_text()
    ours, theirs = steps_in(found), steps_in(recorded)
    assert list(ours) == list(range(11, 21))
    for number, (rate, loss) in ours.items():
        assert rate == theirs[number][0]
        assert float(loss) == pytest.approx(float(theirs[number][1]), abs=2e-6)
    values = re.findall(r"validation loss at (iteration \d+.*?) \| lm loss value=(\S+?)lm", found)
    expected = dict(re.findall(r"validation loss at (iteration \d+.*?) \| lm loss value=(\S+?)lm", recorded))
    assert len(values) == 3 and all(expected[where] == value for where, value in values)


def test_finetune_with_universal_takes_moments_and_first_rate_of_the_checkpoint(launch, real):
    """With --lr 0 the first step still changes the weights: by the rate that the copy holds."""
    plain = launch("--finetune", LOAD=str(real), LR="0", TRAIN_ITERS="5")
    universal = launch("--finetune", "--universal-checkpoint", LOAD=str(real), LR="0", TRAIN_ITERS="5")
    for found, name in ((plain, "lr0_finetune"), (universal, "lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR")):
        recorded = steps_in((GOLDEN / f"runs/{name}.log").read_text())
        for number, (rate, loss) in steps_in(found).items():
            assert float(rate) == float(recorded[number][0]) == 0
            assert float(loss) == pytest.approx(float(recorded[number][1]), abs=2e-6)


def test_the_rungs_launches_follow_the_recorded_rates(launch, tmp_path):
    def rates(text: str) -> dict[int, str]:
        return {number: rate for number, (rate, _) in steps_in(text).items()}

    def recorded(name: str) -> dict[int, str]:
        return rates((GOLDEN / f"runs/{name}.log").read_text())

    trunk = launch(LR_DECAY_STYLE="constant", LOAD=str(tmp_path / "nowhere"))
    assert rates(trunk) == recorded("rung_trunk")
    first = launch(
        "--min-lr", "2e-6", LR_WARMUP_FRAC="0", LR_DECAY_ITERS="20", TRAIN_ITERS="14", LOAD=str(tmp_path / "nowhere")
    )
    assert rates(first) == recorded("rung_decay1")
    again = {"LR_WARMUP_FRAC": "0", "LR_DECAY_ITERS": "20", "LOAD": str(tmp_path / "save")}
    assert rates(launch("--min-lr", "2e-6", **again)) == recorded("rung_decay2")


def test_what_it_saves_is_read_as_a_checkpoint_of_the_trainer(launch, tmp_path):
    printed = launch(LR_DECAY_STYLE="constant", LOAD=str(tmp_path / "nowhere"))
    assert "will not load any checkpoints and will start from random" in printed
    found = look_at(tmp_path / "save")
    assert (found.kind, found.iteration, found.samples, found.lr, found.phase, found.moments) == (
        "megatron-deepspeed", 20, 160, 2e-4, "peak", True
    )  # fmt: skip
    (tmp_path / "x.log").write_text(printed)
    console = read_console(tmp_path / "x.log")
    assert [line.iteration for line in console.training] == list(range(1, 21)) and not console.unread
    others = [point.iteration for point in console.points if point not in console.training]
    assert others == [5, 10, 15, 20, 20] and len(console.from_random) >= 1


def test_other_ranks_cannot_resume_and_a_missing_copy_stops_it(launch, real, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RuntimeError, match="used a DP world size of 2 but the current world size is 4"):
        launch(LOAD=str(real))
    with pytest.raises(ValueError, match=r"latest_universal does not exist"):
        launch("--universal-checkpoint", LOAD=str(tmp_path / "nowhere"))


def test_it_stops_by_its_clock_with_a_checkpoint(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_MINUTES_AN_ITERATION", "10")
    printed = launch("--exit-duration-in-mins=55", LOAD=str(tmp_path / "save"))
    assert list(steps_in(printed)) == [1, 2, 3, 4, 5, 6] and "exiting program after 60.0 minutes" in printed
    assert (tmp_path / "save/latest").read_text() == "global_step6"


def test_its_own_arguments_beat_a_persons_and_the_exit_status_is_of_tee(tmp_path):
    done = subprocess.run(
        ["bash", str(TRAINER / "train_alcf.sh"), "--train-iters", "7"], capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "TRAIN_ITERS": "9", "DATA_FILE_LIST": "gone.txt", "GLOBAL_BATCH": "8"},
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("exec "))
    assert done.returncode == 0 and line.index("--train-iters 7") < line.index("--train-iters=9")


def test_partitions_of_any_number_of_ranks_are_put_together_again(tmp_path, launch, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    launch(LOAD=str(tmp_path / "nowhere"), TRAIN_ITERS="2")
    weights, moments, count, _, states = checkpoints.read_step(tmp_path / "save/global_step2", 128, 3)
    assert count == 2 and set(weights) == set(moments["exp_avg"])
    assert (
        weights[checkpoints.VOCABULARY[0]]
        == states["module"]["language_model"]["embedding"]["word_embeddings"]["weight"]
    ).all()
