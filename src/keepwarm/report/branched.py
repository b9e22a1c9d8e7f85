"""What a branch bought: the held-out losses where it began and where it ended, corpus by corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keepwarm.lineage.manifest import Manifest
from keepwarm.report.table import aligned
from keepwarm.units import format_count


@dataclass(frozen=True, slots=True)
class Bought:
    """A finished branch: its end, and the losses of every corpus where it began and where it ended."""

    end: Manifest
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def words(self) -> str:
        """What it is, and what it cost."""
        if self.end.merged_from:
            return f"average of {len(self.end.merged_from)}, 0 tokens"
        return f"cooldown, {format_count(self.end.attempt_tokens)} tokens"


def print_branch(start: Manifest, branches: Sequence[Bought]) -> None:
    """Print `branch_lines`."""
    print("\n".join(branch_lines(start, branches)))


def branch_lines(start: Manifest, branches: Sequence[Bought]) -> Iterator[str]:
    """A line for the start and for each branch off it, with every corpus' loss and how far it lies from the start's."""
    names = list(branches[0].before)
    rows = [["held-out loss, nats per token", *(word for name in names for word in (name, ""))]]
    rows += [[f"at peak, {format_count(start.line_tokens)} tokens"]]
    rows[1] += [word for name in names for word in (f"{branches[0].before[name]:.4f}", "")]
    for branch in branches:
        rows.append([branch.words])
        for name in names:
            rows[-1] += [f"{branch.after[name]:.4f}", f"{branch.after[name] - branch.before[name]:+.4f}"]
    yield from aligned(rows, range(1, len(rows[0])))
    yield f"checkpoint: {branches[0].end.id}"
