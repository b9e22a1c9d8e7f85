"""The same bytes whatever encodes, however many workers there are, and wherever the work was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.corpora import documents, fast, parts, shuffle, tokenize
from keepwarm.corpora.hashing import shuffled, text_hash
from keepwarm.corpora.identity import document_hashes
from keepwarm.corpora.indexed import IndexedWriter, open_indexed
from keepwarm.corpora.tokenize import is_tokenized, tokenize_corpus
from keepwarm.corpora.tokenizer import Tokenizer, load_tokenizer, spelled, train_tokenizer
from keepwarm.errors import DataError

ENDINGS = ("bin", "idx", "hash.npy")


@pytest.fixture(scope="module")
def tokenizer(real_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = [json.loads(line)["text"] for line in (real_text / "prose.jsonl").read_text().splitlines()]
    train_tokenizer(iter(texts), 500, path)
    return load_tokenizer(path)


@pytest.fixture
def small_parts(monkeypatch):
    """Some ten parts of the test's text, where a corpus of gigabytes would have them."""
    monkeypatch.setattr(documents.parts, "__defaults__", (40_000,))


def made(prefix):
    return [(prefix.parent / f"{prefix.name}.{ending}").read_bytes() for ending in ENDINGS]


@pytest.fixture(scope="module")
def whole(tokenizer, real_text, tmp_path_factory):
    """The text's token file, made in one part by the reference library."""
    prefix = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "LIBRARY", "not-installed-here")
        tokenize_corpus([str(real_text / "*.jsonl")], tokenizer, prefix, seed=4, workers=1)
    return prefix


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_and_workers_change_no_byte(tokenizer, real_text, tmp_path, whole, small_parts, workers):
    told = []
    done = []
    tokenize_corpus(
        [str(real_text / "*.jsonl")], tokenizer, tmp_path / "out", seed=4, workers=workers, tell=told.append,
        progress=lambda size, total: done.append((size, total)),
    )  # fmt: skip
    assert made(tmp_path / "out") == made(whole)
    assert sum(size for size, _ in done) == done[-1][1] == sum(p.stat().st_size for p in real_text.glob("*.jsonl"))
    assert len(told) == 1 and told[0].startswith("encoding with fastokens: fastokens 0.3.5, equal to tokenizers on")
    assert sorted(os.listdir(tmp_path)) == ["out.bin", "out.hash.npy", "out.idx", "out.meta.json"]


def test_stopped_work_goes_on_and_ends_in_the_same_bytes(
    tokenizer, real_text, tmp_path, whole, small_parts, monkeypatch
):
    encode, calls = parts.encode_part, []

    def stops_at_the_fourth(part, *rest):
        calls.append(part.number)
        if len(calls) == 4:
            raise KeyboardInterrupt
        encode(part, *rest)

    monkeypatch.setattr(parts, "encode_part", stops_at_the_fourth)
    given = ([str(real_text / "*.jsonl")], tokenizer, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(*given, seed=4, workers=1)
    assert not (tmp_path / "out.bin").exists()
    told = []
    tokenize_corpus(*given, seed=4, workers=1, tell=told.append)
    assert calls == [0, 1, 2, 3, *range(3, max(calls) + 1)]
    assert any(line.startswith("going on: 3 of ") for line in told)
    assert made(tmp_path / "out") == made(whole)


def test_a_part_whose_file_changed_is_made_again(tokenizer, tmp_path, small_parts):
    source = tmp_path / "t.jsonl"
    lines = [json.dumps({"text": f"document {i} " + "x" * 300}) + "\n" for i in range(400)]
    source.write_text("".join(lines) + "no json\n")
    with pytest.raises(DataError, match="t.jsonl:401"):
        tokenize_corpus([str(source)], tokenizer, tmp_path / "out", seed=0, workers=1)
    assert list((tmp_path / "out.parts.partial").glob("*.json"))
    source.write_text("".join(lines))
    sidecar = tokenize_corpus([str(source)], tokenizer, tmp_path / "out", seed=0, workers=1)
    assert sidecar.documents == 400


def test_a_part_that_was_being_made_again_is_not_taken_for_the_old_one(tokenizer, tmp_path, monkeypatch):
    source = jsonl(tmp_path / "t.jsonl", [f"document {i}" for i in range(50)])
    given = ([str(source)], tokenizer, tmp_path / "out")
    modified = source.stat().st_mtime_ns

    def stops(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tokenize, "write_shuffled", stops)
        tokenize_corpus(*given, seed=0, workers=1)
    os.utime(source)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parts, "_closed", stops)
        tokenize_corpus(*given, seed=0, workers=1)
    os.utime(source, ns=(modified, modified))
    assert tokenize_corpus(*given, seed=0, workers=1).documents == 50


def test_what_the_reference_made_is_kept_when_the_faster_library_begins_again(
    tokenizer, real_text, tmp_path, whole, small_parts, monkeypatch
):
    encode, check, calls = parts.encode_part, fast.check, []

    def differs_in_the_fourth_part(*given):
        if calls[-1:] == [(3, False)]:
            raise fast.Differs
        check(*given)

    def counted(part, settings, tokenizer, backend, tick):
        calls.append((part.number, backend is None))
        if len(calls) == 7:
            raise KeyboardInterrupt
        encode(part, settings, tokenizer, backend, tick)

    monkeypatch.setattr(parts, "encode_part", counted)
    monkeypatch.setattr(fast, "check", differs_in_the_fourth_part)
    given = ([str(real_text / "*.jsonl")], tokenizer, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(*given, seed=4, workers=1)
    fast_ones, reference_ones = [(number, False) for number in range(4)], [(number, True) for number in range(3)]
    assert calls == fast_ones + reference_ones
    tokenize_corpus(*given, seed=4, workers=1)
    assert calls[7] == (3, False)  # parts 0 and 1 are the reference's, part 2 is still the faster library's
    assert calls[8:] == [(number, True) for number in range(2, calls[-1][0] + 1)]
    assert made(tmp_path / "out") == made(whole)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_workers_leave_no_process_and_the_command_goes_on(tokenizer, real_text, tmp_path, whole, kill):
    script = (
        "import sys; from keepwarm.corpora import documents; documents.parts.__defaults__ = (40_000,);"
        "from keepwarm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable, "-c", script, "tokenize", str(real_text / "*.jsonl"), "--tokenizer", str(tokenizer.path),
        "--output", str(tmp_path / "out"), "--seed", "4", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob("out.parts.partial/*.json")):
        time.sleep(0.005)
    process.send_signal(kill)
    error = process.communicate(timeout=60)[1]  # pipes close when the last worker is gone
    assert "Traceback" not in error
    if process.returncode != 0:  # else it had ended before the signal came
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[kill], error
        assert not (tmp_path / "out.idx").exists()
        subprocess.run(command, check=True, capture_output=True)
    assert made(tmp_path / "out") == made(whole)


def test_a_library_that_gives_other_ids_is_not_used(tokenizer, real_text, tmp_path, whole, monkeypatch):
    encode = fast.encode

    def wrong(backend, texts):
        ids, ends = encode(backend, texts)
        return np.where(ids == ids[-1], 1, ids).astype(np.uint32), ends

    monkeypatch.setattr(fast, "encode", wrong)
    told = []
    tokenize_corpus([str(real_text / "*.jsonl")], tokenizer, tmp_path / "out", seed=4, workers=1, tell=told.append)
    assert told == ["encoding with tokenizers: fastokens 0.3.5 gives other ids than tokenizers on a sample of the text"]
    assert made(tmp_path / "out") == made(whole)


def test_a_library_that_differs_later_is_dropped_for_all_of_the_text(
    tokenizer, real_text, tmp_path, whole, monkeypatch
):
    encode, calls = fast.encode, []

    def wrong_after_the_sample(backend, texts):
        calls.append(len(texts))
        ids, ends = encode(backend, texts)
        return (ids, ends) if len(calls) == 1 else (np.roll(ids, 1), ends)

    monkeypatch.setattr(fast, "encode", wrong_after_the_sample)
    told = []
    tokenize_corpus([str(real_text / "*.jsonl")], tokenizer, tmp_path / "out", seed=4, workers=1, tell=told.append)
    assert "gave other ids for a document of this text, so all of it is encoded again" in told[1]
    assert made(tmp_path / "out") == made(whole)


def jsonl(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_of_a_long_document_the_beginning_is_held_against_the_reference(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(fast, "SAMPLE_CHARACTERS", 1000)
    reference, seen = Tokenizer.encode, []

    def spy(self, texts):
        seen.extend(texts)
        return reference(self, texts)

    monkeypatch.setattr(Tokenizer, "encode", spy)
    lines = "".join(f"line {i}\n" for i in range(5000))
    source = jsonl(tmp_path / "t.jsonl", [lines, "y" * 5000])
    tokenize_corpus([str(source)], tokenizer, tmp_path / "out", seed=0, workers=1)
    assert len(seen) == 2 and set(seen) == {
        lines[: lines.rfind("\n", 0, 1000) + 1]
    }  # the sample, and the first of 1000
    assert fast.beginning("y" * 5000) == "y" * 1000


def test_a_library_that_differs_at_the_beginning_of_a_long_document_is_dropped(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(fast, "SAMPLE_CHARACTERS", 1000)
    encode, calls = fast.encode, []

    def wrong_after_the_sample(backend, texts):
        calls.append(texts)
        ids, ends = encode(backend, texts)
        return (ids, ends) if len(calls) == 1 else (np.roll(ids, 1), ends)

    monkeypatch.setattr(fast, "encode", wrong_after_the_sample)
    told = []
    source = jsonl(tmp_path / "t.jsonl", ["some words of text " * 500])
    tokenize_corpus([str(source)], tokenizer, tmp_path / "out", seed=0, workers=1, tell=told.append)
    assert "gave other ids for a document of this text" in told[1]


def test_names_with_brackets_are_sampled(tokenizer, tmp_path):
    told = []
    source = jsonl(tmp_path / "a[1].jsonl", ["some words"])
    for number, pattern in enumerate((str(tmp_path / "*.jsonl"), str(source))):
        tokenize_corpus([pattern], tokenizer, tmp_path / f"out{number}", seed=0, tell=told.append)
    assert told == ["encoding with fastokens: fastokens 0.3.5, equal to tokenizers on the first 10 bytes"] * 2


def test_a_library_that_was_held_against_nothing_is_not_used(tokenizer):
    for sample in ([], [""]):
        choice = fast.choose(tokenizer.path, tokenizer.encode, sample)
        assert (choice.backend, choice.why) == (None, "there is no text to hold fastokens against tokenizers")


def test_fastokens_is_equal_on_nasty_text(tokenizer):
    nasty = [
        "",
        " ",
        "\n\n \t",
        "a\x00b",
        "é" * 50,
        "👩‍👩‍👧 ﷽",
        "<|endoftext|>x",
        "a" * 5000,
        "١٢٣ 123,456.7",
        "\u202eabc",
    ]
    mine, theirs = fast.encode(fast.load(tokenizer.path), nasty), tokenizer.encode(nasty)
    assert mine[0].tolist() == theirs[0].tolist() and mine[1].tolist() == theirs[1].tolist()


@given(st.lists(st.text("ab", min_size=0, max_size=6), min_size=1, max_size=40), st.integers(0, 5), st.integers(1, 40))
def test_buckets_change_no_order(tmp_path_factory, texts, seed, bucket_bytes):
    folder = tmp_path_factory.mktemp("shuffle")
    lengths = np.array([len(text) + 1 for text in texts])
    tokens = np.concatenate([np.array([*map(ord, text), 0], dtype="<u2") for text in texts])
    cut = len(texts) // 2
    edge = int(lengths[:cut].sum())
    tokens[:edge].tofile(folder / "a")
    tokens[edge:].tofile(folder / "b")
    runs = [shuffle.Run(folder / "a", lengths[:cut]), shuffle.Run(folder / "b", lengths[cut:])]
    order = shuffled(len(texts), "test", seed)
    with IndexedWriter(folder / "out", "<u2") as writer:
        shuffle.write_shuffled(runs, order, writer, folder, bucket_bytes)
    opened = open_indexed(folder / "out")
    found = ["".join(map(chr, opened.document(n)[:-1])) for n in range(opened.n_documents)]
    assert found == [texts[number] for number in order]
    assert sorted(os.listdir(folder)) == ["a", "b", "out.bin", "out.idx"]


def test_dealing_out_holds_no_more_than_a_bucket(tmp_path, monkeypatch):
    tokens = np.arange(2000, dtype="<u2")
    tokens.tofile(tmp_path / "a")
    run = shuffle.Run(tmp_path / "a", np.full(1000, 2))
    read, sizes = np.fromfile, []

    monkeypatch.setattr(
        np, "fromfile", lambda file, dtype, count=-1: sizes.append(2 * count) or read(file, dtype, count)
    )
    order = shuffled(1000, "test", 1)
    with IndexedWriter(tmp_path / "out", "<u2") as writer:
        shuffle.write_shuffled([run], order, writer, tmp_path, bucket_bytes=400)
    assert sizes[:10] == [400] * 10 and len(sizes) == 20  # the run in blocks, then one bucket after the other
    monkeypatch.undo()
    assert np.fromfile(tmp_path / "out.bin", "<u2").reshape(1000, 2)[:, 0].tolist() == (2 * order).tolist()


def test_special_tokens_are_counted_from_left_to_right():
    count = spelled(["<|a|>", "<|a|>b", "</s>", "x"])
    assert [count(text) for text in ("", "<|a|>b", "<|a|> </s> <|a|>b xx", "<| a|>")] == [0, 1, 5, 0]
    assert spelled([])("anything") == 0


def test_what_is_made_already_is_known_by_its_files(tokenizer, real_text, tmp_path, whole):
    text = [str(real_text / "*.jsonl")]
    assert is_tokenized(text, tokenizer, whole, 4)
    assert not is_tokenized(text, tokenizer, whole, 5)
    assert not is_tokenized([str(real_text / "prose.jsonl")], tokenizer, whole, 4)
    assert not is_tokenized(text, tokenizer, tmp_path / "nothing", 4)


def test_hashes_are_those_of_the_texts(tokenizer, real_text, whole):
    texts = [
        json.loads(line)["text"]
        for path in sorted(real_text.glob("*.jsonl"))
        for line in path.read_text().split("\n")
        if line
    ]
    assert sorted(document_hashes(whole).tolist()) == sorted(map(text_hash, texts))


def test_datatrove_writes_the_same_files(whole, tmp_path):
    """Its Megatron writer is the independent oracle of the format."""
    oracle = pytest.importorskip("datatrove.pipeline.tokens.megatron_tokenizer")
    opened = open_indexed(whole)
    out = oracle.MegatronTokenizedFile(str(tmp_path), "oracle", token_size=opened.dtype.itemsize)
    for number in range(opened.n_documents):
        out.write(opened.document(number).tolist())
    out.close()
    assert [(tmp_path / f"oracle.{ending}").read_bytes() for ending in ("bin", "idx")] == made(whole)[:2]


def test_a_worker_whose_owner_ended_before_it_had_begun_ends_too(tmp_path):
    script = (
        "import multiprocessing, os, sys, time\n"
        "from keepwarm import processes\n"
        "def work():\n"
        "    while os.getppid() == multiprocessing.parent_process().pid: time.sleep(0.01)\n"
        "    processes.die_with_owner()\n"
        "    print('still there')\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('fork').Process(target=work).start()\n"
        "    os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
