"""Which process of how many this is, as a launcher says it: torchrun, srun, or mpiexec. Read once, without torch.

All are brought to torchrun's words (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from keepwarm.errors import KeepwarmError

# rank, world size, rank on its machine, processes on its machine. A batch script itself is no step: it has no SLURM_STEP_*.
_LAUNCHERS = {
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    "mpiexec (PALS)": ("PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    "mpiexec (Open MPI)": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                           "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "mpiexec (MPICH)": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}  # fmt: skip
_FIRST_PORT, _PORTS = 20_000, 20_000  # of the port that a job's number gives


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher started as one run; 1 without one."""
    return int(environment.get("WORLD_SIZE", "1"))


def adopt_launcher(environment: MutableMapping[str, str] = os.environ) -> int:
    """Bring what srun or mpiexec says to torchrun's words; the world size.

    KeepwarmError if there are several processes and no address where they could meet.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return world_size(environment)
    for launcher, (rank, size, local, local_size) in _LAUNCHERS.items():
        if rank in environment and int(environment.get(size, "1")) > 1:
            environment["RANK"], environment["WORLD_SIZE"] = environment[rank], environment[size]
            environment["LOCAL_RANK"] = environment.get(local, "0")
            beside = re.match(r"\d+", environment.get(local_size, ""))  # Slurm's: 4(x2),3
            if beside:
                environment["LOCAL_WORLD_SIZE"] = beside[0]
            _meet(launcher, environment)
            return world_size(environment)
    return 1


def _meet(launcher: str, environment: MutableMapping[str, str]) -> None:
    """Where the processes meet: what the user says, else the first machine of the job."""
    address = environment.get("MASTER_ADDR") or _first_machine(environment)
    if address is None:
        raise KeepwarmError(
            f"{launcher} started {environment['WORLD_SIZE']} processes, and none knows where to meet the others",
            "the first process's machine and a free port on it are needed",
            "export MASTER_ADDR=FIRST_MACHINE MASTER_PORT=29500, in the job script before the launch",
        )
    job = re.sub(r"\D.*", "", environment.get("SLURM_JOB_ID") or environment.get("PBS_JOBID") or "0") or "0"
    environment.setdefault("MASTER_ADDR", address)
    environment.setdefault("MASTER_PORT", str(_FIRST_PORT + int(job) % _PORTS))


def _first_machine(environment: Mapping[str, str]) -> str | None:
    listed = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if listed:  # node[003-010,015].site,other: the first is node003.site
        found = re.match(r"([^,\[]+)(?:\[([^-,\]]+)[^\]]*\]([^,]*))?", listed)
        return "".join(part or "" for part in found.groups()) if found else None
    machines = environment.get("PBS_NODEFILE")
    if machines and Path(machines).is_file():
        return Path(machines).read_text(encoding="utf-8").split()[0]
    return None
