"""Trackers: what each one's own reader finds is what the metrics hold, also after a resume; and failures stop nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keepwarm.attempt.records import MetricsWriter, Record, keep_until, read_metrics
from keepwarm.cli.main import main
from keepwarm.engine import sinks, trackers
from keepwarm.engine.sinks import copied
from keepwarm.engine.trackers import values
from keepwarm.errors import KeepwarmError
from keepwarm.plan.running import RunSpec

LIBRARIES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}
NAME = "cookbook/stage2/00-replay"
ATTEMPT = SimpleNamespace(
    folder=f"arms/{NAME}",
    sources=(SimpleNamespace(id="a1", name="d0"), SimpleNamespace(id="b2", name="/lists/papers (v1)/shard-0")),
)
HEADER = {"kind": "header", "format": 1, "attempt": "0" * 64}


def train(step: int, loss: float | None = None) -> Record:
    return {
        "kind": "train", "step": step, "tokens": 256 * step, "loss": loss or 8.0 - step / 8, "lr": 0.003, "grad_norm": 1.25,
        "tokens_per_second": 2048.5, "mfu": 0.375, "memory_bytes": None, "samples": {"a1": 2, "b2": 6} if step % 2 else {"b2": 8},
    }  # fmt: skip


def evaluation(step: int, full: bool) -> Record:
    return {
        "kind": "eval", "step": step, "tokens": 256 * step, "full": full, "lr": 0.003, "phase": "peak", "measured_by": None,
        "loss": {"d0": 4.5, "d1": None}, "bits_per_byte": {"d0": 1.75, "d1": None}, "windows": {"d0": [4.25, 4.75]},
    }  # fmt: skip


def event(step: int, name: str, text: str) -> Record:
    return {"kind": "event", "step": step, "tokens": 256 * step, "event": name, "text": text}


@dataclass
class Found:
    """What a tracker's own reader finds of an attempt."""

    curves: dict[str, list[tuple[int, float]]]
    events: list[tuple[int, str]]
    id: str


class TensorBoardReader:
    """What TensorBoard itself reads an attempt's event files with; it may look again."""

    def __init__(self, folder: Path) -> None:
        reading = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
        self._accumulator = reading.EventAccumulator(
            str(folder), tensor_size_guidance=dict.fromkeys(("scalars", "text"), 0)
        )

    def look(self) -> dict[str, list[tuple[int, float | str]]]:
        self._accumulator.Reload()
        found = {}
        for tag in self._accumulator.Tags()["tensors"]:
            events = [(e.step, e.tensor_proto) for e in self._accumulator.Tensors(tag)]
            found[tag] = [(step, t.string_val[0].decode() if t.string_val else t.float_val[0]) for step, t in events]
        return found


def read_tensorboard(folder: Path) -> Found:
    curves = TensorBoardReader(folder / NAME).look()
    return Found(curves, sorted(curves.pop("events/text_summary", [])), NAME)


def read_trackio(folder: Path) -> Found:
    with sqlite3.connect(folder / "keepwarm.db") as connection:
        rows = connection.execute("select run_id, step, metrics from metrics where run_name = ? order by id", (NAME,))
        found = [(run, step, json.loads(metrics)) for run, step, metrics in rows]
        alerts = connection.execute("select step, title, text from alerts where run_name = ?", (NAME,)).fetchall()
        ((config,),) = connection.execute("select config from configs where run_name = ?", (NAME,))
    connection.close()
    assert json.loads(config)["_Group"] == "tiny"
    (run,) = {run for run, _, _ in found}
    return Found(by_tag([(step, row) for _, step, row in found]), sorted((s, f"{t}: {x}") for s, t, x in alerts), run)


def read_wandb(folder: Path) -> Found:
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = (folder / NAME).glob("wandb/offline-run-*/run-*.wandb")
    rows, about = [], None
    for content in framed(path.read_bytes()):
        record = messages.Record.FromString(content)
        if record.HasField("run"):
            about = record.run
        elif record.HasField("history"):
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    assert (about.project, about.display_name, about.run_group) == ("keepwarm", NAME, "tiny")
    events = [(row["step"], row["event"]) for row in rows if "event" in row]
    told = [(row.pop("step"), {k: v for k, v in row.items() if k[0] != "_"}) for row in rows if "event" not in row]
    return Found(by_tag(told), sorted(events), about.run_id)


def framed(data: bytes) -> list[bytes]:
    """The records of a LevelDB log, which is what an offline run of wandb is: blocks of 32 KiB of framed pieces."""
    block, at, found, pieces = 32768, 7, [], b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        pieces += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(pieces)
            pieces = b""
    return found


def read_mlflow(folder: Path) -> Found:
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(tracking_uri=folder.resolve().as_uri())
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{NAME}'")
    assert (run.info.run_name, run.info.status) == (NAME, "FINISHED")
    curves = {
        tag: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, tag)] for tag in run.data.metrics
    }
    events = [
        (int(tag.split()[1]), f"{tag.split()[2]}: {text}")
        for tag, text in run.data.tags.items()
        if tag.startswith("event ")
    ]
    return Found(curves, sorted(events), run.info.run_id)


def by_tag(rows: list[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, row in rows:
        for tag, value in row.items():
            curves.setdefault(tag, []).append((step, value))
    return curves


READERS = {"tensorboard": read_tensorboard, "trackio": read_trackio, "wandb": read_wandb, "mlflow": read_mlflow}


@pytest.fixture(params=READERS)
def tracker(request) -> str:
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


class Trained:
    """An attempt whose records are written and told as the loop does it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names, self.told = folder, names, []
        self.metrics = folder / ATTEMPT.folder / "metrics.jsonl"

    def write(self, *records: Record) -> None:
        """One process's part of the attempt."""
        writer = MetricsWriter(self.metrics)
        with copied(self.names, self.folder, "tiny", ATTEMPT, self.told.append) as tell:
            for record in records:
                if record.get("event") == "rewound":
                    keep_until(self.metrics, record["step"])
                    writer.close()
                    writer = MetricsWriter(self.metrics)
                writer.write(record)
                tell(record)
        writer.close()

    def expected(self, name: str) -> tuple[dict, list]:
        sources = {source.id: source.name for source in ATTEMPT.sources}
        rows = [(r["step"], v) for r in read_metrics(self.metrics) if (v := values(r, sources))]
        if name == "tensorboard":  # its scalars are fp32
            rows = [(step, {tag: float(np.float32(v)) for tag, v in row.items()}) for step, row in rows]
        events = [(r["step"], f"{r['event']}: {r['text']}") for r in read_metrics(self.metrics) if r["kind"] == "event"]
        return by_tag(rows), sorted(events)

    def found(self, name: str) -> Found:
        """What the tracker has, which is what the metrics have."""
        found = READERS[name](self.folder / "trackers" / name)
        assert (found.curves, found.events) == self.expected(name)
        return found


def test_values_of_a_training_record():
    sources = {source.id: source.name for source in ATTEMPT.sources}
    assert values(train(3), sources) == {
        "train/tokens": 768, "train/loss": 7.625, "train/lr": 0.003, "train/grad_norm": 1.25,
        "train/tokens_per_second": 2048.5, "train/mfu": 0.375, "share/d0": 0.25, "share/_lists_papers_v1_shard-0": 0.75,
    }  # fmt: skip
    assert values(train(4) | {"memory_bytes": 7}, sources)["share/d0"] == 0.0
    assert values(train(4) | {"memory_bytes": 7}, sources)["train/memory_bytes"] == 7


def test_values_of_evaluations_keep_all_windows_and_some_apart():
    assert values(evaluation(4, True), {}) == {"eval/tokens": 1024, "eval/loss/d0": 4.5, "eval/bits_per_byte/d0": 1.75}
    assert set(values(evaluation(4, False), {})) == {
        "eval_subset/tokens",
        "eval_subset/loss/d0",
        "eval_subset/bits_per_byte/d0",
    }
    assert values(HEADER, {}) == values(event(1, "resumed", "from step 1"), {}) == {}


def test_each_tracker_has_what_the_metrics_have(tmp_path, tracker):
    run = Trained(tmp_path, tracker)
    run.write(
        HEADER, evaluation(0, True), *map(train, range(1, 5)), evaluation(4, False), event(4, "decision", "on a plateau"),
        *map(train, range(5, 9)), evaluation(8, True),
    )  # fmt: skip
    found = run.found(tracker)
    assert found.curves["train/loss"] == [(step, 8.0 - step / 8) for step in range(1, 9)]
    assert found.curves["eval/loss/d0"] == [(0, 4.5), (8, 4.5)]
    assert found.events == [(4, "decision: on a plateau")]
    assert len(run.told) == 13


def test_a_resumed_attempt_goes_on_in_the_same_curve(tmp_path, tracker):
    """Killed at step 6, resumed from 4: the tracker takes back 5 and 6, as the metrics do."""
    run = Trained(tmp_path, tracker)
    run.write(HEADER, *map(train, range(1, 7)), event(6, "decision", "taken back"))
    before = run.found(tracker)
    keep_until(run.metrics, 4)
    run.write(event(4, "resumed", "from step 4"), *(train(step, 5.0) for step in range(5, 9)))
    after = run.found(tracker)
    assert after.id == before.id
    assert after.curves["train/loss"] == [(1, 7.875), (2, 7.75), (3, 7.625), (4, 7.5), (5, 5.0), (6, 5.0), (7, 5.0), (8, 5.0)]  # fmt: skip
    assert after.events == [(4, "resumed: from step 4")]


def test_an_attempt_that_went_back_goes_back_in_the_tracker(tmp_path, tracker):
    run = Trained(tmp_path, tracker)
    back = event(2, "rewound", "to step 2")
    run.write(HEADER, *map(train, range(1, 5)), back, *(train(step, 5.0) for step in range(3, 5)))
    assert run.found(tracker).curves["train/loss"] == [(1, 7.875), (2, 7.75), (3, 5.0), (4, 5.0)]


def test_a_tracker_that_comes_later_has_the_curve_from_the_beginning(tmp_path, tracker):
    Trained(tmp_path).write(HEADER, *map(train, range(1, 5)))
    assert not (tmp_path / "trackers").exists()
    run = Trained(tmp_path, tracker)
    run.write(event(4, "resumed", "from step 4"), train(5))
    assert [step for step, _ in run.found(tracker).curves["train/loss"]] == [1, 2, 3, 4, 5]


def test_a_tensorboard_that_is_looking_drops_what_was_taken_back(tmp_path):
    pytest.importorskip("tensorboardX")
    run = Trained(tmp_path, "tensorboard")
    run.write(HEADER, *map(train, range(1, 7)))
    looking = TensorBoardReader(tmp_path / "trackers/tensorboard" / NAME)
    assert [step for step, _ in looking.look()["train/loss"]] == [1, 2, 3, 4, 5, 6]
    keep_until(run.metrics, 4)
    run.write(event(4, "resumed", "from step 4"), train(5, 5.0))
    assert looking.look()["train/loss"] == [(1, 7.875), (2, 7.75), (3, 7.625), (4, 7.5), (5, 5.0)]


def test_two_attempts_are_two_runs_of_one_store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    for name in (NAME, "cookbook/stage2/01-replay"):
        monkeypatch.setattr(ATTEMPT, "folder", f"arms/{name}")
        Trained(tmp_path, "mlflow").write(HEADER, train(1))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "trackers/mlflow").resolve().as_uri())
    experiment = client.get_experiment_by_name("tiny").experiment_id
    assert sorted(run.info.run_name for run in client.search_runs([experiment])) == [NAME, "cookbook/stage2/01-replay"]


def test_trackio_is_left_where_it_was(tmp_path):
    """Its folder is one of the process: what else the process tracks goes where it went."""
    storage = pytest.importorskip("trackio.sqlite_storage")
    before = storage.TRACKIO_DIR
    for name in ("one", "two"):
        Trained(tmp_path / name, "trackio").write(HEADER, train(1))
        assert (tmp_path / name / "trackers/trackio/keepwarm.db").exists()
    assert before == storage.TRACKIO_DIR


def test_wandb_leaves_no_process_behind(tmp_path):
    wandb = pytest.importorskip("wandb")
    Trained(tmp_path, "wandb").write(HEADER, train(1))
    assert wandb.run is None
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in mine if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text()]


class Failing:
    """A tracker whose disk is full from some call on."""

    def __init__(self, at: str) -> None:
        self.at, self.closed = at, 0

    def __call__(self, tracked):
        if self.at == "open":
            raise OSError(28, "No space left on device")
        return self

    def write(self, records):
        if self.at == "write" and records[-1].get("step", 0) >= 3:
            raise OSError(28, "No space left on device")

    def close(self):
        self.closed += 1
        if self.at == "close":
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("at", "closed"), [("open", 0), ("write", 1), ("close", 1)])
def test_a_tracker_that_fails_is_told_of_once_and_left_out(tmp_path, monkeypatch, at, closed):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(sinks, "FLUSH_SECONDS", 0.0)
    failing = Failing(at)
    monkeypatch.setitem(trackers.TRACKERS, "trackio", failing)
    run = Trained(tmp_path, "trackio", "tensorboard")
    run.write(HEADER, *map(train, range(1, 7)))
    (told,) = (record for record in run.told if record.get("event") == "tracker-failed")
    assert told["text"] == (
        "trackio: [Errno 28] No space left on device; training goes on without it, metrics.jsonl has all"
    )
    assert told["step"] == {"open": 0, "write": 3, "close": 6}[at]
    assert failing.closed == closed
    assert [record["step"] for record in run.told if record["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    run.found("tensorboard")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of wandb's handle on its dead service
def test_wandbs_service_killed_in_the_middle(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setattr(sinks, "FLUSH_SECONDS", 0.0)

    class Killed(trackers.Wandb):
        def write(self, records):
            if records[-1].get("step") == 3:
                for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                    if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text():
                        os.kill(int(pid), signal.SIGKILL)
                        os.waitpid(int(pid), 0)
            super().write(records)

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Killed)
    run = Trained(tmp_path, "wandb")
    run.write(HEADER, *map(train, range(1, 2000)))
    assert [r["event"] for r in run.told if r["kind"] == "event"] == ["tracker-failed"]
    monkeypatch.undo()
    run.write(event(1999, "resumed", "from step 1999"), train(2000))
    assert len(run.found("wandb").curves["train/loss"]) == 2000


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_not_installed_is_refused_before_anything(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    with pytest.raises(KeepwarmError) as refused, copied([name], tmp_path, "tiny", ATTEMPT, lambda _: None):
        pass
    assert refused.value.what.startswith(f"run.trackers: {name} can't be loaded (")
    assert refused.value.fix == "pip install 'keepwarm[trackers]', or leave it out: --set run.trackers=none"
    assert not list(tmp_path.iterdir())


def test_the_plans_words():
    assert RunSpec(folder="x").trackers == ()
    assert RunSpec(folder="x", trackers="none").trackers == ()
    assert RunSpec(folder="x", trackers="wandb").trackers == ("wandb",)
    assert RunSpec(folder="x", trackers=["mlflow", "wandb", "mlflow"]).trackers == ("mlflow", "wandb")


def test_an_unknown_tracker_is_refused(edit_plan, capsys):
    path = edit_plan(("threads: 1}", "threads: 1, trackers: [tensorbord]}"))
    assert main(["plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert "run.trackers" in said and "tensorboard" in said


def test_a_run_is_tracked_through_a_stop_and_a_resume(workplace, edit_plan, monkeypatch, capsys):
    """Ctrl-C in the middle of stage 2, then the same command: every attempt's curve is that of its metrics."""
    monkeypatch.setattr(sinks, "FLUSH_SECONDS", 0.0)

    class Stopping(Failing):
        def write(self, records):
            if records[-1].get("step") == 10:
                os.kill(os.getpid(), signal.SIGINT)

    edit_plan(("threads: 1}", "threads: 1, trackers: [tensorboard, trackio]}"))
    with monkeypatch.context() as patched:
        patched.setitem(trackers.TRACKERS, "trackio", Stopping(""))
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 130
    assert main(["run", "plan.yaml", "--stage", "stage2", "--set", "run.trackers=tensorboard"]) == 0
    names = {path.parent.name: path.parent for path in Path("run/arms/cookbook").glob("*/*/metrics.jsonl")}
    assert set(names) == {"00-base", "00-replay"}
    resumed = 0
    for folder in names.values():
        records = read_metrics(folder / "metrics.jsonl")
        found = TensorBoardReader("run/trackers/tensorboard" / folder.relative_to("run/arms")).look()
        for key in ("loss", "lr", "grad_norm", "tokens_per_second", "tokens"):
            assert found[f"train/{key}"] == [
                (r["step"], float(np.float32(r[key]))) for r in records if r["kind"] == "train"
            ]
        for corpus in ("d0", "d3"):
            full = [(r["step"], float(np.float32(r["loss"][corpus]))) for r in records if r.get("full")]
            assert found[f"eval/loss/{corpus}"] == full
        told = [(r["step"], f"{r['event']}: {r['text']}") for r in records if r["kind"] == "event"]
        assert found.get("events/text_summary", []) == told
        resumed += any(r.get("event") == "resumed" for r in records)
    assert resumed == 1
    capsys.readouterr()


def test_a_run_without_the_library_trains_nothing(workplace, edit_plan, monkeypatch, capsys):
    edit_plan(("threads: 1}", "threads: 1, trackers: wandb}"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["run", "plan.yaml"]) == 2
    assert "pip install 'keepwarm[trackers]'" in capsys.readouterr().err
    assert not list(Path("run").rglob("metrics.jsonl")) and not Path("run/trackers").exists()
