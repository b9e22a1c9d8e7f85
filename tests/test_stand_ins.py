"""A base whose own data is not there: a proxy, text that it writes itself, texts that are only measured, and d0-only."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keepwarm.attempt.records import read_attempt, read_metrics
from keepwarm.backends.writer import Writer
from keepwarm.cli.main import main
from keepwarm.corpora.indexed import read_sidecar

PLAN = """\
name: public
seed: 1
sequence_length: 32
global_batch_size: 8
optimizer: {lr_max: 3e-3}
corpora:
  d0: {generate: {tokens: 5k, batch: 32}}
  d1: {text: text/technical.jsonl}
holdout: {tokens: 1_024}
base: {corpus: d0, checkpoint: hf, lr: 3e-5, phase: cooled}
stages:
  - {name: stage2, new: d1, tokens: 2_048, ladder: [{rung: rewarm-converged, shares: [25%], lr: [lr_max]}]}
verdict: {tolerance: 9 nats}
run: {folder: run, threads: 1}
"""
D0 = "d0: {generate: {tokens: 5k, batch: 32}}"
LADDER = "ladder: [{rung: rewarm-converged, shares: [25%], lr: [lr_max]}]"
KILLED = """\
import os, signal, sys
from keepwarm.cli.main import main
from keepwarm.corpora import generated
save = generated.save_array
def killed(path, array):
    save(path, array)
    if path.name == "000002.npy":
        os.kill(os.getpid(), signal.SIGKILL)
generated.save_array = killed
sys.exit(main(["run", "plan.yaml"]))
"""


@pytest.fixture
def written(workplace, edit_plan):
    """The plan of a public model without D_0, edited by the pairs given."""

    def write(*pairs: tuple[str, str]) -> Path:
        (workplace / "plan.yaml").write_text(PLAN)
        return edit_plan(*pairs)

    return write


@pytest.fixture
def public(publish_llama, written):
    """The same, with the model."""
    publish_llama(500)
    return written


@pytest.fixture
def said(capsys):
    """Run a command; what it printed, after a check of its exit code."""

    def run(*command: str, code: int = 0) -> str:
        assert main([*command]) == code, capsys.readouterr().err
        found = capsys.readouterr()
        return found.err if code else found.out

    return run


def attempt_of(run: Path, rung: str = "rewarm-converged", arm: str = "cookbook") -> Path:
    return run / "arms" / arm / "stage2" / f"00-{rung}"


def verdict_of(run: Path, **which: str) -> dict:
    return json.loads((attempt_of(run, **which) / "verdict.json").read_text())


def pair_of(run: Path) -> list[bytes]:
    return [(run / "tokens/d0" / f"train.{end}").read_bytes() for end in ("bin", "idx", "meta.json")]


def page_of(run: Path) -> str:
    """The report's text, without drawings and scripts."""
    text = re.sub(r"<(script|svg|style).*?</\1>", "", (run / "report.html").read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.mark.parametrize(
    ("d0", "name"),
    [
        (D0, "generated"),
        ("d0: {proxy: text/prose.jsonl}", "proxy"),
        ("d0: {proxy: {text: [text/prose.jsonl]}}", "proxy"),
    ],
)
def test_what_stands_in_for_d0_is_called_so_wherever_it_is_reported(public, workplace, said, d0, name):
    public((D0, d0))
    called, run = f"d0 ({name})", workplace / "run"
    assert called in said("plan", "plan.yaml")
    assert json.loads(said("plan", "plan.yaml", "--json"))["corpora"]["d0"]["stand_in"] == name
    assert f"{called} " in said("run", "plan.yaml")
    resolved = json.loads((run / "resolved.json").read_text())["corpora"]
    assert (resolved["d0"]["stand_in"], resolved["d1"]["stand_in"]) == (name, None)
    verdict = verdict_of(run)
    assert verdict["old"]["d0"]["stand_in"] == name and verdict["reasons"][0].startswith(f"{called} ")
    assert read_metrics(attempt_of(run) / "metrics.jsonl")[0]["stand_in"] == {"d0": name}
    status = said("status", "plan.yaml")
    assert re.search(rf"^ {re.escape(called)} +cookbook ", status, re.MULTILINE) and f"{called} " in status
    assert json.loads(said("status", "plan.yaml", "--json"))["stand_ins"] == {"d0": name}
    page = page_of(run)
    assert f"D_0's own data: {called} stands in for it" in page
    assert f"held-out loss of {called} " in page and f"{called} forgot" in page.replace("improved by", "forgot")


def test_d0_itself_is_not_called_a_stand_in(public, workplace, said):
    public((D0, "d0: {text: text/prose.jsonl}"))
    said("run", "plan.yaml")
    assert verdict_of(workplace / "run")["old"]["d0"]["stand_in"] is None
    assert json.loads(said("status", "plan.yaml", "--json"))["stand_ins"] == {}
    assert "(proxy)" not in page_of(workplace / "run") and "stands in for" not in page_of(workplace / "run")


def test_a_proxy_is_trained_on_and_measured_as_the_same_text_would_be(public, workplace, said, manifest_of):
    public((D0, "d0: {proxy: text/prose.jsonl}"))
    said("run", "plan.yaml")
    said("run", "plan.yaml", "--set", "corpora.d0={text: text/prose.jsonl}", "--set", "run.folder=plain")
    proxy, plain = (manifest_of(workplace / run, "cookbook/stage2/00-rewarm-converged") for run in ("run", "plain"))
    assert proxy["weights_sha256"] == plain["weights_sha256"]
    numbers = [verdict_of(workplace / run)["old"]["d0"] | {"stand_in": ""} for run in ("run", "plain")]
    assert numbers[0] == numbers[1]


def test_a_rung_from_a_public_model_begins_its_moments_anew(public, workplace, said, manifest_of):
    public()
    out = said("run", "plan.yaml")
    assert "  optimizer moments   reset    AdamW begins without any\n" in out
    attempt = read_attempt(attempt_of(workplace / "run"))
    assert attempt.moments == "reset" and attempt.start == str(workplace / "hf") and attempt.schedule.lr(0) == 0.0
    end = manifest_of(workplace / "run", "cookbook/stage2/00-rewarm-converged")
    assert (end["phase"], end["optimizer_state"], end["allowed"]) == ("cooled", True, [])
    assert verdict_of(workplace / "run")["accepted"] is True


def test_the_base_writes_d0_once_and_the_record_says_how(public, workplace, said, monkeypatch):
    public()
    out = said("run", "plan.yaml")
    assert "d0: the base writes 5,000 tokens at temperature 1\n" in out
    first = pair_of(workplace / "run")
    (facts,) = read_sidecar(workplace / "run/tokens/d0/train").source_files
    assert (facts["path"], facts["tokens"], facts["seed"], facts["begins_after"], facts["longest_tokens"]) == (
        str(workplace / "hf"), 5000, 1, "<|endoftext|>", 32,
    )  # fmt: skip
    account = json.loads(said("status", "plan.yaml", "--json"))["account"]
    assert account["generated_tokens"] == facts["sampled_tokens"] >= 5000
    assert f"the base wrote {facts['sampled_tokens']:,} tokens, at a third each" in said("status", "plan.yaml")
    monkeypatch.setattr(Writer, "__init__", lambda *given: pytest.fail("the base was loaded again to write"))
    said("run", "plan.yaml")
    assert pair_of(workplace / "run") == first


def test_a_kill_while_the_base_writes_changes_no_byte_of_it(public, workplace, said):
    public()
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=workplace, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    folder = workplace / "run/tokens/d0"
    assert not list(folder.glob("train.bin")) and not list(folder.glob("train.idx"))
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert sorted(path.name for path in kept) == ["000000.npy", "000001.npy", "000002.npy"]
    assert "d0: going on, 3 batches are there\n" in said("run", "plan.yaml")
    said("run", "plan.yaml", "--set", "run.folder=unbroken")
    assert pair_of(workplace / "run") == pair_of(workplace / "unbroken")
    assert not list(folder.rglob("*.partial"))


def test_another_seed_writes_another_text(public, workplace, said):
    public()
    said("run", "plan.yaml")
    said("run", "plan.yaml", "--set", "seed=2", "--set", "run.folder=other")
    assert pair_of(workplace / "run")[0] != pair_of(workplace / "other")[0]


def test_a_text_that_was_trained_on_is_not_written_anew(public, said):
    public()
    said("run", "plan.yaml")
    told = said("run", "plan.yaml", "--set", "corpora.d0={generate: {tokens: 6k, batch: 32}}", code=2)
    assert "corpora.d0: generate changed since it was tokenized into run/tokens/d0" in told.replace(
        os.getcwd() + "/", ""
    )


@pytest.mark.parametrize(
    ("pairs", "where", "words"),
    [
        ([("checkpoint: hf, lr: 3e-5, phase: cooled", "tokens: 2_048"), ("seed: 1", "seed: 1\nmodel: {hf: hf}")],
         "corpora.d0.generate", "the base is trained here, on this corpus: before that it can't write it; name a base.checkpoint"),
        ([("checkpoint: hf, lr: 3e-5, phase: cooled", "tokens: 2_048"), (D0, "d0: {proxy: text/prose.jsonl}"),
          ("seed: 1", "seed: 1\nmodel: {config: {type: llama, hidden_size: 32, layers: 1, heads: 2}}\ntokenizer: {file: hf}")],
         "corpora.d0.proxy", "the base is trained here, on this corpus: it is D_0 itself, no stand-in; d0: {text: ...}"),
        ([(D0, "d0: {proxy: text/prose.jsonl, text: text/code.jsonl}")], "corpora.d0",
         "give exactly one of text, list and indexed; of a D_0 that is not there: proxy or generate"),
        ([(D0, "d0: {proxy: text/prose.jsonl, generate: {tokens: 5k}}")], "corpora.d0",
         "give exactly one of text, list and indexed; of a D_0 that is not there: proxy or generate"),
        ([("tokens: 5k, batch", "tokens: 0, batch")], "corpora.d0.generate.tokens", "input should be greater than 0"),
        ([("tokens: 5k, batch: 32", "batch: 32")], "corpora.d0.generate.tokens", "is missing"),
        ([("batch: 32", "temperature: 0")], "corpora.d0.generate.temperature", "greater than 0"),
        ([("batch: 32", "top_p: 1.5")], "corpora.d0.generate.top_p", "less than or equal to 1"),
        ([("batch: 32", "temprature: 1")], "corpora.d0.generate.temprature", "temperature"),
        ([("d1: {text: text/technical.jsonl}", "d1: {proxy: text/technical.jsonl}")], "corpora.d1.proxy",
         "a stand-in is for D_0, which is d0; give d1 as what it is"),
        ([("seed: 1", "seed: 1\ntokenizer: {train: {vocab_size: 512}}")], "tokenizer.train",
         "a given base writes in its own tokens; leave it out, then the model's own is used"),
        ([(D0, D0[:-1] + ", exclude: spans.txt}")], "corpora.d0", "exclude leaves spans of files out: a generated corpus has none yet"),
        ([("holdout:", "evaluation: {d1: text/code.jsonl}\nholdout:")], "evaluation.d1",
         "a corpus is named d1 too; its own holdout is measured already"),
        ([("holdout:", "evaluation: {docs: text/technical.jsonl}\nholdout:")], "evaluation.docs",
         "technical.jsonl is trained on as d1; a text that is only measured must be another"),
        ([("holdout:", "evaluation: {code: {text: a.jsonl, indexed: b}}\nholdout:")], "evaluation.code",
         "give exactly one of text and indexed, or a path of text"),
    ],
)  # fmt: skip
def test_what_a_plan_can_not_mean_is_refused(written, workplace, said, pairs, where, words):
    path = written(*pairs)
    told = said("run", "plan.yaml", code=2)
    (line,) = (line for line in told.splitlines() if line.startswith("error"))
    assert re.match(rf"error: {path.name}:\d+:\d+  {re.escape(where)}: ", line) and words in line
    assert not (workplace / "run").exists()


@pytest.mark.parametrize(
    ("pairs", "what", "fix"),
    [
        ([("batch: 32", "begin: <|begin|>")], "corpora.d0.generate: begin: {here}/run/tokens/tokenizer.json has no token '<|begin|>'",
         "one of its tokens, such as <|endoftext|>"),
        ([("batch: 32", "document_tokens: 100")], "corpora.d0.generate: documents of 100 tokens, the model reads 64 at most",
         "corpora: {d0: {generate: {document_tokens: 64, ...}}}"),
        ([(D0, "d0: {proxy: gone.jsonl}")], "corpora.d0.proxy.text: no file matches {here}/gone.jsonl",
         "corpora: {d0: {proxy: {text: PATH-OR-GLOB}}} with files ending in .jsonl, .txt or .parquet (.gz, .zst)"),
        ([("holdout:", "evaluation: {code: gone.jsonl}\nholdout:")], "evaluation.code.text: no file matches {here}/gone.jsonl",
         "evaluation: {code: {text: PATH-OR-GLOB}} with files ending in .jsonl, .txt or .parquet (.gz, .zst)"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(public, workplace, said, pairs, what, fix):
    public(*pairs)
    told = said("run", "plan.yaml", code=2).splitlines()
    told = told[next(number for number, line in enumerate(told) if line.startswith("error")) :]
    assert told[0] == f"error: {what.format(here=workplace)}"
    assert told[-1] == f"  fix: {fix}"
    assert not list((workplace / "run").rglob("corpus.json")) and not list((workplace / "run").rglob("*.npy"))


MEASURED = ("holdout:", "evaluation: {prose: text/prose.jsonl, code: {text: [text/code.jsonl]}}\nholdout:")


def test_a_text_that_is_only_measured_is_judged_as_an_old_corpus_and_never_fed(public, workplace, said):
    public(MEASURED, ("tolerance: 9 nats", "tolerance: {default: 9 nats, code: 8 nats}"))
    said("run", "plan.yaml")
    run = workplace / "run"
    records = read_metrics(attempt_of(run) / "metrics.jsonl")
    evaluations = [record for record in records if record["kind"] == "eval"]
    assert len(evaluations) >= 2 and all(set(r["loss"]) == {"d0", "d1", "prose", "code"} for r in evaluations)
    verdict = verdict_of(run)
    assert {name: each["tolerance"] for name, each in verdict["old"].items()} == {"d0": 9.0, "prose": 9.0, "code": 8.0}
    base = json.loads((run / "arms/cookbook/base/00-given/manifest.json").read_text())
    for name, each in verdict["old"].items():
        assert each["reference"] == pytest.approx(base["evaluation"][name]["loss"], abs=1e-6)
        assert each["forgetting"] == evaluations[-1]["loss"][name] - each["reference"]
    assert {row["corpus"] for row in verdict["fed"]} == {"d0", "d1"}
    attempt = read_attempt(attempt_of(run))
    assert {source.corpus for source in attempt.sources} == {"d0", "d1"}
    assert set().union(*(record.get("samples", {}) for record in records)) == {source.id for source in attempt.sources}
    assert json.loads((run / "resolved.json").read_text())["corpora"]["prose"]["sources"] == []
    loss = json.loads(said("status", "plan.yaml", "--json"))["arms"]["cookbook"]
    assert loss["forgetting"]["code"] == verdict["old"]["code"]["forgetting"]
    assert re.search(r"^ code +cookbook ", said("status", "plan.yaml"), re.MULTILINE)
    assert re.search(r"code (forgot|improved by) \d\.\d{3} nats \(8 allowed\)", page_of(run))


def test_documents_of_a_measured_text_are_left_out_of_training(public, workplace, said):
    taught, other = ((workplace / f"text/{name}.jsonl").read_text().splitlines() for name in ("technical", "code"))
    (workplace / "mixed.jsonl").write_text("\n".join([*taught[:10], *other[:30]]) + "\n")
    public(("holdout:", "evaluation: {mixed: mixed.jsonl}\nholdout:"))
    said("run", "plan.yaml")
    duplicates = json.loads((workplace / "run/resolved.json").read_text())["duplicates_of_held_out_documents"]
    assert duplicates == [{"holdout": "mixed", "corpus": "d1", "documents": 10, "are": "left out"}]


def test_a_measured_text_beyond_its_tolerance_rejects_the_attempt(edit_plan, workplace):
    """The base is trained on one half of the docstrings and knows the other, which code alone makes it forget."""
    lines = (workplace / "text/technical.jsonl").read_text().splitlines(keepends=True)
    for name, half in (("taught", lines[::2]), ("known", lines[1::2])):
        (workplace / f"{name}.jsonl").write_text("".join(half))
    edit_plan(
        ("d0: {text: text/prose.jsonl}", "d0: {text: taught.jsonl}"),
        ("d1: {text: text/technical.jsonl}", "d1: {text: text/code.jsonl}"),
        ("d2: {text: text/code.jsonl}", "d2: {text: text/prose.jsonl}"),
        ("tokens: 10_240", "tokens: 61_440"),
        ("new: d1, tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]", "new: d1, tokens: 10_240, ladder: [{rung: naive}]"),
        ("holdout:", "evaluation: {known: known.jsonl}\nholdout:"),
        ("tolerance: 9 nats", "tolerance: {default: 9 nats, known: 0.01 nats}"),
    )  # fmt: skip
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 1
    verdict = verdict_of(workplace / "run", rung="naive")
    assert (verdict["outcome"], verdict["accepted"]) == ("not-recovering", False)
    assert verdict["old"]["d0"]["within"] and not verdict["old"]["known"]["within"]
    assert verdict["reasons"][1].startswith("known ") and "beyond the tolerance of 0.010" in verdict["reasons"][1]


def test_a_text_can_not_be_measured_from_the_middle_of_a_run(public, said):
    public()
    said("run", "plan.yaml")
    told = said("run", "plan.yaml", "--set", "evaluation={code: text/code.jsonl}", code=2)
    assert "evaluation.code: the base " in told and "was not measured on it" in told


def test_a_measured_text_that_changes_is_refused(public, workplace, said):
    (workplace / "own").mkdir()
    lines = (workplace / "text/code.jsonl").read_text().splitlines(keepends=True)
    (workplace / "own/code.jsonl").write_text("".join(lines))
    public(("holdout:", "evaluation: {code: own/code.jsonl}\nholdout:"))
    said("run", "plan.yaml")
    (workplace / "own/code.jsonl").write_text("".join(lines[1:]))
    told = said("run", "plan.yaml", code=2)
    assert "evaluation.code: " in told and "own/code.jsonl changed since it was cut into" in told


def test_regret_is_the_loss_less_that_of_more_d0_alone_at_the_same_tokens(public, workplace, said):
    public(MEASURED, ("run: {folder", "control: [no-replay, d0-only]\nrun: {folder"))
    out = said("run", "plan.yaml")
    run = workplace / "run"
    mine, control = (
        [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "eval"][-1]
        for folder in (attempt_of(run), attempt_of(run, "d0-only", "d0-only"))
    )
    assert mine["tokens"] == control["tokens"] == 2048 and mine["full"] and control["full"]
    verdict = verdict_of(run)
    assert set(verdict["old"]) == {"d0", "prose", "code"}
    for name, each in verdict["old"].items():
        where_it_came = sum(control["windows"][name]) / len(control["windows"][name])
        assert where_it_came == pytest.approx(control["loss"][name], abs=1e-6)
        assert each["regret"] == mine["loss"][name] - where_it_came
        assert each["forgetting"] - each["regret"] == pytest.approx(where_it_came - each["reference"], abs=1e-12)
        assert 0 < each["regret_noise"] < 0.1
    words = next(line for line in out.splitlines() if line.startswith("    code "))
    code = verdict["old"]["code"]
    assert f"; regret {code['regret']:+.3f} (noise {code['regret_noise']:.3f}) against more D_0 alone" in words
    d0_only, naive = (
        read_attempt(attempt_of(run, rung, arm)) for rung, arm in (("d0-only", "d0-only"), ("naive", "no-replay"))
    )
    assert {source.corpus for source in d0_only.sources} == {"d0"} and {s.corpus for s in naive.sources} == {"d1"}
    assert d0_only.moments == naive.moments == "reset" and d0_only.schedule == read_attempt(attempt_of(run)).schedule
