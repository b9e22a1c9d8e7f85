"""What a doctor says of things, by the names of its traps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from keepwarm.cli.main import main


@pytest.fixture
def doctor(capsys) -> Callable[..., list[dict]]:
    """`keepwarm doctor THING... --json`: its traps in order, each with the thing it was found in; the exit code fits."""

    def run(*things: object, environment: Path | None = None) -> list[dict]:
        capsys.readouterr()
        more = ["--environment", str(environment)] if environment else []
        code = main(["doctor", *map(str, things), *more, "--json"])
        found = [
            {**trap, "thing": one["thing"]} for one in json.loads(capsys.readouterr().out) for trap in one["traps"]
        ]
        assert code == int(bool(found))
        return found

    return run
