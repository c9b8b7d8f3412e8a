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
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments

from model.ranks import rank, world_size
from settings import Config, UserError


def is_wanted(arguments: TrainingArguments) -> bool:
    """Asked for by ``train.fsdp``, or by a file of ``accelerate launch``."""
    return bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def require_fit(config: Config, arguments: TrainingArguments) -> None:
    """FSDP is for full fine-tuning by several processes, and goes with what was tried with it.

    Raises:
        UserError: which setting does not go with it.
    """
    plain = "start it with plain torchrun or configs/accelerate/ddp.yaml"
    if world_size() == 1:
        raise UserError("FSDP: there is one process alone; start several with torchrun or accelerate launch")
    if config.language.train != "full" or config.vision.train == "lora":
        part = "language" if config.language.train != "full" else "vision"
        how = getattr(config, part).train
        raise UserError(f"FSDP is for full fine-tuning, but {part}.train is {how}, which needs no shards; {plain}")
    if "8bit" in arguments.optim or "paged" in arguments.optim:
        raise UserError(f"train.optim = {arguments.optim}: bitsandbytes cannot share out its moments; use adamw_torch")
    if arguments.torch_compile:
        raise UserError("train.torch_compile does not go with FSDP here; set it to false")
    check(FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {})))


def prepare(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Let accelerate shard the model on any device, and reduce gradients in fp32."""
    state = accelerator.state
    if getattr(state, "fsdp_plugin", None) is None:  # accelerate 1.15 knows FSDP on GPUs only; torch has it on CPUs too
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
        state.distributed_type = DistributedType.FSDP
    if arguments.bf16:  # accelerate's own policy would round the loss and the sum of the gradients to 8 bits
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        state.fsdp_plugin.mixed_precision_policy = policy


def check(plugin: FullyShardedDataParallelPlugin) -> None:
    """FSDP's own settings, in accelerate's file or in ``train.fsdp_config``.

    Raises:
        UserError: one that cannot be used here.
    """
    wrong = {
        "fsdp_version": plugin.fsdp_version != 2 and "2",
        "fsdp_cpu_ram_efficient_loading": plugin.cpu_ram_efficient_loading and "false",
        "fsdp_activation_checkpointing": plugin.activation_checkpointing and "false, and train.gradient_checkpointing",
    }
    for name, right in wrong.items():
        if right:
            raise UserError(f"FSDP: {name} cannot be used here; set it to {right} (see configs/accelerate/fsdp.yaml)")


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


def like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value``, which all processes have whole, as this process's share where ``tensor`` is one."""
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    share = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)  # takes, sends nothing
    return share.to(tensor.device)
