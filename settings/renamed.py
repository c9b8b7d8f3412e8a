"""Keys that do not exist here: what to write instead, or why there is no such key."""

from __future__ import annotations

# Names of older versions and of other projects: what to write instead.
RENAMED = {
    "data.held_out": "data.validation (checkpoints are chosen on it) and data.test (evaluate.py scores it)",
    "data.stream_held_out": "data.stream_validation",
    "train.warmup_ratio": "train.warmup_steps (below 1 it is a share of all steps)",
    "train.evaluation_strategy": "train.eval_strategy",
    "train.group_by_length": "data.tokens_per_batch (batches hold samples of similar length anyway)",
    "train.logging_dir": "train.run (for TensorBoard set the TENSORBOARD_LOGGING_DIR environment variable)",
    "train.overwrite_output_dir": "train.run (give every run its own name)",
    "train.save_safetensors": "train.save_steps (checkpoints are always safetensors)",
    "train.no_cuda": "train.use_cpu",
    "train.batch_size": "train.per_device_train_batch_size",
    "train.lr": "train.learning_rate",
    "train.epochs": "train.num_train_epochs",
    "train.patience": "train.early_stopping_patience",
    "generate.compile": "generate.cuda_graphs",
    "lora.rank": "lora.r",
    "lora.lora_r": "lora.r",
    "lora.alpha": "lora.lora_alpha",
}

# Fields of TrainingArguments and LoraConfig that are no keys here: the reason, then the names.
_REASONS = {
    "train": {
        "not set here, the folder is made of train.output and train.run": "output_dir",
        "not set here, every batch holds what the model takes": "remove_unused_columns",
        "not set here, labels is the only one": "label_names",
        "not set here, run train.py --resume": "resume_from_checkpoint restore_callback_states_from_checkpoint",
        "not set here, every supervised token counts the same": "average_tokens_across_devices",
        "not set here, the loss is the cross entropy of the answers": "label_smoothing_factor neftune_noise_alpha",
        "not set here, the optimiser's options are train.adam_beta1, adam_beta2, adam_epsilon and weight_decay": (
            "optim_args optim_target_modules"
        ),
        "not set here, the 16-bit type is bf16: see train.bf16": "fp16 tf32",
        "not set here, evaluation computes as training does": "bf16_full_eval fp16_full_eval",
        "not set here, evaluation gives the validation loss: see train.eval_strategy and train.eval_steps": (
            "eval_delay eval_on_start prediction_loss_only eval_do_concat_batches eval_use_gather_object "
            "eval_accumulation_steps include_for_metrics batch_eval_metrics"
        ),
        "not set here, the best checkpoint has the lowest validation loss": "metric_for_best_model greater_is_better",
        "not set here, see train.max_nonfinite_steps": "logging_nan_inf_filter",
        "not set here, see train.logging_steps": (
            "logging_strategy logging_first_step log_on_each_node log_level log_level_replica "
            "include_num_input_tokens_seen"
        ),
        "not set here, the bar is drawn on a terminal only; data.progress=false turns it off": "disable_tqdm",
        "not set here, the tracker's run is named by train.run": (
            "run_name project trackio_space_id trackio_bucket_id trackio_static_space_id"
        ),
        "not set here, batches hold samples of similar length, and every sample is used": (
            "train_sampling_strategy length_column_name dataloader_drop_last"
        ),
        "not set here, workers use torch's defaults": ("dataloader_multiprocessing_context dataloader_in_order"),
        "not set here, when a batch does not fit, the error says what to lower": "auto_find_batch_size",
        "not set here, see train.gradient_checkpointing": (
            "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing_kwargs"
        ),
        "not set here, see train.torch_compile": "torch_compile_backend torch_compile_mode",
        "not set here, Liger knows only transformers' own models": "use_liger_kernel liger_kernel_config",
        "not set here, training keeps no cache of keys and values": "use_cache",
        "not set here, set the environment variable PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True": (
            "torch_empty_cache_steps"
        ),
        "not set here, every trained parameter gets a gradient in every step": "ddp_find_unused_parameters",
        "not set here, torchrun or accelerate launch starts the processes: see docs/scaling.md": (
            "accelerator_config parallelism_config local_rank ddp_bucket_cap_mb ddp_broadcast_buffers "
            "ddp_static_graph ddp_backend ddp_timeout"
        ),
        "not set here, see train.fsdp": "deepspeed",
        "not set here, FSDP has one setting: see train.fsdp and configs/accelerate/fsdp.yaml": "fsdp_config",
        "not set here, --resume continues at the exact sample": "ignore_data_skip",
        "not set here, SIGTERM always saves a checkpoint": "enable_jit_checkpoint",
        "not set here, the first process writes all files": "save_on_each_node",
        "not set here, every checkpoint can be resumed": "save_only_model",
        "not set here, train.seed decides every random number": "full_determinism",
        "not set here, train.py --dry-run measures memory and time": "debug skip_memory_metrics",
        "not set here, train.py trains and evaluate.py evaluates": "do_train do_eval do_predict",
        "not set here, nothing is uploaded; a checkpoint is a plain folder": (
            "push_to_hub hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision"
        ),
        "not set here, the config is saved beside every checkpoint: set the HF_TOKEN environment variable": "hub_token",
    },
    "lora": {
        "not set here, it is always CAUSAL_LM": "task_type",
        "not set here, it is always LORA": "peft_type",
        "not set here, it is off in training and on for answers": "inference_mode",
        "not set here, it is vision.path or language.path": "base_model_name_or_path",
        "not set here, it belongs to the base model": "revision",
        "not set here, peft fills it in": "auto_mapping peft_version runtime_config",
        "not supported, it makes another model of the base; leave it out": "layer_replication",
        "not supported, that kind of layer is not in these models; leave it out": (
            "fan_in_fan_out megatron_config megatron_core qalora_group_size use_qalora"
        ),
        "not supported, adapters are plain LoRA, rsLoRA or DoRA; leave it out": (
            "alora_invocation_tokens arrow_config kasa_config monteclora_config use_bdlora velora_config "
            "ensure_weight_tying"
        ),
        "not supported, this start is computed from data before training; see lora.init_lora_weights": (
            "corda_config eva_config loftq_config lora_ga_config"
        ),
    },
}
REFUSED = {
    f"{section}.{name}": reason
    for section, reasons in _REASONS.items()
    for reason, names in reasons.items()
    for name in names.split()
}

# Refused keys whose value an error must not repeat.
SECRET = {"train.hub_token"}
