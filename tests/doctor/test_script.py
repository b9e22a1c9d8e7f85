"""Job scripts and scripts that chain jobs."""

from __future__ import annotations

import pytest

from doctor.told import names, only

PBS = """#!/bin/bash --login
#PBS -q prod
#PBS -A AuroraGPT
#PBS -l walltime=06:00:00,filesystems=flare:home
#PBS -l select=256
cd "${PBS_O_WORKDIR}" || exit 1
DATA_FILE_LIST=/elsewhere/list.txt LOAD=/elsewhere/a SAVE=/elsewhere/b TRAIN_ITERS=100 GRAD_ACC_STEPS=2 \\
  bash train_alcf.sh --exit-duration-in-mins=345
"""
SLURM = """#!/bin/bash
#SBATCH -A m4388_g -q regular -t 00:30:00
#SBATCH --nodes 128 --gpus-per-node=4
export PBS_O_WORKDIR=$SLURM_SUBMIT_DIR
scontrol show hostnames "$SLURM_JOB_NODELIST" > hostfile
export HOSTFILE=$PWD/hostfile
export DATA_FILE_LIST=/elsewhere/list.txt LOAD=/elsewhere/a SAVE=/elsewhere/b TRAIN_ITERS=100
bash train_alcf.sh --exit-duration-in-mins 25
"""
CHAIN = """#!/bin/bash --login
NJOBS="${NJOBS:-10}"
JOBIDS=()
cmd="qsub -A A -q prod -l select=64 -l walltime=06:00:00,filesystems=flare:home train.sh"
jobid=($(eval "${cmd}"))
for (( idx=1; idx<="${NJOBS}"; idx+=1 )); do
    cmd="qsub -W depend=afterany:${JOBIDS[idx]} -q prod train.sh"
    JOBIDS+=("$(bash -c "${cmd}")")
done
"""
GOOD_CHAIN = """#!/bin/bash
id=$(qsub train.sh)
for (( i=1; i<NJOBS; i++ )); do
    id=$(qsub -W depend=afterany:$id train.sh)
done
"""


@pytest.fixture
def written(tmp_path, doctor):
    def run(text: str) -> list[dict]:
        (tmp_path / "job.sh").write_text(text)
        return doctor(tmp_path / "job.sh")

    return run


@pytest.mark.parametrize("text", [PBS, SLURM, GOOD_CHAIN])
def test_a_good_script_has_none(written, text):
    assert written(text) == []


@pytest.mark.parametrize(
    ("text", "old", "new", "name", "evidence", "fix"),
    [
        (
            PBS, "06:00:00,filesystems", "06:00:00:filesystems", "malformed-directive",
            "`:filesystems=` stands where `,filesystems=` must", "-l walltime=06:00:00,filesystems=flare:home",
        ),
        (PBS, 'cd "${PBS_O_WORKDIR}" || exit 1\n', "", "no-cd", "no `cd` before the launch", 'cd "$PBS_O_WORKDIR" || exit 1'),
        (
            PBS, " --exit-duration-in-mins=345", "", "cut-off-by-walltime",
            "none of --exit-duration-in-mins, --exit-interval, --exit-signal-handler; a save every 50 iterations is the only "
            "protection", "bash train_alcf.sh --exit-duration-in-mins=342 ...",
        ),
        (
            SLURM, "mins 25", "mins 30", "cut-off-by-walltime",
            "--exit-duration-in-mins=30 is not below 30 minutes; a save every 50 iterations is the only protection",
            "bash train_alcf.sh --exit-duration-in-mins=25 ...",
        ),
        (
            SLURM, "export PBS_O_WORKDIR=$SLURM_SUBMIT_DIR\n", "", "pbs-variables-under-slurm", "not set: PBS_O_WORKDIR",
            "export PBS_O_WORKDIR=$SLURM_SUBMIT_DIR",
        ),
        (
            SLURM, "bash train_alcf.sh --exit-duration-in-mins 25", "if bash train_alcf.sh --exit-duration-in-mins 25; then",
            "status-of-tee", "`if` asks for it", 'bash train_alcf.sh ...; [ "$(cat "$SAVE"/latest)" = global_stepN ] && ...',
        ),
        (
            GOOD_CHAIN, "afterany:$id", "afterok:$id", "waits-for-success", "`afterok` asks for an exit status that says nothing",
            "id=$(qsub -W depend=afterany:$id train.sh)",
        ),
        (
            GOOD_CHAIN, "afterany:$id", "afterany:", "empty-dependency", "`depend=afterany:`: no job id follows",
            "id=$(qsub job.sh), then id=$(qsub -W depend=afterany:$id job.sh) for each further job",
        ),
    ],
)  # fmt: skip
def test_a_spoiled_script(written, text, old, new, name, evidence, fix):
    assert text.count(old) == 1
    (trap,) = written(text.replace(old, new))
    assert (trap["name"], trap["evidence"], trap["fix"]) == (name, evidence, fix)


def test_the_chain_that_waits_for_nothing_and_runs_one_job_too_many(written, tmp_path):
    found = written(CHAIN)
    assert names(found) == ["empty-dependency", "one-job-more"]
    trap = only(found, "empty-dependency")
    assert trap["where"] == f"{tmp_path / 'job.sh'}:7"
    assert trap["evidence"] == "`depend=afterany:${JOBIDS[idx]}`: nothing is stored in JOBIDS above"
    assert only(found, "one-job-more")["evidence"] == "NJOBS jobs in the loop, and one before it"


def test_the_header_says_the_batch(written):
    """256 nodes of 12 devices, 2 steps of accumulation."""
    (trap,) = written(PBS.replace("GRAD_ACC_STEPS=2", "GRAD_ACC_STEPS=2 GLOBAL_BATCH=6000"))
    assert trap["evidence"] == "3072 devices x 1 x 2 steps make 6144, not 6000"
    (trap,) = written(SLURM.replace("TRAIN_ITERS=100", "TRAIN_ITERS=100 GLOBAL_BATCH=512"))
    assert trap["evidence"] == "512 devices x 1 x 1 steps / 2 tensor-parallel make 256, not 512"
