"""An attempt with all that it is trained from: for whoever trains it by another loop than keepwarm's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keepwarm.attempt.line import Feed
from keepwarm.attempt.model import Attempt
from keepwarm.lineage.manifest import Manifest


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """`start` is the checkpoint it starts from, a folder below `run_folder` or one of a base trained elsewhere; None:
    from new weights, or from those that the plan's model names."""

    run_folder: Path
    attempt: Attempt
    feed: Feed
    start: Manifest | None
