"""The logs of an attempt's launches as one course of training: every step once, in order, and what became of the jobs.

A step is an iteration less the launch's `first_iteration`. A job that resumes from a checkpoint trains iterations again
that an earlier one had logged: from there on the earlier one's weights are gone, so all that it had logged behind that
point counts no more, as nothing that lies behind a checkpoint counts natively.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keepwarm.backends.megatron.record import Launch
from keepwarm.backends.megatron.script import LOGS
from keepwarm.errors import DataError
from keepwarm.lineage.foreign_logs import LogLine
from keepwarm.lineage.log_points import Console, Validation, read_console


@dataclass(frozen=True, slots=True)
class Step:
    """An iteration that counts, by its step in the attempt. Its line may stand for several: up to it from the one before."""

    step: int
    line: LogLine
    launch: Launch


@dataclass(frozen=True, slots=True)
class Restart:
    """A job went on from a checkpoint: `step` steps were done, `again` logged ones behind it count no more."""

    step: int
    again: int
    place: str  # of its first line


@dataclass(frozen=True, slots=True)
class Job:
    """One log of a launch."""

    launch: Launch
    console: Console
    name: str

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """Its training lines of this launch."""
        return tuple(line for line in self.console.training if covers(self.launch, line.iteration))


@dataclass(frozen=True, slots=True)
class Course:
    """What the logs of an attempt say, in order of steps."""

    jobs: tuple[Job, ...]
    steps: tuple[Step, ...]
    validations: tuple[tuple[int, Validation], ...]
    restarts: tuple[Restart, ...]
    outside: tuple[str, ...]  # places of lines whose iteration belongs to no launch

    @property
    def last(self) -> int:
        """The last step that counts; 0 before the first."""
        return self.steps[-1].step if self.steps else 0

    @property
    def unread(self) -> tuple[str, ...]:
        """Places of lines that look like a point and can't be read."""
        return tuple(place for job in self.jobs for place in job.console.unread)


def covers(launch: Launch, iteration: int) -> bool:
    """True of an iteration that this launch trains."""
    return launch.begin_iteration < iteration <= launch.end_iteration


def read_jobs(folder: Path, launches: Sequence[tuple[Path, Launch]], logs: Sequence[Path] = ()) -> tuple[Job, ...]:
    """The jobs of an attempt in the order they ran: those of its launches' folders, or the `logs` that are named.

    DataError for a log that can't be read, and for a named one that has iterations of no launch.
    """
    if not logs:
        own = [(launch, path) for place, launch in launches for path in logs_in(place)]
        return tuple(_job(folder, launch, path) for launch, path in own)
    found = [_assigned(folder, launches, path) for path in logs]
    order = [launch.name for _, launch in launches]
    return tuple(sorted(found, key=lambda job: order.index(job.launch.name)))  # stable: as they were named


def logs_in(launch_folder: Path) -> list[Path]:
    """A launch's logs `NN-JOBID.log` in the order of their numbers."""

    def number(path: Path) -> tuple[int, str]:
        match = re.match(r"[0-9]+", path.name)
        return (int(match[0]) if match else 0, path.name)

    return sorted((launch_folder / LOGS).glob("*.log"), key=number)


def course(jobs: Sequence[Job]) -> Course:
    """Every step once: of one that was trained again the last time counts, and nothing that lay behind it before."""
    made, begun = _Course(), set[str]()
    for job in jobs:
        made.goes_on = job.launch.name in begun
        for point in job.console.points:
            made.take(job.launch, point)
        begun |= {job.launch.name} if job.lines else set()
    return Course(tuple(jobs), tuple(made.steps), tuple(made.validations), tuple(made.restarts), tuple(made.outside))


@dataclass(slots=True)
class _Course:
    """A course while logs are read."""

    steps: list[Step] = field(default_factory=list)
    validations: list[tuple[int, Validation]] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    goes_on: bool = False  # what comes is the first of a job behind another of its launch

    def take(self, launch: Launch, point: LogLine | Validation) -> None:
        """The next point of a log."""
        step = point.iteration - launch.first_iteration
        if isinstance(point, Validation):
            self.validations.append((step, point))
        elif not covers(launch, point.iteration):
            self.outside.append(point.place)
        else:
            self._train(Step(step, point, launch))

    def _train(self, found: Step) -> None:
        if self.goes_on or (self.steps and self.steps[-1].step >= found.step):
            before = [each for each in self.steps if each.step < found.step]
            self.restarts.append(Restart(found.step - 1, len(self.steps) - len(before), found.line.place))
            self.validations = [each for each in self.validations if each[0] < found.step]
            self.steps = before
        self.steps.append(found)
        self.goes_on = False


def _job(folder: Path, launch: Launch, path: Path) -> Job:
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
    return Job(launch, read_console(path, name), name)


def _assigned(folder: Path, launches: Sequence[tuple[Path, Launch]], path: Path) -> Job:
    """A log that was named, with the launch it is of: by its place, else by its iterations."""
    for place, launch in launches:
        if path.resolve().is_relative_to(place.resolve()):
            return _job(folder, launch, path)
    console = read_console(path)
    iterations = [line.iteration for line in console.training]
    fitting = [launch for _, launch in launches if all(covers(launch, each) for each in iterations)]
    built = {line.iterations for line in console.training}
    if fitting:
        return Job(next((each for each in fitting if built == {each.train_iterations}), fitting[0]), console, str(path))
    spans = ", ".join(f"{each.name} {each.begin_iteration + 1:,} to {each.end_iteration:,}" for _, each in launches)
    raise DataError(
        f"{path}: iterations {min(iterations):,} to {max(iterations):,}; the launches of this attempt train {spans}",
        "another run's losses would be judged as this attempt's",
        "name the logs of this attempt, or none: then those in its launches' folders are read",
    )
