"""job.sh under an emulated scheduler, around a trainer that only saves: chains, ends, and what stops them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from keepwarm.cli.main import main

# Saves as the trainer does, STEPS iterations a job, and ends with exit status 0 whatever happened.
TRAINER = """\
echo "$LOAD | $*${PROCESSES:+ of $WORLD_SIZE, $GRAD_ACC_STEPS at a time}" >>"$SEEN"
[ -n "${STEPS:-}" ] || exit 0
at=0
if [ -f "$SAVE/latest" ]; then at=$(sed s/global_step// "$SAVE/latest"); fi
at=$((at + STEPS)); [ $at -le $TRAIN_ITERS ] || at=$TRAIN_ITERS
mkdir -p "$SAVE/global_step$at"
for rank in $(seq 0 $((WORLD_SIZE - 1))); do touch "$SAVE/global_step$at/zero_pp_rank_${rank}_mp_rank_00_optim_states.pt"; done
echo -n "global_step$at" >"$SAVE/latest"
"""
QUEUE = """\
#!/bin/bash
echo "$(basename "$0") $*" >>"$QUEUE"
[ -z "${FULL:-}" ] || { echo "queue is full" >&2; exit 1; }
[ "$(basename "$0")" = qdel ] || echo "$(wc -l <"$QUEUE").server"
"""
KEEPWARM = """\
#!/bin/bash
echo "keepwarm $*" >>"$SEEN"
if [ "$1" = convert ]; then mkdir -p "$3"; echo -n "$(basename "$3")" >"$(dirname "$3")/latest_universal"; fi
"""


@pytest.fixture
def job(line, monkeypatch):
    """Write a rung's launch, and run a job of it: (exit status, what the trainer and keepwarm saw, what was queued)."""
    folder = line / "run/arms/cookbook/stage2"
    (line / "trainer").mkdir()
    (line / "trainer/train_alcf.sh").write_text(TRAINER)
    (line / "bin").mkdir()
    for name, text in {"qsub": QUEUE, "qdel": QUEUE, "keepwarm": KEEPWARM}.items():
        (line / "bin" / name).write_text(text)
        (line / "bin" / name).chmod(0o755)

    def run(launch: str, scheduler: str = "pbs", **environment: str) -> tuple[int, list[str], list[str]]:
        words = ["--rung", Path(launch).parts[0], "--write", "--scheduler", scheduler]
        assert main(["launch", "plan.yaml", *words]) == 0
        where = folder / Path(launch).parts[0] / "launches" / Path(launch).parts[1]
        names = {"SEEN": line / "seen", "QUEUE": line / "queue"}
        for path in names.values():
            path.write_text("")
        done = subprocess.run(
            ["bash", "job.sh"], cwd=where, capture_output=True, text=True,
            env={**os.environ, "PATH": f"{line / 'bin'}:/usr/bin:/bin", "PBS_JOBID": "7.server", "PBS_NODEFILE": "/dev/null",
                 **{name: str(path) for name, path in names.items()}, **environment},
        )  # fmt: skip
        return done.returncode, *(path.read_text().splitlines() for path in names.values())

    return run


@pytest.fixture
def attempt(line) -> Path:
    """The folder of the first replay candidate."""
    return line / "run/arms/cookbook/stage2/00-replay"


def test_a_chain_goes_on_until_the_last_iteration_is_saved(job, attempt):
    behind = ["qsub -W depend=afterany:7.server job.sh", "qsub -W depend=afterany:7.server evaluate.sh"]
    status, seen, queued = job("00-replay/1-train", STEPS="4")
    assert status == 75 and queued == behind
    assert seen[0].startswith("keepwarm convert") and seen[0].endswith("--to universal --trust")
    assert (
        seen[1] == f"{attempt}/start-universal | --finetune --universal-checkpoint --seed=2 --exit-duration-in-mins=45"
    )
    status, seen, queued = job("00-replay/1-train", STEPS="4")
    assert status == 0 and queued == [*behind, "qdel 1.server"]
    assert seen == [f"{attempt}/checkpoints-megatron | --seed=2 --exit-duration-in-mins=45"]
    status, seen, queued = job("00-replay/1-train", STEPS="4")
    assert (status, seen, queued) == (0, [], [])  # what is done is not begun again
    logs = sorted(path.name for path in (attempt / "launches/1-train/logs").glob("*.log"))
    assert logs == ["001-7.log", "002-7.log", "003-7.log"]
    assert "iteration 6 of 6 is saved" in (attempt / "launches/1-train/logs/002-7.log").read_text()


def test_another_number_of_nodes_goes_on_from_a_universal_copy(job, attempt, line):
    """The shards of 2 processes can be loaded by 2 alone; the batch of 8 stays, in fewer steps of accumulation."""
    nodes = line / "nodes"
    nodes.write_text("a\nb\n")
    assert job("00-replay/1-train", STEPS="2")[0] == 75
    status, seen, _ = job("00-replay/1-train", STEPS="2", PBS_NODEFILE=str(nodes), PROCESSES="told")
    copy = attempt / "launches/1-train/of-2-global_step2"
    assert status == 75 and seen == [
        f"keepwarm convert {attempt}/checkpoints-megatron/global_step2 {copy}/global_step2_universal --to universal --trust",
        f"{copy} | --universal-checkpoint --seed=2 --exit-duration-in-mins=45 of 4, 2 at a time",
    ]
    status, seen, _ = job("00-replay/1-train", STEPS="2", PBS_NODEFILE=str(nodes), PROCESSES="told")
    assert status == 0  # four shards by now: a plain resume
    assert seen == [f"{attempt}/checkpoints-megatron | --seed=2 --exit-duration-in-mins=45 of 4, 2 at a time"]


def test_nodes_that_can_not_share_the_batch_train_nothing(job, attempt, line):
    (line / "nodes").write_text("a\nb\nc\n")
    status, seen, _ = job("00-replay/1-train", STEPS="2", PBS_NODEFILE=str(line / "nodes"))
    assert status == 75 and [each for each in seen if "|" in each] == []
    said = (attempt / "launches/1-train/logs/001-7.log").read_text()
    assert "6 processes can't share a batch of 8 sequences, 1 at a time" in said


def test_jobs_that_save_nothing_end_the_chain(job, attempt):
    """The trainer's script gives exit status 0: only what is saved counts."""
    assert [job("00-replay/1-train")[0] for _ in range(2)] == [75, 75]
    status, seen, queued = job("00-replay/1-train")
    assert status == 1 and queued[-1] == "qdel 1.server"
    assert seen[0].endswith("--universal-checkpoint --seed=2 --exit-duration-in-mins=45")  # it begins anew each time
    assert "3 of 3 jobs in a row" in (attempt / "launches/1-train/logs/003-7.log").read_text()


def test_a_start_that_is_another_is_not_begun_from(job, attempt):
    (attempt / "start-universal").mkdir(parents=True)
    (attempt / "start-universal/latest_universal").write_text("global_step30_universal")
    status, seen, queued = job("00-replay/1-train", STEPS="4")
    assert (status, seen, queued) == (1, [], [])
    said = (attempt / "launches/1-train/logs/001-7.log").read_text()
    assert "latest_universal names global_step30_universal, not global_step40_universal" in said


def test_a_checkpoint_that_is_gone_is_not_gone_on_from(job, attempt):
    """The trainer would begin from random weights."""
    (attempt / "checkpoints-megatron").mkdir(parents=True)
    (attempt / "checkpoints-megatron/latest").write_text("global_step4")
    assert job("00-replay/1-train", STEPS="4") == (1, [], [])
    said = (attempt / "launches/1-train/logs/001-7.log").read_text()
    assert "latest names global_step4, and there is no such step" in said


def test_a_queue_that_refuses_is_told(job, attempt):
    status, _, queued = job("00-replay/1-train", STEPS="4", FULL="1")
    assert status == 1 and queued[-1] == "qsub job.sh"
    said = (attempt / "launches/1-train/logs/001-7.log").read_text()
    assert "cut off at iteration 4 of 6, and no job could be submitted" in said


def test_without_a_scheduler_one_job_does_it_all(job, attempt):
    status, seen, queued = job("00-replay/1-train", "none", STEPS="4")
    assert status == 0 and queued == []
    assert [line.partition(" | ")[2] for line in seen[1:3]] == [
        "--finetune --universal-checkpoint --seed=2 --exit-duration-in-mins=45", "--seed=2 --exit-duration-in-mins=45",
    ]  # fmt: skip
    assert seen[3].startswith("keepwarm eval") and seen[3].endswith(
        "--stage stage2 --rung 00-replay --arm cookbook --trust"
    )


def test_the_second_launch_follows_the_first(job, line):
    folder = line / "run/arms/cookbook/stage2/03-decay-then-introduce"
    status, seen, _ = job("03-decay-then-introduce/2-introduce", STEPS="100")
    assert (status, seen) == (1, [])  # nothing is saved that it could resume
    status, seen, queued = job("03-decay-then-introduce/1-decay", STEPS="100")
    assert status == 0 and queued[-1] == "qsub job.sh"
    status, seen, _ = job("03-decay-then-introduce/2-introduce", STEPS="100")
    assert status == 0 and seen[0].startswith(f"{folder}/checkpoints-megatron | --min-lr=2e-06")


def test_the_scripts_are_bash(line):
    assert main(["launch", "plan.yaml", "--write"]) == 0
    for path in (line / "run/arms/cookbook/stage2/00-replay/launches/1-train").glob("*.sh"):
        subprocess.run(["bash", "-n", str(path)], check=True)
