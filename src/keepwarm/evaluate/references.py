"""The header of an attempt's metrics: what it will be judged against, so that the file alone gives the verdict.

The reference of an old corpus is its loss, over all held-out windows, at the checkpoint that had just been taught it.
An attempt that ends at peak is compared with references at peak: a cooled model looks 0.1-0.3 nats better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keepwarm import __version__
from keepwarm.attempt.model import Attempt
from keepwarm.lineage.manifest import Manifest


def header(
    attempt: Attempt,
    taught: Sequence[tuple[str, Manifest]],
    tokens_per_byte: Mapping[str, float | None],
    threads: int,
    possibly_seen: Sequence[str] = (),
) -> dict[str, Any]:
    """The first record of `metrics.jsonl`."""
    references = {name: _reference(name, manifest) for name, manifest in taught if name in attempt.old}
    tolerance = {}
    for name, (value, unit) in attempt.judgement.tolerance.items():
        nats = value if unit == "nats" else value * references[name]["loss"]
        tolerance[name] = {"value": value, "unit": unit, "nats": nats}
    return {
        "kind": "header", "format": 1, "attempt": attempt.sha256, "arm": attempt.arm, "stage": attempt.stage,
        "rung": attempt.rung, "label": attempt.label, "new": attempt.new, "old": list(attempt.old),
        "steps": attempt.steps, "step_tokens": attempt.step_tokens, "seed": attempt.seed,
        "roles": {source.id: source.role for source in attempt.sources},
        "sources": {source.id: source.name for source in attempt.sources},
        "references": references, "tolerance": tolerance,
        "adaptation": {"share": attempt.judgement.adaptation, "control_gain": None},
        "evaluation": {"steps": list(attempt.evaluation.steps), "subset": dict(attempt.evaluation.subset)},
        "tokens_per_byte": dict(tokens_per_byte), "possibly_seen": list(possibly_seen), "threads": threads,
        "precision": "fp32", "keepwarm": __version__,
    }  # fmt: skip


def _reference(name: str, manifest: Manifest) -> dict[str, Any]:
    found = manifest.evaluation[name]
    return {
        "loss": found["loss"],
        "windows": list(found["windows"]),
        "checkpoint": manifest.id,
        "phase": manifest.phase,
        "phase_is": manifest.phase_is,
    }
