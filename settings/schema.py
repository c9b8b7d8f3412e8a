"""The sections of a config: every key with its type, range, default and description.

A field's description completes the sentence "expected ..." in the error about that field. Importing this module costs
no torch, transformers or peft: a mistake in a config must be reported before those are loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from visual.geometry import PatchGrid


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _path_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip() or "\0" in value:
        raise ValueError("empty path")
    return os.path.expanduser(value)


def _minus_one_as_null(value: Any) -> Any:
    return None if type(value) is int and value == -1 else value


def _null_as_section(value: Any) -> Any:
    return {} if value is None else value


Text = Annotated[str, Field(pattern=r"\S")]
Count = Annotated[int, Field(ge=1)]
Layer = Annotated[int, Field(le=-1)]
NotNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
FilePath = Annotated[Path, BeforeValidator(_path_text), PlainSerializer(Path.as_posix, when_used="json")]
ModelPath = Annotated[Text, BeforeValidator(_path_text)]
FilePaths = Annotated[list[FilePath], BeforeValidator(_as_list), Field(min_length=1)]
# A name that Windows accepts too: no slash, no reserved character, no dot or space at the end.
_FOLDER_NAME = r'^[^<>:"/\\|?*\x00-\x1f]*[^<>:"/\\|?*\x00-\x1f. ]$'

FLAG = "true or false"
COUNT = "a whole number, 1 or more"
COUNT_OR_NULL = "a whole number, 1 or more, or null"
RATE_OR_NULL = "a number above 0, or null for train.learning_rate"
SECTION = "a section (key: value)"
SHARDS = "the path of .tar or .parquet shards, with * in it for many, or a list of them, or null"
SOURCES = "a list of sections with name, format, annotations, images"
_SHARE_OR_LIST = "a share of the images from 0 to below 1, or the path of a text file of image names"
_WRITTEN = "the path of a JSON file that process_image.py writes"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(Section):
    """One data set in its own format."""

    name: Text = Field(description="a name for this source, as text")
    # The names are those of dataset.converters.FORMATS. process_image.py checks them there, so they are named once.
    format: Text = Field("auto", description="the name of a format, or auto to find it by looking at the files")
    annotations: FilePaths = Field(description="the path of a file, or of a folder of Parquet files, or a list of them")
    questions: FilePaths | None = Field(None, description="the path of a file, or a list of them, or null")
    columns: Annotated[dict[str, Text], BeforeValidator(_null_as_section)] = Field(
        {}, description="a section (our name of a column: its name in the file)"
    )
    images: FilePaths = Field(description="the path of a folder, or a list of them")
    language: Literal["en", "zh", "auto"] = Field("auto", description="en, zh or auto")
    boxes: Literal["pixels", "unit", "0-999", "0-1000"] | None = Field(
        None, description="pixels, unit, 0-999 or 0-1000, or null where the texts have no boxes"
    )
    box_format: Literal["xyxy", "xywh"] | None = Field(None, description="xyxy, xywh, or null for the format's own")
    box_picture: Literal["upright", "stored", "padded"] = Field("upright", description="upright, stored or padded")
    metric: Text = Field("exact_match", description="the name of a metric, such as exact_match")


class Data(Section):
    """What process_image.py reads and writes and how the result is split, or the shards that training streams."""

    sources: list[Source] = Field(description=SOURCES)
    image_map: FilePath = Field(description=_WRITTEN)
    annotations: FilePath = Field(description=_WRITTEN)
    skipped: FilePath = Field(description=_WRITTEN)
    seed: NotNegative = Field(0, description="a whole number, 0 or more")
    keep_all_captions: bool = Field(False, description=FLAG)
    images_per_conversation: Count = Field(1, description=COUNT)
    video_frames: Count = Field(8, description=COUNT)
    video_times: bool = Field(False, description=FLAG)
    frames: FilePath = Field(Path("data/frames"), description="the path of a folder")
    max_skipped: float = Field(0.05, ge=0, le=1, description="a share from 0 to 1")
    follow_links: bool = Field(True, description=FLAG)
    max_pixels: Count = Field(50_000_000, description="a whole number of pixels, 1 or more")
    validation: Annotated[float, Field(ge=0, lt=1)] | FilePath = Field(0.02, description=_SHARE_OR_LIST)
    test: Annotated[float, Field(ge=0, lt=1)] | FilePath = Field(0.02, description=_SHARE_OR_LIST)
    allow_unmatched: bool = Field(False, description=FLAG)
    message_trees: bool = Field(True, description=FLAG)
    images_first: bool = Field(False, description=FLAG)
    tokens_per_batch: Count | None = Field(None, description="a whole number of tokens, 1 or more, or null")
    packing: bool | None = Field(None, description="true, false, or null: true where the attention takes it")
    feature_cache: FilePath | None = Field(None, description="the path of a folder, or null for none")
    augment: bool = Field(False, description=FLAG)
    stream: FilePaths | None = Field(None, description=SHARDS)
    stream_validation: FilePaths | None = Field(None, description=SHARDS)
    stream_window: Count = Field(1000, description="a whole number of records, 1 or more")
    workers: Count | None = Field(None, description="a whole number, 1 or more, or null for all cores")
    progress: bool = Field(True, description=FLAG)

    @property
    def has_boxes(self) -> bool:
        """Whether a source declares boxes, so that the model needs tokens for their marks."""
        return any(source.boxes for source in self.sources)

    @model_validator(mode="before")
    @classmethod
    def _a_stream_needs_no_files(cls, given: Any) -> Any:
        """With ``stream`` nothing reads process_image.py's files, so they need not be named."""
        if not isinstance(given, dict) or given.get("stream") is None:
            return given
        unused = {name: f"data/{name}.json" for name in ("image_map", "annotations", "skipped")}
        return {"sources": [], **unused, **given}


class Vision(Section):
    """The vision tower."""

    path: ModelPath = Field(description="a hub name such as google/siglip-so400m-patch14-384, or a folder, as text")
    train: Literal["frozen", "lora", "last_blocks", "full"] = Field(
        "frozen", description="frozen, lora, last_blocks or full"
    )
    learning_rate: Rate | None = Field(None, description=RATE_OR_NULL)
    last_blocks: Count | None = Field(None, description="a whole number of blocks, 1 or more, or null")
    image_size: Count | None = Field(None, description="a whole number of pixels, or null for the encoder's own")
    layer: Layer | Annotated[list[Layer], Field(min_length=2)] = Field(
        -1, description="-1 for the encoder's last layer, -2 for the one before it, ...; or a list of two or more"
    )
    final_norm: bool = Field(True, description=FLAG)
    drop_first_token: bool = Field(True, description=FLAG)
    image_context_length: Count = Field(728, description="a whole number of visual tokens, 1 or more")


class Language(Section):
    """The Qwen language model."""

    path: ModelPath = Field(description="a hub name such as Qwen/Qwen2.5-1.5B-Instruct, or a folder, as text")
    train: Literal["frozen", "lora", "full", "prefix", "adapter"] = Field(
        "lora", description="frozen, lora, full, prefix or adapter"
    )
    prefix_tokens: Count | None = Field(None, description="a whole number of tokens, 1 or more, or null for 16")
    adapter_width: Count | None = Field(None, description="a whole number, 1 or more, or null for 64")
    learning_rate: Rate | None = Field(None, description=RATE_OR_NULL)
    load_in_4bit: bool = Field(False, description=FLAG)
    thinking: bool = Field(False, description=FLAG)
    picture_numbers: bool = Field(False, description=FLAG)
    system: str = Field("You are a helpful assistant.", description='text (in quotes), "" for none')
    max_length: Count = Field(2048, description="a whole number of tokens, 1 or more")
    attention: Literal["auto", "tree_attention", "sdpa", "flex_attention"] = Field(
        "auto", description="auto, tree_attention, sdpa or flex_attention"
    )

    @property
    def adapter_size(self) -> int:
        """The size of a prefix or of bottleneck adapters, with null resolved."""
        return (self.prefix_tokens or 16) if self.train == "prefix" else (self.adapter_width or 64)


# The sizes of each kind of projector, with what null means; a hidden_size of None is the language model's width.
PROJECTOR_SIZES: dict[str, dict[str, int | None]] = {
    "linear": {},
    "mlp": {"layers": 2, "hidden_size": None},
    "pool": {"pool": 3, "layers": 2, "hidden_size": None},
    "resampler": {"queries": 256},
    "qformer": {"queries": 32, "layers": 12, "hidden_size": 768},
    "cross_attention": {"every": 4},
}


class Projector(Section):
    """The connector between encoder and language model."""

    kind: Literal["linear", "mlp", "pool", "resampler", "qformer", "cross_attention"] = Field(
        "mlp", description="one of linear, mlp, pool, resampler, qformer, cross_attention"
    )
    layers: Count | None = Field(None, description="a whole number of layers, 1 or more, or null for its kind's")
    hidden_size: Count | None = Field(None, description="a whole number, 1 or more, or null for the language model's")
    queries: Count | None = Field(
        None, description="a whole number of visual tokens, 1 or more, or null for its kind's"
    )
    pool: Count | None = Field(None, description="a whole number of patches along a cell's side, or null for 3")
    every: Count | None = Field(None, description="a whole number of decoder layers, 1 or more, or null for 4")
    path: Text | None = Field(None, description="a folder or a hub name of a BLIP-2, or null")
    learning_rate: Rate | None = Field(None, description=RATE_OR_NULL)
    standardize: bool = Field(True, description=FLAG)
    align_steps: NotNegative = Field(0, description="a whole number of steps, 0 or more")

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that its kind has, with nulls resolved."""
        return {name: getattr(self, name) or default for name, default in PROJECTOR_SIZES[self.kind].items()}

    @property
    def token_sizes(self) -> dict[str, int]:
        """Those of its sizes that decide on the number of visual tokens."""
        return {name: value for name, value in self.sizes.items() if name in ("pool", "queries")}

    def num_tokens(self, grid: PatchGrid) -> int:
        """How many visual tokens a picture becomes; the number that the connector itself gives."""
        if self.kind == "cross_attention":
            return 1  # the picture stays outside the sequence, and a placeholder says where it is
        sizes = self.token_sizes
        if (queries := sizes.get("queries")) is not None:
            return queries
        return grid.features if (cell := sizes.get("pool")) is None else grid.pooled(cell).features


class Lora(Section):
    """The adapters of every part whose ``train`` is lora. Names and meanings are those of ``peft.LoraConfig``."""

    r: Count = Field(8, description=COUNT)
    lora_alpha: Count = Field(8, description=COUNT)
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="a share from 0 to below 1")
    target_modules: Text | list[Text] = Field(
        "all-linear", description="all-linear, a list of module names, or a regular expression"
    )
    exclude_modules: Text | list[Text] | None = Field(
        None, description="a list of module names, a regular expression, or null"
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="one of none, all, lora_only")
    use_rslora: bool = Field(False, description=FLAG)
    use_dora: bool = Field(False, description=FLAG)
    # peft knows starts that are computed from data (eva, corda, loftq); without that data they begin as plain LoRA.
    init_lora_weights: (
        bool
        | Literal["gaussian", "orthogonal", "olora", "pissa"]
        | Annotated[str, Field(pattern=r"^pissa_niter_[0-9]+$")]
    ) = Field(True, description="one of gaussian, orthogonal, olora, pissa, pissa_niter_16, or true or false")
    modules_to_save: list[Text] | None = Field(None, description="a list of module names, or null")
    target_parameters: list[Text] | None = Field(None, description="a list of parameter names, or null")
    trainable_token_indices: list[NotNegative] | dict[str, list[NotNegative]] | None = Field(
        None, description="a list of token ids, a section (module name: list), or null"
    )
    rank_pattern: Annotated[dict[str, Count], BeforeValidator(_null_as_section)] = Field(
        {}, description="a section (module name: rank)"
    )
    alpha_pattern: Annotated[dict[str, Count], BeforeValidator(_null_as_section)] = Field(
        {}, description="a section (module name: alpha)"
    )
    lora_bias: bool = Field(False, description=FLAG)
    layers_to_transform: NotNegative | list[NotNegative] | None = Field(
        None, description="the index of a block, a list of them, or null for all"
    )
    layers_pattern: Text | list[Text] | None = Field(
        None, description="the name of the list of blocks, a list of names, or null"
    )


def _trackers(value: Any) -> Any:
    return [] if value in (None, "none") else _as_list(value)


Optimizer = Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"]
Schedule = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
# What train.lr_scheduler_kwargs may hold, by schedule: names and meanings are those of transformers.get_scheduler.
SCHEDULE_OPTIONS: dict[str, set[str]] = {
    "linear": set(),
    "cosine": {"num_cycles"},
    "constant": set(),
    "constant_with_warmup": set(),
    "cosine_with_min_lr": {"min_lr", "min_lr_rate", "num_cycles"},
    "polynomial": {"lr_end", "power"},
    "inverse_sqrt": {"timescale"},
    "warmup_stable_decay": {
        *("num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"),
    },
}
CURVES = ("linear", "cosine", "1-sqrt")  # of warmup_type and decay_type


def _one_of(choices: Any) -> str:
    return f"one of {', '.join(get_args(choices))}"


class Train(Section):
    """How a run trains and where its checkpoints go: ``output/run/checkpoint-<step>``.

    Most names are those of ``transformers.TrainingArguments``, because users know them.
    """

    run: str = Field("run", pattern=_FOLDER_NAME, description="the name of a folder, as text (in quotes)")
    output: FilePath = Field(Path("checkpoints"), description="the path of a folder")
    max_nonfinite_steps: NotNegative = Field(10, description="a whole number, 0 or more")
    num_train_epochs: float = Field(1.0, gt=0, description="a number above 0")
    max_steps: Annotated[Count | None, BeforeValidator(_minus_one_as_null)] = Field(
        None, description="a whole number, 1 or more, or null to go by train.num_train_epochs"
    )
    per_device_train_batch_size: Count = Field(8, description=COUNT)
    per_device_eval_batch_size: Count | None = Field(
        None, description="a whole number, 1 or more, or null for train.per_device_train_batch_size"
    )
    gradient_accumulation_steps: Count = Field(1, description=COUNT)

    optim: Optimizer = Field("adamw_torch_fused", description=_one_of(Optimizer))
    learning_rate: Rate = Field(5e-5, description="a number above 0")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="a share from 0 to below 1")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="a share from 0 to below 1")
    adam_epsilon: float = Field(1e-8, gt=0, description="a number above 0")
    weight_decay: float = Field(0.0, ge=0, description="a number, 0 or more")
    max_grad_norm: Annotated[float, Field(ge=0)] | None = Field(
        1.0, description="a number, 0 or more, or null (as 0: no clipping)"
    )
    lr_scheduler_type: Schedule = Field("linear", description=_one_of(Schedule))
    lr_scheduler_kwargs: Annotated[dict[str, Any], BeforeValidator(_null_as_section)] = Field({}, description=SECTION)
    warmup_steps: float = Field(0.0, ge=0, description="a number of steps, or below 1 a share of all steps")

    bf16: bool = Field(False, description=FLAG)
    gradient_checkpointing: bool = Field(False, description=FLAG)
    torch_compile: bool = Field(False, description=FLAG)
    use_cpu: bool = Field(False, description=FLAG)
    fsdp: bool = Field(False, description=FLAG)

    dataloader_num_workers: NotNegative = Field(0, description="a whole number, 0 or more")
    dataloader_persistent_workers: bool = Field(False, description=FLAG)
    dataloader_prefetch_factor: Count | None = Field(None, description=COUNT_OR_NULL)
    dataloader_pin_memory: bool = Field(True, description=FLAG)

    logging_steps: Count = Field(10, description=COUNT)
    eval_strategy: Literal["no", "steps", "epoch"] = Field("no", description="one of no, steps, epoch")
    eval_steps: Count | None = Field(None, description="a whole number, 1 or more, or null for train.save_steps")
    eval_questions: NotNegative = Field(20, description="a whole number of questions, or 0 to ask none")
    save_strategy: Literal["no", "steps", "epoch"] = Field("steps", description="one of no, steps, epoch")
    save_steps: Count = Field(500, description=COUNT)
    save_total_limit: Count | None = Field(None, description="a whole number, 1 or more, or null for all")
    load_best_model_at_end: bool = Field(False, description=FLAG)
    early_stopping_patience: Count | None = Field(
        None, description="a whole number of evaluations, 1 or more, or null for never"
    )
    report_to: Annotated[list[Literal["tensorboard", "wandb"]], BeforeValidator(_trackers)] = Field(
        [], description="a list of tensorboard and wandb, or [] for none"
    )
    seed: int = Field(42, ge=0, lt=2**32, description="a whole number from 0 to 2**32 - 1")
    data_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = Field(
        None, description="a whole number from 0 to 2**32 - 1, or null for train.seed"
    )
    losses: Annotated[list[Literal["answers", "itc", "itm", "itg", "mlm"]], Field(min_length=1)] = Field(
        ["answers"], description="[answers], or for the Q-Former alone a list of itc, itm, itg and mlm"
    )
    start_from: FilePath | None = Field(None, description="the path of a checkpoint, or of a run's folder, or null")
    start_from_adapters: Literal["continue", "merge"] = Field("continue", description="continue or merge")

    @property
    def qformer_alone(self) -> bool:
        """Whether the run trains the Q-Former without a language model (BLIP-2's first stage)."""
        return self.losses != ["answers"]

    @property
    def eval_batch_size(self) -> int:
        """``per_device_eval_batch_size`` with its null resolved."""
        return self.per_device_eval_batch_size or self.per_device_train_batch_size

    @property
    def steps_per_eval(self) -> int:
        """``eval_steps`` with its null resolved."""
        return self.eval_steps or self.save_steps


class Generate(Section):
    """How answers are decoded. The keys before ``seed`` have transformers' names and meanings."""

    max_new_tokens: Count = Field(256, description="a whole number of tokens, 1 or more")
    min_new_tokens: NotNegative = Field(0, description="a whole number of tokens, 0 or more")
    do_sample: bool = Field(False, description=FLAG)
    temperature: float = Field(1.0, gt=0, description="a number above 0")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0, at most 1")
    top_k: Count | None = Field(None, description="a whole number of tokens, 1 or more, or null for all")
    num_beams: Count = Field(1, description=COUNT)
    repetition_penalty: Rate = Field(1.0, description="a number above 0; 1.0 for none")
    no_repeat_ngram_size: NotNegative = Field(0, description="a whole number of tokens, 0 or more")
    stop_strings: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)] = Field(
        [], description="a list of texts that are not empty, or [] for none"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = Field(
        None, description="a whole number from 0 to 2**32 - 1, or null for another answer each time"
    )
    batch_size: Count = Field(8, description=COUNT)
    cuda_graphs: bool = Field(True, description=FLAG)
    merge_adapters: bool = Field(False, description=FLAG)


class Baselines(Section):
    """The models of baselines/. The defaults are those of Show, Ask, Attend and Answer (arXiv:1704.03162)."""

    resnet: ModelPath | None = Field(
        None, description="a ResNet's hub name or folder, as text, or null for the tower of vision.path"
    )
    answers: Count = Field(3000, description="a whole number of answers, 1 or more")
    embedding_size: Count = Field(300, description=COUNT)
    lstm_size: Count = Field(1024, description=COUNT)
    attention_size: Count = Field(512, description=COUNT)
    glimpses: Count = Field(2, description=COUNT)
    hidden_size: Count = Field(1024, description=COUNT)
    fusion: Literal["pointwise", "concatenated"] = Field("pointwise", description="pointwise or concatenated")
    dropout: float = Field(0.5, ge=0, lt=1, description="a share from 0 to below 1")
    epochs: Count = Field(50, description="a whole number of epochs, 1 or more")
    patience: Count = Field(5, description="a whole number of epochs, 1 or more")
    batch_size: Count = Field(128, description="a whole number of questions, 1 or more")
    learning_rate: Rate = Field(1e-3, description="a number above 0")


class Config(Section):
    """A whole run."""

    model: ModelPath | None = Field(
        None,
        description="a LLaVA or Qwen-VL to begin with, by hub name such as llava-hf/... or by folder, as text, or null",
    )
    data: Data = Field(description="a section with sources, image_map, annotations and skipped")
    vision: Vision = Field(description="a section with path")
    language: Language = Field(description="a section with path")
    projector: Projector = Field(default_factory=Projector, description=SECTION)
    lora: Lora = Field(default_factory=Lora, description=SECTION)
    train: Train = Field(default_factory=Train, description=SECTION)
    generate: Generate = Field(default_factory=Generate, description=SECTION)
    baselines: Baselines = Field(default_factory=Baselines, description=SECTION)
