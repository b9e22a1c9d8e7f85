"""Where a batch lies: against a plain walk over the files, token by token."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepwarm.blend.located import Part, culprits, located, told
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment, Stream
from keepwarm.cli.main import main
from keepwarm.corpora.exclusions import by_file, excluded_spans, read_exclusions, subtract
from keepwarm.corpora.indexed import IndexedWriter, open_indexed
from keepwarm.corpora.source import Source

LENGTH = 8


def stream_of(*sources, sequence_length=LENGTH):
    share = Fraction(1, len(sources))
    mixture = combine([(share, {source.id: Fraction(1)}) for source in sources])
    return Stream([Segment(0, mixture)], {source.id: source for source in sources}, 3, sequence_length)


def walked(source, window):
    """(document, token within it, position in .bin) of each token of a window, found by walking the whole file."""
    opened, of_position, position = open_indexed(source.prefix), {}, 0
    for document in range(opened.n_documents):
        for token in range(len(opened.document(document))):
            of_position[position] = (document, token, position)
            position += 1
    kept = [place for start, stop in source.kept.tolist() for place in range(start, stop)]
    return [of_position[place] for place in kept[window * LENGTH : window * LENGTH + LENGTH + 1]]


def listed(sample):
    return [
        (part.document, part.first_token + n, part.bin_token + n) for part in sample.parts for n in range(part.tokens)
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=12), min_size=2, max_size=2),
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9)), max_size=4),
    st.integers(0, 30),
)
def test_the_documents_cover_exactly_the_windows_tokens(tmp_path_factory, both, holes, first):
    """Documents of any lengths, none among them; spans left out anywhere, within a document too."""
    folder, sources = tmp_path_factory.mktemp("located"), []
    for name, lengths in zip("ab", both, strict=True):
        lengths = [*lengths, 20]  # at least a window
        with IndexedWriter(folder / name, np.uint16) as writer:
            for number, length in enumerate(lengths):
                writer.add(np.full(length, number, dtype=np.uint16))
        out = np.array([(start, start + size) for start, size in holes if start + size + 10 < sum(lengths)])
        kept = subtract(np.array([(0, sum(lengths))]), np.array(out, dtype=np.int64).reshape(-1, 2))
        sources.append(Source(name, f"{name:0>16}", folder / name, kept))
    if min(source.windows(LENGTH) for source in sources) == 0:
        return
    stream = stream_of(*sources)
    found, (tokens, _) = located(stream, first, first + 6), stream.batch(first, first + 6)
    where = stream.locate(first, first + 6)
    for place, sample in enumerate(found):
        source = stream.sources[sample.source_id]
        assert (sample.sample, sample.epoch, sample.window) == (
            first + place, where.epoch[place], where.window[place],
        )  # fmt: skip
        assert listed(sample) == walked(source, sample.window)
        assert tokens[place].tolist() == [open_indexed(source.prefix).tokens[at] for _, _, at in listed(sample)]
    stream.close()


def test_the_words_the_command_and_the_line_that_leaves_it_out(tmp_path, make_source, capsys):
    papers = make_source("papers", [range(6), range(10, 14), range(20, 40), range(50, 60)], held_out=[1])
    stream = stream_of(papers)
    by_window = {sample.window: sample for sample in located(stream, 0, stream.windows(papers.id))}
    first = by_window[0]  # document 1 is held out: tokens 0-6 of document 0, then document 2
    assert first.parts == (Part(0, 0, 6, 0), Part(2, 0, 3, 10))
    assert first.words() == "papers document 0 (tokens 0-6), document 2 (tokens 0-3)"
    assert first.commands() == tuple(f"keepwarm data show {papers.prefix} --document {n}" for n in (0, 2))
    assert by_window[2].words() == "papers document 2 (tokens 10-19)"
    # the command shows the document, the line leaves it out
    assert main(by_window[2].commands()[0].split()[1:]) == 0
    assert "20" in capsys.readouterr().out
    listing = tmp_path / "bad.exclude"
    listing.write_text("\n".join(by_window[2].exclusions()) + "\n")
    assert excluded_spans(papers.prefix, by_file(read_exclusions(listing))).tolist() == [[10, 30]]


def test_a_sample_of_many_documents_names_three(make_source):
    source = make_source("notes", [[n, n] for n in range(9)])
    sample = next(each for each in located(stream_of(source), 0, 2) if each.window == 0)
    assert sample.words() == (
        "notes document 0 (tokens 0-2), document 1 (tokens 0-2), document 2 (tokens 0-2) and 2 documents more"
    )


def test_documents_of_several_sequences_have_their_own_number(tmp_path):
    with IndexedWriter(tmp_path / "split", np.uint16) as writer:
        for part in ([1, 2, 3], [4, 5]):
            writer.add(np.array(part, dtype=np.uint16), end_document=False)
        writer.add(np.array([6], dtype=np.uint16))  # document 0 is 1..6
        writer.add(np.arange(7, 17, dtype=np.uint16))
    source = Source("split", "5" * 16, tmp_path / "split", np.array([[0, 16]]))
    sample = located(stream_of(source), 0, 1)[0]
    assert sample.parts == (Part(0, 0, 6, 0), Part(1, 0, 3, 6))


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([2.0, math.nan, 2.1, math.inf], (1, 3)),
        ([2.0, 2.1, 9.0, 2.2, 2.0, 30.0], (5, 2)),
        ([2.0, 2.1, 2.2, 1.9], ()),
        ([math.nan] * 4, ()),
        ([math.nan], (0,)),
        ([3.0], ()),
        ([], ()),
        ([2.0, 2.0, 2.0, 5.0], (3,)),
    ],
)
def test_which_samples_stand_out(losses, found):
    assert culprits(losses) == found


def test_an_event_has_the_culprits_else_the_highest_losses(make_source):
    stream = stream_of(make_source("papers", [range(200)]))
    samples = located(stream, 4, 24)
    (bad,) = told(samples, [2.0] * 19 + [math.nan])
    assert (bad["sample"], bad["loss"], bad["culprit"]) == (23, None, True)
    assert bad["words"].startswith("papers document 0 (tokens ") and bad["show"] == list(samples[19].commands())
    alike = told(samples, [2.0 + 0.01 * n for n in range(20)])
    assert [each["sample"] for each in alike] == list(range(23, 7, -1))
    assert not any(each["culprit"] for each in alike)
