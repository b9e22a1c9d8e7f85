"""The simulated cluster itself: ids, dependencies, variables, and what befalls a job."""

from __future__ import annotations

import subprocess

import pytest

from cluster.simulated import Cluster, Event


@pytest.fixture
def place(tmp_path):
    """(cluster, write a script, submit it by a command line)."""
    made = Cluster(tmp_path / "cluster")

    def script(name, *lines):
        (tmp_path / name).write_text("\n".join(["#!/bin/bash --login", *lines]) + "\n")

    def submit(*words):
        done = subprocess.run(
            [str(made.bin / words[0]), *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return made, script, submit


def test_pbs_jobs_have_ids_variables_and_an_order(place, tmp_path):
    cluster, script, submit = place
    script("a.sh", "#PBS -l select=3", 'echo "$PBS_JOBID $PBS_O_WORKDIR $(wc -l <"$PBS_NODEFILE") $PWD"', "exit 4")
    script("b.sh", "echo b")
    first = submit("qsub", "a.sh")
    assert first == "1.cluster"
    assert submit("qsub", "-W", f"depend=afterok:{first}", "b.sh") == "2.cluster"
    assert submit("qsub", "-W", f"depend=afterany:{first}", "-N", "name", "b.sh") == "3.cluster"
    done = cluster.run()
    assert [(job.number, job.code) for job in done] == [(1, 4), (3, 0)]
    assert done[0].output.split() == ["1.cluster", str(tmp_path), "3", str(tmp_path / "cluster/home")]


def test_slurm_jobs_begin_where_they_were_submitted(place, tmp_path):
    cluster, script, submit = place
    cluster.nodes[1] = 2
    script("a.sh", "#SBATCH --nodes=4", 'echo "$SLURM_JOB_ID $SLURM_NNODES $PWD"; scontrol show hostnames "$SLURM_JOB_NODELIST"',
           "sbatch --parsable --dependency=afterany:$SLURM_JOB_ID b.sh")  # fmt: skip
    script("b.sh", "keepwarm --version")
    assert submit("sbatch", "a.sh") == "Submitted batch job 1"
    done = cluster.run()
    assert done[0].output.split() == ["1", "2", str(tmp_path), "nid1", "nid2", "2"]
    assert done[1].code == 0 and "." in done[1].output


def test_a_node_fails_and_a_wall_time_ends_at_what_is_printed(place):
    cluster, script, submit = place
    script("a.sh", "trap 'echo caught; exit 9' TERM", "for i in 1 2 3 4; do echo step $i; sleep 0.3 & wait $!; done")
    cluster.events += [Event(1, "node", "step 2"), Event(2, "walltime", "step 3")]
    for _ in range(3):
        submit("qsub", "a.sh")
    killed, timed_out, whole = cluster.run()
    assert killed.code == -9 and killed.output.split()[-1] == "2" and "caught" not in killed.output
    assert timed_out.code == 9 and timed_out.output.endswith("step 3\ncaught\n")
    assert whole.code == 0 and "step 4" in whole.output


def test_cancelled_jobs_and_wrong_dependencies(place, tmp_path):
    cluster, script, submit = place
    script("a.sh", "true")
    submit("qsub", "a.sh")
    submit("qdel", "1.cluster")
    assert cluster.run() == [] and cluster.queued() == []
    done = subprocess.run(
        [str(cluster.bin / "qsub"), "-W", "depend=afterany:", "a.sh"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "illegal dependency" in done.stderr
    (tmp_path / "cluster/closed").touch()
    done = subprocess.run(
        [str(cluster.bin / "sbatch"), "a.sh"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "does not accept jobs" in done.stderr
