"""The model card (README.md) of an export: what it was made from, how close it is, and the command for each program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from answering.exporting.formats import Options
from common.errors import UserError
from settings import Config

_HF = """\
Write this folder's path, or its name on the hub, for `MODEL`.

```bash
transformers serve MODEL                                      # pip install "transformers[serving]"
vllm serve MODEL{vllm}
python -m sglang.launch_server --model-path MODEL --model-impl transformers
python -m lmms_eval --model llava_hf --model_args pretrained=MODEL --tasks mme
hf upload YOU/NAME MODEL                                      # to the hub
```

```python
from transformers import pipeline

ask = pipeline("image-text-to-text", model="MODEL")
content = [{{"type": "image", "path": "photo.jpg"}}, {{"type": "text", "text": "What is in the picture?"}}]
print(ask(text=[{{"role": "user", "content": content}}], return_full_text=False)[0]["generated_text"])
```
"""

_GGUF = """\
In this folder, with llama.cpp b11549 or later (older ones were not tried):

```bash
llama-server -m model-{dtype}.gguf --mmproj mmproj-{dtype}.gguf --jinja --temp 0    # OpenAI's protocol, and a page
llama-mtmd-cli -m model-{dtype}.gguf --mmproj mmproj-{dtype}.gguf --jinja --temp 0 --image photo.jpg -p "What is it?"
ollama create NAME -f Modelfile && ollama run NAME "What is it? ./photo.jpg"
llama-quantize model-{dtype}.gguf model-Q4_K_M.gguf Q4_K_M    # smaller; the mmproj stays as it is
hf upload YOU/NAME .                                        # to the hub
```

For LM Studio, put both .gguf files into a folder `YOU/NAME` of its models folder.
"""

_ONNX = """\
```bash
pip install onnxruntime tokenizers pillow numpy
python answer.py "What is in the picture?" photo.jpg
hf upload YOU/NAME .                                        # to the hub
```

`answer.py` is short: read it for the inputs and outputs of the two graphs. Rows of a batch are padded on the left.
"""

_ONNX_NOTES = """\
- Control tokens in a question, such as `<|im_end|>`, are ordinary text for `answer.py`.
- Transparent pictures were trained on white; `answer.py` leaves the transparency out.
"""

_TYPED = """\
- A control token that someone types into a question, such as `<|im_end|>`, is a real one for these programs. Remove
  such tokens from text that you do not trust.
- Transparent pictures were trained on white; other programs put black or nothing below them.
"""

_GGUF_NOTES = """\
- The comparison above opens both files with transformers. llama.cpp resizes pictures and computes with code of its own;
  its log probabilities were seen to differ by less than 0.01.
- Ollama puts the picture before the question without the line break of the training; a Modelfile cannot say it.
"""

# The hub's name of the library, the commands, and what to know.
_TEXTS = {
    "hf": ("transformers", _HF, _TYPED),
    "onnx": ("onnx", _ONNX, _ONNX_NOTES),
    "gguf": ("gguf", _GGUF, _TYPED + _GGUF_NOTES),
}

_TIED = """\
**vLLM needs `--model-impl transformers`, and transformers must be 5.18 or later.** The features are those after the
vision tower's final norm, which is said by `tie_last_hidden_states` in config.json. Programs that do not know this key,
vLLM's own LLaVA among them, ignore it and answer from other features, without an error. Export with `--norm block` for
those.
"""


@dataclass(frozen=True)
class Facts:
    """What a card is written from. ``checked`` are the lines of the comparison, ``manifest`` is the checkpoint's."""

    options: Options
    config: Config
    manifest: dict[str, Any]
    checked: list[str]
    result: dict[str, Any] | None = None  # evaluate.py's


def read_result(file: Path) -> dict[str, Any]:
    """What ``evaluate.py`` wrote.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["scores"]["overall"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--result = {file}: expected a file that evaluate.py wrote ({error})") from error
    return content


def model_card(facts: Facts) -> str:
    """The text of README.md."""
    library, commands, notes = _TEXTS[facts.options.format]
    bases = [base["path"] for base in facts.manifest["base_models"].values()]
    head = {
        "pipeline_tag": "image-text-to-text",
        "library_name": library,
        "base_model": [base for base in bases if not Path(base).is_dir()],
    }
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items() if value) + "---",
        "# A model that answers questions about pictures",
        "\n".join(_made_from(facts)),
        "## How close it is to the checkpoint",
        "\n".join(f"- {line}" for line in facts.checked),
        "## Scores",
        _scores(facts.result),
        "## Use",
        commands.format(
            vllm=" --model-impl transformers" if facts.options.norm == "tie" else "", dtype=facts.options.dtype
        ).strip(),
    ]
    if facts.options.norm == "tie":
        parts.append(_TIED.strip())
    parts += ["## What to know", notes.strip()]
    return "\n\n".join(parts) + "\n"


def _made_from(facts: Facts) -> list[str]:
    sources = ", ".join(source.name for source in facts.config.data.sources) or "shards (data.stream)"
    return [
        *(
            f"- {key.removesuffix('.path')}: `{base['path']}` (SHA-256 {base['sha256'][:16]}); look up its licence"
            for key, base in facts.manifest["base_models"].items()
        ),
        f"- trained on: {sources}; each data set has a licence of its own",
        f"- weights: {facts.options.dtype}, adapters merged; a picture is "
        f"{facts.config.vision.image_context_length} tokens",
        f"- system message: {json.dumps(facts.config.language.system, ensure_ascii=False)}",
    ]


def _scores(result: dict[str, Any] | None) -> str:
    """Accuracy and the floors beside it."""
    if result is None:
        return "None were given (`export.py --result result.json`, the file that evaluate.py writes)."
    overall = result["scores"]["overall"]
    shown = {"score": overall["score"], **{name: floor["mean"] for name, floor in overall["baselines"].items()}}
    rows = [f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in shown.items() if value is not None]
    return "\n".join([f"| {overall['n']} questions | |", "|---|---|", *rows, "", result["verdict"]])
