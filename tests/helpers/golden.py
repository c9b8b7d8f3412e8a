"""Runs of train.py whose losses are recorded, on models and pictures of their own.

    python -m tests.helpers.golden --output tests/training/golden                      # record with this checkout
    python -m tests.helpers.golden --output /tmp/before --code ../other-checkout       # and with another, to compare

Everything a run reads is made here from whole numbers, so it is the same on every machine and does not change with the
demo. Dropout is off: the processor's maker decides how torch draws it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
import yaml
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

REPO = Path(__file__).resolve().parent.parent.parent
STEPS = 50
PICTURES, VALIDATION = 14, 3
COLORS = ("red", "green", "blue", "yellow")
KEYS = ("loss", "grad_norm", "learning_rate", "eval_loss")

# Overrides of each case, and the number of processes.
CASES: dict[str, tuple[dict[str, object], int]] = {
    "plain": (
        {"data.message_trees": False, "train.learning_rate": 5e-3, "train.lr_scheduler_type": "linear"},
        1,
    ),
    "trees": (
        {
            "vision.train": "last_blocks",
            "vision.last_blocks": 1,
            "train.gradient_accumulation_steps": 2,
            "train.weight_decay": 0.1,
            "train.max_grad_norm": 0.5,
            "train.optim": "adamw_torch",
        },
        1,
    ),
    "stream": ({"data.stream_window": 6, "train.gradient_accumulation_steps": 2}, 1),
    "two_processes": ({"train.per_device_train_batch_size": 1, "train.gradient_accumulation_steps": 2}, 2),
}


def build(folder: Path) -> dict[str, Path]:
    """Write models, pictures, annotations and shards into ``folder``; the config file of each case."""
    save_tokenizer(folder / "qwen")
    save_qwen(folder / "qwen")
    save_siglip(folder / "siglip")
    talks = write_data(folder)
    write_shards(folder, talks)
    return {name: write_config(folder, name) for name in CASES}


def save_tokenizer(folder: Path) -> None:
    """A token for each byte, and ChatML's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocab[token] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)


def save_qwen(folder: Path) -> None:
    config = Qwen2Config(
        vocab_size=272,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=258,
        pad_token_id=256,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    fill(model, seed=11)
    model.save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=42,
        patch_size=14,
    )
    model = SiglipVisionModel(config)
    fill(model, seed=12)
    model.save_pretrained(folder)
    processor = SiglipImageProcessorPil(size={"height": 42, "width": 42}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(folder)


def fill(model: torch.nn.Module, seed: int) -> None:
    """Weights drawn as whole numbers from -100 to 100, over 500; around 1 where they scale a norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randint(-100, 101, parameter.shape, generator=generator) / 500
            parameter.copy_(drawn + 1 if "norm" in name and name.endswith("weight") else drawn)


def write_data(folder: Path) -> dict[str, list[dict]]:
    """Pictures of a square, with one to three conversations each, and two conversations without a picture."""
    image_map, talks = {}, {}
    for number in range(PICTURES):
        color, left = COLORS[number % len(COLORS)], 4 + 5 * (number % 5)
        picture = Image.new("RGB", (42, 42), "white")
        ImageDraw.Draw(picture).rectangle((left, 8, left + 12, 20 + number), fill=color)
        path = folder / f"{number}.png"
        picture.save(path)
        image_map[path.name] = {"ID": number, "path": path.as_posix()}
        asked = [("What color is it?", color), (f"How far left, of {number}?", str(left)), ("图中有什么？", "方块")]
        split = "validation" if number >= PICTURES - VALIDATION else "train"
        talks[str(number)] = [said(f"<|extra_0|>\n{q}", a, split) for q, a in asked[: 1 + number % 3]]
    talks["text"] = [said(f"Is {n} even?", "yes" if n % 2 == 0 else "no", "train") for n in (4, 7)]
    (folder / "image_map.json").write_text(json.dumps(image_map), encoding="utf-8")
    (folder / "annotations.json").write_text(json.dumps(talks, ensure_ascii=False), encoding="utf-8")
    return talks


def said(question: str, answer: str, split: str) -> dict:
    return {"source": "golden", "language": "en", "split": split, "turns": [{"q": question, "a": [answer]}]}


def write_shards(folder: Path, talks: dict[str, list[dict]]) -> None:
    """Tars of four records each, and one of the validation records."""
    splits = {"train": [str(n) for n in range(PICTURES - VALIDATION)] + ["text"]}
    splits["validation"] = [str(n) for n in range(PICTURES - VALIDATION, PICTURES)]
    for split, keys in splits.items():
        for start in range(0, len(keys), 4):
            with tarfile.open(folder / f"{split}-{start // 4}.tar", "w") as tar:
                for key in keys[start : start + 4]:
                    if key != "text":
                        tar.add(folder / f"{key}.png", f"{key:>04}.png")
                    text = json.dumps(talks[key]).encode()
                    member = tarfile.TarInfo(f"{key:>04}.json")
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text))


def write_config(folder: Path, case: str) -> Path:
    content: dict[str, dict[str, object]] = {
        "data": {
            "sources": [{"name": "none", "format": "coco", "annotations": "none.json", "images": str(folder)}],
            "image_map": str(folder / "image_map.json"),
            "annotations": str(folder / "annotations.json"),
            "skipped": str(folder / "skipped.json"),
            "progress": False,
        },
        "vision": {"path": str(folder / "siglip"), "image_context_length": 8},
        "language": {"path": str(folder / "qwen"), "max_length": 256},
        "projector": {"learning_rate": 1e-3, "standardize": False},  # recorded before there were statistics
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
        "train": {
            "run": case,
            "output": str(folder / "checkpoints"),
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 10,
            "save_steps": STEPS,
            "seed": 3,
            "use_cpu": True,
        },
    }
    for key, value in CASES[case][0].items():
        section, name = key.split(".")
        content[section][name] = value
    if case == "stream":
        content["data"] |= {"stream": f"{folder}/train-*.tar", "stream_validation": f"{folder}/validation-*.tar"}
    file = folder / f"{case}.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def curve(folder: Path, case: str) -> dict[str, dict[str, float]]:
    """What the last checkpoint's log says of each step: the values of KEYS, by step."""
    file = folder / "checkpoints" / case / f"checkpoint-{STEPS}" / "trainer_state.json"
    found: dict[str, dict[str, float]] = {}
    for entry in json.loads(file.read_text(encoding="utf-8"))["log_history"]:
        values = {key: entry[key] for key in KEYS if key in entry}
        found.setdefault(str(entry["step"]), {}).update(values)
    return found


def run(code: Path, config: Path, processes: int, overrides: list[str]) -> None:
    """The real command line in the checkout ``code``."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([*command, "train.py", "--config", str(config), *overrides], cwd=code, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder for <case>.json")
    parser.add_argument("--code", type=Path, default=REPO, help="the checkout whose train.py runs (default: this one)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as lora.lora_dropout=0.1")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, config in build(folder).items():
            run(args.code, config, CASES[name][1], args.overrides)
            text = json.dumps(curve(folder, name), indent=0)
            (args.output / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
