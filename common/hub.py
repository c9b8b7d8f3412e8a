"""Models in folders and on the hub: from a name to a complete folder, and from there to a strictly loaded model.

Nothing here runs code that came with a model or reads a pickle: only JSON, text and safetensors are fetched and opened.
A folder is checked before anything large is read, and an error is one line that names the file.
"""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import torch

WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.tiktoken"]  # fetched from a repository on the hub
REPOSITORY = Path(__file__).resolve().parent.parent
TOWERS = "towers"  # the folder in a checkpoint of `retrieval train` that holds both towers
PATIENCE = 5.0  # seconds for the hub to answer; without a network, resolving its name alone may take minutes


# ---------------------------------------------------------------------------------------------- where a model is


def local_model_folder(path: str) -> Path | None:
    """The folder that ``path`` names, relative to the working directory or to this repository; None for a hub name."""
    for folder in (Path(os.path.expanduser(path)), REPOSITORY / path):
        if folder.is_dir():
            return folder
    return None


def model_folder(path: str, key: str, checkpoint: Path | None = None) -> str:
    """The folder of a model that is named by folder or hub name. A model that is not in the hub's cache is fetched.

    ``key`` is the config key that names it. With a ``checkpoint``, the key is in that checkpoint's config and can no
    longer be set, so errors advise to bring the model to ``path``.

    Raises:
        UserError: it is not here, and the hub cannot be reached or does not have it; names ``key``.
    """
    folder = local_model_folder(path)
    if folder is not None:
        return str(folder)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = snapshot_download(path, local_files_only=True)
        lack = what_is_missing(Path(cached))
        if not lack:
            return cached
        lack = f"half a download in the hub's cache: {lack}"
    except LocalEntryNotFoundError:
        lack = "not in the hub's cache"
    except HFValidationError:
        what = "neither a folder nor a hub name such as Qwen/Qwen2.5-0.5B-Instruct"
        if checkpoint:
            what = f"no such folder, and {checkpoint} was trained from it; name its folder with {base_option(key)} DIR"
        raise UserError(f"{key} = {path}: {what}") from None
    advice = how_to_download(path, None if checkpoint else key)
    if not hub_answers():
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        raise UserError(f"{key} = {path}: {lack}, and {why}; {advice}")
    try:
        return snapshot_download(path, allow_patterns=WANTED)
    except Exception as error:  # the hub's own errors, the network's and the disk's have no common class
        raise UserError(f"{key} = {path}: {lack}, {_first_line(error)}; {advice}") from error


def base_option(key: str) -> str:
    """The option that names the folder of a base model that has moved, by the config key that names the model."""
    return f"--base-{key.partition('.')[0]}"


def how_to_download(path: str, key: str | None) -> str:
    """Two commands that download a model, and what to set then. ModelScope has Qwen and SigLIP under the same names.

    Without a ``key`` to set, the model goes into a folder of its own name, which is found before the hub is asked.
    """
    to = f"models/{path.split('/')[-1]}" if key else path
    return (
        f"run `hf download {path} --local-dir {to}` or `modelscope download --model {path} --local_dir {to}` "
        f"where there is a network, then " + (f"set {key}={to}" if key else "put that folder where you start this")
    )


def hub_answers() -> bool:
    """Whether the hub answers within ``PATIENCE`` seconds, through the proxies that are set."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answers = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=PATIENCE))
        except Exception:  # any error means that the hub cannot be used
            return

    # In a thread, because the timeout does not limit how long the hub's name is resolved.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers)


def fetch_config(path: str, key: str) -> dict[str, Any]:
    """The content of the config.json of a model that is named by folder or hub name; its weights are not fetched.

    Raises:
        UserError: it is not here, and the hub cannot be reached or does not have it; names ``key``.
    """
    folder = local_model_folder(path)
    if folder is not None:
        return read_config(folder, key)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        raise UserError("neither a folder nor a hub name such as llava-hf/llava-interleave-qwen-0.5b-hf") from None
    if not isinstance(found, str):
        if not hub_answers():
            raise UserError(f"not in the hub's cache, and the hub cannot be reached; {how_to_download(path, key)}")
        try:
            found = hf_hub_download(path, "config.json")
        except Exception as error:  # the hub's own errors, the network's and the disk's have no common class
            raise UserError(f"{_first_line(error)}; {how_to_download(path, key)}") from error
    return read_config(Path(found).parent, key)


# ---------------------------------------------------------------------------------------------- what a folder holds


def read_config(folder: str | Path, key: str) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    file = Path(folder) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {file} cannot be read ({_first_line(error)}); is the download complete?") from None
    if not isinstance(content, dict):
        raise UserError(f"{key}: {file} holds no settings; is the download complete?")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: those that its index names; without an index, all in the folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index} cannot be read; download it again") from None
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def what_is_missing(folder: Path) -> str:
    """A sentence about what a model folder lacks, or "" if it is complete. Reads headers, not weights."""
    if not (folder / "config.json").is_file():
        return f"{folder} holds no config.json; is the download complete?"
    try:
        files = weight_files(folder)
    except UserError as error:
        return str(error)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        return f"{folder} lacks {len(missing)} of {len(files)} weight files, {missing[0]} first; download the rest"
    if not files:
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
        only = f", only {pickles[0]}, and no pickle is read: get a version in safetensors" if pickles else ""
        return f"{folder} holds no safetensors{only or '; is the download complete?'}"
    for file in files:
        try:
            read_header(file)
        except UserError as error:
            return str(error)
    return ""


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> ``dtype`` and ``shape`` of each tensor of a safetensors file. The file's length is checked.

    The format: 8 bytes with the length of a JSON header, the header, the data (huggingface/safetensors, README).

    Raises:
        UserError: the file is truncated, or not a safetensors file.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":  # of git-lfs
            raise UserError(f"{file} is a git-lfs pointer and not the weights; run `git lfs pull` in its folder")
        if size < 8 or length > 100_000_000:  # safetensors' own limit
            raise UserError(f"{file} is not a safetensors file, or only its beginning; download it again")
        text = stream.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        wanted = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"{file} has a damaged header, or is only the beginning of a file; download it again") from None
    if size != wanted:
        raise UserError(f"{file} is {size:,} bytes long where its header says {wanted:,}; download it again")
    return header


def read_headers(folder: Path) -> dict[str, dict[str, Any]]:
    """:func:`read_header` of all files of a model together."""
    return {name: entry for file in weight_files(folder) for name, entry in read_header(file).items()}


def check_hash(file: Path, found: str) -> None:
    """Compare ``found``, a file's SHA-256, with the one that its download noted. A file without a note passes.

    The hub's cache names large files by their hash; ``hf download --local-dir`` keeps it in ``.cache/huggingface``.

    Raises:
        UserError: they differ, so the file was changed or damaged.
    """
    noted = file.resolve().name
    metadata = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
    if metadata.is_file():
        noted = (metadata.read_text(encoding="utf-8").splitlines() + ["", ""])[1]
    if re.fullmatch(r"[0-9a-f]{64}", noted) and noted != found:
        raise UserError(f"{file} has SHA-256 {found[:12]}... where the hub says {noted[:12]}...; download it again")


# ---------------------------------------------------------------------------------------------- loading


def load_strictly(
    cls: Any, folder: str, dtype: torch.dtype, key: str, *, state: dict[str, torch.Tensor] | None = None, **options
) -> Any:
    """``cls.from_pretrained`` from safetensors. Tensors in the files and in the model must be the same.

    ``state`` replaces the files: the tensors of a part of what the folder holds; ``options`` then have a ``config``.

    Raises:
        UserError: names the first tensor that is missing, surplus or of another shape, or the file that is incomplete.
    """
    if lack := what_is_missing(Path(folder)):
        raise UserError(f"{key}: {lack}")
    try:
        model, info = cls.from_pretrained(
            None if state is not None else folder,
            state_dict=state,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named below, in one line
            **options,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:  # the last: a bitsandbytes that is too old
        raise UserError(f"{key}: cannot load {folder} ({_first_line(error)})") from error
    problems = {
        "lacks": info["missing_keys"],
        "has other shapes for": [found[0] for found in info["mismatched_keys"]],
        "has surplus": info["unexpected_keys"],
    }
    for problem, names in problems.items():
        if names:
            raise UserError(
                f"{key}: {folder} {problem} {len(names)} tensors, {min(names)} first; "
                "is the download complete, and its config.json the one that belongs to it?"
            )
    return model


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
