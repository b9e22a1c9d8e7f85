"""Examines things one by one, and what they name: a launch's list, its cache, what it loads, its logs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from keepwarm.backends.megatron import record
from keepwarm.backends.megatron.script import JOB, LOGS, TRAIN
from keepwarm.corpora.indexed import read_sidecar
from keepwarm.corpora.verify import verify
from keepwarm.doctor import rates
from keepwarm.doctor.alcf import SCRIPT
from keepwarm.doctor.cache import is_cache, read_cache
from keepwarm.doctor.checkpoint import read_saved
from keepwarm.doctor.lists import SPLIT, read_list
from keepwarm.doctor.loading import loaded_step, readable_load
from keepwarm.doctor.logs import read_log
from keepwarm.doctor.script import Job
from keepwarm.doctor.settings import Command
from keepwarm.doctor.shell import Assignment, Launch, Text, read_shell
from keepwarm.doctor.things import kind_of, of_kind, text_of
from keepwarm.doctor.tokens import TokenFile
from keepwarm.doctor.trap import GRADES, Trap, traps_in
from keepwarm.errors import DataError
from keepwarm.plan.machines import MACHINES

_SELECT = re.compile(r"\bselect=([0-9]+)|--nodes[= ]([0-9]+)|^-N ?([0-9]+)")
_GPUS = re.compile(r"--gpus-per-node[= ](?:\w+:)?([0-9]+)")
_CALLED = "the command"


@dataclass(frozen=True, slots=True)
class Looked:
    """One thing with its traps, the worst first, and what could not be looked at."""

    thing: str
    kind: str
    traps: tuple[Trap, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self)


class Examination:
    """What was looked at so far, each thing once."""

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        """`environment`: all that the job has; None: not known."""
        self.environment = environment
        self.found: list[Looked] = []
        self._seen: set[tuple[str, str]] = set()

    def add(self, thing: str, kind: str, traps: Sequence[Trap], notes: Sequence[str] = ()) -> None:
        """Keep what was found; the worst first."""
        ordered = sorted(traps, key=lambda one: GRADES.index(one.grade))
        self.found.append(Looked(thing, kind, tuple(ordered), tuple(notes)))

    def once(self, kind: str, path: Path) -> bool:
        """True the first time that a path is asked for."""
        key = (kind, str(path.absolute()))
        fresh = key not in self._seen
        self._seen.add(key)
        return fresh

    def text(self, thing: str, text: Text, folder: Path, kind: str) -> None:
        """A command or a script, and what each of its launches names."""
        machine, nodes, gpus = where_of(text, self.environment or {})
        commands = tuple(
            Command(
                _with_gpus(launch, gpus), self.environment or {}, machine, nodes, self.environment is not None, False, folder
            )
            for launch in text.launches
        )  # fmt: skip
        if not commands and not text.directives and not re.search(r"\b(qsub|sbatch)\b", text.raw):
            raise DataError(
                f"{thing}: calls no train_alcf.sh and submits nothing", "there is nothing to examine in it",
                "name the script that calls train_alcf.sh",
            )  # fmt: skip
        traps = [one for each in commands for one in traps_in("command", each)]
        self.add(thing, kind, [*traps, *traps_in("script", Job(text, commands))], _notes(commands))
        for each in commands:
            self.named(each)

    def named(self, one: Command) -> None:
        """What a launch names, as far as it is on this machine."""
        samples = one.train_iterations * one.global_batch if one.train_iterations and one.global_batch else None
        split = tuple(one.number(name) or 0 for name in ("TRAIN_SPLIT", "VAL_SPLIT", "TEST_SPLIT"))
        text = one.get("DATA_FILE_LIST")
        listed = one.folder / text if text else None
        if listed is not None and listed.is_file():
            self.list(listed, split if len(split) == 3 else SPLIT, samples)
            cache = one.folder / one.default_folder / ".cache" / listed.name.replace(".txt", "") / "index-cache"
            if is_cache(cache):
                self.cache(cache, [listed])
        folder = readable_load(one)
        if folder is not None:
            step = loaded_step(one)
            self.checkpoint(step if step is not None else folder, one.tensor_parallel if one.is_set("TP") else None)

    def list(self, path: Path, split: tuple[int, int, int] = SPLIT, samples: int | None = None) -> None:
        """A file list."""
        if self.once("list", path):
            self.add(str(path), "file list", traps_in("list", read_list(path, text_of(path), split, samples)))

    def cache(self, folder: Path, lists: Sequence[Path]) -> None:
        """A cache against each list that is used with it."""
        for path in lists:
            if self.once(f"cache {path}", folder):
                found = read_cache(folder, read_list(path, text_of(path)))
                self.add(f"{folder} with {path}", "data cache", traps_in("cache", found))

    def checkpoint(self, folder: Path, tensor_parallel: int | None = None) -> None:
        """A step, or a folder of steps."""
        if self.once("checkpoint", folder):
            self.add(str(folder), "checkpoint", traps_in("checkpoint", read_saved(folder, tensor_parallel)))

    def tokens(self, prefix: str) -> None:
        """A pair; its .bin is read once."""
        if self.once("tokens", Path(prefix)):
            report = verify(prefix)
            try:
                sidecar = read_sidecar(report.prefix)
            except DataError:
                sidecar = None  # a finding says it
            self.add(str(report.prefix), "token file", traps_in("tokens", TokenFile(report, sidecar)))

    def log(self, path: Path, rows: int | None = None, begins_at_random: bool = False) -> None:
        """A log of the trainer."""
        if self.once("log", path):
            self.add(str(path), "log", traps_in("log", read_log(path, rows, begins_at_random)))

    def launch(self, folder: Path) -> None:
        """A launch folder of keepwarm: its record says what train.sh does, job.sh what is around it."""
        kept = record.read_launch(folder)
        texts = [
            read_shell(text_of(folder / name), str(folder / name)) for name in (JOB, TRAIN) if (folder / name).is_file()
        ]
        one = _recorded(kept, folder, texts)
        around = [trap for text in texts for trap in traps_in("script", Job(text, (one,)))]
        self.add(str(folder), "launch of keepwarm", [*traps_in("command", one), *around], _notes((one,)))
        self.list(folder / kept.data_list, (990, 10, 0), kept.train_iterations * kept.global_batch_size)
        if is_cache(folder / kept.data_cache):
            self.cache(folder / kept.data_cache, [folder / kept.data_list])
        for place in dict.fromkeys(path for path in (kept.load, kept.save) if path):
            if any(Path(place).glob("global_step*")):
                self.checkpoint(Path(place), None)
        for path in sorted((folder / LOGS).glob("*.log")):
            if re.search(r"iteration|random", text_of(path)):
                self.log(path, kept.padded_vocab_size, kept.load is None)


def _recorded(kept: record.Launch, folder: Path, texts: Sequence[Text]) -> Command:
    """The launch of a record as a command; what its scripts export beside is there too."""
    place = str(folder / record.RECORD)
    own = tuple(Assignment(name, value, place, True) for name, value in kept.environment.items())
    exported = {
        one.name: one for text in texts for one in text.assignments if one.exported and one.name not in kept.environment
    }
    launch = Launch(place, own, tuple(exported.values()), (), kept.arguments, SCRIPT, "")
    gpus = int(kept.environment.get("NGPU_PER_HOST") or 0) or MACHINES["none"].gpus_per_node or 1
    to_come = kept.load is None or bool(kept.prepare) or not Path(kept.load).is_dir()
    return Command(launch, {}, kept.machine, kept.world_size // gpus, True, to_come, Path(kept.trainer))


def _with_gpus(launch: Launch, gpus: str) -> Launch:
    """The devices a node that a job's header asks for, where nothing else says them."""
    if not gpus or any(one.name == "NGPU_PER_HOST" for one in (*launch.own, *launch.exported)):
        return launch
    return replace(launch, exported=(*launch.exported, Assignment("NGPU_PER_HOST", gpus, "the header", True)))


def where_of(text: Text, environment: Mapping[str, str]) -> tuple[str, int | None, str]:
    """(machine, nodes, devices a node) as an environment or a job's header says them; "" and None where neither does."""
    header = " ".join(words for _, _, words in text.directives)
    machine = environment.get("MACHINE", "")
    if not machine:
        host = environment.get("HOSTNAME", "")
        by_host = (name for name, one in MACHINES.items() if one.host and host.startswith(one.host))
        by_disk = (
            name for name, one in MACHINES.items() if one.filesystems and one.filesystems.split(":")[0] in header
        )
        machine = next(by_host, "") or next(by_disk, "") or ("perlmutter" if text.scheduler == "SBATCH" else "")
    nodes = next(
        (environment[name] for name in ("NHOSTS", "SLURM_NNODES", "SLURM_JOB_NUM_NODES") if name in environment), ""
    )
    for name in ("HOSTFILE", "PBS_NODEFILE"):
        path = Path(environment.get(name) or "/nonexistent")
        if not nodes and path.is_file():
            nodes = str(len(path.read_text(encoding="utf-8", errors="replace").split()))
    match = next((found for _, _, words in text.directives if (found := _SELECT.search(words))), None)
    if not nodes and match is not None:
        nodes = match[1] or match[2] or match[3]
    gpus = _GPUS.search(header)
    return machine if machine in MACHINES else "", int(nodes) if nodes.isdigit() else None, gpus[1] if gpus else ""


def _notes(commands: Sequence[Command]) -> list[str]:
    """What could not be looked at, and why."""
    notes = []
    for one in commands:
        if one.world_size is None:
            notes.append(
                "how many nodes and devices is not known: --environment FILE with NHOSTS=N and NGPU_PER_HOST=N, "
                "or what printenv prints in the job"
            )
        if one.train_iterations is None:
            notes.append(f"nor is the number of iterations: what is said of LR is said of {rates.ITERATIONS:,}")
        if one.is_set("LOAD") and one.load and not one.prepared and readable_load(one) is None:
            notes.append(f"LOAD is not on this machine, so the checkpoint was not looked at: {one.load}")
        text = one.get("DATA_FILE_LIST")
        if text and not (one.folder / text).is_file():
            notes.append(f"DATA_FILE_LIST is not on this machine, so the list was not looked at: {text}")
    return list(dict.fromkeys(notes))


def examine(things: Sequence[str], environment: Mapping[str, str] | None = None) -> list[Looked]:
    """Examine things in order. DataError of what is none that can be examined, before any is."""
    kinds = [kind_of(thing) for thing in things]
    lists = [Path(thing) for thing in of_kind(things, kinds, "list")]
    if "cache" in kinds and not lists:
        cache = of_kind(things, kinds, "cache")[0]
        raise DataError(
            f"{cache}: a data cache without its list", "what it keeps is right or wrong for a list",
            f"keepwarm doctor {cache} list.txt",
        )  # fmt: skip
    found = Examination(environment)
    for thing, kind in zip(things, kinds, strict=True):
        path = Path(thing)
        if kind == "command" and not path.is_file():
            found.text(_CALLED, read_shell(thing, _CALLED, environment), Path(), kind)
        elif kind in ("command", "script"):
            named = "job script" if kind == "script" else kind
            folder = path.parent if (path.parent / SCRIPT).is_file() else Path()
            found.text(thing, read_shell(text_of(path), thing, environment), folder, named)
        elif kind == "list":
            found.list(path)
        elif kind == "cache":
            found.cache(path, lists)
        elif kind == "checkpoint":
            found.checkpoint(path)
        elif kind == "tokens":
            found.tokens(thing)
        elif kind == "log":
            found.log(path)
        else:
            own = path.parent if path.is_file() else path
            for each in [own] if kind == "launch" else _launches(path):
                found.launch(each)
    return found.found


def _launches(attempt: Path) -> list[Path]:
    found = [folder for folder, _ in record.launches_of(attempt)]
    if not found:
        raise DataError(
            f"{attempt / record.LAUNCHES}: holds no launch", "there is nothing to examine", "keepwarm launch PLAN"
        )
    return found
