"""`keepwarm explain [NAME]`: what it is and where it comes from."""

from __future__ import annotations


def explain(name: str | None = None, /) -> int:
    """Explain a rung, schedule, guard, verdict or cookbook; without a name, list them.

    Parameters
    ----------
    name
        Such as replay, decay-then-introduce, peak-start, not-recovering, 1-sqrt, aurora-v1.
    """
    from keepwarm.report.explain import explain as explained
    from keepwarm.report.explain import names

    if name is None:
        for kind, found in names().items():
            print(f"{kind}: {', '.join(found)}")
    else:
        print(explained(name))
    return 0
