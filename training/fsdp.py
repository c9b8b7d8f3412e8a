"""FSDP 2: a fully trained model of which each process keeps a share of weights, gradients and moments.

accelerate shards the model (torch's ``fully_shard``): each decoder layer of the language model is gathered when it is
used and given back behind it; what is not in a layer (embedding, head, projector, tower) is gathered for the whole
step. Checkpoints do not show any of this: they hold whole tensors, so any number of processes goes on from them.
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
    """``asked`` is ``train.fsdp``; a file of ``accelerate launch`` asks in the environment."""
    return bool(asked) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def require_fit(config: Config) -> None:
    """FSDP is for full fine-tuning by several processes, and goes with what was tried with it.

    Raises:
        UserError: which setting does not go with it.
    """
    if world_size() == 1:
        raise UserError("FSDP: there is one process alone; start several with torchrun or accelerate launch")
    for part, fits in (("language", ("full",)), ("vision", ("frozen", "last_blocks", "full"))):
        if (how := getattr(config, part).train) not in fits:
            plain = "start it with plain torchrun or configs/accelerate/ddp.yaml"
            raise UserError(f"FSDP is for full fine-tuning, but {part}.train is {how}, which needs no shards; {plain}")
    if "8bit" in config.train.optim:
        raise UserError(
            f"train.optim = {config.train.optim}: bitsandbytes cannot share out its moments; use adamw_torch"
        )
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
    if getattr(state, "fsdp_plugin", None) is None:  # accelerate 1.15 knows FSDP on GPUs only; torch has it on CPUs too
        state.fsdp_plugin, state.distributed_type = wanted, DistributedType.FSDP
    if dtype == torch.bfloat16:  # accelerate's own policy would round the loss and the sum of the gradients to 8 bits
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        state.fsdp_plugin.mixed_precision_policy = policy


def describe(model: torch.nn.Module) -> str:
    own = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters())
    total = sum(p.numel() for p in model.parameters())
    return f"sharded   {own:,} of {total:,} parameters on this one of {world_size()} processes (FSDP)"


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put together what the processes share, on the first one's CPU; the others get nothing. All must call it."""
    gathered = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if not rank():
            gathered[name] = full.detach().cpu()
    return gathered
