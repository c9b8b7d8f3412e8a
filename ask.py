"""Ask a trained model about a picture.

    python ask.py --checkpoint checkpoints/demo --image photo.jpg "What color is the circle?"
    python ask.py --checkpoint checkpoints/demo --image photo.jpg --json "What color?" generate.num_beams=4
    python ask.py --checkpoint checkpoints/demo --questions questions.jsonl > answers.txt
    python ask.py --checkpoint checkpoints/run --image photo.jpg --box 120,80,300,260 "What is this?"
    python ask.py --checkpoint checkpoints/run --image photo.jpg --draw out.png "Where is the red bus?"

prints the answer and nothing else on stdout, its boxes in pixels: the red bus [120, 80, 300, 260]. With --json the
answer keeps the marks of its boxes. Without a question it becomes a conversation about the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from answering.checkpoints import add_checkpoint_arguments, base_overrides, is_override, open_config
from common.errors import UserError, exit_status
from common.language import system_language
from common.text import can_print, from_command_line, prepare_console

if TYPE_CHECKING:
    from answering.assistant import Assistant
    from answering.baseline import BaselineAssistant
    from answering.conversation import Conversation
    from answering.question_file import Asked
    from dataset.prompt import Request
    from settings import Config


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
    args = parse_arguments(argv)
    try:
        return exit_status(lambda: ask(args), "", args.lang)
    except BrokenPipeError:  # the reader of stdout has enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails to flush at its end
        return 1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ask a trained model about one picture or several.",
        epilog='example: python ask.py --checkpoint checkpoints/demo --image photo.jpg "What is in the picture?"',
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help="a checkpoint, or a run's folder (its best checkpoint)",
    )
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be given several times"
    )
    parser.add_argument("--video", metavar="FILE", help="a video, of which frames are shown")
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="how many, evenly (default: %(default)s)")
    parser.add_argument("--times", action="store_true", help='write the time before each frame: "<frame 1.5s>"')
    parser.add_argument(
        "--questions", type=Path, metavar="FILE", help="ask each line: text, or .jsonl with question and image"
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="[NUMBER:]LEFT,TOP,RIGHT,BOTTOM",
        help="ask about a part of a picture, in its pixels as displayed; may be given several times for one picture. "
        "Of several pictures, it is on the last, or on the first with --box 1:120,80,300,260",
    )
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="FILE",
        help="write the picture (the last, or that of --box) with the answer's boxes",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object for each answer, with its marks and its boxes"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--lang", choices=("en", "zh"), default=system_language(), help="of error messages (default: by the locale)"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the run's config)")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="QUESTION | KEY=VALUE",
        help="the question; without it, a conversation on the terminal. KEY=VALUE: a generate. key or data.max_pixels",
    )
    args = parser.parse_intermixed_args(argv)
    questions = [from_command_line(word) for word in args.words if not is_override(word)]
    args.question = questions[0] if questions else None
    args.overrides = [word for word in args.words if is_override(word)]
    if args.max_new_tokens is not None:
        args.overrides.append(f"generate.max_new_tokens={args.max_new_tokens}")
    if len(questions) > 1:
        parser.error(f"one question, in quotes; {questions[1]!r} is a second, and no generate.KEY=VALUE")
    if args.questions is not None and questions:
        parser.error("--questions FILE and a question exclude each other")
    if args.questions is None and not args.image and not args.video:
        parser.error("the following arguments are required: --image or --video")
    if args.video and (args.image or args.questions):
        parser.error("--video goes with neither --image nor --questions")
    if args.frames < 1:
        parser.error("--frames must be at least 1")
    if args.question is None and (args.box or args.draw):
        parser.error("--box and --draw need a question")
    if not args.image and (args.box or args.draw):
        parser.error("--box and --draw need a picture: --image FILE")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    return args


def ask(args: argparse.Namespace) -> int:
    """Check the checkpoint and the pictures, load the model, which takes seconds, and ask it. Returns the status."""
    from answering.conversation import Conversation, read_image
    from answering.devices import check_device
    from answering.drawing import check_drawing, parse_boxes
    from answering.question_file import read_question_file

    check_device(args.device)
    overrides = [*args.overrides, *base_overrides(args)]
    config = open_config(args.checkpoint, overrides)
    asked: list[Asked] = []
    conversation = Conversation()
    if args.video:
        conversation = video_conversation(args.video, args.frames, args.times, config)
    elif args.questions is not None:
        asked, replaced = read_question_file(args.questions, args.image)
        say_replaced(replaced)
    else:
        images = [read_image(path, config.data.max_pixels) for path in args.image]
        conversation = Conversation(images, args.image)
        check_drawing(args.draw)
        parse_boxes(args.box, [image.size for image in images], None)

    from answering.opening import assistant_of
    from model.model import quiet_libraries

    quiet_libraries()
    assistant = assistant_of(args.checkpoint).load(
        args.checkpoint, args.device, verify=args.verify, overrides=overrides
    )
    if assistant.baseline:
        print(f"note: the baseline {assistant.baseline} answers (docs/baselines.md)", file=sys.stderr)
    if asked:
        return ask_many(assistant, config, asked, args.json)
    if args.question is not None:
        answer_one(assistant, conversation, args.question, args.json, args.box, args.draw)
    else:
        converse(assistant, conversation, args.json)
    return 0


# ---------------------------------------------------------------------------------------------- one conversation


def video_conversation(path: str, frames: int, times: bool, config: Config) -> Conversation:
    """A conversation about frames of a video, as many as there is room for beside an answer and a question.

    Raises:
        UserError: the video cannot be read, or not even one frame fits.
    """
    from answering.conversation import Conversation
    from dataset.image import ImageError
    from dataset.video import frame_address, frames_that_fit, read_frames

    fitting = min(frames, frames_that_fit(config, config.generate.max_new_tokens))
    try:
        found = read_frames(path, fitting, config.data.max_pixels)
    except ImageError as error:
        raise UserError(f"--video {path}: {error}") from None
    if fitting < frames:
        each = f"{config.vision.image_context_length} tokens each within language.max_length"
        print(f"note: {fitting} of {frames} frames, {each} = {config.language.max_length}", file=sys.stderr)
    paths = [frame_address(path, frame.seconds) for frame in found]
    return Conversation([frame.image for frame in found], paths, times=times)


def converse(assistant: Assistant | BaselineAssistant, conversation: Conversation, as_json: bool) -> None:
    """Answer questions from the terminal until the end of input. The model sees the conversation so far."""
    print("Ask about the picture; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        answer_one(assistant, conversation, line, as_json)


def answer_one(
    assistant: Assistant | BaselineAssistant,
    conversation: Conversation,
    question: str,
    as_json: bool,
    about: Sequence[str] = (),
    drawing: Path | None = None,
) -> None:
    """Print the answer to a question and keep it in the conversation.

    ``about``: boxes of a picture, as they were typed. ``drawing``: the file for it with the answer's boxes.
    """
    from answering.drawing import box_fields, draw_answer, parse_boxes
    from dataset.boxes import asked_about

    if about and not assistant.takes_boxes:
        raise UserError("--box: this checkpoint has no tokens for boxes; train it on a source with boxes")
    if about and not assistant.learnt_boxes:
        print("note: this checkpoint was not trained on boxes", file=sys.stderr)
    boxes, picture = parse_boxes(about, [image.size for image in conversation.images], assistant.crop)
    if picture is not None and picture < len(conversation.images) - 1 and not assistant.config.language.picture_numbers:
        number = f"it may not know which is picture {picture + 1}"
        print(f"note: this checkpoint was trained without numbers of pictures: {number}", file=sys.stderr)
    request = conversation.ask(question, boxes, picture)
    turn = conversation.turns[-1]
    turn.checkpoint = str(assistant.checkpoint or "")
    image = conversation.images[conversation.picture_of(turn)]
    say_replaced(conversation.replaced)
    if as_json:
        conversation.answer("".join(assistant.stream(request)).strip())
        asked, answer = conversation.answered()[-1]
        line = {"question": asked_about(asked)[1], "images": conversation.paths, "answer": answer}
        print_json({**line, **box_fields(answer, image, assistant)})
    else:
        print_answer(assistant, conversation, request)
    if drawing and not draw_answer(image, boxes, turn.answer or "", assistant.crop, drawing):
        print("note: the answer has no box", file=sys.stderr)


def print_answer(assistant: Assistant | BaselineAssistant, conversation: Conversation, request: Request) -> None:
    """Keep the answer to the last question, and print it in plain words: piece by piece on a terminal, else whole."""
    turn, on_terminal = conversation.turns[-1], sys.stdout.isatty()
    text = shown = ""
    for piece in assistant.stream(request):
        text = (text + piece).lstrip()
        if on_terminal:
            plain = conversation.plain(turn, text)[1]
            print(plain[len(shown) :], end="", flush=True)
            shown = plain
    conversation.answer(text.strip())
    plain = conversation.plain(turn)[1]
    print(plain[len(shown) :], flush=True)
    say_unprintable(plain)


# ---------------------------------------------------------------------------------------------- a file of questions


def ask_many(assistant: Assistant | BaselineAssistant, config: Config, asked: list[Asked], as_json: bool) -> int:
    """Ask each question alone, in batches, and print one line for each, in order. Returns 1 if one had no answer.

    A line is flushed as soon as it is known, so that Ctrl-C loses nothing that was answered.
    """
    from tqdm import tqdm

    from answering.drawing import box_fields, in_plain_pixels
    from dataset.boxes import boxes_in
    from dataset.prompt import Request, Turn, question_with_images
    from evaluation.asking import Pictures, answers_to

    pictures = Pictures(config.data.max_pixels)

    def request(one: Asked) -> Request:
        question = question_with_images(one.question, len(one.images))
        return Request([Turn(question)], [pictures(path) for path in one.images])

    quiet = not config.data.progress or not sys.stderr.isatty() or sys.stdout.isatty()
    results = answers_to(assistant, asked, request, config.generate)
    progress = tqdm(results, total=len(asked), desc="asking", unit="question", disable=quiet)
    failed, printable = 0, True
    for one, answer, problem in in_order(asked, progress):
        if as_json:
            error = {"error": problem} if problem else {}
            image = pictures(one.images[-1]) if answer and one.images else None
            boxes = box_fields(answer or "", image, assistant)
            print_json({**one.fields, "images": one.images, "answer": answer, **boxes, **error})
        else:
            size = pictures(one.images[-1]).size if one.images and boxes_in(answer or "") else None
            line = " ".join(in_plain_pixels(answer or "", size, assistant.crop).splitlines())
            print(line, flush=True)
            printable = printable and can_print(line)
            if problem:
                print(f"line {one.line}: {problem}", file=sys.stderr)
        failed += problem is not None
    if not printable:
        say_unprintable()
    if failed:
        print(f"{failed} of {len(asked)} questions could not be asked", file=sys.stderr)
    return 1 if failed else 0


def in_order(
    asked: list[Asked], results: Iterable[tuple[Asked, str | None, str | None]]
) -> Iterator[tuple[Asked, str | None, str | None]]:
    """The results in the order of ``asked``, each as soon as those before it are there."""
    known: dict[int, tuple[Asked, str | None, str | None]] = {}
    following = iter(asked)
    expected = next(following, None)
    for result in results:
        known[id(result[0])] = result
        while expected is not None and id(expected) in known:
            yield known.pop(id(expected))
            expected = next(following, None)


# ---------------------------------------------------------------------------------------------- printing


def print_json(record: dict[str, Any]) -> None:
    """One line. Characters that the console cannot print are escaped, which JSON reads back as they were."""
    text = json.dumps(record, ensure_ascii=False)
    print(text if can_print(text) else json.dumps(record), flush=True)


def say_replaced(characters: int) -> None:
    if characters:
        what = "1 character was" if characters == 1 else f"{characters} characters were"
        print(f"note: {what} not UTF-8 text and replaced by U+FFFD", file=sys.stderr)


def say_unprintable(text: str | None = None) -> None:
    """Say that ``text`` (None: something) was printed with ``?`` for some of its characters."""
    if text is None or not can_print(text):
        encoding = sys.stdout.encoding
        print(
            f"note: a console in {encoding} cannot print every character, and shows ? instead; "
            "set PYTHONIOENCODING=utf-8, or use --json",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
