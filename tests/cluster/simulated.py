"""A cluster in a folder: commands to submit with, and someone who runs what is queued, one job at a time.

A job is run as its scheduler would: its script by its own first line, in a session of its own, with the scheduler's
variables and a clean environment, killed at its wall time by SIGTERM and then SIGKILL. A test says what befalls a job, by
what the job prints: so it befalls it at the same place every time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

COMMANDS = ("qsub", "qdel", "sbatch", "scancel", "scontrol")
LONGEST_SECONDS = 180.0  # of a job, whatever its wall time: a test that hangs says so


@dataclass(frozen=True, slots=True)
class Event:
    """What befalls the job `job` once it has printed what matches `when`.

    `node`: a node fails, and every process of the job is gone at once. `walltime`: SIGTERM, and SIGKILL after the grace.
    """

    job: int
    kind: Literal["node", "walltime"]
    when: str


@dataclass(slots=True)
class Job:
    """A job that ended. `code`: its exit status, negative where a signal ended it."""

    number: int
    code: int
    output: str
    script: Path


@dataclass
class Cluster:
    """`bin` goes on PATH. `nodes`: how many a job gets, by its number; else what its script asks for."""

    folder: Path
    nodes: dict[int, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    grace_seconds: float = 0.5
    environment: dict[str, str] = field(default_factory=dict)  # further variables of every job

    def __post_init__(self) -> None:
        (self.folder / "jobs").mkdir(parents=True)
        (self.bin).mkdir()
        source = Path(__file__).parent / "commands.py"
        for name in COMMANDS:
            script = f"#!{sys.executable}\n" + source.read_text().replace(
                'os.environ.get("SIMULATED_CLUSTER")', repr(str(self.folder))
            )
            (self.bin / name).write_text(script)
            (self.bin / name).chmod(0o755)
        keepwarm = Path(sys.executable).parent
        home = self.folder / "home"
        home.mkdir()
        (home / ".bash_profile").write_text(f"export PATH={self.bin}:{keepwarm}:/usr/bin:/bin\n")

    @property
    def bin(self) -> Path:
        """The folder of the scheduler's commands."""
        return self.folder / "bin"

    def queued(self) -> list[int]:
        """Jobs that wait, in the order they were submitted."""
        return [int(job["id"]) for job in self._jobs() if job["state"] == "queued"]

    def run(self, most: int = 30) -> list[Job]:
        """Run jobs until none can begin; AssertionError after `most` of them: they would go on for ever."""
        done: list[Job] = []
        while (job := self._next()) is not None:
            assert len(done) < most, f"{most} jobs ran, and there is another one"
            done.append(self._run(job))
        return done

    def _jobs(self) -> list[dict]:
        paths = sorted((self.folder / "jobs").glob("*.json"), key=lambda path: int(path.stem))
        return [json.loads(path.read_text()) for path in paths]

    def _next(self) -> dict | None:
        """The first that may begin. One that never may (afterok behind a failed job) is taken out of the queue."""
        jobs = {job["id"]: job for job in self._jobs()}
        for job in jobs.values():
            before = [jobs[each] for each in job["before"]]
            if job["state"] != "queued" or any(each["state"] == "queued" for each in before):
                continue
            if job["depends"] == "afterok" and any(each["state"] != "ended" or each["code"] for each in before):
                self._keep(job | {"state": "cancelled"})
                continue
            return job
        return None

    def _keep(self, job: dict) -> None:
        (self.folder / f"jobs/{job['id']}.json").write_text(json.dumps(job, indent=1))

    def _run(self, job: dict) -> Job:
        self._keep(job | {"state": "running"})
        script, number = Path(job["script"]), int(job["id"])
        text = script.read_text()
        first = text.splitlines()[0]
        assert first.startswith("#!"), f"{script} has no first line that says how it is run"
        process = subprocess.Popen(
            [*first[2:].split(), str(script), *job["arguments"]], cwd=self._begins_in(job), env=self._variables(job, text),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        watched = _Watched(process, [each for each in self.events if each.job == number], self.grace_seconds)
        output, code = watched.wait()
        self._keep(job | {"state": "ended", "code": code})
        (self.folder / f"jobs/{number}.out").write_text(output)
        return Job(number, code, output, script)

    def _begins_in(self, job: dict) -> str:
        """PBS begins a job at home, Slurm where it was submitted."""
        return str(self.folder / "home") if job["scheduler"] == "pbs" else job["folder"]

    def _variables(self, job: dict, script: str) -> dict[str, str]:
        asked = re.search(r"select=(\d+)", script) or re.search(r"--nodes[= ](\d+)", script)
        count = self.nodes.get(int(job["id"]), int(asked[1]) if asked else 1)
        common = {
            "HOME": str(self.folder / "home"),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **self.environment,
        }
        if job["scheduler"] == "slurm":
            return common | {
                "SLURM_JOB_ID": job["id"], "SLURM_SUBMIT_DIR": job["folder"], "SLURM_NNODES": str(count),
                "SLURM_JOB_NODELIST": f"nid[1-{count}]", "SLURM_GPUS_ON_NODE": "4",
            }  # fmt: skip
        hosts = self.folder / f"jobs/{job['id']}.hosts"
        hosts.write_text("".join(f"x4{number:03d}\n" for number in range(count)))
        return common | {
            "PBS_JOBID": f"{job['id']}.cluster", "PBS_O_WORKDIR": job["folder"], "PBS_NODEFILE": str(hosts),
            "PBS_ENVIRONMENT": "PBS_BATCH",
        }  # fmt: skip


class _Watched:
    """A job at work: what it prints is read as it comes, and what befalls it is done then."""

    def __init__(self, process: subprocess.Popen, events: list[Event], grace_seconds: float) -> None:
        self.process, self.events, self.grace = process, list(events), grace_seconds
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def wait(self) -> tuple[str, int]:
        """What it printed, and its exit status."""
        try:
            self.process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            raise AssertionError(f"a job ran for {LONGEST_SECONDS} s:\n" + "".join(self.lines[-20:])) from None
        self._signal(signal.SIGKILL)  # a job's processes end with it
        self.reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return "".join(self.lines), self.process.returncode

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            for event in [each for each in self.events if re.search(each.when, line)]:
                self.events.remove(event)
                if event.kind == "walltime":
                    self._signal(signal.SIGTERM)
                    time.sleep(self.grace)
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
