"""`keepwarm adopt LINE.yaml --run FOLDER`: a line that was trained by hand becomes lineage and ledger."""

from __future__ import annotations

from pathlib import Path


def adopt(line: Path, /, *, run: Path, dry_run: bool = False, json: bool = False) -> int:
    """Read a line's checkpoints, file lists and logs, and write manifests that say what they are. Weights stay in place.

    Parameters
    ----------
    line
        A YAML file: name, sequence_length, and stages of {name, new, list, checkpoints, logs, ...}.
    run
        The run folder to write to.
    dry_run
        Look and report; write nothing.
    json
        Print everything as JSON.
    """
    from keepwarm.attempt.adopt import adoption_of, write_adoption
    from keepwarm.report.adopted import adopted_lines
    from keepwarm.report.terminal import print_json

    found = adoption_of(line)
    written = not dry_run and write_adoption(run, found)
    if json:
        print_json({**found.record, "written": written})
        return 0
    print("\n".join(adopted_lines(found.record)))
    state = "written to" if written else "nothing was written to" if dry_run else "is there already:"
    print(f"\n{state} {run}/adopted.json")
    return 0
