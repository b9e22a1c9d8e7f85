"""The report page: every section, escaped, at every point of a run, and drawn by a real browser without a network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keepwarm.cli.main import main
from keepwarm.errors import KeepwarmError
from keepwarm.plan.load import load_plan
from keepwarm.report.charts import timeline
from keepwarm.report.html import write_report
from keepwarm.report.page import fed_rows, gather, matrix
from keepwarm.report.words import verdicts

pytest.importorskip("vl_convert", reason='the report needs pip install "keepwarm[report]"')

CHROMIUM = Path("/usr/bin/chromium")
PROBE = """addEventListener("load", () => setTimeout(() => {
  document.title = document.body.scrollWidth;
  const tips = new Set();
  for (const point of document.querySelectorAll("#timeline .mark-symbol path")) {
    const at = point.getBoundingClientRect();
    for (const kind of ["pointerover", "pointermove"])
      point.dispatchEvent(new PointerEvent(kind, {clientX: at.x + 1, clientY: at.y + 1, bubbles: true, view: window}));
    tips.add(document.getElementById("vg-tooltip-element").textContent);
  }
  const list = document.body.appendChild(document.createElement("ol"));
  for (const tip of tips) list.appendChild(document.createElement("li")).textContent = "tip " + tip;
}, 800))"""
SECTIONS = ("verdicts", "timeline", "forgetting", "lineage", "ladder", "fed", "buffer", "reproduce")
MARKUP = "<i>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, real_text, plan_text):
    """The tiny plan with its control arm, run once; documents of D_1 are full of markup."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(real_text, folder / "text")
    path = folder / "text" / "technical.jsonl"
    documents = [json.loads(line)["text"].replace(" ", f" {MARKUP} ") for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({"text": text[:6000]}) + "\n" for text in documents))
    plan = plan_text.replace("control: none", "control: no-replay")
    (folder / "plan.yaml").write_text(plan)
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml"]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run to take things away from."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def written(folder: Path) -> str:
    return write_report(load_plan(folder / "plan.yaml")).read_text()


def visible(text: str) -> str:
    """The page's own text, without scripts, styles, drawings and tags."""
    text = re.sub(r"<(script|style|svg)\b.*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", text)


def edit_verdict(folder: Path, **changes) -> None:
    path = folder / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_command_writes_into_the_run_folder_and_prints_where(finished, capsys):
    assert main(["report", str(finished / "plan.yaml")]) == 0
    assert capsys.readouterr().out.strip() == str(finished / "run" / "report.html")
    assert (finished / "run" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_output_goes_where_it_is_asked_and_replaces_what_was_there(finished, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    assert write_report(load_plan(finished / "plan.yaml"), path) == path
    assert path.read_text() != "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_the_same_run_gives_the_same_page(finished):
    assert written(finished) == written(finished)


def test_every_section_is_there_and_filled(finished):
    text = written(finished)
    for section in SECTIONS:
        content = re.search(rf'<section id="{section}">(.*?)</section>', text, re.DOTALL)
        assert content and len(visible(content[1])) > 60, section
    words = visible(text)
    assert "3 of 3 stages accepted" in words
    assert "replay 5% was kept: d0 " in words
    assert "nats lost since each corpus was taught, this line against no-replay: d0 " in words
    assert "Version 3: " in words
    assert load_plan(finished / "plan.yaml").name == "tiny"
    assert json.loads((finished / "run/resolved.json").read_text())["plan"] in words
    assert "Not in this report" not in words


def test_markup_in_documents_and_plans_stays_text(copied):
    with open(copied / "run" / "plan.yaml", "a") as file:
        file.write("# </pre><script>boom()</script>\n")
    text = written(copied)
    assert "# &lt;/pre&gt;&lt;script&gt;boom()&lt;/script&gt;" in text
    assert "<script>boom" not in text
    samples = re.findall(r'<pre class="sample">(.*?)</pre>', text, re.DOTALL)
    assert any("&lt;i&gt;" in sample for sample in samples)
    assert not any("<" in sample for sample in samples)
    assert text.count("<script") == text.count("</script") == 7  # five specifications, the libraries, the start


def test_the_page_asks_for_nothing_outside_of_itself(finished):
    text = written(finished)
    assert "default-src 'none'" in text
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', own) == []
    assert "@import" not in own and "url(http" not in own


def test_the_matrix_is_the_loss_since_the_stage_that_taught_it(finished, manifest_of):
    page = gather(load_plan(finished / "plan.yaml"))
    rows = matrix(page, "cookbook")
    assert [row.after for row in rows] == ["base", "stage2", "stage3", "stage4", "cooldown"]
    loss = [
        manifest_of(finished / "run", f"cookbook/{name}")["evaluation"]["d0"]["loss"]
        for name in ("base/00-base", "stage4/00-buffer-mix")
    ]
    assert rows[3].change["d0"] == pytest.approx(loss[1] - loss[0])
    assert rows[1].change == {"d0": rows[1].loss["d0"] - loss[0], "d1": 0.0, "d2": None, "d3": None}
    assert [row.after for row in matrix(page, "no-replay")] == ["base", "stage2", "stage3", "stage4", "cooldown"]


def test_fed_tokens_are_counted_from_the_records_where_there_is_no_verdict(finished):
    page = gather(load_plan(finished / "plan.yaml"))
    base = next(leg for leg in page.legs if leg.stage == "base")
    cooldown = next(leg for leg in page.legs if leg.cooldown)
    assert [(row.source, row.fed_tokens, row.asked_tokens) for row in fed_rows(page, base)] == [("d0", 10240, 10240.0)]
    assert sum(row.fed_tokens for row in fed_rows(page, cooldown)) == cooldown.tokens == 1024


def test_the_axis_runs_over_the_line_and_curves_meet_at_the_borders(finished):
    page = gather(load_plan(finished / "plan.yaml"))
    spec = timeline(page)
    loss = next(layer for layer in spec["vconcat"][1]["layer"] if layer["mark"]["type"] == "line")
    assert loss["encoding"]["x"]["scale"]["domain"] == [0, 26624]
    rows = [row for row in loss["data"]["values"] if row["arm"] == "cookbook" and row["corpus"] == "d0"]
    for border in (10240, 15360, 20480, 25600):
        assert len({row["y"] for row in rows if row["x"] == border}) == 1
    assert {row["kind"] for row in loss["data"]["values"]} == {"kept", "control"}
    bands = spec["vconcat"][1]["layer"][0]["data"]["values"]
    assert [(band["name"], band["x0"], band["x1"]) for band in bands] == [
        ("base", 0, 10240), ("stage2", 10240, 15360), ("stage3", 15360, 20480), ("stage4", 20480, 25600),
        ("cooldown", 25600, 26624),
    ]  # fmt: skip


def test_a_half_done_run_says_what_is_missing(copied):
    arms = copied / "run" / "arms"
    shutil.rmtree(arms / "no-replay")
    shutil.rmtree(arms / "cookbook/stage4")
    (arms / "cookbook/stage3/00-replay-previous-mix/verdict.json").unlink()
    shutil.rmtree(arms / "cookbook/stage3/00-replay-previous-mix/checkpoints")
    words = visible(written(copied))
    assert "1 of 3 stages accepted" in words
    assert "stage3 is not finished" in words and "stage4 has not begun" in words
    assert "the control arm no-replay has not begun" in words
    assert "replay-previous-mix 25% is not finished: step 0 of 20 is saved." in words


def test_an_exhausted_ladder_is_said_in_words(copied):
    stage = copied / "run" / "arms" / "cookbook" / "stage2"
    shutil.rmtree(copied / "run" / "buffer")
    for later in ("stage3", "stage4"):
        shutil.rmtree(copied / "run" / "arms" / "cookbook" / later)
    verdict = json.loads((stage / "00-replay/verdict.json").read_text())
    old = {"d0": verdict["old"]["d0"] | {"within": False, "forgetting": 0.5, "tolerance": 0.25}}
    edit_verdict(stage / "00-replay", accepted=False, outcome="not-recovering", old=old)
    (stage / "exhausted.json").write_text("{}")
    text = written(copied)
    words = visible(text)
    assert (
        "replay 5% was rejected as not-recovering: d0 forgot 0.500 nats (0.25 allowed). It took 5.12k tokens." in words
    )
    assert "No candidate was accepted: the ladder is exhausted. It cost 5.12k tokens." in words
    assert "There is no buffer." in words
    assert 'class="verdict exhausted"' in text


def test_a_run_without_control_and_with_a_given_base(copied):
    plan = copied / "plan.yaml"
    plan.write_text(plan.read_text().replace("control: no-replay", "control: none"))
    base = copied / "run" / "arms" / "cookbook" / "base"
    last = sorted((base / "00-base" / "checkpoints").iterdir())[-1]
    (base / "00-given").mkdir()
    shutil.copy(last / "manifest.json", base / "00-given" / "manifest.json")
    shutil.rmtree(base / "00-base")
    words = visible(written(copied))
    assert "the base was given, not trained here" in words
    assert "no control arm was asked for" in words
    assert "against the control" not in words


def test_a_run_that_has_just_begun(copied):
    shutil.rmtree(copied / "run")
    (copied / "run").mkdir()
    text = written(copied)
    words = visible(text)
    for sentence in (
        "Nothing has been trained yet.", "There is no checkpoint yet.", "There is no finished base", "Not begun.",
        "Nothing has been fed yet.", "the base is not there yet",
    ):  # fmt: skip
        assert sentence in words
    assert all(f'<section id="{section}">' in text for section in SECTIONS)


def test_candidates_that_were_never_trained_are_named_with_the_reason(copied):
    skipped = copied / "run/arms/cookbook/stage2/01-merge"
    skipped.mkdir()
    content = {"label": "merge", "accepted": False, "outcome": "skipped", "reasons": ["not <built> yet"]}
    (skipped / "verdict.json").write_text(json.dumps(content))
    page = gather(load_plan(copied / "plan.yaml"))
    stage2 = next(verdict for verdict in verdicts(page) if verdict.title.startswith("stage2"))
    assert "merge was not trained (skipped): not <built> yet." in stage2.sentences
    assert "not &lt;built&gt; yet" in written(copied)


def test_without_a_run_folder_there_is_nothing_to_report(copied):
    shutil.rmtree(copied / "run")
    with pytest.raises(KeepwarmError, match="no such run folder"):
        write_report(load_plan(copied / "plan.yaml"))


def test_without_vl_convert_the_extra_is_named(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(KeepwarmError, match=re.escape('pip install "keepwarm[report]"')):
        write_report(load_plan(finished / "plan.yaml"))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", (0, 1), ids=("light", "dark"))
def test_text_is_readable_on_every_ground(finished, mode):
    themes = [
        dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", written(finished), re.DOTALL)
    ]
    theme = themes[mode]
    for text in ("ink", "muted", "good", "alarm", *(f"t{number}" for number in range(6))):
        for ground in ("paper", "band", "box"):
            lighter, darker = sorted((luminance(theme[text]), luminance(theme[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: the page was not drawn by a browser")
@pytest.mark.parametrize("width", (1280, 390))
def test_a_browser_draws_it_without_network_or_error(finished, tmp_path, width):
    text = written(finished)
    probe = f"<script>{PROBE}</script>"
    head = f"<style>html {{ width: {width}px }}</style>{probe}</head>"  # a window is never as narrow as a telephone
    path = tmp_path / "report.html"
    path.write_text(text.replace("</head>", head, 1))
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path}/profile",
            "--virtual-time-budget=4000", f"--window-size={width},2400", "--enable-logging=stderr",
            f"--screenshot={tmp_path}/page.png", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert len(re.findall(r'class="vega-embed[^"]*".*?<svg', done.stdout, re.DOTALL)) == 5
    assert "drawing failed" not in re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    tips = re.findall(r"<li>tip (.*?)</li>", done.stdout)
    assert len(tips) > 20 and not any("undefined" in tip for tip in tips)
    assert any("corpusd0loss, nats/token" in tip and "attemptreplay 5%" in tip for tip in tips)
    title = re.search(r"<title>(\d+)</title>", done.stdout)
    assert title and int(title[1]) <= width
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_the_picture_brings_its_colours_along(finished, tmp_path):
    from keepwarm.report.html import write_picture

    text = write_picture(load_plan(finished / "plan.yaml"), tmp_path / "picture.svg").read_text()
    assert text.startswith("<svg") and text.rstrip().endswith("</svg>")
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    assert used and all(f"{name}:" in text for name in used)
    assert "prefers-color-scheme: dark" in text
