"""What people read: a live view in a terminal, plain lines in a batch log, `status` at any width."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from keepwarm.cli.main import main
from keepwarm.pipeline import run
from keepwarm.plan.load import load_plan
from keepwarm.report.status import status
from keepwarm.report.terminal import Terminal, stage_lines, stage_table

CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def stage2(workplace):
    return load_plan("plan.yaml")


def told(plan, *, terminal: bool) -> str:
    out = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Terminal(out=out) as listener:
        run(plan, listener, until="stage2")
    return out.file.getvalue()


def test_a_batch_log_is_plain_lines(stage2):
    text = told(stage2, terminal=False)
    assert "\x1b" not in text and "\r" not in text
    assert "cookbook stage2: replay 5% | mix d0 5% + new 95% | LR 0.003 -> 0.003 | 20 steps = 5,120 tokens" in text
    assert len(re.findall(r"^  step +\d+/20  training loss", text, re.M)) == 5
    assert "weights: kept | optimizer moments: kept | LR: peak, then peak | data: d0 from sample 320 goes on" in text
    assert "stage2 replay 5%: recovered -> accepted" in text


def test_a_terminal_shows_a_live_view_and_ends_with_the_same_record(stage2):
    text = told(stage2, terminal=True)
    assert "\x1b[" in text
    plain = CONTROL_SEQUENCE.sub("", text)
    assert "20/20" in plain and "tokens/s" in plain
    assert "stage2 replay 5%: recovered -> accepted" in plain


def test_status_is_readable_at_80_columns(stage2, capsys):
    told(stage2, terminal=False)
    found = status(stage2)
    lines = stage_lines(found)
    assert max(map(len, lines)) <= 80
    assert any(re.fullmatch(r"    d1 \d\.\d\d -> \d\.\d\d \(\d\.\d\d -> \d\.\d\d\)", line) for line in lines)
    out = Console(file=io.StringIO(), width=120)
    out.print(stage_table(found))
    wide = out.file.getvalue()
    assert max(map(len, wide.splitlines())) <= 120 and "recovered" in wide


def test_lines_of_arms_are_told_apart(workplace, capsys, edit_plan):
    edit_plan(("control: none", "control: no-replay"))
    assert main(["run", "plan.yaml"]) == 0
    capsys.readouterr()
    assert main(["status", "plan.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"]["no-replay"]["phase"] == "peak"
