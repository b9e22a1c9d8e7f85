"""What a thing is, told by looking at it; it is read once, and all traps of its kind are looked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from keepwarm.backends.megatron.record import LAUNCHES, RECORD
from keepwarm.corpora.indexed import pair
from keepwarm.doctor.alcf import SCRIPT
from keepwarm.doctor.cache import is_cache
from keepwarm.errors import DataError
from keepwarm.lineage.foreign_logs import FROM_RANDOM, training_line
from keepwarm.lineage.foreign_megatron import is_step_folder, steps_in

Kind = Literal["launch", "attempt", "checkpoint", "cache", "tokens", "script", "log", "list", "command"]
_SCRIPT = re.compile(r"^#!|^#(PBS|SBATCH)\s", re.MULTILINE)
_SUBMITS = re.compile(rf"{re.escape(SCRIPT)}|\b(qsub|sbatch)\b")
_CONSOLE = re.compile(r"\[Rank [0-9]+\]|\[rank[0-9]+\]:|print_rank_0|log_dist|validation loss at iteration")
_SNIFFED = 1 << 20  # characters of a file that tell what it is


def kind_of(thing: str) -> Kind:
    """What a THING is. DataError of what is none that can be examined."""
    path = Path(thing)
    if "\n" in thing or len(thing) > 4000 or not path.exists():
        return _of_words(thing)
    if path.is_dir():
        return _of_folder(path)
    if path.name == RECORD:
        return "launch"
    if path.suffix in (".idx", ".bin"):
        return "tokens"
    return _of_text(path, text_of(path))


def _of_words(thing: str) -> Kind:
    if SCRIPT in thing:
        return "command"
    if any(part.is_file() for part in pair(thing)):
        return "tokens"
    if " " in thing:
        raise DataError(
            f"{thing[:80]!r}: no launch of {SCRIPT}",
            "a command is known by the script that it calls",
            "keepwarm doctor 'DATA_FILE_LIST=list.txt LOAD=folder bash train_alcf.sh --finetune'",
        )
    raise DataError(f"{thing}: no such file or folder", "there is nothing to examine", f"ls {Path(thing).parent}")


def _of_folder(path: Path) -> Kind:
    if (path / RECORD).is_file():
        return "launch"
    if (path / LAUNCHES).is_dir():
        return "attempt"
    named = any((path / name).is_file() for name in ("latest", "latest_universal"))
    if is_step_folder(path) or steps_in(path) or named:
        return "checkpoint"
    if is_cache(path):
        return "cache"
    raise DataError(
        f"{path}: a folder of nothing that is known",
        "known are launch folders of keepwarm, checkpoints (global_stepN, or what holds them) and data caches (*.dsc)",
        f"ls {path}",
    )


def _of_text(path: Path, text: str) -> Kind:
    if _SCRIPT.search(text[:4096]):
        return "script"
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if any(_CONSOLE.search(line) or FROM_RANDOM in line or training_line(line, "") for line in lines[:20_000]):
        return "log"
    if lines and _is_number(lines[0].split()[0]):
        return "list"
    if _SUBMITS.search(text):
        return "command"
    columns = [len(line.split()) for line in lines]
    if columns and all(each in (1, 2, 3) for each in columns) and ("/" in lines[0] or path.suffix in (".txt", ".list")):
        return "list"
    raise DataError(
        f"{path}: neither a command, a job script, a file list nor a log of the trainer",
        "what it is decides what can be wrong with it",
        "name the script that calls train_alcf.sh, the list of `weight prefix corpus` lines, or the trainer's output",
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def text_of(path: Path) -> str:
    """The beginning of a text file; DataError if it can't be read, or is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_SNIFFED)
    except OSError as error:
        raise DataError(
            f"{path}: {(error.strerror or 'can not be read').lower()}", "there is nothing to examine", f"ls -l {path}"
        ) from None  # fmt: skip
    if "\0" in text:
        raise DataError(f"{path}: not a text file", "there is nothing to examine", "name its .idx, or its folder")
    return text


def read_environment(path: Path) -> dict[str, str]:
    """NAME=VALUE lines, as `printenv` prints them or a trainer's .env holds them. DataError if there are none."""
    found = {}
    for line in text_of(path).splitlines():
        name, sign, value = line.removeprefix("export ").partition("=")
        if sign and name.strip().isidentifier():
            found[name.strip()] = value.strip().strip("\"'")
    if not found:
        raise DataError(
            f"{path}: no NAME=VALUE line", "it says what a job's environment holds", f"printenv > {path}  # in the job"
        )
    return found


def of_kind(things: Sequence[str], kinds: Sequence[Kind], wanted: Kind) -> list[str]:
    """The things of a kind."""
    return [thing for thing, kind in zip(things, kinds, strict=True) if kind == wanted]
