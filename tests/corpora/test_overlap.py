"""Held-out text in training corpora: exact against sets of n-grams, planted copies in real text, every refusal."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keepwarm.cli.main import main
from keepwarm.corpora.exclusions import exclusions_of, read_exclusions
from keepwarm.corpora.indexed import IndexedWriter, Sidecar, open_indexed, write_sidecar
from keepwarm.corpora.minhash import band_slots
from keepwarm.corpora.ngrams import cover, hashes_of, longest_shared
from keepwarm.corpora.overlap import find_overlap
from keepwarm.corpora.tokenize import tokenize_corpus
from keepwarm.corpora.tokenizer import load_tokenizer, train_tokenizer
from keepwarm.errors import DataError, KeepwarmError
from keepwarm.report.overlapping import facts

EOD = 0


def write(prefix: Path, documents: list[list[int]], *, closed: bool = True, dtype: str = "u2") -> Path:
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(np.array([*document, EOD] if closed else document, dtype=np.int64))
    return prefix


def sidecar(prefix: Path, sha256: str, eod: int = EOD) -> None:
    opened = open_indexed(prefix)
    write_sidecar(
        prefix,
        Sidecar(
            tokenizer_sha256=sha256, vocab_size=9, eod=eod, documents=opened.n_documents, tokens=opened.n_tokens,
            text_bytes=1, content_id="0" * 16,
        ),
    )  # fmt: skip


def places(document: list[int], n: int) -> list[tuple[int, ...]]:
    found = [tuple(document[at : at + n]) for at in range(len(document) - n + 1)]
    return [each for each in found if EOD not in each]


DOCUMENTS = st.lists(st.lists(st.integers(0, 3), max_size=14), min_size=1, max_size=6)


@given(DOCUMENTS, st.lists(DOCUMENTS, min_size=1, max_size=2), st.integers(1, 4), st.sampled_from([0.2, 0.5, 0.7, 1.0]),
       st.sampled_from([1, 5, 11, 64]), st.booleans())  # fmt: skip
@example([[1, 2, 3, 1, 1, 2]], [[[1, 2, 3], [1, 1, 2]]], 2, 0.7, 1, True)
def test_it_is_what_sets_of_ngrams_say(holdout, corpora, n, threshold, block, closed):
    """Document ends inside documents too, blocks shorter than a document, and files without closing document ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "h", holdout)
        sidecar(folder / "h", "a")  # it says what the document end is for all
        prefixes = [write(folder / f"c{i}", each, closed=closed, dtype="<i4") for i, each in enumerate(corpora)]
        found = find_overlap(folder / "h", prefixes, n=n, threshold=threshold, block=block)
    sets = [set(places(document, n)) for document in holdout]
    theirs = [[places(document, n) for document in corpus] for corpus in corpora]
    anywhere = {gram for corpus in theirs for document in corpus for gram in document}
    assert found.ngrams.tolist() == [len(each) for each in sets]
    assert found.shared.tolist() == [len(each & anywhere) for each in sets]
    contaminated = [bool(each) and len(each & anywhere) / len(each) >= threshold for each in sets]
    ends = [[d[:-1] if not closed and d[-1:] == [EOD] else d for d in corpus] for corpus in corpora]
    for corpus, documents, grams in zip(found.corpora, ends, theirs, strict=True):
        union = {gram for document in grams for gram in document}
        assert corpus.shared.tolist() == [len(each & union) for each in sets]
        wanted = {}
        for h, ours in enumerate(sets):
            for c, document in enumerate(grams):
                share = len(ours & set(document)) / len(ours) if ours else 0.0
                exact = bool(documents[c]) and holdout[h] == documents[c]
                if exact or (ours and share >= threshold):
                    wanted[h, c] = (1.0 if exact else share, exact)
                    contaminated[h] |= exact
        assert {(h, c): (share, exact) for h, c, share, exact in corpus.pairs.tolist()} == wanted
        every = set().union(*sets)
        counts = [[c, sum(gram in every for gram in document), len(document)] for c, document in enumerate(grams)]
        assert corpus.touched.tolist() == [each for each in counts if each[1]]
        assert corpus.excluded.tolist() == sorted({c for _, c in wanted})
    assert found.contaminated.tolist() == contaminated
    explained = {pair[0] for corpus in found.corpora for pair in corpus.pairs.tolist()}
    assert found.scattered.tolist() == [h for h, is_so in enumerate(contaminated) if is_so and h not in explained]


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 6), st.integers(1, 20))
def test_hashes_are_equal_where_ngrams_are_whatever_the_block(tokens, n, block):
    found = {}
    positions = []
    for first, hashes in hashes_of(np.array(tokens, dtype="<i4"), n, block):
        for at, value in enumerate(hashes.tolist(), start=first):
            positions.append(at)
            assert found.setdefault(value, tuple(tokens[at : at + n])) == tuple(tokens[at : at + n])
    assert positions == list(range(len(tokens) - n + 1))
    assert len(found) == len({tuple(tokens[at : at + n]) for at in positions})


def test_the_hash_is_the_polynomial_of_mixed_tokens():
    """The sum that its definition writes out, in Python's integers."""
    from keepwarm.corpora.hashing import mix64

    tokens, base = [7, 0, 65_535, 7, 3, 3], 0xD1342543DE82EF95
    mixed = [int(value) for value in mix64(np.array(tokens, dtype=np.uint64))]
    wanted = [sum(mixed[at + j] * base**j for j in range(3)) % 2**64 for at in range(4)]
    ((first, hashes),) = hashes_of(np.array(tokens, dtype="u2"), 3)
    assert (first, hashes.tolist()) == (0, wanted)


def test_copies_are_found_in_chunks_of_any_size(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    documents = [rng.integers(1, 50, 40).tolist() for _ in range(300)]
    write(tmp_path / "h", documents[:40] + documents[:40])
    write(tmp_path / "c", documents[20:])
    whole = find_overlap(tmp_path / "h", [tmp_path / "c"], n=5)
    monkeypatch.setattr("keepwarm.corpora.ngrams._MOST_EXPANDED", 7)
    small = find_overlap(tmp_path / "h", [tmp_path / "c"], n=5, block=50)
    assert whole.corpora[0].pairs.tolist() == small.corpora[0].pairs.tolist()
    wanted = [(h, c, 1.0, True) for c in range(20) for h in (20 + c, 60 + c)]
    assert sorted(small.corpora[0].pairs.tolist()) == sorted(wanted)


def test_a_header_that_many_documents_share_gives_none_of_them_away(tmp_path):
    """It is a third of every document; only the document that adds a held-out document's own half covers that one."""
    rng = np.random.default_rng(6)
    header = rng.integers(1, 60_000, 100).tolist()
    own = [rng.integers(1, 60_000, 200).tolist() for _ in range(20)]
    write(tmp_path / "h", [[*header, *each] for each in own])
    write(
        tmp_path / "c",
        [[*header, *rng.integers(1, 60_000, 50).tolist()] for _ in range(30)] + [[*header, *own[3][:100]]],
    )
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=13)
    assert found.corpora[0].pairs.tolist() == [(3, 30, 188 / 288, False)]
    assert found.shared.tolist() == [88] * 3 + [188] + [88] * 16
    assert len(found.corpora[0].touched) == 31


def test_neither_document_ends_nor_borders_are_crossed(tmp_path):
    write(tmp_path / "h", [[1, 2, 3, 4]])
    write(tmp_path / "c", [[1, 2], [3, 4]], closed=False)
    sidecar(tmp_path / "h", "a")
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=2)
    assert (found.shared.tolist(), found.ngrams.tolist()) == ([2], [3])
    assert found.corpora[0].pairs.tolist() == []
    assert found.scattered.tolist() == [0]


def test_without_a_sidecar_the_end_is_what_all_documents_end_with(tmp_path):
    write(tmp_path / "h", [[1, 2, 3], [5, 6]])
    write(tmp_path / "c", [[1, 2, 3], [5], [6, 5, 6]], closed=False)
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=3)
    assert found.ngrams.tolist() == [1, 0]
    assert found.corpora[0].pairs.tolist() == [(0, 0, 1.0, True)]


@pytest.mark.parametrize("unclosed", ["h", "c"])
def test_one_document_without_its_end_does_not_hide_the_others(tmp_path, unclosed):
    documents = np.random.default_rng(7).integers(1, 60_000, (50, 3)).tolist()
    for name in ("h", "c"):
        closed = [[*document, EOD] for document in documents]
        write(tmp_path / name, [*closed[:20], [8, 9], *closed[20:]] if name == unclosed else closed, closed=False)
    found = find_overlap(tmp_path / "h", [tmp_path / "c"])
    assert found.contaminated.sum() == 50 and found.corpora[0].exact == 50
    assert found.contaminated.tolist() == [True] * 20 + [False] * (unclosed == "h") + [True] * 30


def test_an_end_that_one_file_only_has_is_the_end_for_all(tmp_path):
    documents = np.random.default_rng(8).integers(1, 60_000, (30, 4)).tolist()
    write(tmp_path / "h", documents[:10])
    write(tmp_path / "c", documents, closed=False)
    assert find_overlap(tmp_path / "h", [tmp_path / "c"]).contaminated.all()


def test_what_ends_every_document_and_stands_in_them_too_is_no_document_end(tmp_path):
    """Lines: n-grams that reach over their ends count."""
    lines = [*range(1, 9), 500] * 6
    write(tmp_path / "h", [lines, [9, *lines]], closed=False)
    write(tmp_path / "c", [[*lines, 500], [8, *lines]], closed=False)
    found = find_overlap(tmp_path / "h", [tmp_path / "c"])
    assert found.ngrams.tolist() == [9, 10] and found.shared.tolist() == [9, 9]


def test_equal_documents_cost_what_one_costs(tmp_path, monkeypatch):
    """300 x 2,000 equal ones are 600,000 pairs; the report names one of them, with counts, and counts documents."""
    document, short, other = list(range(1, 40)), [7, 8, 9], list(range(100, 140))
    write(tmp_path / "h", [document, other, short] * 100 + [document] * 200)
    write(tmp_path / "c", [short, document, [5], document] * 1000)
    for method in ("ngram", "minhash"):
        found = find_overlap(tmp_path / "h", [tmp_path / "c"], method=method)
        corpus = found.corpora[0]
        assert len(corpus.near) == 2 and corpus.exact == 3000
        assert corpus.excluded.tolist() == [n for n in range(4000) if n % 4 != 2]
        assert found.contaminated.tolist() == [True, False, True] * 100 + [True] * 200
        pairs = facts(found)["corpora"][0]["pairs"]
        assert pairs == [
            {"holdout": 0, "document": 1, "share": 1.0, "exact": True, "holdouts": 300, "documents": 2000},
            {"holdout": 2, "document": 0, "share": 1.0, "exact": True, "holdouts": 100, "documents": 1000},
        ]
        assert len(corpus.pairs) == 700_000
    touched = find_overlap(tmp_path / "h", [tmp_path / "c"]).corpora[0].touched
    assert touched.tolist() == [[n, 27, 27] for n in range(4000) if n % 2]


def test_more_pairs_than_are_kept(tmp_path, monkeypatch):
    """Who is in any of them is known all the same, and those kept are the closest."""
    monkeypatch.setattr("keepwarm.corpora.pairs.MOST", 8)
    rng = np.random.default_rng(10)
    document = rng.integers(1, 60_000, 100).tolist()
    write(tmp_path / "h", [[*document, n] for n in range(1, 21)])
    write(tmp_path / "c", [document[n // 4 :] for n in range(80)])
    for method in ("ngram", "minhash"):
        found = find_overlap(tmp_path / "h", [tmp_path / "c"], method=method, block=64)
        assert len(found.corpora[0].near) == 8
        assert found.contaminated.all() and found.corpora[0].excluded.tolist() == list(range(80))
    assert found.scattered.tolist() == []
    assert find_overlap(tmp_path / "h", [tmp_path / "c"]).corpora[0].near["share"].tolist() == [88 / 89] * 8


def test_documents_too_short_for_an_ngram_are_compared_whole(tmp_path):
    write(tmp_path / "h", [[1, 2], [3], []])
    write(tmp_path / "c", [[], [1, 2], [1, 2], [3, 3]])
    found = find_overlap(tmp_path / "h", [tmp_path / "c"])
    assert found.corpora[0].pairs.tolist() == [(0, 1, 1.0, True), (0, 2, 1.0, True)]
    assert found.contaminated.tolist() == [True, False, False]


def test_documents_alike_at_both_ends_and_in_length_are_not_the_same(tmp_path):
    document = list(range(1, 101))
    write(tmp_path / "h", [document])
    write(tmp_path / "c", [[*document[:50], 999, *document[51:]], document])
    found = find_overlap(tmp_path / "h", [tmp_path / "c"])
    assert found.corpora[0].pairs.tolist() == [(0, 1, 1.0, True), (0, 0, 75 / 88, False)]


def test_a_share_at_the_threshold_is_contaminated(tmp_path):
    """7 of 100 n-grams are 0.07, though 0.07 * 100 is more than 7 in floating point."""
    document = list(range(1, 101))
    write(tmp_path / "h", [document])
    write(tmp_path / "c", [document[:7]])
    assert find_overlap(tmp_path / "h", [tmp_path / "c"], n=1, threshold=0.07).contaminated.tolist() == [True]
    assert find_overlap(tmp_path / "h", [tmp_path / "c"], n=1, threshold=0.0701).contaminated.tolist() == [False]
    # The same where the seven are what another held-out document has too: the last of all to lead to a pair.
    write(tmp_path / "h2", [document, [*range(1, 8), *range(200, 400)]])
    found = find_overlap(tmp_path / "h2", [tmp_path / "c"], n=1, threshold=0.07)
    assert found.corpora[0].pairs.tolist() == [(0, 0, 0.07, False)]


def test_a_document_over_many_blocks_is_one_document(tmp_path):
    document = np.random.default_rng(1).integers(1, 60_000, 3000).tolist()
    write(tmp_path / "h", [document])
    write(tmp_path / "c", [[9, *document, 9]])
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], block=64).corpora[0]
    assert found.pairs.tolist() == [(0, 0, 1.0, False)]
    assert found.touched.tolist() == [[0, 2988, 2990]]


def test_progress_comes_to_the_bytes_of_the_corpora(tmp_path):
    write(tmp_path / "h", [[1, 2, 3]])
    prefixes = [write(tmp_path / "a", [[1] * 700]), write(tmp_path / "b", [[2] * 300], dtype="<i4")]
    for method in ("ngram", "minhash"):
        told: list[tuple[int, int]] = []
        found = find_overlap(
            tmp_path / "h", prefixes, n=1, method=method, progress=lambda *each, told=told: told.append(each)
        )
        assert len(found.corpora) == 2
        assert {total for _, total in told} == {701 * 2 + 301 * 4} == {sum(done for done, _ in told)}


def test_the_longest_shared_passage():
    first, second = np.array([9, 1, 2, 9, 3, 4, 5, 6, 9]), np.array([3, 4, 5, 6, 7, 1, 2])
    assert longest_shared(first, second, 2) == (4, 8)
    assert longest_shared(first, second, 5) == (0, 0)
    assert longest_shared(first[:1], second, 2) == (0, 0)


def test_a_pass_over_nothing(tmp_path):
    write(tmp_path / "h", [[1, 2]])
    write(tmp_path / "c", [])
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=1)
    assert (found.shared.tolist(), found.corpora[0].touched.shape) == ([0], (0, 3))
    assert cover(np.empty(0, "u2"), np.zeros((0, 2), np.int64), _some_ngrams(), 0.5).pairs.largest().tolist() == []


def _some_ngrams():
    from keepwarm.corpora.ngrams import collect

    return collect(np.array([1, 2], "u2"), np.array([[0, 2]]), 1, None)


# --- MinHash ---------------------------------------------------------------------------------------------------------


def changed(document: list[int], step: int) -> list[int]:
    return [60_000 if at % step == step - 1 else token for at, token in enumerate(document)]


def test_minhash_estimates_the_jaccard_similarity(tmp_path):
    rng = np.random.default_rng(3)
    documents = [rng.integers(1, 50_000, 2000).tolist() for _ in range(30)]
    write(tmp_path / "h", documents[:10])
    write(tmp_path / "c", [*documents[10:], *(changed(document, 40) for document in documents[:5]), documents[5]])
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=5, threshold=0.6, method="minhash").corpora[0]
    pairs = {(h, c): (share, exact) for h, c, share, exact in found.pairs.tolist()}
    assert set(pairs) == {(h, 20 + h) for h in range(6)}
    assert pairs[5, 25] == (1.0, True)
    for h in range(5):
        ours, theirs = set(places(documents[h], 5)), set(places(changed(documents[h], 40), 5))
        jaccard = len(ours & theirs) / len(ours | theirs)
        assert abs(pairs[h, 20 + h][0] - jaccard) < 0.16  # four standard deviations
    assert found.excluded.tolist() == list(range(20, 26)) and found.contaminated.tolist() == [True] * 6 + [False] * 4


def test_minhash_gives_the_same_again_and_agrees_with_its_library(tmp_path):
    from rensa import RMinHash

    from keepwarm.corpora.hashing import mix64
    from keepwarm.corpora.minhash import SEED, SLOTS

    rng = np.random.default_rng(4)
    document = rng.integers(1, 50_000, 500).tolist()
    write(tmp_path / "h", [document])
    write(tmp_path / "c", [[8, 9], changed(document, 60), []])
    first, again = (
        find_overlap(tmp_path / "h", [tmp_path / "c"], n=4, threshold=0.3, method="minhash").corpora[0].pairs.tolist()
        for _ in range(2)
    )
    sets = [mix64(next(hashes_of(np.array(each), 4))[1]) for each in (document, changed(document, 60))]
    rows = RMinHash.digest_matrix_from_token_hash_sets([each.tolist() for each in sets], SLOTS, SEED).to_rows()
    agree = sum(a == b for a, b in zip(*rows, strict=True)) / SLOTS
    assert first == again == [(0, 1, agree, False)]


def test_minhash_at_its_highest_threshold_finds_equal_sets(tmp_path):
    """Twenty tokens three and four times over hold the same n-grams, and are not the same documents."""
    period = list(range(1, 21))
    write(tmp_path / "h", [period * 3])
    write(tmp_path / "c", [period, period * 4])
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=5, threshold=1.0, method="minhash")
    assert found.corpora[0].pairs.tolist() == [(0, 1, 1.0, False)]


def test_minhash_in_batches_of_any_size(tmp_path, monkeypatch):
    rng = np.random.default_rng(9)
    documents = [rng.integers(1, 50_000, int(size)).tolist() for size in rng.integers(3, 90, 60)]
    write(tmp_path / "h", documents[:20])
    write(tmp_path / "c", [[*document, 7] for document in reversed(documents)])
    monkeypatch.setattr("keepwarm.corpora.minhash._BATCH_TOKENS", 100)
    found = find_overlap(tmp_path / "h", [tmp_path / "c"], n=3, threshold=0.5, method="minhash").corpora[0]
    long = [h for h in range(20) if len(documents[h]) > 12]  # of a shorter one, a token more may be half of it
    assert {(h, c) for h, c in found.pairs[["holdout", "document"]].tolist() if h in long} == {
        (h, 59 - h) for h in long
    }


@pytest.mark.parametrize(("threshold", "slots"), [(0.1, 1), (0.5, 3), (0.8, 6), (1.0, 16)])
def test_bands_find_pairs_at_the_threshold(threshold, slots):
    assert band_slots(threshold) == slots
    assert 1 - (1 - threshold**slots) ** (128 // slots) >= 0.99


def test_minhash_without_its_library_says_how_to_get_it(tmp_path, monkeypatch):
    write(tmp_path / "h", [[1, 2]])
    write(tmp_path / "c", [[1, 2]])
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(KeepwarmError) as refused:
        find_overlap(tmp_path / "h", [tmp_path / "c"], method="minhash")
    assert refused.value.fix == "pip install 'keepwarm[dedupe]'"
    assert find_overlap(tmp_path / "h", [tmp_path / "c"]).contaminated.tolist() == [True]


# --- the command, on real text ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(real_text, tmp_path_factory):
    """holdout, prose and code as token files of one tokenizer, and which text holds which held-out text."""
    folder = tmp_path_factory.mktemp("planted")
    texts = {
        name: [json.loads(line)["text"] for line in (real_text / f"{name}.jsonl").read_text().splitlines()]
        for name in ("prose", "code")
    }
    train_tokenizer(iter(texts["prose"]), 1000, folder / "tokenizer.json")
    held = texts["prose"][:6]
    prose = [*texts["prose"][8:], held[0], texts["prose"][6] + "\n" + held[1], held[2].replace(" the ", " THE ", 1)]
    prose += [held[3][at : at + len(held[3]) // 4] for at in range(0, len(held[3]) // 4 * 4, len(held[3]) // 4)]
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    for name, documents in (("held", held), ("prose", prose), ("code", texts["code"])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        tokenize_corpus([str(folder / f"{name}.jsonl")], tokenizer, folder / name, seed=0)
    return folder, held, prose


@pytest.fixture
def there(planted, monkeypatch):
    monkeypatch.chdir(planted[0])
    return planted


def texts_of(prefix: str, numbers: list[int]) -> list[str]:
    opened, backend = open_indexed(prefix), load_tokenizer("tokenizer.json").backend
    return [backend.decode(opened.document(n).tolist()[:-1], skip_special_tokens=False) for n in numbers]


def test_planted_copies_are_found_and_listed(there, tmp_path, capsys):
    _, held, prose = there
    listing = tmp_path / "lists" / "prose.exclude"
    assert main(["data", "overlap", "held", "prose", "code", "--exclude", str(listing), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sorted(texts_of("held", facts["contaminated"])) == sorted(held[:4])
    assert texts_of("held", facts["scattered"]) == [held[3]]
    prose_facts, code_facts = facts["corpora"]
    assert sorted(texts_of("prose", prose_facts["exclude"])) == sorted(prose[-7:-4])
    exact = [pair for pair in prose_facts["pairs"] if pair["exact"]]
    assert texts_of("held", [exact[0]["holdout"]]) == [held[0]] and prose_facts["exact"] == len(exact) == 1
    assert code_facts["exclude"] == code_facts["contaminated"] == []
    opened = open_indexed("prose")
    spans = exclusions_of(Path("prose"), read_exclusions(listing), opened)
    sizes = sum(len(opened.document(n)) for n in prose_facts["exclude"])
    assert int((spans[:, 1] - spans[:, 0]).sum()) == sizes


def test_the_table_the_worst_pairs_and_what_to_do(there, tmp_path, capsys):
    _, held, _ = there
    assert main(["data", "overlap", "held", "prose", "code", "--tokenizer", "tokenizer.json"]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[4:] for line in said.splitlines() if line.startswith(("prose ", "code "))}
    assert rows["prose"] == ["4", "1", "3"] and rows["code"] == ["0", "0", "0"]
    assert "contaminated: 4 of 6 held-out documents" in said
    assert "1 of them by pieces in many documents" in said
    assert said.count("the same, token for token: document") == 1
    assert repr(held[0][:60])[1:-1] in said
    assert "to leave the 3 documents out of training, write a list of them: --exclude FILE" in said


def test_a_list_is_told_with_its_plan_key_and_written_once(there, tmp_path, capsys):
    listing = tmp_path / "x.exclude"
    for _ in range(2):
        assert main(["data", "overlap", "held", "prose", "--exclude", str(listing)]) == 0
        assert f"corpora: {{NAME: {{..., exclude: {listing}}}}}" in capsys.readouterr().out
    before = listing.read_bytes()
    assert main(["data", "overlap", "held", "prose", "--exclude", str(listing), "--threshold", "0.9"]) == 2
    said = capsys.readouterr()
    assert "exists already with other content" in said.err and said.out == ""
    assert listing.read_bytes() == before


def test_a_list_of_other_corpora_is_refused_before_the_work(there, tmp_path, capsys, monkeypatch):
    listing = tmp_path / "x.exclude"
    assert main(["data", "overlap", "held", "prose", "--exclude", str(listing)]) == 0
    capsys.readouterr()
    monkeypatch.setattr("keepwarm.corpora.overlap.find_overlap", None)
    assert main(["data", "overlap", "held", "prose", "code", "--exclude", str(listing)]) == 2
    assert "exists already with other content" in capsys.readouterr().err


def test_the_command_to_paste_writes_the_list(there, tmp_path, capsys, monkeypatch):
    held, prose = (os.path.abspath(name) for name in ("held", "prose"))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "overlap", held, prose, "--threshold", "0.6"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].strip()
    assert command.startswith("keepwarm data overlap ") and command.endswith(" --exclude held.exclude")
    assert main(command.split()[1:]) == 0
    listed = read_exclusions(tmp_path / "held.exclude")
    assert sum(each.document is not None for each in listed) == 3


def test_a_tokenizer_that_the_files_were_not_made_with_is_refused(there, tmp_path, capsys):
    train_tokenizer(iter(["some other text"]), 300, tmp_path / "wrong.json")
    assert main(["data", "overlap", "held", "prose", "--tokenizer", str(tmp_path / "wrong.json")]) == 2
    said = capsys.readouterr()
    assert f"--tokenizer {tmp_path / 'wrong.json'}: not the tokenizer of held (" in said.err and said.out == ""
    assert load_tokenizer("tokenizer.json").sha256[:12] in said.err


def test_the_help_says_what_the_commands_do(capsys):
    assert main(["data", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "verify, merge, split, overlap, blend" in said and "overlap Find held-out text in training corpora" in said
    assert main(["data", "overlap", "--help"]) == 0
    assert "It compares tokens" in capsys.readouterr().out


def test_the_method_minhash_finds_versions_and_not_pieces(there, capsys):
    _, held, _ = there
    assert main(["data", "overlap", "held", "prose", "--method", "minhash", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    contaminated = texts_of("held", facts["contaminated"])
    assert held[0] in contaminated and held[2] in contaminated
    assert held[3] not in contaminated  # it is there in four pieces, none of them like the whole
    assert facts["shares"] is None and facts["corpora"][0]["touched"] is None


def test_nothing_found_is_no_error(there, capsys):
    assert main(["data", "overlap", "held", "code", "--ngram", "20"]) == 0
    said = capsys.readouterr().out
    assert "contaminated: 0 of 6 held-out documents" in said and "the most that any shares is 0.0%" in said
    assert "--exclude" not in said


def test_documents_shorter_than_an_ngram_are_told(there, capsys):
    assert main(["data", "overlap", "held", "prose", "--ngram", "100000"]) == 0
    assert "6 are shorter than 100000 tokens and were compared whole only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["held"], "no corpus is named"),
        (["nope", "prose"], "nope.idx: no such file"),
        (["held", "nope"], "nope.idx: no such file"),
        (["held", "prose", "--ngram", "0"], "--ngram 0"),
        (["held", "prose", "--ngram", "99999999999"], "--ngram 99999999999"),
        (["held", "prose", "--threshold", "0"], "--threshold 0"),
        (["held", "prose", "--threshold", "1.01"], "--threshold 1.01"),
        (["held", "prose", "--threshold", "nan"], "--threshold nan"),
        (["held", "prose", "--method", "magic"], 'Invalid value "magic"'),
        (["held", "held"], "held: the holdout itself"),
        (["held", "prose", "./prose.bin"], "prose.bin: named twice"),
        (["held", "prose", "--tokenizer", "nope.json"], "nope.json: no such file"),
        (["held", "prose", "--exclude", "."], ": is a folder"),
        (["held", "prose", "--exclude", "/proc/x"], "--exclude /proc/x: no file can be made in /proc"),
        (["held", "prose", "--exclude", "prose.bin/list"], "prose.bin is a file, not a folder"),
        (["held", "prose", "--exclude", "tokenizer.json"], "tokenizer.json: exists already with other content"),
    ],
)
def test_bad_input_is_refused(there, arguments, said, capsys):
    before = sorted(os.listdir())
    assert main(["data", "overlap", *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "fix:" in printed.err and printed.out == ""
    assert sorted(os.listdir()) == before


def test_other_tokenizers_are_refused(tmp_path, capsys):
    for name, sha256 in (("h", "a" * 64), ("none", ""), ("c", "b" * 64)):
        write(tmp_path / name, [[1, 2]])
        sidecar(tmp_path / name, sha256)
    assert main(["data", "overlap", str(tmp_path / "h"), str(tmp_path / "none")]) == 0
    capsys.readouterr()
    assert main(["data", "overlap", str(tmp_path / "h"), str(tmp_path / "none"), str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err
    assert f"c: of another tokenizer than {tmp_path / 'h'} (bbbbbbbbbbbb, not aaaaaaaaaaaa)" in said


def test_a_holdout_without_documents_is_refused(tmp_path):
    write(tmp_path / "h", [])
    write(tmp_path / "c", [[1]])
    with pytest.raises(DataError, match="h: holds no documents"):
        find_overlap(tmp_path / "h", [tmp_path / "c"])


def test_a_prefix_that_a_list_cannot_name_is_refused_before_the_work(tmp_path, capsys):
    write(tmp_path / "h", [[1, 2]])
    write(tmp_path / "my data", [[1, 2]])
    arguments = [str(tmp_path / "h"), str(tmp_path / "my data"), "--exclude", str(tmp_path / "l")]
    assert main(["data", "overlap", *arguments]) == 2
    said = capsys.readouterr()
    assert "an exclusion list can't name it" in said.err and said.out == "" and not (tmp_path / "l").exists()
