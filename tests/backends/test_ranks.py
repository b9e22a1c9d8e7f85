"""What launchers say, in torchrun's words. The environments are those that the launchers set, by their manuals."""

from __future__ import annotations

import pytest

from keepwarm.backends.ranks import adopt_launcher, world_size
from keepwarm.errors import KeepwarmError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SRUN = {
    "SLURM_JOB_ID": "7654321", "SLURM_JOB_NODELIST": "node[003-004]", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "node[003-004]", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4",
}  # fmt: skip
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "7654321", "SLURM_JOB_NODELIST": "node[003-004]", "SLURM_NTASKS": "8", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "4",
}  # fmt: skip


def adopted(environment: dict[str, str]) -> tuple[int, dict[str, str]]:
    """What adopt_launcher gives, and torchrun's words in the environment afterwards."""
    environment = dict(environment)
    size = adopt_launcher(environment)
    assert size == world_size(environment)
    return size, {name: environment[name] for name in TORCHRUN if name in environment}


def words(rank, size, local, local_size, address, port):
    return dict(zip(TORCHRUN, (rank, size, local, local_size, address, port), strict=True))


def test_torchruns_own_words_are_left_alone():
    given = words("3", "8", "3", "4", "host7", "29400")
    assert adopted(given | SRUN) == (8, given)  # torchrun as a step of srun: its word is the nearer one


def test_without_a_launcher_it_is_one_process():
    assert adopted({}) == (1, {})
    assert adopted({"RANK": "0"}) == (1, {"RANK": "0"})


def test_srun():
    assert adopted(SRUN) == (8, words("5", "8", "1", "4", "node003", "34321"))


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("node[003-010,015],other", "node003"),
        ("node[003,015]", "node003"),
        ("node[7]", "node7"),
        ("login1", "login1"),
        ("login1,login2", "login1"),
        ("other,node[003-010]", "other"),
        ("nid00[1-4]", "nid001"),
    ],
)
def test_the_first_machine_of_a_node_list(listed, first):
    assert adopted(SRUN | {"SLURM_STEP_NODELIST": listed})[1]["MASTER_ADDR"] == first


def test_the_jobs_machines_where_the_step_does_not_say_its_own():
    found = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_NODELIST"}
    assert adopted(found)[1]["MASTER_ADDR"] == "node003"


@pytest.mark.parametrize(
    ("job", "port"), [("7654321", "34321"), ("20000", "20000"), ("39999", "39999"), ("1", "20001")]
)
def test_the_port_follows_from_the_jobs_number(job, port):
    assert adopted(SRUN | {"SLURM_JOB_ID": job})[1]["MASTER_PORT"] == port


def test_where_they_meet_is_the_users_to_say():
    given = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    assert adopted(SRUN | given)[1] == words("5", "8", "1", "4", "10.0.0.7", "29500")
    assert adopted(SRUN | {"MASTER_ADDR": "10.0.0.7"})[1]["MASTER_PORT"] == "34321"


def test_a_batch_script_that_launches_nothing_is_one_process():
    """Slurm tells it of all its tasks too, but it is no step."""
    assert adopted(BATCH_SCRIPT) == (1, {})


def test_a_step_of_one_task_is_one_process():
    assert adopted(SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == (1, {})


def test_pals(tmp_path):
    """mpiexec of HPE Cray: in a PBS job, whose file lists a machine once a process."""
    (tmp_path / "nodes").write_text("x1000c0s0b0n0.site\nx1000c0s0b0n0.site\nx1000c0s1b0n0.site\n")
    environment = {
        "PALS_RANKID": "3", "PMI_SIZE": "4", "PMI_RANK": "3", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "2",
        "PBS_JOBID": "1234567.polaris-pbs-01", "PBS_NODEFILE": str(tmp_path / "nodes"),
    }  # fmt: skip
    assert adopted(environment) == (4, words("3", "4", "1", "2", "x1000c0s0b0n0.site", "34567"))


def test_open_mpi():
    environment = {
        "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "host1",
    }  # fmt: skip
    assert adopted(environment) == (4, words("2", "4", "0", "2", "host1", "20000"))


def test_mpich():
    environment = {
        "PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "MASTER_ADDR": "host1",
    }  # fmt: skip
    assert adopted(environment) == (2, words("1", "2", "1", "2", "host1", "20000"))


def test_a_launcher_that_says_little_is_one_process_a_machine():
    assert adopted({"PMI_RANK": "1", "PMI_SIZE": "2", "MASTER_ADDR": "host1"}) == (
        2, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "host1", "MASTER_PORT": "20000"},
    )  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"PBS_NODEFILE": "/nowhere"}])
def test_processes_that_cannot_meet_are_refused(more):
    environment = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"} | more
    with pytest.raises(KeepwarmError) as refusal:
        adopt_launcher(environment)
    assert str(refusal.value).splitlines() == [
        "mpiexec (Open MPI) started 4 processes, and none knows where to meet the others",
        "  why: the first process's machine and a free port on it are needed",
        "  fix: export MASTER_ADDR=FIRST_MACHINE MASTER_PORT=29500, in the job script before the launch",
    ]
