"""`keepwarm lineage`: the checkpoints of a run as a tree, and the deleting of those that nothing needs any more."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

lineage = App(name="lineage", help="The checkpoints of a run as a tree; prune deletes those that nothing needs.")


@lineage.default
def show(
    plan: Path, /, *, json: bool = False, svg: Path | None = None, arm: str | None = None, set: list[str] | None = None
) -> int:
    """Show where every checkpoint of a run came from, what it is, and what started from it; or look at one checkpoint.

    Parameters
    ----------
    plan
        The plan file, a run folder or the folder of an adopted line; or a checkpoint, wherever it was trained: of
        keepwarm, Hugging Face, Megatron-DeepSpeed or universal. Nothing in it is run.
    json
        Print everything as JSON.
    svg
        Draw the tree into this file, which any browser opens; needs keepwarm[report].
    arm
        Show only this arm: cookbook, or one of the plan's control.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.report.lineage import facts, lineage_of, scope_at
    from keepwarm.report.lineage_picture import write_lineage
    from keepwarm.report.lineage_tree import print_lineage
    from keepwarm.report.looked_at import checkpoint_at, looked_at, print_checkpoint
    from keepwarm.report.terminal import print_json

    checkpoint = None if svg or arm or set else checkpoint_at(plan)
    if checkpoint is not None:
        print_json(looked_at(checkpoint)) if json else print_checkpoint(checkpoint)
        return 0
    found = lineage_of(scope_at(plan, set or ()), arm)
    if svg is not None:
        write_lineage(found, svg)
    if json:
        print_json(facts(found))
    elif svg is not None:
        print(svg)
    else:
        print_lineage(found)
    return 0


@lineage.command
def prune(
    plan: Path,
    /,
    *,
    dry_run: bool = False,
    keep: Literal["all", "peak-before-each-cooldown", "needed"] | None = None,
    json: bool = False,
    set: list[str] | None = None,
) -> int:
    """Delete the tensors of checkpoints that no rung of the plan may still need. Their manifests stay.

    Parameters
    ----------
    plan
        The plan file, or a run folder.
    dry_run
        Say what would be deleted, and delete nothing.
    keep
        Which checkpoints are kept, in place of the plan's run: {keep: ...}.
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.report.lineage import plan_at
    from keepwarm.report.lineage_prune import print_pruned, pruned
    from keepwarm.report.terminal import print_json

    found = pruned(plan_at(plan, set or ()), keep, dry_run=dry_run)
    if json:
        print_json(found)
    else:
        print_pruned(found)
    return 0
