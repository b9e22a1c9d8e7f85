"""`keepwarm buffer`: what the replay buffer B holds."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

buffer = App(name="buffer", help="Look into the replay buffer B.")


@buffer.command
def show(
    plan: Path, /, *, version: int | None = None, samples: int = 2, json: bool = False, set: list[str] | None = None
) -> int:
    """Show a version of a plan's buffer: shares, origins and some of its text.

    Parameters
    ----------
    plan
        The plan file.
    version
        Which version; the newest when left out.
    samples
        How many texts of each stage to show.
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.errors import KeepwarmError
    from keepwarm.plan.load import load_plan
    from keepwarm.report.buffered import buffer_version, facts, lines, text_samples
    from keepwarm.report.terminal import print_json

    if samples < 0:
        raise KeepwarmError(f"--samples {samples}", "it is how many texts of each stage are shown", "--samples 2")
    asked = load_plan(plan, set or ())
    found = buffer_version(asked, version)
    texts = text_samples(asked, found, samples) if samples else {}
    if json:
        print_json(facts(found) | {"samples": texts})
    else:
        print("\n".join(lines(found, texts)))
    return 0
