"""`keepwarm schema`: the plan file's JSON schema."""

from __future__ import annotations

from pathlib import Path


def schema(*, output: Path | None = None) -> int:
    """Print the JSON schema of the plan file, for editors (first line of a plan: `# yaml-language-server: $schema=...`).

    Parameters
    ----------
    output
        Write it to this file instead.
    """
    from keepwarm import files
    from keepwarm.plan.load import schema_text

    if output is None:
        print(schema_text())
    else:
        files.write_text(output, schema_text() + "\n", replace=True)
    return 0
