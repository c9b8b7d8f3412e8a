"""FSDP 2: full fine-tuning in which each process keeps a shard of weights, gradients and moments.

accelerate shards the model (torch's ``fully_shard``). Each decoder layer of the language model is gathered before it
runs and freed after it; embedding, head, projector and tower are gathered for the whole step. Checkpoints hold whole
tensors, so any number of processes resumes from them.
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from common.errors import UserError
from settings import Config
from training.distributed import rank, world_size


def is_wanted(asked: bool) -> bool:
    """``asked`` is ``train.fsdp``; ``accelerate launch`` asks by an environment variable."""
    return bool(asked) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def require_fit(config: Config) -> None:
    """FSDP is for full fine-tuning by several processes; combinations that were never tried are refused.

    Raises:
        UserError: names the setting that does not go with it.
    """
    if world_size() == 1:
        raise UserError("FSDP: there is only one process; start several with torchrun or accelerate launch")
    for part, fits in (("language", ("full",)), ("vision", ("frozen", "last_blocks", "full"))):
        if (how := getattr(config, part).train) not in fits:
            plain = "start it with plain torchrun or configs/accelerate/ddp.yaml"
            raise UserError(f"FSDP is for full fine-tuning, but {part}.train is {how}, which needs no shards; {plain}")
    if "8bit" in config.train.optim:
        raise UserError(f"train.optim = {config.train.optim}: bitsandbytes cannot shard its moments; use adamw_torch")
    if config.train.torch_compile:
        raise UserError("train.torch_compile does not go with FSDP here; set it to false")
    only = {"version": "2", "cpu_ram_efficient_loading": "false", "activation_checkpointing": "false"}
    for name, right in only.items():
        found = os.environ.get(f"FSDP_{name.upper()}", right).lower()
        if found != right:
            where = "set it as in configs/accelerate/fsdp.yaml"
            raise UserError(f"FSDP: fsdp_{name} is {found}, and only {right} can be used here; {where}")


def plugin() -> FullyShardedDataParallelPlugin:
    """What configs/accelerate/fsdp.yaml says, for a run that torchrun started with ``train.fsdp``."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return FullyShardedDataParallelPlugin()  # reads the file's values from the environment
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )


def prepare(accelerator: Accelerator, wanted: FullyShardedDataParallelPlugin, dtype: torch.dtype) -> None:
    """Let accelerate shard the model on any device, and reduce gradients in fp32."""
    state = accelerator.state
    if getattr(state, "fsdp_plugin", None) is None:  # accelerate 1.15 ignores it without a GPU; torch's gloo can shard
        state.fsdp_plugin, state.distributed_type = wanted, DistributedType.FSDP
    if dtype == torch.bfloat16:  # accelerate's own policy would round the loss and the sum of the gradients to 8 bits
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        state.fsdp_plugin.mixed_precision_policy = policy


def describe(model: torch.nn.Module) -> str:
    own = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters())
    total = sum(p.numel() for p in model.parameters())
    return f"sharded   {own:,} of {total:,} parameters on this one of {world_size()} processes (FSDP)"


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole tensors from the shards, on the CPU of the first process. All processes must call it; the others get {}."""
    gathered = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if not rank():
            gathered[name] = full.detach().cpu()
    return gathered
