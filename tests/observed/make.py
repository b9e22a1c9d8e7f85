"""Attempts with launches and logs, small enough to check by hand; evaluations as an evaluation job writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from cluster.attempts import attempt_of, feed_of, token_file
from keepwarm import files
from keepwarm.attempt.model import Attempt, Judgement, to_json
from keepwarm.backends.megatron.evaluate import Evaluation, evaluation_path, write_evaluation
from keepwarm.backends.megatron.observe import Asked, Observed, observe
from keepwarm.backends.megatron.record import Launch, write_launch
from keepwarm.evaluate.references import header
from keepwarm.lineage.manifest import Manifest
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import Schedule

LOGS = Path(__file__).parents[1] / "golden" / "logs"
BATCH, LENGTH = 8, 16  # of the recorded runs
HOLDOUT = {"d0": "id-d0", "d1": "id-d1"}


@dataclass
class Place:
    """An attempt in a run folder, its launches written one by one."""

    run: Path
    attempt: Attempt
    feed: Any
    start: Manifest | None = None

    @property
    def folder(self) -> Path:
        return self.run / self.attempt.folder

    def launch(self, name: str, begin: int, end: int, **more: Any) -> Launch:
        values: dict[str, Any] = {
            "attempt": self.attempt.sha256, "name": name, "begins": "continue", "first_iteration": 0,
            "begin_iteration": begin, "end_iteration": end, "train_iterations": end, "load": "/old", "prepare": (),
            "save": str(self.folder / "checkpoints-megatron"), "environment": {"DTYPE": "bf16"}, "arguments": (),
            "trainer": "/trainer", "data_list": "list.txt", "data_list_sha256": "", "data_cache": "cache",
            "learning_rate": (), "global_batch_size": BATCH, "sequence_length": LENGTH, "padded_vocab_size": 640,
            "save_iterations": 10, "world_size": 2, "machine": "none", "scheduler": "pbs",
        }  # fmt: skip
        made = Launch(**values | more)
        write_launch(self.folder / "launches" / name, made)
        (self.folder / "launches" / name / "logs").mkdir()
        return made

    def log(self, launch: str, name: str, content: str | bytes) -> Path:
        path = self.folder / "launches" / launch / "logs" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def evaluated(self, iteration: int, **losses: Sequence[float | None]) -> None:
        found = {
            name: {
                "loss": None if None in windows else sum(windows) / len(windows),
                "windows": list(windows),
                "bits_per_byte": None,
            }
            for name, windows in losses.items()
        }
        path = evaluation_path(self.folder, iteration)
        write_evaluation(path, Evaluation(
            iteration=iteration, checkpoint=f"global_step{iteration}", kind="universal", precision="fp32", holdout=HOLDOUT,
            losses=found,
        ))  # fmt: skip

    @property
    def asked(self) -> Asked:
        attempt, start = self.attempt, self.start
        first = header(attempt, [("d0", start)] if start else (), start, None, {"d0": None, "d1": 0.25}, 4)
        first |= {"stand_in": {}, "kept": []}
        return Asked(
            run_folder=self.run, plan_sha256="plan", attempt=attempt, header=first, start=start, feed=self.feed,
            identity={"holdout": HOLDOUT, "sequence_length": LENGTH},
        )  # fmt: skip

    def observe(self, *logs: Path) -> Observed:
        return observe(self.asked, logs)


def place_of(
    folder: Path, steps: int, schedule: Schedule | None = None, *, batch: int = BATCH, length: int = LENGTH
) -> Place:
    """An attempt of so many steps, three quarters new, in a run folder; by default at 2e-4 throughout."""
    sources = {name: token_file(folder / name, 6000, first=first) for name, first in (("d1", 0), ("d0", 10_000))}
    mix = {"d1": Fraction(3, 4), "d0": Fraction(1, 4)}
    made = attempt_of(sources, [(0, mix)], steps=steps, batch=batch, length=length)
    made = replace(
        made, schedule=schedule or schedules.constant(2e-4, steps * batch * length),
        judgement=Judgement({"d0": (0.1, "nats")}, 0.2),
    )  # fmt: skip
    files.write_json(folder / "run" / made.folder / "attempt.json", to_json(made))
    return Place(folder / "run", made, feed_of(sources))


def base_manifest(**losses: Sequence[float]) -> Manifest:
    """Where the line stood, measured: at peak."""
    evaluation = {name: {"loss": sum(w) / len(w), "windows": list(w)} for name, w in losses.items()}
    return Manifest(
        id="arms/cookbook/base/00-base/checkpoints/000000000012800-peak", parent=None, arm="cookbook", stage="base",
        rung="base", attempt="base", plan="plan", step=100, samples=800, attempt_tokens=12_800, line_tokens=12_800,
        lr=2e-4, lr_max=2e-4, phase="peak", evaluation=evaluation, sequence_length=LENGTH,
    )  # fmt: skip


def line(iteration: int, total: int, **more: Any) -> str:
    """A training line as the trainer prints it now. `loss=None`: it prints none."""
    values: Mapping[str, Any] = {
        "samples": iteration * BATCH, "tokens": iteration * BATCH * LENGTH, "lr": 2e-4, "batch": BATCH, "loss": 4.0,
        "scale": 1.0, "norm": 0.5, "skipped": 0, "nans": 0,
    } | more  # fmt: skip
    loss = "" if values["loss"] is None else f"lm loss={values['loss']:.6f} | "
    norm = "" if values["norm"] is None else f"grad_norm={values['norm']:.3f} | "
    return (
        f"[2026-11-24 04:55:38,446][I][megatron.training_log:402:training_log]  iteration={iteration:8d}/{total:8d} | "
        f"consumed_samples={values['samples']:12d} | consumed_tokens={values['tokens']:12d} | "
        f"elapsed_time_per_iteration_ms=64.0 | learning_rate={values['lr']:.6g} | global_batch_size={values['batch']:5d} | "
        f"{loss}loss_scale={values['scale']:.1f} | {norm}actual_seqlen={LENGTH:5d} | "
        f"number_of_skipped_iterations={values['skipped']:3d} | number_of_nan_iterations={values['nans']:3d} | "
        "samples_per_second=125.0 | tokens_per_gpu_per_second_tgs=1000.0 | TFLOPs=48.80 |\n"
    )
