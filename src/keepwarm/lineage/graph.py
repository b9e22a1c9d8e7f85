"""Lineage: the manifests of a run folder as a graph; there is no database to corrupt on a parallel file system."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest


def all_manifests(run_folder: Path) -> list[Manifest]:
    """Every checkpoint of a run, by arm, stage, attempt and position."""
    attempts = sorted(path for path in (Path(run_folder) / "arms").glob("*/*/*") if path.is_dir())
    return [read_manifest(folder) for attempt in attempts for folder in checkpoints_of(attempt)]


def ancestors(manifest: Manifest, manifests: Iterable[Manifest]) -> list[Manifest]:
    """The checkpoints the attempts on the way to `manifest` started from, nearest first."""
    by_id = {other.id: other for other in manifests}
    found: list[Manifest] = []
    while manifest.parent is not None and manifest.parent in by_id:
        manifest = by_id[manifest.parent]
        assert manifest not in found, f"{manifest.id} is its own ancestor"
        found.append(manifest)
    return found


def newest_at_peak(manifests: Iterable[Manifest], latest_tokens: float = math.inf) -> Manifest | None:
    """The checkpoint furthest along the line, up to `latest_tokens`, that is at peak with its optimizer state; or None."""
    fit = [m for m in manifests if m.phase == "peak" and m.optimizer_state and m.line_tokens <= latest_tokens]
    return max(fit, key=lambda manifest: (manifest.line_tokens, manifest.id), default=None)
