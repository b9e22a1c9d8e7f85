"""`keepwarm data blend` and the summary of `keepwarm mix`: what a list feeds, before any run."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from keepwarm.blend.caps import STRAY_SAMPLES
from keepwarm.blend.greedy import Greedy
from keepwarm.blend.interleave import Interleave
from keepwarm.cli.main import main
from keepwarm.corpora.indexed import IndexedWriter

TOKENS = {"web0": 40_000, "web1": 400_000, "papers": 60_000, "math": 5_000}
LIST = "0.07 d/web0 web\n0.63 d/web1 web\n0.225 d/papers papers\n0.075 d/math math\n"
WEIGHTS = [70, 630, 225, 75]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, tokens in TOKENS.items():
        with IndexedWriter(tmp_path / "d" / name, "<u2") as writer:
            for _ in range(tokens // 1000):
                writer.add(np.arange(1000))
    (tmp_path / "mix.txt").write_text(LIST)
    return tmp_path


def blended(capsys, *words):
    assert main(["data", "blend", "mix.txt", "--sequence-length", "128", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_file_is_counted_to_the_sample(capsys):
    found = blended(capsys, "--tokens", "400k")
    assert (found["samples"], found["fed_tokens"], found["order"]) == (3125, 400_000, "keepwarm")
    counts = Interleave(WEIGHTS).counts(3125)
    assert [each["samples"] for each in found["files"]] == list(counts)
    math = found["files"][3]
    windows = 4999 // 128
    assert (math["windows"], math["epochs"]) == (windows, counts[3] / windows)
    assert math["repeated_tokens"] == (counts[3] - windows) * 128
    assert (math["exact_share"], math["asked_tokens"]) == ("3/40", 30_000.0)
    web = found["corpora"][0]
    assert (web["corpus"], web["files"], web["tokens"]) == ("web", 2, 440_000)
    assert web["fed_tokens"] == (counts[0] + counts[1]) * 128


def test_the_reference_order_gives_the_reference_counts(capsys):
    found = blended(capsys, "--tokens", "400k", "--order", "greedy")
    floats = [0.07, 0.63, 0.225, 0.075]
    wanted = Greedy([weight / sum(floats) for weight in floats]).counts(3125)
    assert [each["samples"] for each in found["files"]] == list(wanted)


def test_tokens_are_whole_samples_upwards(capsys):
    assert blended(capsys, "--tokens", "129")["samples"] == 2


def test_a_cap_refuses_by_line_with_the_number(capsys):
    assert main(["data", "blend", "mix.txt", "--tokens", "400k", "--sequence-length", "128", "--max-epochs", "4"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "mix.txt:4: d/math would be read 6.00 times, more than 4, as 1 of 4 files are" in said.err
    assert "--over reweight" in said.err


def test_reweighting_keeps_corpora_and_fills_the_others(capsys, files):
    (files / "mix.txt").write_text("1 d/math all\n1 d/papers all\n2 d/web1 web\n")
    found = blended(capsys, "--tokens", "100k", "--max-epochs", "2", "--over", "reweight")
    small, papers, web = (each["samples"] for each in found["files"])
    windows = 4999 // 128
    assert 2 * windows - 2 * STRAY_SAMPLES <= small <= 2 * windows
    assert small + papers + web == found["samples"]
    assert abs(web - Fraction(found["samples"], 2)) < 2
    assert main(["data", "blend", "mix.txt", "--tokens", "100k", "--sequence-length", "128", "--max-epochs", "2",
                 "--over", "reweight"]) == 0  # fmt: skip
    assert "to stay within --max-epochs:\n  d/math: " in capsys.readouterr().out


def test_a_corpus_that_holds_too_little_is_refused_even_so(capsys):
    words = ["--tokens", "400k", "--sequence-length", "128", "--max-epochs", "4", "--over", "reweight"]
    assert main(["data", "blend", "mix.txt", *words]) == 2
    said = capsys.readouterr().err
    assert "its corpus math holds too little as a whole" in said and "--over reweight" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tokens", "x"], "--tokens: 'x' is not a count"),
        (["--tokens", "0"], "--tokens 0"),
        (["--tokens", "1k", "--over", "reweight"], "without a cap nothing is too much"),
        (
            ["--tokens", "1k", "--over", "reweight", "--order", "greedy", "--max-epochs", "4"],
            "the reference has no caps",
        ),
        (["--tokens", "1k", "--max-epochs", "none"], "--max-epochs: 'none' is not a share"),
        (["--tokens", "1k", "--max-epochs", "0"], "--max-epochs 0"),
        (["--tokens", "1k", "--sequence-length", "1"], "--sequence-length 1"),
        (["--tokens", "1k", "--sequence-length", "100k"], "invalid"),
        (
            ["--tokens", "1k", "--sequence-length", "100000"],
            "d/web0: d/web0 has 40000 tokens to train on, fewer than one",
        ),
    ],
)
def test_what_can_not_be_blended_is_refused(capsys, words, said):
    assert main(["data", "blend", "mix.txt", *words]) == 2
    err = capsys.readouterr().err
    assert said.lower() in err.lower() and "fix:" in err


def test_a_missing_token_file_is_named(capsys, files):
    (files / "mix.txt").write_text(LIST.replace("web1", "web9"))
    assert main(["data", "blend", "mix.txt", "--tokens", "1M"]) == 2
    assert "d/web9.idx: no such file" in capsys.readouterr().err


def test_the_tables(capsys):
    assert main(["data", "blend", "mix.txt", "--tokens", "400k", "--sequence-length", "128"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "400,000 tokens = 3,125 samples of 128, keepwarm order"
    assert out[2].split()[:6] == ["corpus", "files", "share", "tokens", "fed", "epochs"]
    assert out[5].split() == ["math", "1", "7.5%", "5,000", "29,952", "6.00", "6.00", "24,960"]
    assert [line.split()[0] for line in out[8:12]] == ["d/math", "d/papers", "d/web0", "d/web1"]  # the most read first
    assert out[-1].startswith("2 of 4 files are read more than once, d/math 6.00 times")


def test_mix_says_what_a_budget_would_read(capsys, files):
    (files / "web.txt").write_text("0.1 d/web0 web\n0.9 d/web1 web\n")
    (files / "sci.txt").write_text("3 d/papers papers\n1 d/math math\n")
    assert main(["mix", "--inputs", "0.7", "web.txt", "0.3", "sci.txt", "--tokens", "400k"]) == 0
    said = capsys.readouterr()
    assert said.out == LIST
    assert [line.split() for line in said.err.splitlines()] == [
        ["corpus", "files", "share", "tokens", "fed", "epochs", "most", "in", "a", "file"],
        ["web", "2", "70%", "440,000", "280,000", "0.64", "0.70"],
        ["papers", "1", "22.5%", "60,000", "90,000", "1.50", "1.50"],
        ["math", "1", "7.5%", "5,000", "30,000", "6.00", "6.00"],
    ]


def test_mix_without_the_files_or_a_budget_says_the_shares(capsys, files):
    (files / "far.txt").write_text("1 /lab/shard0 far\n1 d/web0 web\n")
    assert main(["mix", "--inputs", "1", "far.txt"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split() for line in said[:3]] == [
        ["corpus", "files", "share", "tokens"], ["far", "1", "50%", "-"], ["web", "1", "50%", "40,000"],
    ]  # fmt: skip
    assert said[3].startswith("-: a .bin/.idx of this corpus is not to be found here")
