"""A plan's corpora made ready: what is left out of training, what is added later, what is refused. No torch."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from keepwarm import files
from keepwarm.attempt.base import base_attempt
from keepwarm.attempt.line import feed_of, open_stream
from keepwarm.blend.ledger import ledger
from keepwarm.cli.main import main
from keepwarm.corpora import content
from keepwarm.corpora.arrays import load_array
from keepwarm.corpora.duplicates import HELD, found_in
from keepwarm.corpora.exclusions import of_documents, write_exclusions
from keepwarm.corpora.hashing import text_hash
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.prepare import prepare
from keepwarm.corpora.tokenizer import load_tokenizer, train_tokenizer
from keepwarm.errors import DataError, GuardError
from keepwarm.plan.load import load_plan
from keepwarm.work import Run, resolved


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
    ((name, corpus, count, are),) = (each.values() for each in prepared.duplicates)
    assert (name, corpus, are) == (
        "d0",
        "d1",
        "left out",
    ) and f"d1: {count} documents are held out in d0; left out" in said
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
        ("tokens/code document 1", "d0.exclude:1: tokens/code is no file of this plan"),
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


def train_on(prepared, *names: str) -> None:
    """What an attempt that draws on these corpora leaves in the run folder."""
    folder = Path("run/arms/cookbook/base/00-base")
    folder.mkdir(parents=True, exist_ok=True)
    sources = [{"id": source.id} for name in names for source in prepared.corpora[name].sources]
    (folder / "attempt.json").write_text(json.dumps({"sources": sources}))


def kept_of(prepared) -> dict[str, list[list[list[int]]]]:
    return {name: [source.kept.tolist() for source in corpus.sources] for name, corpus in prepared.corpora.items()}


@pytest.fixture
def technical_in_prose(workplace, edit_plan):
    """d0's text, without its holdout, holds six documents of d1's; h1 and h2 hold three of them each.

    They are those that a holdout split off d1 would take first.
    """
    long = [text for text in texts_of(workplace / "text/technical.jsonl") if len(text) > 3000]
    shared_texts = sorted(long, key=text_hash)[:6]
    assert len(shared_texts) == 6
    prose = texts_of(workplace / "text/prose.jsonl")
    write_texts(workplace / "h0.jsonl", prose[:4])
    write_texts(workplace / "prose.jsonl", [*prose, *shared_texts])
    write_texts(workplace / "h1.jsonl", shared_texts[:3])
    write_texts(workplace / "h2.jsonl", shared_texts[3:])
    edit_plan(("d0: {text: text/prose.jsonl}", "d0: {text: prose.jsonl}"))
    edit_plan(("holdout: {tokens: 2k}", "holdout: {tokens: 2k, files: {d0: h0.jsonl}}"))
    return shared_texts


def test_a_holdout_that_changed_before_training_is_left_out_of_every_corpus(technical_in_prose):
    _, first = ready("holdout.files.d1=h1.jsonl")
    said: list[str] = []
    _, second = ready("holdout.files.d1=h2.jsonl", said=said)
    text = trainable_text(second, "d0")
    assert [each[300:500] in text for each in technical_in_prose] == [True] * 3 + [False] * 3
    wanted = [{"holdout": "d1", "corpus": "d0", "documents": 3, "are": "left out"}]
    assert first.duplicates == wanted and second.duplicates == wanted
    assert said[0] == "d1: holdout_file changed; nothing was trained yet, so it is made again"
    assert said.count("d0: 3 documents are held out in d1; left out") == 1


def test_a_ready_holdout_that_changed_is_seen_by_its_content(technical_in_prose, workplace):
    ready("holdout.files.d1=h1.jsonl")
    shutil.copy(workplace / "h2.jsonl", workplace / "h1.jsonl")
    _, prepared = ready("holdout.files.d1=h1.jsonl")
    text = trainable_text(prepared, "d0")
    assert [each[300:500] in text for each in technical_in_prose] == [True] * 3 + [False] * 3
    train_on(prepared, "d0")
    write_texts(workplace / "h1.jsonl", ["short"])
    with pytest.raises(DataError, match=r"corpora.d1: .*h1.jsonl changed since it was tokenized"):
        ready("holdout.files.d1=h1.jsonl")


@pytest.fixture
def without_d1(workplace, technical_in_prose):
    """The plan before d1 was added."""
    document = yaml.safe_load((workplace / "plan.yaml").read_text())
    del document["corpora"]["d1"]
    document["stages"] = document["stages"][1:]
    (workplace / "full.yaml").write_text((workplace / "plan.yaml").read_text())
    (workplace / "early.yaml").write_text(yaml.safe_dump(document))
    return prepare(load_plan("early.yaml"), [].append)


def add_d1(*changes: str):
    said: list[str] = []
    return prepare(load_plan("full.yaml", changes), said.append), said


def test_a_corpus_added_before_training_takes_its_holdout_out_of_the_others(without_d1, technical_in_prose):
    prepared, said = add_d1("holdout.files.d1=h1.jsonl")
    assert kept_of(prepared)["d0"] != kept_of(without_d1)["d0"]
    assert "d0: 3 documents are held out in d1; left out" in said
    text = trainable_text(prepared, "d0")
    assert [each[300:500] in text for each in technical_in_prose] == [False] * 3 + [True] * 3


def test_a_holdout_split_after_training_avoids_what_was_trained_on(without_d1, technical_in_prose):
    train_on(without_d1, "d0")
    prepared, _ = add_d1()
    assert kept_of(prepared)["d0"] == kept_of(without_d1)["d0"]
    assert prepared.duplicates == []
    text = trainable_text(prepared, "d1")
    assert all(each[300:500] in text for each in technical_in_prose)  # none of them was held out


def test_a_ready_holdout_that_was_trained_on_already_is_told(without_d1, technical_in_prose):
    train_on(without_d1, "d0")
    prepared, said = add_d1("holdout.files.d1=h1.jsonl")
    assert kept_of(prepared)["d0"] == kept_of(without_d1)["d0"]
    assert prepared.duplicates == [{"holdout": "d1", "corpus": "d0", "documents": 3, "are": "trained on already"}]
    assert "d0: 3 documents are held out in d1; already in the order of this run, trained on" in said
    again, said = add_d1("holdout.files.d1=h1.jsonl")
    assert (again.duplicates, said) == (prepared.duplicates, [])


def test_a_token_file_of_another_tokenizer_is_refused(tokenized, edit_plan):
    train_tokenizer(iter(texts_of(tokenized / "text/prose.jsonl")), 400, tokenized / "other.json")
    code = ["tokenize", "text/code.jsonl", "--tokenizer", "other.json", "--output", "tokens/other"]
    assert main(code) == 0
    edit_plan(("{text: text/technical.jsonl}", "{indexed: tokens/other}"))
    with pytest.raises(DataError) as refused:
        ready()
    assert "tokens/other: was made with the tokenizer " in refused.value.what
    assert files.sha256_file(tokenized / "other.json")[:12] in refused.value.what
    assert f"tokenizer.json is {files.sha256_file(tokenized / 'tok.json')[:12]}" in refused.value.what


def test_a_token_file_with_another_document_end_is_refused(tokenized):
    path = tokenized / "tokens/prose.meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eod": 7}))
    with pytest.raises(DataError, match=r"tokens/prose: was made with the document end 7, .* has '<\|endoftext\|>', 0"):
        ready()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


def test_content_that_is_not_what_the_sidecar_says_is_refused_at_first_use(tokenized, edit_plan):
    flip(tokenized / "tokens/prose.bin")
    with pytest.raises(DataError, match=r"prose.meta.json: says content \w{16}, the pair has \w{16}"):
        ready()
    flip(tokenized / "tokens/prose.bin")
    flip(tokenized / "tokens/technical.bin")
    edit_plan(("holdout: {tokens: 2k}", "holdout: {tokens: 2k, files: {d1: tokens/technical}}"))
    with pytest.raises(DataError, match=r"technical.meta.json: says content"):
        ready()


def test_of_a_very_large_token_file_only_the_sizes_are_checked_and_told(tokenized, monkeypatch):
    monkeypatch.setattr(content, "READ_WHOLE_BYTES", 1000)
    flip(tokenized / "tokens/prose.bin")
    said: list[str] = []
    ready(said=said)
    assert any("checked by sizes only; keepwarm data verify " in line for line in said)
    shutil.rmtree(tokenized / "run")
    path = tokenized / "tokens/prose.meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "documents": 7}))
    with pytest.raises(DataError, match=r"prose.meta.json: says 7 documents, the pair has 23"):
        ready()


def test_a_file_that_was_only_touched_is_the_same(tokenized, edit_plan):
    write_texts(tokenized / "own.jsonl", texts_of(tokenized / "text/code.jsonl"))
    edit_plan(("text/code.jsonl", "own.jsonl"))
    _, before = ready()
    train_on(before, "d0", "d2")
    for path in ("own.jsonl", "tokens/prose.bin", "tokens/prose.idx"):
        os.utime(tokenized / path, (1_700_000_000, 1_700_000_000))
        said: list[str] = []
        _, after = ready(said=said)
        assert said == [] and kept_of(after) == kept_of(before)
    data = (tokenized / "own.jsonl").read_bytes()
    (tokenized / "own.jsonl").write_bytes(data.replace(b"a", b"b"))
    with pytest.raises(DataError, match=r"corpora.d2: .*own.jsonl changed since it was tokenized"):
        ready()
    (tokenized / "own.jsonl").write_bytes(data)  # put back
    ready()


def test_a_list_made_for_another_token_file_is_refused(tokenized, edit_plan):
    write_exclusions(Path("d0.exclude"), of_documents(Path("tokens/prose"), [3], Path("d0.exclude")), why="")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: d0.exclude}"))
    _, prepared = ready()
    assert prepared.corpora["d0"].left_out.excluded_documents == 1
    shutil.rmtree(tokenized / "run")
    for path in (tokenized / "tokens").glob("prose.*"):
        path.unlink()
    again = ["tokenize", "text/prose.jsonl", "--tokenizer", "tok.json", "--output", "tokens/prose", "--seed", "5"]
    assert main(again) == 0
    with pytest.raises(DataError, match=r"d0.exclude:3: the list was made for the content \w{16} of tokens/prose"):
        ready()


def test_one_list_may_name_files_of_several_corpora(tokenized, edit_plan):
    wanted = [*of_documents(Path("tokens/prose"), [3], Path("l")), *of_documents(Path("tokens/code"), [1], Path("l"))]
    write_exclusions(Path("both.exclude"), wanted, why="")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: both.exclude}"))
    edit_plan(("{text: text/technical.jsonl}", "{indexed: tokens/code, exclude: both.exclude}"))
    _, prepared = ready()
    assert [prepared.corpora[name].left_out.excluded_documents for name in ("d0", "d1", "d2")] == [1, 1, 0]


def test_what_is_left_out_is_told_when_it_is_decided(tokenized, edit_plan):
    (tokenized / "d0.exclude").write_text("tokens/prose document 3\ntokens/prose tokens 900:1500\n")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: d0.exclude}"))
    said: list[str] = []
    plan, prepared = ready(said=said)
    opened = open_indexed(tokenized / "tokens/prose")
    spans = document_spans(opened)
    out = np.zeros(opened.n_tokens, dtype=bool)
    out[900:1500] = out[slice(*spans[3])] = True
    documents = sum(bool(out[start:stop].any()) for start, stop in spans)
    corpus = prepared.corpora["d0"]
    assert f"d0: {documents} documents / {out.sum():,} tokens excluded by {tokenized}/d0.exclude, " in said[-4]
    held_out = corpus.left_out.held_out_documents
    assert said[-4].endswith(f", {held_out} held out, {corpus.tokens:,} tokens remain") and held_out >= 8
    recorded = resolved(Run(plan, "", Path("run"), prepared, None))["corpora"]["d0"]["left_out"]
    assert recorded["excluded_tokens"] == out.sum() and recorded["excluded_documents"] == documents


def test_exclusions_may_change_for_what_was_not_trained_on(tokenized, edit_plan):
    (tokenized / "d0.txt").write_text("1 tokens/prose web\n")
    listing = tokenized / "d0.exclude"
    listing.write_text("tokens/prose document 3\n")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: d0.exclude}"))
    edit_plan(("{text: text/technical.jsonl}", "{indexed: tokens/technical}"))
    _, before = ready()
    train_on(before, "d0")
    (tokenized / "d0.txt").write_text("1 tokens/prose web\n3 tokens/code web\n")
    listing.write_text("# a comment\ntokens/prose document 3\ntokens/code document 2\ntokens/technical document 1\n")
    _, after = ready()
    old, new = after.corpora["d0"].sources
    assert old.kept.tolist() == kept_of(before)["d0"][0]
    start, stop = document_spans(open_indexed(new.prefix))[2].tolist()
    assert all(b <= start or a >= stop for a, b in new.kept.tolist())
    assert after.corpora["d1"].left_out.excluded_documents == 1
    assert after.corpora["d1"].holdout_tokens == before.corpora["d1"].holdout_tokens
    listing.write_text("tokens/code document 2\n")
    with pytest.raises(DataError, match=r"corpora.d0: what is excluded from .*tokens/prose changed since"):
        ready()


def test_exclusions_changed_before_training_split_the_holdout_again(tokenized, edit_plan):
    (tokenized / "d0.exclude").write_text("")
    edit_plan(("{list: d0.txt}", "{list: d0.txt, exclude: d0.exclude}"))
    ready()
    (source,) = json.loads((tokenized / "run/tokens/d0/corpus.json").read_text())["sources"]
    held = load_array(tokenized / "run/tokens/d0/holdout.held.npy", HELD)
    document = int(found_in(Path(source["prefix"]), held)[0])
    (tokenized / "d0.exclude").write_text(f"tokens/prose document {document}\n")
    ready()
    held = load_array(tokenized / "run/tokens/d0/holdout.held.npy", HELD)
    assert document not in found_in(Path(source["prefix"]), held).tolist()


def test_lines_may_name_a_text_corpus(workplace, edit_plan):
    (workplace / "l").write_text("d0 document 3\nrun/tokens/d1/train document 1\n")
    edit_plan(("{text: text/prose.jsonl}", "{text: text/prose.jsonl, exclude: l}"))
    _, prepared = ready()
    (source,) = prepared.corpora["d0"].sources
    start, stop = document_spans(open_indexed(source.prefix))[3].tolist()
    assert all(b <= start or a >= stop for a, b in source.kept.tolist())
    assert [prepared.corpora[name].left_out.excluded_documents for name in ("d0", "d1")] == [1, 1]


def test_a_run_of_before_decisions_were_recorded_goes_on(workplace):
    _, before = ready()
    train_on(before, "d0")
    for path in (workplace / "run/tokens").glob("*/corpus.json"):
        record = json.loads(path.read_text())
        for source in record["sources"]:
            del source["decision"], source["excluded"]
        del record["holdout"]["files"]
        path.write_text(json.dumps({**record, "exclude": None}))
    _, after = ready()
    assert kept_of(after) == kept_of(before)
    assert after.corpora["d0"].left_out == before.corpora["d0"].left_out


def test_a_damaged_attempt_is_named(workplace):
    _, prepared = ready()
    train_on(prepared, "d0")
    (workplace / "run/arms/cookbook/base/00-base/attempt.json").write_text("{")
    with pytest.raises(DataError, match=r"00-base/attempt.json: damaged"):
        ready()
