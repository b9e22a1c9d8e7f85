"""A tiny real trainer on DeepSpeed ZeRO-1, run by tests in processes of its own (gloo, CPU).

    python -m torch.distributed.run --nproc_per_node 2 zero_trainer.py train FOLDER    3 steps, saves FOLDER/global_step3
    python -m torch.distributed.run --nproc_per_node 1 zero_trainer.py load FOLDER OUT    OUT: what the engine holds once
        it has loaded the universal copy that FOLDER's latest_universal names

`train` has one no-decay group of a single element, and gradients accumulated in fp32, which selects the optimizer that
Megatron-DeepSpeed uses: its padding lies on more than one rank.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # it would be compiled for minutes


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(64, 32, bias=False), torch.nn.Linear(32, 64, bias=False)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return ((self.second(torch.tanh(self.first(x))) * self.scale - x) ** 2).mean()


def named(shapes):
    """A module with parameters of these dotted names."""
    root = torch.nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        module = root
        for each in path:
            if not hasattr(module, each):
                module.add_module(each, torch.nn.Module())
            module = getattr(module, each)
        module.register_parameter(last, torch.nn.Parameter(torch.full(shape, 0.5)))
    root.forward = lambda: sum((each.float() ** 2).sum() for each in root.parameters())
    return root


def engine_of(model, precision, load_universal=False):
    vectors = [each for each in model.parameters() if each.ndim < 2]
    groups = [
        {"params": [each for each in model.parameters() if each.ndim > 1], "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    ranks = dist.get_world_size()
    config = {
        "train_batch_size": 8, "train_micro_batch_size_per_gpu": 8 // ranks, "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True, "gradient_clipping": 1.0, "checkpoint": {"load_universal": load_universal},
        **precision,
    }  # fmt: skip
    return deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=1e-2), config=config)[0]


def train(engine):
    for step in range(3):
        generator = torch.Generator().manual_seed(100 + step)
        x = torch.randn(8, 64, generator=generator).chunk(dist.get_world_size())[dist.get_rank()].bfloat16()
        engine.backward(engine(x))
        engine.step()


def main(mode, folder, out=None):
    deepspeed.init_distributed("gloo")
    if mode == "train":
        engine = engine_of(Tiny(), {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}})
        train(engine)
        engine.save_checkpoint(folder)
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        held = {
            name: [
                safe_get_full_fp32_param(each).tolist(),
                *(safe_get_full_optimizer_state(each, key).tolist() for key in ("exp_avg", "exp_avg_sq")),
            ]
            for name, each in engine.module.named_parameters()
        }
        if dist.get_rank() == 0:
            Path(folder, "held.json").write_text(json.dumps(held))
    else:
        step = Path(folder) / (Path(folder) / "latest_universal").read_text()
        state = torch.load(step / "mp_rank_00_model_states.pt", weights_only=False)
        shapes = {name: shape for group in state["param_shapes"] for name, shape in group.items()}
        engine = engine_of(named(shapes), {}, load_universal=True)
        _, client = engine.load_checkpoint(folder)
        inner = engine.optimizer.optimizer
        firsts = [group["params"][0] for group in inner.param_groups]  # ZeRO's flat parameters, one a group
        torch.save({
            "weights": {name: each.detach().clone() for name, each in engine.module.named_parameters()},
            "moments": [[inner.state[each][key] for key in ("exp_avg", "exp_avg_sq")] for each in firsts],
            "step": [float(inner.state[each]["step"]) for each in firsts],
            "groups": [{key: value for key, value in group.items() if key != "params"} for group in inner.param_groups],
            "iteration": client["iteration"],
        }, out)  # fmt: skip


main(*sys.argv[1:])
