"""Traps of where a launch loads from and saves to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from keepwarm.doctor.command import DRY_RUNS, named_path
from keepwarm.doctor.settings import Command
from keepwarm.doctor.trap import Sight, trap
from keepwarm.errors import KeepwarmError
from keepwarm.lineage.foreign_megatron import is_step_folder, named_step, steps_in

FROM_RANDOM = "golden/runs/rung_trunk.log (`will start from random`), reference run with LOAD pointing nowhere"


def pointer(command: Command) -> str:
    """The file that says which step is loaded."""
    return "latest_universal" if command.has("--universal-checkpoint") else "latest"


def readable_load(command: Command) -> Path | None:
    """LOAD's folder if it is on this machine."""
    folder = command.folder / command.load if command.is_set("LOAD") and command.load else None
    return folder if folder is not None and folder.is_dir() else None


@trap(
    "no-load",
    "command",
    "silent",
    seen="no LOAD",
    harm="--load is the default folder; when that is not there, random weights are trained, with exit code 0",
    source=f"{DRY_RUNS}: nothing_set; {FROM_RANDOM}",
)
def no_load(command: Command) -> Iterator[Sight]:
    """The default folder's name changes with the number of nodes, the tokens and the learning rate."""
    if not command.is_set("LOAD") and not command.is_set("CKPT_DIR"):
        yield Sight(
            command.launch.place, f"LOAD is not set: --load={command.default_folder}", "LOAD=path/to/checkpoints"
        )


@trap(
    "default-save",
    "command",
    "lost",
    seen="no SAVE",
    harm="the folder's name holds world size, batch, LR and tokens: with other nodes or a longer run the next job does not find "
    "it, and a job that LOADs elsewhere begins anew each time",
    source=f"{DRY_RUNS}: every case",
)
def default_save(command: Command) -> Iterator[Sight]:
    """The default folder's name."""
    if not command.is_set("SAVE") and not command.is_set("CKPT_DIR"):
        fix = f"SAVE={command.load}" if command.resumes and command.load else "SAVE=path/to/checkpoints"
        yield Sight(command.launch.place, f"SAVE is not set: --save={command.default_folder}", fix)


@trap(
    "load-missing",
    "command",
    "silent",
    seen="a LOAD that is not there, has no `latest`, or whose `latest` names no step",
    harm="the trainer trains random weights, with exit code 0",
    source=FROM_RANDOM,
)
def load_missing(command: Command) -> Iterator[Sight]:
    """A folder that is also SAVE and does not exist yet is where a new run begins, unless something is to be loaded."""
    if not command.is_set("LOAD") or not command.load or command.prepared:
        return
    folder = named_path(command, command.load)
    if folder is None:
        return
    begins = command.load == command.save and not any(map(command.has, ("--finetune", "--universal-checkpoint")))
    if begins and (not folder.is_dir() or not any(folder.iterdir())):
        return
    universal = command.has("--universal-checkpoint")
    harm = "DeepSpeed stops with a ValueError" if universal else ""
    if not folder.is_dir():
        yield Sight(command.where("LOAD"), f"{folder}: no such folder", f"ls {folder.parent}", harm)
        return
    name = pointer(command)
    tag = folder / name
    steps = [path.name for _, path in steps_in(folder) if path.name.endswith("_universal") == universal]
    write = f"printf {steps[-1]} > {tag}" if steps else f"ls {folder}"
    if command.has("--load-tag"):
        return
    if is_step_folder(folder):
        yield Sight(
            command.where("LOAD"),
            f"{folder.name} is one step, and `{name}` is looked for in it",
            f"LOAD={folder.parent}",
            harm,
        )
    elif not tag.is_file():
        yield Sight(command.where("LOAD"), f"{folder} has no file `{name}`", write, harm)
    elif not (folder / tag.read_text(encoding="utf-8", errors="replace").strip()).is_dir():
        there = tag.read_text(encoding="utf-8", errors="replace").strip()
        yield Sight(command.where("LOAD"), f"{tag} names {there}, which is not there", write, harm)


def loaded_step(command: Command) -> Path | None:
    """The step that the launch will load, if it is on this machine and whole enough to be named."""
    folder = readable_load(command)
    if folder is None:
        return None
    tag = folder / pointer(command)
    try:
        named = folder / tag.read_text(encoding="utf-8").strip() if tag.is_file() else named_step(folder)[0]
    except (KeepwarmError, OSError, UnicodeDecodeError):
        return None
    return named if is_step_folder(named) else None
