"""The command itself: what a thing is, its exit codes, its output for people, and the table of all traps."""

from __future__ import annotations

import json

import pytest

from doctor.told import GOLDEN
from keepwarm.cli.main import main
from keepwarm.doctor.things import kind_of

COMMAND = (
    "DATA_FILE_LIST=./mix.txt LOAD=/elsewhere/ws768_ds_stage1_nl32 TRAIN_TOKENS=$((22*10**9)) GRAD_ACC_STEPS=16 LR=0.0002 "
    "LR_WARMUP_FRACTION=0.01 bash train_alcf.sh --universal-checkpoint --finetune"
)


def test_for_people(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", COMMAND]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "the command (command): 4 traps",
        "  silent  unread-variable",
        "          where  the command: LR_WARMUP_FRACTION=0.01",
        "          seen   LR_WARMUP_FRACTION is not read by ALCF/helpers.sh; LR_WARMUP_FRAC is read, and",
        "                 stays 0.05",
        "          harm   the script keeps its own default, without a word",
    ]
    assert lines[6] == "          fix    LR_WARMUP_FRAC=0.01"
    assert lines[-1] == (
        "1 thing looked at, 4 traps: 3 silent (something else is trained, exit code 0), 1 lost (hours of work are lost)"
    )
    assert (
        "  note    LOAD is not on this machine, so the checkpoint was not looked at: /elsewhere/ws768_ds_stage1_nl32"
        in lines
    )


def test_nothing_found(capsys):
    assert (
        main(["doctor", "DATA_FILE_LIST=x LOAD=/elsewhere/a SAVE=/elsewhere/b TRAIN_ITERS=9 bash train_alcf.sh"]) == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "1 thing looked at: no trap"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "nothing is named"),
        (["--list", "x"], "--list with things"),
        (["nothere"], "nothere: no such file or folder"),
        (["LR=1 python train.py"], "'LR=1 python train.py': no launch of train_alcf.sh"),
        (["{folder}"], "a folder of nothing that is known"),
        (["{folder}/prose.txt"], "neither a command, a job script, a file list nor a log of the trainer"),
        (["{folder}/script.sh"], "calls no train_alcf.sh and submits nothing"),
        (["{folder}/zeros"], "not a text file"),
        (["{folder}/cache"], "a data cache without its list"),
        (["x bash train_alcf.sh", "--environment", "{folder}/prose.txt"], "no NAME=VALUE line"),
        (["x bash train_alcf.sh", "--environment", "{folder}/nothere"], "no such file"),
    ],
)
def test_bad_input(capsys, tmp_path, words, what):
    (tmp_path / "prose.txt").write_text("Once upon a time there was a model, and it forgot.\n")
    (tmp_path / "script.sh").write_text("#!/bin/bash\necho hello\n")
    (tmp_path / "zeros").write_bytes(b"\0" * 64)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/0f.dsc").write_text("x")
    assert main(["doctor", *(word.format(folder=tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert what in error and "  why: " in error and "  fix: " in error


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("launch.txt", f"# how it was run\n{COMMAND}\n", "command"),
        ("job.sh", f"#!/bin/bash\n#PBS -q prod\n{COMMAND}\n", "script"),
        ("chain", "for i in 1 2 3; do qsub job.sh; done\n", "command"),
        ("mix.txt", "# weight prefix corpus\n0.9 a A\n", "list"),
        ("prefixes.txt", "/data/a0\n/data/a1\n", "list"),
        ("a.log", "[rank0]: AssertionError: x\n", "log"),
("b.log", "", "log"),
        ("x.idx", "", "tokens"),
    ],
)  # fmt: skip
def test_what_a_file_is(tmp_path, name, text, kind):
    line = next(
        case["line"] for case in json.loads((GOLDEN / "logs/generated.json").read_text()) if "old style" in case["case"]
    )
    (tmp_path / name).write_text(text or line)
    assert kind_of(str(tmp_path / name)) == kind


def test_the_table_of_all_traps(capsys):
    assert main(["doctor", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len({row["name"] for row in rows}) == len(rows) > 70
    assert all(all(row.values()) and row["grade"] in ("silent", "lost", "stops") for row in rows)
    assert main(["doctor", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(row["name"] in text and row["seen"] in text and row["harm"] in text for row in rows)


def test_every_file_of_the_room_adds_to_the_table():
    import keepwarm.doctor as room
    from keepwarm.doctor import examine  # noqa: F401
    from keepwarm.doctor.trap import EXAMINED, KNOWN

    files = {known.find.__module__.rpartition(".")[2] for known in KNOWN.values()}
    assert files == {
        "command", "arguments", "loading", "rates", "script", "lists", "cache", "tokens", "checkpoint", "logs",
    }  # fmt: skip
    assert {known.examined for known in KNOWN.values()} == set(EXAMINED)
    assert room.__doc__
