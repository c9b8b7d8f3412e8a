"""Takes the pictures of the window, on a virtual screen (Xvfb), and of the report, in a headless Chromium.

    python -m docs.screenshots --checkpoint checkpoints/demo --data data/demo/raw --report result.html

The questions are the first about each picture in the demo's annotations; the answers are the model's. Those with boxes
are taken if --boxes names a checkpoint of configs/demo/regions.yaml, the one of a video if PyAV is installed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import tempfile
import time
import tkinter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageGrab

from benchmarks.browser import NAMES, Browser, find_chromium
from benchmarks.virtual_screen import virtual_screen
from dataset.prompt import neutralise
from model.run_checkpoints import choices_of
from window.controller import Window
from window.preferences import Preferences

DOCS = Path(__file__).resolve().parent
TWO = ("Describe the picture.",)
OPENED: list[Window] = []  # kept, since Tcl ends the process if a thread of a closed window deletes its variables
CHINESE = ("图中有几个图形？", "左上角的图形是什么颜色？")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/demo", type=Path, metavar="DIR")
    parser.add_argument(
        "--boxes", default="checkpoints/demo-regions", type=Path, metavar="DIR", help="the demo trained with boxes"
    )
    parser.add_argument("--data", default="data/demo/raw", type=Path, metavar="DIR", help="what demo.scenes wrote")
    parser.add_argument("--report", default="result.html", type=Path, metavar="FILE", help="what evaluate.py wrote")
    parser.add_argument("--output", default=DOCS, type=Path, metavar="DIR", help="where to write (default: docs)")
    args = parser.parse_args()
    checkpoint = choices_of(args.checkpoint)[0]
    first, second = test_pictures(args.data)
    with tempfile.TemporaryDirectory() as home:
        os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_DATA_HOME"] = home
        with virtual_screen("2400x1600x24") as screen:
            shoot(screen, args.output / "window-empty.png", Preferences(language="en"), checkpoint)
            shoot(screen, args.output / "window-look.png", Preferences(language="en", look=True), checkpoint, *first)
            dark = Preferences(language="zh", dark=True, look=True, size=200)
            shoot(screen, args.output / "window-zh-dark.png", dark, checkpoint, second[0], CHINESE)
            two = [first[0], second[0]]
            shoot(screen, args.output / "window-two.png", Preferences(language="en", look=True), checkpoint, two, TWO)
            if find_spec("av"):
                clip = write_clip(Path(home) / "clip.mp4", sorted((args.data / "coco_images").glob("*_test_*"))[:8])
                shoot(screen, args.output / "window-clip.png", Preferences(language="en"), checkpoint, clip, TWO)
            if args.boxes.is_dir():
                shoot_boxes(screen, args.output, choices_of(args.boxes)[0], args.data)
    shoot_report(args.report, args.output)


def write_clip(file: Path, pictures: Sequence[Path]) -> Path:
    """A video that shows each picture for a second, four times as large: it is compressed in blocks of 8 pixels."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=1, options={"qscale": "2"})
        stream.width = stream.height = 448
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            with Image.open(picture) as image:
                container.mux(stream.encode(av.VideoFrame.from_image(image.convert("RGB").resize((448, 448)))))
        container.mux(stream.encode())
    return file


def shoot_boxes(screen: str, folder: Path, checkpoint: Path, data: Path) -> None:
    """A rectangle that waits for its question, and a box that was answered, over the heat map."""
    records = json.loads((data / "regions_en.json").read_text(encoding="utf-8"))
    found = next(record for record in records if "_test_" in record["image"] and "grounding" in record["id"])
    question = found["conversations"][0]["value"].removeprefix("<image>\n")
    numbers = re.findall(r"[\d.]+", found["conversations"][1]["value"])
    left, top, right, bottom = (round(float(number)) for number in numbers)
    picture, part = data / "coco_images" / found["image"], (left - 2, top - 2, right + 2, bottom + 2)
    english, both = Preferences(language="en"), Preferences(language="en", look=True)
    shoot(screen, folder / "window-rectangle.png", english, checkpoint, picture, part=part, draft="What color is this?")
    shoot(screen, folder / "window-boxes.png", both, checkpoint, picture, [question])


def shoot_report(report: Path, folder: Path) -> None:
    """The report's scores in English, and its questions in Chinese on a dark ground."""
    program = find_chromium()
    if program is None:
        raise SystemExit(f"no Chromium: none of {', '.join(NAMES)} is installed")
    with Browser(program) as browser:
        browser.size(1240, 960)
        for name, state, top in (
            ("report", "language=en&theme=light", "body"),
            ("report-zh-dark", "language=zh&theme=dark&show=wrong", "#questions"),
        ):
            browser.open(report, state)
            browser.run(f"document.querySelector({top!r}).scrollIntoView({{behavior: 'instant'}})")
            with Image.open(io.BytesIO(browser.screenshot())) as image:
                image.quantize(256, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
            print(folder / f"{name}.png")


def test_pictures(data: Path) -> list[tuple[Path, list[str]]]:
    """The first two test pictures with English questions, and the first question about each."""
    records: dict[str, list[str]] = {}
    for record in json.loads((data / "coco_conversations.json").read_text(encoding="utf-8")):
        if "_test_" in record["image"]:
            asked = [said["value"] for said in record["conversations"] if said["from"] == "human"]
            records.setdefault(record["image"], []).extend(neutralise(q.replace("<image>", "").strip()) for q in asked)
    return [(data / "coco_images" / name, questions[:1]) for name, questions in list(records.items())[:2]]


def shoot(
    screen: str,
    file: Path,
    preferences: Preferences,
    checkpoint: Path,
    pictures: Path | Sequence[Path] = (),
    questions: Sequence[str] = (),
    part: tuple[int, int, int, int] | None = None,
    draft: str = "",
) -> None:
    """Open the window, ask, and save a picture of it. ``part`` and ``draft``: a question that is not asked yet."""
    root = tkinter.Tk(screenName=screen)
    window = Window(root, checkpoint, "cpu", None, preferences)
    OPENED.append(window)
    if paths := [str(path) for path in ([pictures] if isinstance(pictures, Path) else pictures)]:
        window.pictures.add(paths)
    live(root, lambda: window.models.loading is None and window.pictures.reading is None)
    root.focus_force()
    for question in questions:
        window.view.question_box.text = question
        window.questions.ask()
        live(root, lambda: window.questions.job is None and window.maps.looking is None)
    window.view.question_box.text = draft
    window.boxes.choose(part)
    end = time.monotonic() + 1
    live(root, lambda: time.monotonic() > end)
    grab(root, screen).save(file, optimize=True)
    print(file)
    window.close()
    window.worker.close(10)


def live(root: tkinter.Tk, until: Callable[[], object]) -> None:
    """Run Tk's loop until the condition holds."""
    while not until():
        root.update()
        time.sleep(0.01)


def grab(root: tkinter.Tk, screen: str) -> Image.Image:
    """The window and its menu, which without a window manager are at the top of the screen."""
    right, bottom = root.winfo_rootx() + root.winfo_width(), root.winfo_rooty() + root.winfo_height()
    return ImageGrab.grab(bbox=(root.winfo_rootx(), 0, right, bottom), xdisplay=screen)


if __name__ == "__main__":
    main()
