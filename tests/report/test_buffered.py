"""`keepwarm buffer show`, on a run whose buffer keeps the documents with the highest scores."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from cluster.loader import File
from keepwarm.blend.buffer import load_buffer, provenance
from keepwarm.cli.main import main
from keepwarm.corpora.filelist import read_filelist
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.prepare import prepare
from keepwarm.plan.load import load_plan

POLICY = "{tokens: 4k, policy: highest-loss, scores: {d1: d1.npy, d2: d2.npy, d3: d3.npy}}"


@pytest.fixture(scope="module")
def scored(tmp_path_factory, real_text, plan_text):
    """The tiny plan run to its end; a document's score is its length."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "text").symlink_to(real_text)
    (folder / "plan.yaml").write_text(plan_text.replace("{tokens: 40k, policy: proportional}", POLICY))
    with contextlib.chdir(folder):
        prepared = prepare(load_plan("plan.yaml"), lambda _: None)
        for name in ("d1", "d2", "d3"):
            np.save(folder / f"{name}.npy", open_indexed(prepared.corpora[name].sources[0].prefix).lengths)
        assert main(["run", "plan.yaml"]) == 0
    return folder


def test_the_longest_documents_are_kept_of_each_stage(scored):
    version = load_buffer(scored / "run/buffer/v3")
    assert (version.policy, len(version.entries)) == ("highest-loss", 3)
    for entry in version.entries:
        lengths = np.load(scored / f"{entry.corpus}.npy")
        kept = lengths[provenance(entry)["document"]]
        assert np.all(np.diff(kept) <= 0) and kept[0] >= np.sort(lengths)[-5]


def test_show(scored, capsys):
    assert main(["buffer", "show", str(scored / "plan.yaml"), "--samples", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("B version 3: ") and " of 4,000 tokens, highest-loss; " in out[0]
    assert out[2].split() == [
        "stage",
        "corpus",
        "documents",
        "tokens",
        "of",
        "B",
        "stage",
        "fed",
        "kept",
        "of",
        "it",
        "from",
    ]
    assert [line.split()[:2] for line in out[3:6]] == [["stage2", "d1"], ["stage3", "d2"], ["stage4", "d3"]]
    assert len({line.index(" d") for line in out[3:6]}) == 1
    assert [line for line in out if line.startswith("stage") and line.endswith(":")] == [
        "stage2:",
        "stage3:",
        "stage4:",
    ]


def test_show_as_json_and_an_older_version(scored, capsys):
    assert main(["buffer", "show", str(scored / "plan.yaml"), "--version", "1", "--json", "--samples", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["parent"], found["policy"], found["budget_tokens"]) == (
        1,
        None,
        "highest-loss",
        4000,
    )
    (entry,) = found["entries"]
    assert (entry["stage"], entry["corpus"], entry["share"]) == ("stage2", "d1", 1.0)
    assert entry["sources"][0]["documents"] == entry["documents"] and entry["tokens"] == found["tokens"]
    assert entry["kept"] == pytest.approx(entry["tokens"] / entry["stage_tokens"])
    assert len(found["samples"]["stage2"]) == 2 and all(found["samples"]["stage2"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--version", "7"], "--version 7: there is no such version of B\n  why: there are 1, 2, 3;"),
        (["--samples", "-1"], "--samples -1"),
        (["--set", "run.folder=nowhere"], "nowhere/buffer: holds no version of B"),
        (["--set", "run.folder=nowhere", "--set", "buffer.tokens=0"], "the plan keeps none: buffer.tokens is 0"),
    ],
)
def test_what_can_not_be_shown_is_refused(scored, capsys, words, said):
    assert main(["buffer", "show", str(scored / "plan.yaml"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (None, "d1.npy: no scores can be read"),
        (np.zeros(3), "d1.npy: holds an array of shape (3,)"),
        (np.array(["a"]), "d1.npy: no scores can be read"),
        ("nan", "the score of document 1 is nan"),
    ],
)
def test_scores_that_do_not_fit_are_refused_before_anything_is_trained(edit_plan, workplace, capsys, scores, said):
    edit_plan(("{tokens: 40k, policy: proportional}", POLICY))
    prepared = prepare(load_plan("plan.yaml"), lambda _: None)
    if isinstance(scores, str):
        documents = open_indexed(prepared.corpora["d1"].sources[0].prefix).n_documents
        scores = np.where(np.arange(documents) == 1, np.nan, 0.0)
    if scores is not None:
        np.save(workplace / "d1.npy", scores)
    assert main(["run", "plan.yaml"]) == 2
    assert said in capsys.readouterr().err
    assert not list(workplace.glob("run/arms/**/checkpoints"))


@pytest.mark.parametrize(
    ("buffer", "said"),
    [
        (
            "{tokens: 4k, policy: highest-loss, scores: {d1: d1.npy}}",
            "highest-loss needs the documents' scores of d2, d3",
        ),
        ("{tokens: 4k, scores: {d1: d1.npy}}", "the policy proportional uses no scores"),
        ("{tokens: 4k, policy: highest-loss, scores: {dx: d1.npy}}", "no corpus is named 'dx'"),
        ("{tokens: 4k, policy: newest}", "newest-heavy"),
    ],
)
def test_a_policy_and_its_scores_belong_together(edit_plan, capsys, buffer, said):
    edit_plan(("{tokens: 40k, policy: proportional}", buffer))
    assert main(["plan", "plan.yaml"]) == 2
    assert said in capsys.readouterr().err


def test_a_list_of_b_names_files_that_the_trainer_reads(scored, tmp_path, capsys):
    listing = tmp_path / "b.txt"
    assert main(["buffer", "show", str(scored / "plan.yaml"), "--list", str(listing)]) == 0
    capsys.readouterr()
    entries, version = read_filelist(listing), load_buffer(scored / "run/buffer/v3")
    assert [entry.corpus for entry in entries] == ["buffer.stage2", "buffer.stage3", "buffer.stage4"]
    assert float(sum(entry.weight for entry in entries)) == pytest.approx(1)
    held_out = sorted((scored / "run/tokens").rglob("*holdout*.idx"))
    assert len(held_out) == 4
    for prefix in [*(entry.prefix for entry in entries), *(str(path)[:-4] for path in held_out)]:
        theirs, ours = File(prefix), open_indexed(prefix)
        assert theirs.sizes.sum() == ours.n_tokens
        assert theirs.sequence(len(theirs.sizes) - 1).tolist() == ours.sequence(ours.n_sequences - 1).tolist()
    assert [int(File(entry.prefix).sizes.sum()) for entry in entries] == [entry.tokens for entry in version.entries]
    listing.write_text("other\n")
    assert main(["buffer", "show", str(scored / "plan.yaml"), "--list", str(listing)]) == 2
    assert "exists already with other content" in capsys.readouterr().err
