"""Training: keepwarm's loop against a bare torch loop and the Trainer of transformers, compiled and in bf16, in one run.

    python benchmarks/training.py [--pairs 7] [--steps 10] [--folder FOLDER]

One model (a Llama of 8.94 M parameters: 6 layers of 256, 4 heads, vocabulary 8,192, untied), one attempt (technical text
with 25 % replay, 4 x 256 tokens a step, moments kept, clipping), the same samples for all: losses are compared. keepwarm
is `engine.loop.train`, stopped at the border of every step: blend, detector of spikes and metrics.jsonl are in the step;
evaluations and checkpoints are not. The bare loop has the model of transformers, fused AdamW and the batches in memory;
the Trainer is the stock one without logging, saving or reports, over the same windows in memory, and again over
keepwarm's dataset. Each is a process of one thread; they take steps in turns. Figures are CPU seconds of the process; a
ratio is that of one pair of `--steps` steps each.

The cost of compiling is that of the first step with an empty cache, in wall seconds, less an eager first step. Prints
markdown; a bar that is not met says so. About ten minutes on one core; 300 MB of disk, and of memory 6 GB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import small
import torch
from pairs import Bar, Border, Turns, over, row, spread

from keepwarm import resolve_attempt
from keepwarm.attempt.line import identity, open_stream
from keepwarm.attempt.opened import OpenAttempt
from keepwarm.backends.native import heldout_of
from keepwarm.engine import machine as machines
from keepwarm.engine.build import Computing
from keepwarm.engine.job import Hooks, Job
from keepwarm.engine.loop import train
from keepwarm.engine.parallel import alone
from keepwarm.engine.trainer import trainer_parts
from keepwarm.plan.model import Plan

LLAMA = {
    "type": "llama", "hidden_size": 256, "layers": 6, "heads": 4, "kv_heads": 4, "intermediate_size": 688,
    "tie_word_embeddings": False,
}  # fmt: skip
VOCABULARY, SEQUENCE, BATCH = 8192, 256, 4
STEP_TOKENS = SEQUENCE * BATCH
WARMING = 3  # steps before the first pair: memory is new, kernels are chosen
MATMUL, MATMUL_SECONDS = 1024, 0.3
EAGER, COMPILED, EAGER_BF16, COMPILED_BF16 = WAYS = tuple(
    Computing(precision=precision, world_size=1, compiled=compiled)
    for precision in ("fp32", "bf16")
    for compiled in (False, True)
)
BARE, STOCK, ADAPTED = "bare torch loop", "Trainer, windows in memory", "Trainer, keepwarm's dataset"


def planned(folder: Path, steps: int) -> Plan:
    """A plan of a base of a few steps and a stage of `steps`, in a folder of its own number of steps."""
    return small.plan(
        folder, 1, name=f"training-{steps}", model={"config": LLAMA}, tokenizer={"train": {"vocab_size": VOCABULARY}},
        sequence_length=SEQUENCE, global_batch_size=BATCH, base_tokens=8 * STEP_TOKENS,
        stage_tokens=steps * STEP_TOKENS, ladder=[{"rung": "replay", "shares": ["25%"]}], precision="fp32",
        optimizer={"lr_max": 3e-4},  # so low that rounding does not grow and the ways stay comparable
    )  # fmt: skip


def name_of(how: Computing) -> str:
    """keepwarm's ways by what they are."""
    return f"keepwarm {'compiled' if how.compiled else 'eager'} {how.precision}"


def keepwarm(plan: Plan, opened: OpenAttempt, how: Computing) -> None:
    """The attempt as `keepwarm run` trains it, in a folder of its own; its border is where a run may be stopped."""
    border, losses = Border(), [0.0]
    evaluation = replace(opened.attempt.evaluation, steps=())
    arm = name_of(how).replace(" ", "-")
    attempt = replace(opened.attempt, arm=arm, evaluation=evaluation)
    needed = {source.id for source in attempt.sources}
    job = Job(
        run_folder=opened.run_folder, plan_sha256="", attempt=attempt, header={"kind": "header"},
        sources={name: source for name, (source, _) in opened.feed.sources.items() if name in needed},
        heldout=heldout_of(plan, opened.feed), start=opened.start, identity=identity(plan, opened.feed),
        save_steps=attempt.steps, threads=1, how=how,
    )  # fmt: skip

    def tell(record: Mapping[str, Any]) -> None:
        if record["kind"] == "train":
            losses.append(record["loss"])

    def stop(seconds: float) -> bool:
        border(loss=losses[-1])
        return False

    train(alone(), job, Hooks(tell=tell, stop=stop))


def bare(opened: OpenAttempt) -> None:
    """What is left when everything is left out: batches in memory, forward, backward, clip, AdamW."""
    attempt, parts = opened.attempt, trainer_parts(opened)
    model, optimizer, clip = parts.model, parts.optimizer, attempt.optimizer.clip
    windows = windows_of(opened)
    rates = [float(attempt.schedule.lr(attempt.tokens_at(step))) for step in range(attempt.steps)]
    model.train()
    border, told = Border(), 0.0
    for step, lr in enumerate(rates):
        border(loss=told)
        batch = windows[step * BATCH : (step + 1) * BATCH]
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told = loss.item()


def windows_of(opened: OpenAttempt) -> torch.Tensor:
    """All samples of the attempt, (samples, S + 1), int64."""
    attempt = opened.attempt
    return torch.from_numpy(open_stream(attempt, opened.feed).batch(0, attempt.steps * BATCH)[0]).long()


class InMemory(torch.utils.data.Dataset):
    """Windows as inputs and targets, so that the Trainer's model computes as many positions as the others."""

    def __init__(self, windows: torch.Tensor) -> None:
        self.inputs, self.targets = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        targets = self.targets[number]
        return {"input_ids": self.inputs[number], "labels": targets, "shift_labels": targets}


def trainer(opened: OpenAttempt, adapted: bool) -> None:
    """The stock Trainer at its leanest."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    border, losses = Border(), [0.0]

    class Borders(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            border(loss=losses[-1])

    class Told(Trainer):
        def training_step(self, *given: Any, **more: Any) -> torch.Tensor:
            loss = super().training_step(*given, **more)
            losses.append(loss.item())
            return loss

    parts = trainer_parts(opened)
    Told(
        parts.model,
        TrainingArguments(
            str(opened.run_folder / "by-hand"), **parts.arguments, report_to="none", disable_tqdm=True, save_strategy="no",
            logging_strategy="no", use_cpu=True, remove_unused_columns=False,
        ),
        train_dataset=parts.dataset if adapted else InMemory(windows_of(opened)),
        optimizers=(parts.optimizer, parts.scheduler),
        callbacks=[Borders()],
    ).train()  # fmt: skip


def matmul(precision: str) -> float:
    """FLOP/s of a matrix product, by CPU seconds, as the steps are."""
    a, b = (torch.randn(MATMUL, MATMUL).to(machines.DTYPES[precision]) for _ in range(2))
    torch.mm(a, b)
    count, began = 0, time.process_time()
    while time.process_time() - began < MATMUL_SECONDS:
        torch.mm(a, b)
        count += 1
    return 2 * MATMUL**3 * count / (time.process_time() - began)


def work(folder: Path, steps: int, name: str) -> None:
    """In a process of its own: one of the works, until nobody asks for a step any more."""
    plan = planned(folder, steps)
    opened = resolve_attempt(plan, "stage2", listener=small.quiet())
    torch.set_num_threads(1)
    if name == BARE:
        bare(opened)
    elif name in (STOCK, ADAPTED):
        trainer(opened, name == ADAPTED)
    else:
        keepwarm(plan, opened, next(how for how in WAYS if name_of(how) == name))


def started(folder: Path, steps: int, name: str) -> tuple[Turns, float]:
    """A work before its second step, and the wall seconds of its first; nothing was compiled before."""
    command = [sys.executable, __file__, "--work", name, "--folder", str(folder), "--steps", str(steps)]
    with tempfile.TemporaryDirectory() as cache:
        turns = Turns(command, {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache})
        seconds = turns.step()["wall"]
    tell(f"{name}: first step {seconds:.1f} s")
    return turns, seconds


def first_steps(folder: Path, steps: int, pairs: int) -> dict[str, list[float]]:
    """Wall seconds of the first step, eager and compiled."""
    found: dict[str, list[float]] = {name_of(EAGER): [], name_of(COMPILED): []}
    for _ in range(pairs):
        for name, each in found.items():
            turns, seconds = started(folder, steps, name)
            each.append(seconds)
            turns.close()
    return found


def measured(folder: Path, attempt_steps: int, pairs: int, steps: int) -> tuple[dict[str, list[float]], float]:
    """CPU seconds a step of every work, pair by pair, and FLOP/s of matrix products by precision; the most that the
    losses of two works in fp32 and eager differ."""
    turns = {name: started(folder, attempt_steps, name)[0] for name in (*map(name_of, WAYS), BARE, STOCK, ADAPTED)}
    for turn in turns.values():
        for _ in range(WARMING - 1):
            turn.step()
    found: dict[str, list[float]] = {name: [] for name in (*turns, "fp32", "bf16")}
    apart = 0.0
    for number in range(pairs):
        seconds = dict.fromkeys(turns, 0.0)
        for _ in range(steps):
            took = {name: turn.step() for name, turn in turns.items()}
            for name, each in took.items():
                seconds[name] += each["cpu"]
            same = [took[name]["loss"] for name in (name_of(EAGER), BARE, STOCK, ADAPTED)]
            apart = max(apart, max(same) - min(same))
        for name, each in seconds.items():
            found[name].append(each / steps)
        for precision in ("fp32", "bf16"):
            found[precision].append(matmul(precision))
        tell(f"pair {number + 1} of {pairs}")
    for turn in turns.values():
        turn.close()
    return found, apart


def pair_words(by_precision: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2f} in {name}" for name, value in by_precision.items())


def print_speed(found: Mapping[str, list[float]], flops: Mapping[str, float], promised: float) -> None:
    """The table of tokens a CPU second, and of FLOP/s as a share of what a matrix product reaches."""
    ours = {how: found[name_of(how)] for how in WAYS}
    eager = name_of(EAGER)
    pays = promised >= machines.BF16_PAYS
    print("| way | tokens a CPU second | against | ratio (least-most) | bar |  |\n|---|---|---|---|---|---|")

    def line(way: str, peer: str, bar: float | None) -> None:
        tokens = STEP_TOKENS / statistics.median(found[way])
        print(row(f"{way} | {tokens:,.0f}", peer, over(found[peer], found[way]), Bar(bar) if bar else None))

    line(eager, BARE, 0.97)
    line(eager, STOCK, 1.0)
    line(eager, ADAPTED, None)
    line(STOCK, BARE, None)
    line(name_of(COMPILED), eager, 1.15)
    line(name_of(EAGER_BF16), eager, 1.5 if pays else None)
    line(name_of(COMPILED_BF16), eager, 1.8 if pays else None)
    print("\n| way | GFLOP/s | of the matrix product's | share (least-most) | bar |  |\n|---|---|---|---|---|---|")
    for how, bar in ((EAGER, 0.60), (COMPILED, 0.75), (EAGER_BF16, None), (COMPILED_BF16, None)):
        speeds = [flops["causal"] * STEP_TOKENS / each for each in ours[how]]
        peak = found[how.precision]
        way = f"{name_of(how)} | {statistics.median(speeds) / 1e9:.1f}"
        print(row(way, f"{statistics.median(peak) / 1e9:.1f}", over(speeds, peak), Bar(bar) if bar else None))


def print_constants(
    found: Mapping[str, list[float]], flops: Mapping[str, float], firsts: Mapping[str, list[float]]
) -> None:
    """What `run.compile: auto` reckons with, against what was measured."""
    early, late = firsts[name_of(EAGER)], firsts[name_of(COMPILED)]
    cost = [compiled - eager for compiled, eager in zip(late, early, strict=True)]
    print("\n| engine/machine.py, on a CPU | stands as | measured in fp32 | in bf16 |\n|---|---|---|---|")
    print(f"| COMPILE_SECONDS: wall, first step compiled less eager | {machines.COMPILE_SECONDS['cpu']:.0f} "
          f"| {spread(cost, 1)} |  |")  # fmt: skip
    saved, shares = [], []
    for eager, compiled in ((EAGER, COMPILED), (EAGER_BF16, COMPILED_BF16)):
        taken = over(found[name_of(compiled)], found[name_of(eager)])
        saved.append(spread([1 - each for each in taken]))
        speeds = [flops["whole"] * STEP_TOKENS / each for each in found[name_of(eager)]]
        shares.append(spread(over(speeds, found[eager.precision])))
    print(
        f"| COMPILE_SAVES: share of an eager step | {pair_words(machines.COMPILE_SAVES['cpu'])} | {' | '.join(saved)} |"
    )
    print(
        f"| EAGER_SHARE: of the peak, whole windows counted | {pair_words(machines.EAGER_SHARE)} | {' | '.join(shares)} |"
    )
    print(f"\nFirst steps, wall seconds: eager {spread(early, 1)}, compiled {spread(late, 1)}.")


def flops_a_token(opened: OpenAttempt) -> tuple[int, dict[str, float]]:
    """Parameters, and FLOPs of a token with attention over the whole window (as metrics.jsonl counts) or its half."""
    model = trainer_parts(opened).model
    whole = machines.flops_per_token(model, SEQUENCE)
    attention = machines.flops_per_token(model, SEQUENCE) - machines.flops_per_token(model, 0)
    return sum(p.numel() for p in model.parameters()), {"whole": whole, "causal": whole - attention / 2}


def tell(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="steps of each in a pair")
    parser.add_argument("--folder", type=Path, help="where the run folder goes; by default a temporary one")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work is not None:
        work(asked.folder, asked.steps, asked.work)
    with tempfile.TemporaryDirectory() as temporary:
        folder, steps = asked.folder or Path(temporary), WARMING + asked.pairs * asked.steps + 1
        torch.set_num_threads(1)
        opened = resolve_attempt(planned(folder, steps), "stage2", listener=small.quiet())
        parameters, flops = flops_a_token(opened)
        machine = machines.measure_machine(alone().device, 1)
        firsts = first_steps(folder, steps, asked.pairs)
        found, apart = measured(folder, steps, asked.pairs, asked.steps)
    promised = machine.peak["bf16"] / machine.peak["fp32"]
    print(
        f"{parameters / 1e6:.2f} M parameters, {BATCH} x {SEQUENCE} tokens a step, one thread, {asked.pairs} pairs of "
        f"{asked.steps} steps each. The losses of the eager ways in fp32 are within {apart:.0e} nats of each other "
        f"over {asked.pairs * asked.steps} steps.\n"
    )
    print_speed(found, flops, promised)
    print_constants(found, flops, firsts)
    print(
        f"\nThe probe at the start of a run: {machine.peak['fp32'] / 1e9:.1f} GFLOP/s in fp32, "
        f"{machine.peak['bf16'] / 1e9:.1f} in bf16, so {promised:.1f} x ({machines.chosen_precision('auto', machine)[0]} "
        f"is taken; bf16 from {machines.BF16_PAYS} on), by wall clock. In pairs, by CPU seconds: "
        f"{spread(over(found['bf16'], found['fp32']), 1)} x."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
