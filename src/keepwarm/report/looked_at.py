"""What a checkpoint that was trained elsewhere says of itself, for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keepwarm.lineage.foreign import is_checkpoint, look_at
from keepwarm.lineage.foreign_facts import Foreign
from keepwarm.report.table import aligned


def checkpoint_at(path: Path) -> Foreign | None:
    """What is known of a checkpoint's folder; None for a plan or a run folder. LineageError for one that is not whole."""
    return look_at(path) if path.is_dir() and is_checkpoint(path) and not (path / "plan.yaml").exists() else None


def print_checkpoint(found: Foreign) -> None:
    """Print `looked_at_lines`."""
    print("\n".join(looked_at_lines(found)))


def looked_at(found: Foreign) -> dict[str, Any]:
    """All of it as data."""
    return asdict(found) | {"folder": str(found.folder), "architecture": dict(found.architecture)}


def looked_at_lines(found: Foreign) -> Iterator[str]:
    """A line for each fact with where it was read, then what could not be established."""
    yield f"{found.folder}: {found.words()}"
    rows = [
        ("iteration", _count(found.iteration), ""),
        ("samples consumed", _count(found.samples), ""),
        ("tokens consumed", _count(found.tokens), ""),
        ("global batch size", _count(found.global_batch_size), ""),
        ("sequence length", _count(found.sequence_length), ""),
        ("LR", _rate(found.lr), found.lr_from),
        ("LR_max", _rate(found.lr_max), ""),
        ("phase", found.phase, found.phase_from),
        ("optimizer moments", "there" if found.moments else "not there", ""),
        *((name.replace("_", " "), f"{value:,}", "") for name, value in found.architecture.items()),
    ]
    yield from aligned([(name, value, f"from {source}" if source else "") for name, value, source in rows])
    if found.unknown:
        yield "could not be established:"
        yield from (f"  {each}" for each in found.unknown)


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
