"""`keepwarm mix`: the seed's script where it is right, a refusal where it is silently wrong."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden" / "mix"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"]}
RIGHT = [
    "normal_two", "abbrev_flag_input", "not_normalized_globals", "single_file", "mixA_033_033_034", "comments_blank_tabs",
    "unicode", "duplicate_prefixes",
]  # fmt: skip
REFUSED = {
    "tiny_weights_vanish": "would be printed as 0.000000",
    "path_with_space": "is there a space in the path?",
    "latin1": "latin1.txt:1: not UTF-8 text",
    "negative_entry_weight": "neg.txt:1: the weight -0.5 is not positive",
    "nan_entry": "nan.txt:1: the weight 'nan' is not a finite number",
    "bad_odd_args": "3 words do not make pairs",
    "bad_swapped_pair": "the weight 'a.txt' of 0.5 is not a positive finite number",
    "bad_zero_global": "the weight '0' of a.txt",
    "bad_negative_global": "the weight '-0.5' of a.txt",
    "inf_global": "the weight 'inf' of a.txt",
    "bad_missing_file": "nope.txt: no such file",
    "bad_nonnumeric_weight": "nonnum.txt:1: the weight '/data/s/p0' is not a finite number",
    "bad_all_zero": "zero.txt:1: the weight 0 is not positive",
    "bad_empty_file": "empty.txt: has no entries",
    "no_args": "no pair is given",
    "inputs_no_values": "",
}


@pytest.fixture(autouse=True)
def _there(monkeypatch):
    monkeypatch.chdir(GOLDEN / "inputs")


@pytest.mark.parametrize("name", RIGHT)
def test_legacy_is_the_script_byte_for_byte(name, capsys):
    assert main(["mix", *CASES[name]["args"], "--legacy"]) == 0
    assert capsys.readouterr().out == CASES[name]["stdout"]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("legacy", [[], ["--legacy"]])
def test_what_the_script_gets_wrong_is_refused_with_nothing_on_standard_output(name, legacy, capsys):
    if name == "tiny_weights_vanish" and not legacy:
        pytest.skip("the default prints them in full")
    assert main(["mix", *CASES[name]["args"], *legacy]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert REFUSED[name] in said.err and "fix:" in said.err


def test_every_golden_case_is_decided():
    assert set(CASES) == {*RIGHT, *REFUSED, "bom", "help"}


def test_a_byte_order_mark_is_no_weight(capsys):
    assert main(["mix", "--inputs", "1", "bom.txt"]) == 0
    assert capsys.readouterr().out == "0.5 /data/r/p0 R\n0.5 /data/r/p1 R\n"


def test_the_default_keeps_every_weight_exactly(capsys):
    assert main(["mix", "--inputs", "0.5", "verytiny.txt", "0.5", "a.txt"]) == 0
    printed = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    whole = Fraction("1") + Fraction("1e-7") + Fraction("4.9e-7") + Fraction("5.1e-7")
    tiny = [Fraction(text) / whole / 2 for text in ("1", "1e-7", "4.9e-7", "5.1e-7")]
    assert printed == [float(each) for each in [*tiny, Fraction(1, 4), Fraction(1, 8), Fraction(1, 8)]]


def test_the_default_refuses_duplicates(capsys):
    assert main(["mix", "--inputs", "1", "dups.txt"]) == 2
    assert "dups.txt:2: /data/x/p0 stands at dups.txt:1 already" in capsys.readouterr().err
    assert main(["mix", "--inputs", "1", "a.txt", "1", "a.txt"]) == 2
    assert "/data/a/p0 stands in a.txt:1 already" in capsys.readouterr().err


def test_shares_go_to_standard_error(capsys):
    assert main(["mix", "--inputs", "0.9", "b.txt", "0.1", "a.txt"]) == 0
    said = [line.split()[:3] for line in capsys.readouterr().err.splitlines()]
    assert said[1:4] == [["papers", "2", "90%"], ["corpusA", "2", "7.5%"], ["corpusB", "1", "2.5%"]]


def test_output_is_written_whole_and_never_over_another(tmp_path, capsys):
    out = tmp_path / "mix.txt"
    assert main(["mix", "--inputs", "1", "a.txt", "-o", str(out)]) == 0
    assert out.read_text() == "0.5 /data/a/p0 corpusA\n0.25 /data/a/p1 corpusA\n0.25 /data/a/p2 corpusB\n"
    assert capsys.readouterr().out == ""
    assert main(["mix", "--inputs", "1", "b.txt", "-o", str(out)]) == 2
    assert "exists already with other content" in capsys.readouterr().err
    assert main(["mix", "--inputs", "1", "b.txt", "1", "nope.txt", "-o", str(tmp_path / "other.txt")]) == 2
    assert not (tmp_path / "other.txt").exists()


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.lists(st.integers(1, 10**9), min_size=1, max_size=6)),
        min_size=1,
        max_size=4,
    )
)
def test_mixed_weights_are_exact_and_complete(lists):
    import os
    import tempfile

    from keepwarm.corpora.mixing import mix

    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for number, (weight, entries) in enumerate(lists):
            path = os.path.join(folder, f"{number}.txt")
            Path(path).write_text("".join(f"{w} p{number}-{i} c{number}\n" for i, w in enumerate(entries)))
            inputs += [str(weight), path]
        mixed = mix(inputs)
        assert sum(each.weight for each in mixed) == 1
        assert all(float(each.printed) == float(each.weight) > 0 for each in mixed)
        total = sum(weight for weight, _ in lists)
        for number, (weight, _) in enumerate(lists):
            assert sum(m.weight for m in mixed if m.entry.corpus == f"c{number}") == Fraction(weight, total)
