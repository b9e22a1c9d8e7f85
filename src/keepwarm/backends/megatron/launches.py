"""From an attempt to its launches: the record of each, its files, and the proof that its learning rate is the attempt's.

An attempt has one launch, or two where data is introduced on a decay: the first begins from the attempt's start with the
base data, the second resumes it with a new list and the same schedule. Pure: nothing is read or written here.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from keepwarm.attempt.line import COOLDOWN
from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron import script
from keepwarm.backends.megatron.emulated import PRESETS, Host, command_line
from keepwarm.backends.megatron.environment import environment_of
from keepwarm.backends.megatron.flags import Said, Span, apart, said, saved_state
from keepwarm.backends.megatron.lists import LIST, Data, data_of, trainer_seed
from keepwarm.backends.megatron.machines import Site, site_of
from keepwarm.backends.megatron.record import LAUNCHES, SAVED, Launch
from keepwarm.backends.megatron.starts import Origin, origin_of
from keepwarm.backends.megatron.views import DataList
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.machines import Scheduler
from keepwarm.plan.model import Plan

SAVES = 4  # checkpoints of an attempt, where run.save_every is auto
_DECAYS = ("decay-then-introduce", "special-continuation")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLaunch:
    """A launch as it would be written. `difference`: the largest between the trainer's LR and the attempt's."""

    folder: Path
    launch: Launch
    site: Site
    data: Data
    files: Mapping[str, str]
    difference: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment of the attempt as one launch: iterations of the trainer."""

    number: int
    name: str
    begin: int
    end: int


def launches_for(
    plan: Plan,
    attempt: Attempt,
    start: Manifest | None,
    *,
    scheduler: Scheduler | None = None,
    machine: str | None = None,
) -> list[PlannedLaunch]:
    """The launches of an attempt in the order they run. `start`: the manifest of what it starts from, where there is one.

    KeepwarmError where the trainer can't do what the attempt says, with what it would do instead.
    """
    site, run_folder = site_of(plan, scheduler, machine), Path(plan.run.folder)
    origin = origin_of(attempt, start, run_folder)
    common = environment_of(plan, attempt, site)
    rate = said(attempt.schedule, attempt.global_batch_size, attempt.sequence_length, origin.first_iteration)
    parts = _parts(attempt, origin.first_iteration)
    found: list[PlannedLaunch] = []
    for part in parts:
        before = found[-1] if found else None
        found.append(_planned(plan, attempt, site, origin, common, rate, part, before, part is parts[-1]))
    return found


def _parts(attempt: Attempt, first: int) -> list[_Part]:
    """Two where data is introduced on a decay, else one."""
    steps = [attempt.batches.steps(segment.first_sample) for segment in attempt.segments]
    if attempt.rung in _DECAYS and len(steps) == 2:
        return [
            _Part(0, "1-decay", first, first + steps[1]),
            _Part(1, "2-introduce", first + steps[1], first + attempt.steps),
        ]
    name = "1-cooldown" if attempt.rung == COOLDOWN else "1-train"
    return [_Part(0, name, first, first + attempt.steps)]


def _planned(
    plan: Plan, attempt: Attempt, site: Site, origin: Origin, common: Mapping[str, str], rate: Said, part: _Part,
    before: PlannedLaunch | None, last: bool,
) -> PlannedLaunch:  # fmt: skip
    attempt_folder = Path(plan.run.folder) / attempt.folder
    folder, first = attempt_folder / LAUNCHES / part.name, origin.first_iteration
    batch = attempt.global_batch_size
    data = data_of(attempt, folder, part.begin - first, part.end - first, part.begin)
    list_sha256 = hashlib.sha256(data.text.encode()).hexdigest()
    own, save = folder / f"trainer-{list_sha256[:16]}", str(attempt_folder / SAVED)
    anew = origin if before is None else Origin("resume", save)
    interval = _save_iterations(plan, attempt)
    environment = {
        **common, **rate.environment, "TRAIN_ITERS": str(part.end), "SAVE_INTERVAL": str(interval),
        "DATA_FILE_LIST": str(folder / LIST), "LOAD": anew.load or save, "SAVE": save, "CKPT_DIR": str(own),
    }  # fmt: skip
    arguments = (*rate.arguments, *_arguments(attempt, site))
    launch = Launch(
        attempt=attempt.sha256, name=part.name, begins=anew.begins, first_iteration=first,
        begin_iteration=part.begin, end_iteration=part.end, train_iterations=part.end, load=anew.load,
        prepare=anew.prepare, save=save, environment=environment, arguments=(*anew.arguments, *arguments),
        resume_arguments=arguments, trainer=site.spec.trainer, data_list=str(folder / LIST),
        data_list_sha256=list_sha256, data_cache=f"{own}/.cache/{Path(LIST).stem}/index-cache",
        learning_rate=rate.words, global_batch_size=batch, sequence_length=attempt.sequence_length,
        padded_vocab_size=site.padded_vocabulary(attempt.vocab_size), save_iterations=interval,
        world_size=site.world_size, machine=site.machine, scheduler=site.scheduler,
    )  # fmt: skip
    planned = PlannedLaunch(
        folder=folder, launch=launch, site=site, data=data, files={}, notes=_notes(plan, launch, data),
        difference=_difference(attempt, launch, site, anew, before),
    )  # fmt: skip
    follows = (
        None if last else str(attempt_folder / LAUNCHES / _parts(attempt, origin.first_iteration)[part.number + 1].name)
    )
    return replace(
        planned, files={LIST: data.text, **script.files_of(plan, attempt, launch, site, folder, anew, follows)}
    )


def argv_of(launch: Launch, site: Site, *, resumed: bool = False) -> list[str]:
    """The trainer's own flags in a launch's first job, or in one that resumes."""
    environment = {**launch.environment, **({"LOAD": launch.save} if resumed else {})}
    arguments = launch.resume_arguments if resumed else launch.arguments
    host = Host(site.host, site.spec.nodes, site.gpus_per_node)
    return command_line(environment, arguments, host, launch.trainer)[3:]


def _difference(attempt: Attempt, launch: Launch, site: Site, anew: Origin, before: PlannedLaunch | None) -> float:
    """Of the first job, and of one that resumes it behind its first iteration."""
    begin, end, first = launch.begin_iteration, launch.end_iteration, launch.first_iteration
    argv, resumed = argv_of(launch, site), argv_of(launch, site, resumed=True)
    state = saved_state(argv_of(before.launch, site), begin) if before is not None else anew.state
    found = [apart(argv, state, Span(attempt.schedule, attempt.step_tokens, first, begin, end))]
    if launch.steps > 1:
        later = Span(attempt.schedule, attempt.step_tokens, first, begin + 1, end)
        found.append(apart(resumed, saved_state(resumed, begin + 1), later))
    return max(found)


def _arguments(attempt: Attempt, site: Site) -> tuple[str, ...]:
    """What train_alcf.sh has no variable for: the seed, and when to save and stop."""
    seed = f"--seed={trainer_seed(attempt)}"
    if site.spec.walltime is None:
        return (seed,)
    return (
        seed,
        f"--exit-duration-in-mins={max(1, (site.spec.walltime - site.spec.stop_before) // 60)}",
    )


def _save_iterations(plan: Plan, attempt: Attempt) -> int:
    every = plan.run.save_every
    tokens = attempt.tokens // SAVES if every == "auto" else int(every)
    return max(1, tokens // attempt.step_tokens)


def _notes(plan: Plan, launch: Launch, data: Data) -> tuple[str, ...]:
    found = list(data.left_out) if isinstance(data, DataList) else []
    if launch.prepare:
        found.append(f"before the first job, once: {shlex.join(launch.prepare)}")
    if plan.run.megatron and plan.run.megatron.architecture not in PRESETS:
        found.append(f"the numbers of {plan.run.megatron.architecture} are the script's own and were not compared")
    return tuple(found)
