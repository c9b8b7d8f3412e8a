"""What each command does, after its arguments are read. torch is imported after paths are checked."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import resume_command
from common.errors import UserError
from common.hub import model_folder, read_config
from retrieval.index import Index, pictures_under
from retrieval.recall import KS

if TYPE_CHECKING:
    from retrieval.contrastive import Options
    from retrieval.encoder import Encoder
    from settings import Config


def index(args: argparse.Namespace) -> int:
    files = pictures_under(args.folder)
    indexed(args, files)
    return 0


def search(args: argparse.Namespace) -> int:
    found = Index.open(args.index)
    encoder = open_encoder(found.model, args.device)
    check_same(found, args.index)
    query = encoder.image(args.image) if args.image else encoder.texts([args.text])[0]
    results = found.search(query, args.top)
    for path, score in results:
        print(f"{score:.4f}  {path}")
    if args.html:
        from retrieval.contact_sheet import write_sheet

        title = str(args.image or args.text)
        write_sheet(args.html, title, [(path, f"{score:.4f}") for path, score in results])
        print(f"{args.html} shows them.")
    return 0


def classify(args: argparse.Namespace) -> int:
    labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    if len(labels) < 2:
        raise UserError(f"--labels {args.labels}: expected two labels or more, with commas between them")
    files = pictures_under(args.folder)
    found, encoder = indexed(args, files)
    from retrieval.zero_shot import label_vectors, probabilities, unknown_labels

    for label in unknown_labels(encoder, labels):
        print(f"WARNING: the towers' tokenizer does not know all of {label!r}", file=sys.stderr)
    wanted = label_vectors(encoder, labels, args.template)  # [labels, D]
    rows = [found.rows[str(file)] for file in files if str(file) in found.rows]
    chances = probabilities(encoder, found.vectors[rows] @ wanted.T)  # [pictures, labels]
    said = []
    for row, own in zip(rows, chances, strict=True):
        said.append((str(found.paths[row]), f"{labels[own.argmax()]} {own.max():.3f}"))
        print(f"{labels[own.argmax()]}  {own.max():.3f}  {found.paths[row]}")
    if args.html:
        from retrieval.contact_sheet import write_sheet

        write_sheet(args.html, ", ".join(labels), said)
        print(f"{args.html} shows them.")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Write what evaluate.py writes: a result file with every query, and the page that shows their pictures."""
    begin = time.monotonic()
    from evaluation.report import check_output, check_packages, show, write_result
    from evaluation.resuming import find_unfinished
    from settings import load_config

    check_output(args.output)
    find_unfinished(args.output, {}, resume=False)  # answers of evaluate.py would be lost
    if args.classes:
        classes = class_folders(args.classes)
        encoder = open_encoder(args.model, args.device)
        from retrieval.evaluating import result_of_labels

        result = result_of_labels(encoder, classes, args.template)
    else:
        from retrieval.captions import caption_questions

        config = load_config(args.config, check_models=False)
        questions = caption_questions(config, args.split, args.language)
        check_packages(questions)
        encoder = open_encoder(args.model, args.device, config.data.max_pixels)
        from retrieval.evaluating import result_of_captions

        result = result_of_captions(encoder, questions, config, args.split)
    from evaluation.html.content import write_report
    from retrieval.encoder import model_hash

    result |= {"checkpoint": args.model, "checkpoint_sha256": model_hash(args.model)}
    result["seconds"] = round(time.monotonic() - begin, 1)
    write_result(args.output, result)
    print(show(result))
    for line in recall_lines(result.get("recall", {})):
        print(line)
    print(f"Every query is in {args.output}. {write_report(result, args.output)} shows them with their pictures.")
    return 0


def recall_lines(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A line for each direction: "text to image   R@1 0.973 ± 0.009   R@5 ...   chance 0.003   n 300"."""
    for name, row in found.items():
        cells = []
        for k in KS:
            error = row.get(f"standard_error_at_{k}")
            cells.append(f"R@{k} {row[f'recall_at_{k}']:.3f}" + ("" if error is None else f" ± {error:.3f}"))
        yield f"{name.replace('_', ' ')}   {'   '.join(cells)}   chance {row['chance_at_1']:.3f}   n {row['n']}"


def train(args: argparse.Namespace) -> int:
    from settings import load_config, require_paths
    from training.distributed import leave_together, only_first_speaks, rank
    from training.resume import check_changes
    from training.run_folder import RunFolder

    only_first_speaks()
    config = load_config(args.config, args.overrides, check_models=False)
    if rank():
        config.data.progress = False
    require_paths(config, "data.image_map", "data.annotations")
    model_folder(config.vision.path, "vision.path")
    run = config.train.output / config.train.run
    with closing(RunFolder(run, resume=args.resume, overwrite=args.overwrite)) as folder:
        latest = folder.open()
        changes = check_changes(config, latest) if latest else []
        from model.model import quiet_libraries
        from retrieval.loop import build_loop

        quiet_libraries()
        loop = build_loop(config, run, training_options(args, config, folder.latest))
        loop.signal.listen()
        for change in changes:
            print(f"changed   {change}", flush=True)
        loop.train(folder.latest, before_first_step=folder.begin)
        leave_together()
    if loop.stopping and loop.progress.step < loop.total:
        print(f"stopped at step {loop.progress.step}; continue with: {resume_command()}")
    else:
        print(f"done: {loop.progress.step} steps; towers for --model or vision.path: {run}/checkpoint-*/towers")
    return 0


def training_options(args: argparse.Namespace, config: Config, checkpoint: Path | None) -> Options:
    """The command line's options; what it leaves out is the checkpoint's, or the default.

    Raises:
        UserError: an option is another one than the checkpoint's.
    """
    from retrieval.contrastive import Options
    from retrieval.loop import options_of

    given = {name: getattr(args, name) for name in ("loss", "text_width", "text_layers", "text_length")}
    given = {name: value for name, value in given.items() if value is not None}
    if checkpoint is not None:
        before = options_of(checkpoint)
        for name, value in given.items():
            if value != getattr(before, name):
                option = "--" + name.replace("_", "-")
                raise UserError(f"--resume: {option} {value}, but {checkpoint.name} has {getattr(before, name)}")
        return before
    content = read_config(model_folder(config.vision.path, "vision.path"), "vision.path")
    own = "softmax" if str(content.get("model_type")).startswith("clip") else "sigmoid"
    return Options(**{"loss": own, "text_width": 256, "text_layers": 4, "text_length": 64, **given})


# ---------------------------------------------------------------------------------------------- shared


def class_folders(folder: Path) -> list[Path]:
    """The folders in ``folder``, each of which has a label's name.

    Raises:
        UserError: there are fewer than two.
    """
    found = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    if len(found) < 2:
        raise UserError(f"--classes {folder}: expected two folders or more in it, each named after its label")
    return found


def indexed(args: argparse.Namespace, files: list[Path]) -> tuple[Index, Encoder]:
    """The index with a row for each readable one of ``files``, and its towers."""
    if args.model is None and not (args.index / "index.json").exists():
        raise UserError(f"{args.index}: a new index needs --model, the towers that make its vectors")
    model = args.model or Index.open(args.index).model
    encoder = open_encoder(model, args.device)
    from retrieval.encoder import model_hash

    width = encoder.texts([""]).shape[1]
    found = Index.create(args.index, model, model_hash(model), width)
    missing, problems = found.missing(files), dict[Path, str]()
    for some, vectors in encoder.images(missing, problems, "index"):
        found.add(some, vectors)  # at once: an interrupted index continues here
    gone = found.forget_missing(args.folder.resolve())
    new = len(missing) - len(problems)
    print(f"{len(found.rows):,} pictures in {args.index}: {new:,} new or changed, {gone:,} no longer there")
    for file, why in list(problems.items())[:3]:
        print(f"skipped   {file}: {why}", file=sys.stderr)
    if len(problems) > 3:
        print(f"skipped   {len(problems):,} pictures in all", file=sys.stderr)
    return found, encoder


def open_encoder(model: str, device: str | None, max_pixels: int = 50_000_000) -> Encoder:
    model_folder(model, "--model")
    import torch

    from model.model import quiet_libraries
    from retrieval.encoder import load_encoder

    quiet_libraries()
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return load_encoder(model, chosen, max_pixels)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error


def check_same(index: Index, folder: Path) -> None:
    """Raises UserError if the towers are not the ones that made the index: their vectors mean nothing to each other."""
    from retrieval.encoder import model_hash

    if model_hash(index.model) != index.model_sha256:
        raise UserError(f"{index.model} has changed since {folder} was made; delete that folder and index again")
