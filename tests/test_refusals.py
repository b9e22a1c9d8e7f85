"""Bad input through the command line: three lines, exit 2, no traceback, nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from keepwarm.cli.main import main


def refused(capsys, *arguments: str) -> str:
    """Run, check exit 2 and the three lines; returns what was printed on standard error."""
    code = main(list(arguments))
    said = capsys.readouterr()
    assert code == 2, said
    assert said.err.startswith("error: ")
    assert "\n  why: " in said.err and "\n  fix: " in said.err
    assert "Traceback" not in said.err
    return said.err


def nothing_written(folder: Path) -> bool:
    """No token file, checkpoint or half-written file is left behind."""
    run = folder / "run"
    left = [path for path in run.rglob("*") if path.is_file()] if run.exists() else []
    return not [p for p in left if p.suffix in (".bin", ".idx", ".distcp") or "partial" in p.name]


CASES = [
    ("verdict: {tolerance", "verdikt: {tolerance", "verdikt"),
    ("shares: [5%, 25%]", "shares: [5%, 125%]", "plan.yaml:17:68  stages.0.ladder.0.shares: 125%"),
    ("mixes: [[0.25, 0.50, 0.25]]", "mixes: [[0.25, 0.50, 0.20]]", "0.95"),
    ("text/prose.jsonl", "text/missing.jsonl", "text/missing.jsonl"),
    ("holdout: {tokens: 2k}", "holdout: {tokens: 500}", "500"),
    ("base: {corpus: d0", "base: {corpus: d9", "d9"),
    ("tokens: 10_240", "tokens: 10_240.5", "10240.5"),
    ("run: {folder: run,", "run: {backend: megatron, folder: run,", "megatron"),
    ("seed: 1", "seed: 1\nseed: 2", "seed"),
    ("lr_max: 3e-3", "lr_max: -3e-3", "lr_max"),
    ("kv_heads: 2}}", "kv_heads: 2, vocab_size: 100}}", "vocabulary"),
    ("type: llama", "type: lama", "lama"),
    ("max_epochs: 4", "max_epochs: 0.01", "max_epochs"),
]


@pytest.mark.parametrize(("old", "new", "named"), CASES, ids=[case[1] for case in CASES])
def test_a_plan_that_cannot_be_is_refused(edit_plan, workplace, capsys, old, new, named):
    edit_plan((old, new))
    assert named in refused(capsys, "run", "plan.yaml")
    assert not list(workplace.glob("run/arms/**/checkpoints"))


def test_a_missing_plan(workplace, capsys):
    assert "nowhere.yaml" in refused(capsys, "run", "nowhere.yaml")


def test_an_unknown_command_or_option(workplace, capsys):
    assert "rum" in refused(capsys, "rum", "plan.yaml")
    assert "--stag" in refused(capsys, "run", "plan.yaml", "--stag", "stage2")


def test_an_unknown_stage(workplace, capsys):
    assert "stage2, stage3, stage4" in refused(capsys, "run", "plan.yaml", "--stage", "stage9")


def test_broken_json_names_its_line(edit_plan, workplace, capsys):
    lines = (workplace / "text/prose.jsonl").read_text().splitlines()
    lines[2] = lines[2][:50]
    (workplace / "broken.jsonl").write_text("\n".join(lines))
    edit_plan(("text/prose.jsonl", "broken.jsonl"))
    assert "broken.jsonl:3" in refused(capsys, "run", "plan.yaml")
    assert nothing_written(workplace)


def test_a_truncated_gzip_is_named(edit_plan, workplace, capsys):
    data = gzip.compress((workplace / "text/prose.jsonl").read_bytes())
    (workplace / "cut.jsonl.gz").write_bytes(data[: len(data) // 2])
    edit_plan(("text/prose.jsonl", "cut.jsonl.gz"))
    assert "cut.jsonl.gz" in refused(capsys, "run", "plan.yaml")
    assert nothing_written(workplace)


def test_a_corpus_too_small_for_its_holdout(edit_plan, workplace, capsys):
    (workplace / "small.jsonl").write_text("".join(json.dumps({"text": f"word {i}"}) + "\n" for i in range(20)))
    edit_plan(("text/technical.jsonl", "small.jsonl"))
    assert "too small" in refused(capsys, "run", "plan.yaml")


def test_a_corpus_too_small_for_its_share(edit_plan, workplace, capsys):
    """4 epochs of the corpus are less than its stage asks."""
    edit_plan(("new: d1, tokens: 5_120", "new: d1, tokens: 5_120_000"))
    assert "would be repeated" in refused(capsys, "run", "plan.yaml")


def test_truncated_token_files_are_named(edit_plan, workplace, capsys):
    (workplace / "tokens").mkdir()
    assert main(["tokenize", "text/prose.jsonl", "--tokenizer", _tokenizer(workplace), "--output", "tokens/d0"]) == 0
    binary = workplace / "tokens/d0.bin"
    binary.write_bytes(binary.read_bytes()[:-100])
    capsys.readouterr()
    edit_plan(
        ("{text: text/prose.jsonl}", "{indexed: tokens/d0}"),
        ("tokenizer: {train: {vocab_size: 512}}", f"tokenizer: {{file: {_tokenizer(workplace)}}}"),
    )
    assert "d0.bin" in refused(capsys, "run", "plan.yaml")
    assert nothing_written(workplace)


def _tokenizer(folder: Path) -> str:
    from keepwarm.corpora.tokenizer import train_tokenizer

    path = folder / "tok.json"
    if not path.exists():
        texts = [json.loads(line)["text"] for line in (folder / "text/code.jsonl").read_text().splitlines()]
        train_tokenizer(iter(texts), 400, path)
    return str(path)


def test_indexed_corpora_are_trained_on_where_they_lie(edit_plan, workplace, capsys):
    """A `.bin/.idx` pair and a file list of two, beside text; held-out documents are left out without rewriting."""
    tokenizer = _tokenizer(workplace)
    for name in ("prose", "code", "technical"):
        assert main(["tokenize", f"text/{name}.jsonl", "--tokenizer", tokenizer, "--output", f"tokens/{name}"]) == 0
    (workplace / "list.txt").write_text("0.7 tokens/code code\n0.3 tokens/technical docs\n")
    edit_plan(
        ("{text: text/prose.jsonl}", "{indexed: tokens/prose}"),
        ("{text: text/technical.jsonl}", "{list: list.txt}"),
        ("tokenizer: {train: {vocab_size: 512}}", f"tokenizer: {{file: {tokenizer}}}"),
    )
    before = {path: path.read_bytes() for path in (workplace / "tokens").iterdir()}
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    assert {path: path.read_bytes() for path in (workplace / "tokens").iterdir()} == before
    verdict = json.loads((workplace / "run/arms/cookbook/stage2/00-replay/verdict.json").read_text())
    asked = {row["source"]: row["asked_tokens"] / 5120 for row in verdict["fed"]}
    assert asked == pytest.approx({"prose": 0.05, "d1:code": 0.95 * 0.7, "d1:technical": 0.95 * 0.3}) or asked == (
        pytest.approx({"d0:prose": 0.05, "d1:code": 0.95 * 0.7, "d1:technical": 0.95 * 0.3})
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_as_a_person(edit_plan, workplace, capsys):
    (workplace / "locked").mkdir(mode=0o500)
    edit_plan(("run: {folder: run,", "run: {folder: locked/run,"))
    assert "permission denied" in refused(capsys, "run", "plan.yaml")


def test_a_run_folder_below_a_file(edit_plan, workplace, capsys):
    (workplace / "file").write_text("")
    edit_plan(("run: {folder: run,", "run: {folder: file/run,"))
    assert "is a file, not a folder" in refused(capsys, "run", "plan.yaml")


@pytest.mark.parametrize(("limit", "where"), [(20_000, "tokens"), (1_500_000, "checkpoints")])
def test_a_full_disk_is_explained_and_the_same_command_goes_on(workplace, edit_plan, limit, where):
    """A limit on the size of files stands for the full disk: the kernel refuses the write in the same place."""

    edit_plan(("hidden_size: 32", "hidden_size: 128"))

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "keepwarm.cli.main", "run", "plan.yaml", "--stage", "stage2"]
    done = subprocess.run(command, preexec_fn=full, capture_output=True, text=True)
    assert done.returncode == 2, done
    assert f"run/{where}" in done.stderr or where in done.stderr, done.stderr
    assert "file size limit" in done.stderr and "\n  fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (workplace / "run").rglob("*") if "partial" in path.name or "scratch" in path.name]
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0


def test_changed_text_is_refused(edit_plan, workplace, capsys):
    lines = (workplace / "text/prose.jsonl").read_text()
    (workplace / "own.jsonl").write_text(lines)
    edit_plan(("text/prose.jsonl", "own.jsonl"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    capsys.readouterr()
    (workplace / "own.jsonl").write_text(lines + json.dumps({"text": "one more"}) + "\n")
    assert "own.jsonl changed since it was tokenized" in refused(capsys, "run", "plan.yaml")
