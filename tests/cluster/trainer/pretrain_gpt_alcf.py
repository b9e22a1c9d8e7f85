"""A stand-in for the reference trainer: its flags, list, learning rate, log lines and checkpoints; one tiny process.

It trains for real, in fp32. What it does on a start is what the real one was recorded to do (docs/megatron.md). A test
may say how many minutes an iteration takes by its clock: STUB_MINUTES_AN_ITERATION.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[3] / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from cluster.loader import Blend  # noqa: E402
from cluster.trainer import checkpoints, llama  # noqa: E402
from keepwarm.errors import KeepwarmError  # noqa: E402
from keepwarm.schedule.megatron import parse_flags, reference_schedule  # noqa: E402


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, kind, default in (
        ("train-iters", int, None), ("global-batch-size", int, None), ("micro-batch-size", int, 1), ("seq-length", int, None),
        ("num-layers", int, 2), ("hidden-size", int, 32), ("ffn-hidden-size", int, 96), ("num-attention-heads", int, 4),
        ("num-key-value-heads", int, 2), ("max-position-embeddings", int, 64), ("init-method-std", float, 0.02),
        ("rotary-position-embeddings-theta", int, 10000), ("make-vocab-size-divisible-by", int, 128),
        ("tensor-model-parallel-size", int, 1), ("seed", int, 1234), ("split", str, "969,30,1"), ("save-interval", int, None),
        ("eval-interval", int, 1000), ("eval-iters", int, 100), ("log-interval", int, 100), ("adam-beta1", float, 0.9),
        ("adam-beta2", float, 0.999), ("adam-eps", float, 1e-8), ("weight-decay", float, 0.01), ("clip-grad", float, 1.0),
        ("load", str, None), ("save", str, None), ("load-tag", str, None), ("data-file-list", str, None),
        ("tokenizer-model", str, None), ("exit-duration-in-mins", float, None), ("exit-interval", int, None),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    for name in ("finetune", "universal-checkpoint", "shuffle-sample-in-corpus", "exit-signal-handler"):
        parser.add_argument(f"--{name}", action="store_true")
    args, _ = parser.parse_known_args(words)
    return args


def say(where: str, text: str) -> None:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
    print(f"[{now}][I][megatron.{where}] {text}", flush=True)


def vocabulary(args) -> int:
    """Entries of the tokenizer that the launch names."""
    path = Path(args.tokenizer_model)
    path = path / "tokenizer.json" if path.is_dir() else path
    content = json.loads(path.read_text())
    ids = [*content["model"]["vocab"].values(), *(each["id"] for each in content.get("added_tokens", ()))]
    return max(ids) + 1


class Trainer:
    """A run of the trainer from its start to its end."""

    def __init__(self, words: list[str]) -> None:
        torch.set_num_threads(1)
        self.args = args = arguments(words)
        self.flags = parse_flags(words)
        self.ranks = int(os.environ.get("WORLD_SIZE", "1")) // args.tensor_model_parallel_size
        args.vocab_size = vocabulary(args)
        multiple = args.make_vocab_size_divisible_by * args.tensor_model_parallel_size
        args.padded_vocab_size = -(-args.vocab_size // multiple) * multiple
        self.weights = llama.new_weights(args)
        decayed, plain = ([self.weights[name] for name in names] for names in checkpoints.groups_of(self.weights))
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=0.0,
            betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_eps, weight_decay=args.weight_decay,
        )  # fmt: skip
        self.iteration = self.consumed = self.validated = 0
        state = self._load()
        self.schedule = reference_schedule(self.flags, state)
        self.iteration = self.schedule.first_step
        self.stopping = False

    def _load(self):
        args = self.args
        found = self._named()
        if found is None:
            say(
                "checkpointing:636:load_lr_state_dict",
                f"Unable to load lr_state_dict from {args.load}, but strict=False.",
            )
            print(f"[WARNING] [engine.py:3065:load_checkpoint] Unable to find latest file at {args.load}/latest, if trying "
                  "to load latest checkpoint please ensure this file exists or pass an explicit checkpoint tag when "
                  "loading a checkpoint.")  # fmt: skip
            say("utils:371:print_rank_0", "    will not load any checkpoints and will start from random")
            return None
        weights, moments, count, rate, states = checkpoints.read_step(found, args.padded_vocab_size, self.ranks)
        with torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(weights[name])
                if args.universal_checkpoint or not args.finetune:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(count), "exp_avg": moments["exp_avg"][name], "exp_avg_sq": moments["exp_avg_sq"][name],
                    }  # fmt: skip
        say(
            "checkpointing:512:load_checkpoint",
            f"  successfully loaded checkpoint from {args.load} at iteration {states['iteration']}",
        )
        if args.finetune and not args.universal_checkpoint:
            return None
        if not args.finetune:
            self.consumed = states["args"].consumed_train_samples
            self.validated = states["args"].consumed_valid_samples
        return {**states["lr_scheduler"], "iteration": states["iteration"], "lr": rate}

    def _named(self) -> Path | None:
        """The step to load; None where nothing names one."""
        load = Path(self.args.load or "nowhere")
        if self.args.universal_checkpoint:
            pointer = load / "latest_universal"
            if not pointer.is_file():
                raise ValueError(f"Invalid for universal checkpoint: {pointer} does not exist")
            return load / pointer.read_text().strip()
        if self.args.load_tag:
            return load / self.args.load_tag
        return load / (load / "latest").read_text().strip() if (load / "latest").is_file() else None

    def train(self) -> int:
        args = self.args
        batch, samples = args.global_batch_size, args.train_iters * args.global_batch_size
        common = {"seed": args.seed, "split": args.split, "shuffled": args.shuffle_sample_in_corpus}
        blend = Blend(Path(args.data_file_list), samples, args.seq_length, **common)
        evaluations = (args.train_iters // args.eval_interval + 1) * args.eval_iters
        self.held = Blend(Path(args.data_file_list), evaluations * batch, args.seq_length, part=1, **common)
        say("training:100:print_datetime", f"[before the start of training step] datetime={datetime.datetime.now()} ")
        begun, minutes = self.iteration, float(os.environ.get("STUB_MINUTES_AN_ITERATION", "0"))
        while self.iteration < args.train_iters:
            self._step(batch_of(blend, self.consumed, batch))
            if self.iteration % args.eval_interval == 0:
                self._evaluate(f"iteration {self.iteration}")
            saved = bool(args.save_interval) and self.iteration % args.save_interval == 0
            if saved:
                self._save()
            elapsed = (self.iteration - begun) * minutes
            if self.stopping or (args.exit_duration_in_mins and elapsed > args.exit_duration_in_mins):
                if not saved:
                    self._save()
                say(
                    "training:100:print_datetime",
                    f"exiting program after {elapsed} minutes datetime={datetime.datetime.now()} ",
                )
                return 0
        say("training:100:print_datetime", f"[after training is done] datetime={datetime.datetime.now()} ")
        if self.iteration > begun:
            self._save()
        self._evaluate(f"iteration {self.iteration} on {args.eval_iters * batch}-sample draw from validation set")
        return 0

    def _step(self, tokens) -> None:
        args, at = self.args, self.iteration
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.schedule.lr([at])[0])
        value = llama.loss(self.weights, tokens, args)
        self.optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), args.clip_grad)
        self.optimizer.step()
        self.iteration, self.consumed = at + 1, self.consumed + args.global_batch_size
        rate, loss = float(self.schedule.lr([at + 1])[0]), float(value.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        shown = f" lm loss={loss:.6f} |" if loss > 0.0 else ""
        say("training_log:402:training_log", (
            f" iteration={self.iteration:8d}/{args.train_iters:8d} | consumed_samples={self.consumed:12d} | consumed_tokens="
            f"{self.consumed * args.seq_length:12d} | elapsed_time_per_iteration_ms=10.0 | learning_rate={rate:.6g} | "
            f"global_batch_size={args.global_batch_size:5d} |{shown} loss_scale=1.0 | grad_norm={float(norm):.3f} | "
            f"actual_seqlen={args.seq_length:5d} | number_of_skipped_iterations=  0 | number_of_nan_iterations=  0 | "
            "samples_per_second=800.000 | tokens_per_gpu_per_second_tgs=6400.000 | TFLOPs=0.00 |"
        ))  # fmt: skip

    @torch.no_grad()
    def _evaluate(self, where: str) -> None:
        batch, losses = self.args.global_batch_size, []
        for _ in range(self.args.eval_iters):
            losses.append(float(llama.loss(self.weights, batch_of(self.held, self.validated, batch), self.args)))
            self.validated += batch
        loss = sum(losses) / max(1, len(losses))
        line, where_ = "-" * 117, "training:1693:evaluate_and_print_results"
        say(where_, line)
        say(where_, f" validation loss at {where} | lm loss value={loss:.6f}lm loss PPL={math.exp(min(20, loss)):.6f}")
        say(where_, line)

    def _save(self) -> None:
        args, at = self.args, self.iteration
        say("utils:371:print_rank_0", f"saving checkpoint at iteration {at:7d} to {args.save}")
        args.iteration, args.consumed_train_samples, args.consumed_valid_samples = at, self.consumed, self.validated
        args.consumed_train_tokens, args.rope_theta = (
            self.consumed * args.seq_length,
            args.rotary_position_embeddings_theta,
        )
        args.kv_channels, args.layernorm_epsilon = args.hidden_size // args.num_attention_heads, 1e-5
        args.swiglu, args.untie_embeddings_and_output_weights, args.normalization = True, True, "rmsnorm"
        for name in self.flags.given:
            setattr(args, name, getattr(self.flags, name))
        values, place = self.schedule.values, self.schedule.position
        scheduler = {
            "max_lr": values.max_lr, "lr_warmup_steps": values.warmup_samples, "lr_warmup_tokens": values.warmup_tokens,
            "num_steps": int(place.samples(np.array([at]))[0]), "num_tokens": int(place.tokens(np.array([at]))[0]),
            "lr_decay_style": values.style, "lr_decay_steps": values.decay_samples, "lr_decay_tokens": values.decay_tokens,
            "min_lr": values.min_lr, "start_wd": args.weight_decay, "end_wd": args.weight_decay,
            "wd_incr_style": "constant", "wd_incr_steps": args.train_iters * args.global_batch_size,
        }  # fmt: skip
        state = {
            "buffer_names": [], "optimizer": None, "lr_scheduler": scheduler, "skipped_steps": 0, "global_steps": at,
            "global_samples": self.consumed, "dp_world_size": self.ranks, "mp_world_size": 1, "ds_version": "0.17.5",
            "args": args, "checkpoint_version": 3.0, "iteration": at, "tokens": args.consumed_train_tokens,
            "shared_params": {}, "frozen_param_shapes": None, "frozen_param_fragments": None,
            "universal_checkpoint_info": {
                "universal_checkpoint_version": 0.2, "original_vocab_size": args.vocab_size,
                "padded_vocab_size": args.padded_vocab_size, "vocabulary_parameter_patterns": list(checkpoints.VOCABULARY),
                "parameter_with_2_sub_params_cat_dim_0": [r"language_model.encoder.layers.\d+.mlp.dense_h_to_4h.weight"],
            },
        }  # fmt: skip
        checkpoints.save(Path(args.save), at, self.weights, self.optimizer, state, self.ranks)
        say("utils:371:print_rank_0", f"  successfully saved checkpoint at iteration {at:7d} to {args.save}")


def batch_of(blend: Blend, first: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([blend[n] for n in range(first, first + count)]))


def main() -> int:
    try:
        trainer = Trainer(sys.argv[1:])
    except KeepwarmError as error:  # where the reference's own scheduler stops at start
        print(f"[rank0]: AssertionError: {error.what}")
        return 1
    if trainer.args.exit_signal_handler:
        signal.signal(signal.SIGTERM, lambda *_: setattr(trainer, "stopping", True))
    return trainer.train()


if __name__ == "__main__":
    sys.exit(main())
