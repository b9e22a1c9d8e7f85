"""`keepwarm explain [NAME]`: what it is, its formula, when it is used, and where it comes from."""

from __future__ import annotations


def explain(name: str | None = None, /, *, json: bool = False, markdown: bool = False) -> int:
    """Explain a schedule, rung, guard, verdict or cookbook; without a name, list them.

    Parameters
    ----------
    name
        Such as replay, decay-then-introduce, peak-start, not-recovering, 1-sqrt, aurora-v1.
    json
        Print it as JSON.
    markdown
        Print all of it as one page (docs/explain.md).
    """
    from keepwarm.report import explain as explained
    from keepwarm.report.terminal import print_json

    if markdown:
        print(explained.markdown(), end="")
        return 0
    found = explained.entries() if name is None else explained.explain(name)
    if json:
        print_json(explained.as_json(found))
    else:
        explained.print_entries(found, full=name is not None)
    return 0
