"""Tokenizing: document ends that can't be forged, a reproducible order, holdouts that stay out."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from keepwarm.cli.main import main
from keepwarm.corpora import parts, tokenize
from keepwarm.corpora.duplicates import found_in
from keepwarm.corpora.holdout import FEWEST_DOCUMENTS, FEWEST_PIECES, kept_spans, split_holdout, texts_for_tokenizer
from keepwarm.corpora.identity import document_hashes, document_spans
from keepwarm.corpora.indexed import IndexedWriter, open_indexed
from keepwarm.corpora.source import Source, WindowReader
from keepwarm.corpora.tokenize import tokenize_corpus
from keepwarm.corpora.tokenizer import load_tokenizer, train_tokenizer
from keepwarm.errors import DataError, PlanError


@pytest.fixture(scope="session")
def tokenizer(real_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = [json.loads(line)["text"] for line in (real_text / "prose.jsonl").read_text().splitlines()]
    train_tokenizer(iter(texts), 500, path)
    return load_tokenizer(path)


def lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [str(path)]


def test_training_a_tokenizer_gives_the_same_file_again(tokenizer, real_text, tmp_path):
    texts = [json.loads(line)["text"] for line in (real_text / "prose.jsonl").read_text().splitlines()]
    train_tokenizer(iter(texts), 500, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == tokenizer.path.read_bytes()
    assert (tokenizer.vocab_size, tokenizer.eod_id, tokenizer.eod_token) == (500, 0, "<|endoftext|>")


def test_documents_are_the_texts_each_with_its_end(tokenizer, tmp_path):
    texts = ["The Congress met.", "Of the Union:\n\nété ✓", "x"]
    sidecar = tokenize_corpus(lines(tmp_path / "t.jsonl", [*texts, ""]), tokenizer, tmp_path / "out", seed=3)
    opened = open_indexed(tmp_path / "out")
    decoded = []
    for number in range(opened.n_documents):
        ids = opened.document(number).tolist()
        assert ids[-1] == 0 and 0 not in ids[:-1]
        decoded.append(tokenizer.backend.decode(ids[:-1], skip_special_tokens=False))
    assert sorted(decoded) == sorted(texts)
    assert (sidecar.documents, sidecar.empty_documents) == (3, 1)
    assert sidecar.text_bytes == sum(len(text.encode()) for text in texts)
    assert sidecar.tokens == opened.n_tokens


def test_text_that_spells_the_document_end_cannot_forge_one(tokenizer, tmp_path):
    text = "before <|endoftext|> after <|endoftext|>"
    sidecar = tokenize_corpus(lines(tmp_path / "t.jsonl", [text]), tokenizer, tmp_path / "out", seed=0)
    ids = open_indexed(tmp_path / "out").document(0).tolist()
    assert ids.count(0) == 1 and ids[-1] == 0
    assert tokenizer.backend.decode(ids[:-1], skip_special_tokens=False) == text
    assert sidecar.special_tokens_escaped == 2


def test_the_order_is_shuffled_once_by_the_seed(tokenizer, tmp_path):
    source = lines(tmp_path / "t.jsonl", [f"document number {i}" for i in range(200)])
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tokenize_corpus(source, tokenizer, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / f"{name}.bin").read_bytes() for name in "abc")
    assert a == b and a != c
    first = open_indexed(tmp_path / "a")
    assert sorted(document_hashes(tmp_path / "a").tolist()) == sorted(document_hashes(tmp_path / "c").tolist())
    numbers = [int(tokenizer.backend.decode(first.document(i).tolist()).split()[-1]) for i in range(200)]
    assert numbers != sorted(numbers) and abs(np.corrcoef(numbers, np.arange(200))[0, 1]) < 0.25


def test_nothing_is_left_behind_when_it_fails(tokenizer, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n')
    with pytest.raises(DataError, match="t.jsonl:2"):
        tokenize_corpus([str(tmp_path / "t.jsonl")], tokenizer, tmp_path / "out", seed=0)
    assert os.listdir(tmp_path) == ["t.jsonl"]


def test_an_empty_corpus_is_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match="holds no text"):
        tokenize_corpus(lines(tmp_path / "t.jsonl", ["", ""]), tokenizer, tmp_path / "out", seed=0)
    assert os.listdir(tmp_path) == ["t.jsonl"]


@pytest.mark.parametrize("output", ["", ".", "./", "..", "/"])
def test_an_output_that_names_no_file(tokenizer, tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "t.jsonl", ["a"])
    assert main(["tokenize", "t.jsonl", "--tokenizer", str(tokenizer.path), "--output", output]) == 2
    assert "names no file\n  why: token files are called PREFIX.bin" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["t.jsonl"]


def test_a_folder_that_can_not_be_made(tokenizer, tmp_path, capsys):
    words = [*lines(tmp_path / "t.jsonl", ["a"]), "--tokenizer", str(tokenizer.path), "--output", "/proc/x"]
    assert main(["tokenize", *words]) == 2
    assert "there is no such folder, and none can be made\n" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["appended", "removed", "touched"])
def test_text_that_changes_meanwhile_is_refused(tokenizer, tmp_path, monkeypatch, change):
    source, shuffle = tmp_path / "t.jsonl", tokenize.write_shuffled

    def meanwhile(*given):
        shuffle(*given)
        match change:
            case "appended":
                source.write_text(source.read_text() + '{"text": "one more"}\n')
            case "removed":
                source.unlink()
            case "touched":
                os.utime(source)

    monkeypatch.setattr(tokenize, "write_shuffled", meanwhile)
    with pytest.raises(
        DataError, match="t.jsonl: was removed while" if change == "removed" else "t.jsonl: changed while"
    ):
        tokenize_corpus(lines(source, ["one", "two"]), tokenizer, tmp_path / "out", seed=0)
    assert not list(tmp_path.glob("out.[!p]*"))
    monkeypatch.undo()
    if change == "removed":
        lines(source, ["one"])
    made = tokenize_corpus([str(source)], tokenizer, tmp_path / "out", seed=0)
    assert made.documents == {"appended": 3, "removed": 1, "touched": 2}[change]


def test_text_that_changes_before_it_is_encoded_is_refused(tokenizer, tmp_path, monkeypatch):
    source, encode = tmp_path / "t.jsonl", parts.encode_part

    def appended(part, *rest):
        source.write_text(source.read_text() + '{"text": "one more"}\n')
        encode(part, *rest)

    monkeypatch.setattr(parts, "encode_part", appended)
    with pytest.raises(DataError, match="t.jsonl: changed while it was tokenized"):
        tokenize_corpus(lines(source, ["one", "two"]), tokenizer, tmp_path / "out", seed=0, workers=1)
    assert not list(tmp_path.glob("out.[!p]*"))


def test_a_tokenizer_that_does_not_say_its_document_end(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.path.read_text().replace("<|endoftext|>", "<fin>"))
    with pytest.raises(PlanError, match="does not say which token ends a document") as refused:
        load_tokenizer(tmp_path)
    assert refused.value.fix == "--eod TOKEN, in a plan tokenizer: {eod: TOKEN}, with one of its special tokens: <fin>"
    with pytest.raises(PlanError, match="has no token '<eos>'"):
        load_tokenizer(tokenizer.path, "<eos>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<fin>"}}))
    assert load_tokenizer(tmp_path).eod_token == "<fin>"


def test_a_document_end_that_text_can_spell_is_refused(tokenizer, tmp_path):
    content = json.loads(tokenizer.path.read_text())
    added = {**content["added_tokens"][0], "id": 500, "content": "<end>", "special": False}
    content["added_tokens"].append(added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    for token in (".", "<end>"):
        with pytest.raises(PlanError, match=re.escape(f"does not say that '{token}' is a special token")):
            load_tokenizer(tmp_path, token)
    content["added_tokens"][-1] = {**added, "special": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path, "<end>").eod_id == 500


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer.json"):
        load_tokenizer(tmp_path / "bad.json")


@pytest.fixture
def corpus(tokenizer, real_text, tmp_path):
    tokenize_corpus([str(real_text / "prose.jsonl")], tokenizer, tmp_path / "train", seed=1)
    return tmp_path / "train"


def split(prefix, tokenizer, tokens=2048, sequence_length=32, prefixes=None):
    return split_holdout(
        prefixes or [prefix], tokens=tokens, sequence_length=sequence_length, eod=0, tokenizer=tokenizer,
        out_prefix=prefix.with_name("holdout"),
    )  # fmt: skip


def test_a_holdout_has_many_pieces_from_several_documents(corpus, tokenizer):
    holdout = split(corpus, tokenizer)
    opened = open_indexed(holdout.prefix)
    assert holdout.pieces == opened.n_documents >= FEWEST_PIECES
    assert holdout.documents >= FEWEST_DOCUMENTS
    assert 2048 <= holdout.tokens < 2048 + 8 * 32
    assert max(opened.lengths) <= 32
    assert all(opened.document(i)[-1] == 0 for i in range(holdout.pieces))
    texts = [tokenizer.backend.decode(opened.document(i).tolist()[:-1]) for i in range(holdout.pieces)]
    whole = [text for text in texts if "\ufffd" not in text]  # no character was cut in two
    assert holdout.text_bytes == pytest.approx(sum(len(text.encode()) for text in texts), rel=0.01)
    assert len(whole) > 20


def test_held_out_documents_never_reach_a_training_window(corpus, tokenizer):
    holdout = split(corpus, tokenizer)
    opened = open_indexed(corpus)
    excluded = set(found_in(corpus, holdout.held).tolist())
    assert len(excluded) == holdout.documents
    kept = kept_spans(corpus, found_in(corpus, holdout.held))
    source = Source("prose", "0" * 16, corpus, kept)
    expected = np.concatenate([opened.document(i) for i in range(opened.n_documents) if i not in excluded])
    assert source.tokens == len(expected)
    reader, windows = WindowReader([source], 32), np.empty((source.windows(32), 33), dtype=np.int32)
    reader.read(np.zeros(len(windows), np.int64), np.arange(len(windows)), windows)
    reader.close()
    stream = np.concatenate([window[:-1] for window in windows])
    assert (stream == expected[: len(stream)]).all()
    assert all(window[-1] == expected[(w + 1) * 32] for w, window in enumerate(windows))


def test_pieces_of_the_holdout_are_text_of_the_held_out_documents(corpus, tokenizer):
    holdout = split(corpus, tokenizer)
    opened, held = open_indexed(corpus), open_indexed(holdout.prefix)
    whole = [opened.document(int(i)).tolist() for i in found_in(corpus, holdout.held)]
    joined = [",".join(map(str, document)) for document in whole]
    for number in range(held.n_documents):
        piece = ",".join(map(str, held.document(number).tolist()[:-1]))
        assert any(piece in text for text in joined)


def test_exact_duplicates_fall_on_the_same_side_in_every_file(tokenizer, tmp_path):
    texts = [f"document {i} " * 40 for i in range(60)]
    tokenize_corpus(lines(tmp_path / "a.jsonl", texts), tokenizer, tmp_path / "a", seed=1)
    tokenize_corpus(lines(tmp_path / "b.jsonl", texts[::-1] + texts[:5]), tokenizer, tmp_path / "b", seed=2)
    holdout = split(tmp_path / "a", tokenizer, prefixes=[tmp_path / "a", tmp_path / "b"])
    held = [
        {open_indexed(tmp_path / name).document(i).tobytes() for i in found_in(tmp_path / name, holdout.held).tolist()}
        for name in "ab"
    ]
    assert held[0] == held[1] != set()
    left = [
        {opened.document(i).tobytes() for i in range(opened.n_documents)} - out
        for opened, out in zip((open_indexed(tmp_path / "a"), open_indexed(tmp_path / "b")), held, strict=True)
    ]
    assert not (left[0] | left[1]) & held[0]


def test_the_choice_does_not_depend_on_the_order_of_documents(tokenizer, tmp_path):
    texts = [f"document {i} " * 40 for i in range(60)]
    found = []
    for name, given in (("a", texts), ("b", texts[::-1])):
        (tmp_path / name).mkdir()
        tokenize_corpus(lines(tmp_path / f"{name}.jsonl", given), tokenizer, tmp_path / name / "t", seed=ord(name))
        holdout = split(tmp_path / name / "t", tokenizer)
        opened = open_indexed(tmp_path / name / "t")
        found.append({opened.document(i).tobytes() for i in found_in(tmp_path / name / "t", holdout.held).tolist()})
    assert found[0] == found[1]


def test_the_tokenizer_is_not_trained_on_what_will_be_held_out(corpus, tokenizer, real_text):
    trained_on = set(texts_for_tokenizer([str(real_text / "prose.jsonl")], 2048))
    holdout = split(corpus, tokenizer)
    opened = open_indexed(corpus)
    held = {tokenizer.backend.decode(opened.document(int(i)).tolist()[:-1]) for i in found_in(corpus, holdout.held)}
    assert held and trained_on and not held & trained_on


def test_too_few_documents_or_tokens(tokenizer, tmp_path):
    tokenize_corpus(lines(tmp_path / "a.jsonl", ["word " * 500] * 3), tokenizer, tmp_path / "a", seed=0)
    with pytest.raises(DataError, match="3 documents, too small for its holdout"):
        split(tmp_path / "a", tokenizer)
    tokenize_corpus(lines(tmp_path / "b.jsonl", [f"word {i}" for i in range(40)]), tokenizer, tmp_path / "b", seed=0)
    with pytest.raises(DataError, match="too small for its holdout: .* tokens would be held out"):
        split(tmp_path / "b", tokenizer)


def test_files_without_text_are_split_by_their_tokens(tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 400, rng.integers(50, 400)) for _ in range(50)]
    documents += documents[:3]
    with IndexedWriter(tmp_path / "x", "u2") as writer:
        for document in documents:
            writer.add(np.append(document, 0))
    hashes = document_hashes(tmp_path / "x")
    assert len(set(hashes.tolist())) == 50 and hashes[:3].tolist() == hashes[50:].tolist()
    holdout = split_holdout(
        [tmp_path / "x"], tokens=1100, sequence_length=32, eod=0, out_prefix=tmp_path / "h", tokenizer=None
    )
    assert holdout.text_bytes is None and holdout.tokens >= 1100
    spans = document_spans(open_indexed(tmp_path / "x"))
    excluded = set(found_in(tmp_path / "x", holdout.held).tolist())
    assert len(excluded) >= holdout.documents
    kept = kept_spans(tmp_path / "x", np.array(sorted(excluded)))
    assert (kept[1:, 0] > kept[:-1, 1]).all()
    assert (kept[:, 1] - kept[:, 0]).sum() == sum(b - a for i, (a, b) in enumerate(spans) if i not in excluded)


def test_the_commands(tokenizer, real_text, tmp_path, capsys):
    prefix = str(tmp_path / "out" / "prose")
    assert (
        main(["tokenize", str(real_text / "prose.jsonl"), "--tokenizer", str(tokenizer.path), "--output", prefix]) == 0
    )
    assert "bytes a token" in capsys.readouterr().out
    assert main(["data", "show", prefix, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    opened = open_indexed(prefix)
    assert (shown["documents"], shown["tokens"], shown["dtype"]) == (opened.n_documents, opened.n_tokens, "uint16")
    assert main(["data", "show", prefix, "--document", "2", "--json", "--tokenizer", str(tokenizer.path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tokens"] == opened.document(2).tolist() and len(shown["text"]) > 100
    assert main(["data", "show", prefix, "--document", "999999"]) == 2
    assert main(["tokenize", "--tokenizer", str(tokenizer.path), "--output", prefix]) == 2
    assert (
        main(["tokenize", str(real_text / "prose.jsonl"), "--tokenizer", str(tokenizer.path), "--output", prefix]) == 2
    )
    assert "exists already" in capsys.readouterr().err
