"""A plan's corpora made ready: what is left out of training, what is added later, what is refused. No torch."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest

from keepwarm.attempt.line import feed_of, open_stream
from keepwarm.attempt.resolve import base_attempt
from keepwarm.blend.ledger import ledger
from keepwarm.cli.main import main
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.prepare import prepare
from keepwarm.corpora.tokenizer import load_tokenizer, train_tokenizer
from keepwarm.errors import DataError, GuardError
from keepwarm.plan.load import load_plan


def texts_of(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def write_texts(path, texts) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def ready(*changes: str, said: list[str] | None = None):
    plan = load_plan("plan.yaml", changes)
    return plan, prepare(plan, (said if said is not None else []).append)


def trainable_text(prepared, name: str) -> str:
    """All that training may read of a corpus, as text."""
    found = []
    for source in prepared.corpora[name].sources:
        tokens = open_indexed(source.prefix).tokens
        found += [tokens[start:stop] for start, stop in source.kept.tolist()]
    return prepared.tokenizer.backend.decode(np.concatenate(found).tolist(), skip_special_tokens=False)


@pytest.fixture
def shared_documents(workplace):
    """d1 holds, besides its own, the documents of d0 that d0's holdout took."""
    _, prepared = ready()
    left = trainable_text(prepared, "d0")
    taken = [text for text in texts_of(workplace / "text/prose.jsonl") if text[200:400] not in left]
    shutil.rmtree(workplace / "run")
    write_texts(workplace / "both.jsonl", [*texts_of(workplace / "text/technical.jsonl"), *taken])
    assert len(taken) >= 3
    return taken


def test_duplicates_of_another_corpus_s_holdout_are_left_out_and_told(shared_documents):
    said: list[str] = []
    _, prepared = ready("corpora.d1.text=both.jsonl", said=said)
    text = trainable_text(prepared, "d1")
    assert not [each for each in shared_documents if each[200:400] in text]
    ((name, corpus, count),) = (each.values() for each in prepared.duplicates)
    assert (name, corpus) == ("d0", "d1") and f"d1: {count} documents are held out in d0; left out" in said
    assert 0 < count <= len(shared_documents)  # d1's own holdout may have taken some of them too


def test_duplicates_may_be_kept_by_name_and_are_told_all_the_same(shared_documents):
    said: list[str] = []
    _, prepared = ready("corpora.d1.text=both.jsonl", "holdout.duplicates=report", said=said)
    text = trainable_text(prepared, "d1")
    found = [each for each in shared_documents if each[200:400] in text]
    assert found and any("and trained on (holdout: {duplicates: exclude} leaves them out)" in line for line in said)
    again: list[str] = []
    ready("corpora.d1.text=both.jsonl", "holdout.duplicates=report", said=again)
    assert again == []  # told once


@pytest.fixture
def tokenized(workplace):
    """Token files of three texts by one tokenizer, and a plan whose d0 is one of them."""
    train_tokenizer(iter(texts_of(workplace / "text/code.jsonl")), 400, workplace / "tok.json")
    for name in ("prose", "code", "technical"):
        assert main(["tokenize", f"text/{name}.jsonl", "--tokenizer", "tok.json", "--output", f"tokens/{name}"]) == 0
    plan = (workplace / "plan.yaml").read_text()
    plan = plan.replace("tokenizer: {train: {vocab_size: 512}}", "tokenizer: {file: tok.json}")
    (workplace / "plan.yaml").write_text(plan.replace("{text: text/prose.jsonl}", "{list: d0.txt}"))
    (workplace / "d0.txt").write_text("1 tokens/prose web\n")
    return workplace


def test_excluded_spans_reach_no_window(tokenized, edit_plan):
    (tokenized / "d0.exclude").write_text("tokens/prose document 3\ntokens/prose tokens 900:1500\n")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: d0.exclude}"))
    plan, prepared = ready()
    (source,) = prepared.corpora["d0"].sources
    start, stop = document_spans(open_indexed(tokenized / "tokens/prose"))[3].tolist()
    for kept_start, kept_stop in source.kept.tolist():
        assert kept_stop <= start or kept_start >= stop
        assert kept_stop <= 900 or kept_start >= 1500
    feed = feed_of(prepared, [])
    attempt = base_attempt(plan, feed)
    fed, _ = open_stream(attempt, feed).batch(0, source.windows(plan.sequence_length))  # one epoch
    every = np.concatenate([open_indexed(source.prefix).tokens[a:b] for a, b in source.kept.tolist()])
    assert fed[:, :-1].size <= len(every) and np.isin(fed, every).all()
    assert sorted(fed[:, 0].tolist()) == sorted(every[:: plan.sequence_length][: len(fed)].tolist())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tokens/code document 1", "d0.exclude:1: tokens/code is no file of this corpus"),
        ("tokens/prose document 99999", "d0.exclude:1: document 99,999 of 23, counted from 0"),
        ("tokens/prose tokens 5:99999999", "d0.exclude:1: position 99,999,999 lies beyond"),
    ],
)
def test_a_line_that_excludes_nothing_is_refused(tokenized, edit_plan, line, said):
    (tokenized / "d0.exclude").write_text(line + "\n")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: d0.exclude}"))
    with pytest.raises(DataError, match=said):
        ready()


def test_a_file_added_to_a_list_is_a_new_source_and_the_old_keep_their_order(tokenized):
    plan, before = ready()
    (tokenized / "d0.txt").write_text("1 tokens/prose web\n3 tokens/code web\n")
    said: list[str] = []
    _, after = ready(said=said)
    old, new = after.corpora["d0"].sources
    assert "d0: " in said[0] and "code" in said[0] and "was added; the next attempt draws on it" in said[0]
    assert (old.id, old.kept.tolist()) == (
        before.corpora["d0"].sources[0].id,
        before.corpora["d0"].sources[0].kept.tolist(),
    )
    assert after.corpora["d0"].weights == {old.id: 1, new.id: 3}
    assert after.corpora["d0"].holdout_tokens == before.corpora["d0"].holdout_tokens
    attempts = [base_attempt(plan, feed_of(prepared, [])) for prepared in (before, after)]
    one, two = (
        open_stream(attempt, feed_of(prepared, [])) for attempt, prepared in zip(attempts, (before, after), strict=True)
    )
    located = two.locate(0, 200)
    assert (
        located.window[located.source_index == two.source_ids.index(old.id)].tolist()
        == one.locate(0, 50).window.tolist()
    )


def test_a_file_that_a_list_no_longer_names_is_kept_in_the_ledger_and_not_drawn_on(tokenized):
    (tokenized / "d0.txt").write_text("1 tokens/prose web\n3 tokens/code web\n")
    ready()
    (tokenized / "d0.txt").write_text("2 tokens/code web\n")
    _, after = ready()
    assert [source.name for source in after.corpora["d0"].sources] == ["d0:prose", "d0:code"]
    assert list(after.corpora["d0"].weights.values()) == [2]


def test_text_added_beside_text_is_tokenized_as_a_source_of_its_own(workplace, edit_plan):
    prose = texts_of(workplace / "text/prose.jsonl")
    (workplace / "own").mkdir()
    write_texts(workplace / "own/a.jsonl", prose[:18])
    edit_plan(("text/prose.jsonl", "own/*.jsonl"))
    _, before = ready()
    write_texts(workplace / "own/b.jsonl", prose[18:])
    _, after = ready()
    assert [s.name for s in after.corpora["d0"].sources] == ["d0", "d0:train-1"]
    assert after.corpora["d0"].sources[0].kept.tolist() == before.corpora["d0"].sources[0].kept.tolist()
    text = trainable_text(after, "d0")
    assert all(each[300:500] in text for each in prose[18:])


def test_one_token_file_in_two_corpora_is_refused(tokenized, edit_plan):
    edit_plan(("{text: text/technical.jsonl}", "{indexed: tokens/prose}"))
    with pytest.raises(DataError, match=r"corpora.d1: .*prose has the same content as corpora.d0: .*prose"):
        ready()


@pytest.fixture
def small_and_large(tokenized):
    """d0 weighs two files equally; one of them holds a fortieth of the other."""
    few = texts_of(tokenized / "text/prose.jsonl")[:3]
    write_texts(tokenized / "few.jsonl", [text[:2000] for text in few])
    assert main(["tokenize", "few.jsonl", "--tokenizer", "tok.json", "--output", "tokens/few"]) == 0
    (tokenized / "d0.txt").write_text("1 tokens/few web\n1 tokens/code web\n")
    return load_tokenizer(tokenized / "tok.json")


def test_a_source_over_the_cap_is_refused_or_reweighted_as_asked(small_and_large):
    plan, prepared = ready("base.tokens=40_960")
    feed = feed_of(prepared, [])
    with pytest.raises(GuardError, match=r"d0:few would be repeated .* times, max_epochs is 4") as refused:
        base_attempt(plan, feed)
    assert "over_max_epochs: reweight" in refused.value.fix
    plan, prepared = ready("over_max_epochs=reweight", "base.tokens=40_960")
    attempt = base_attempt(plan, feed)
    few, code = ledger(open_stream(attempt, feed), attempt.steps * plan.global_batch_size)
    assert few.name == "d0:few" and Fraction(7, 2) < few.epochs_after <= 4
    assert few.samples + code.samples == attempt.steps * plan.global_batch_size
    assert any(line.startswith("d0:few: ") and "of the role d0 instead of 50.00%" in line for line in attempt.warnings)


def test_a_role_that_holds_too_little_in_all_is_refused_even_so(small_and_large, tokenized):
    (tokenized / "d0.txt").write_text("1 tokens/few web\n1 tokens/code web\n")
    plan, prepared = ready("over_max_epochs=reweight", "base.tokens=40M")
    with pytest.raises(GuardError, match="would be repeated"):
        base_attempt(plan, feed_of(prepared, []))
