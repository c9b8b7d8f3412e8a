"""What is shown before the first question: example pictures, example questions, or how to get a model."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from tkinter import ttk
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps, ImageTk

from answering.examples import Examples, examples_of
from dataset.image import ImageError, load_image

if TYPE_CHECKING:
    from window.controller import Window

SIDE = 160  # pixels of an example picture: 80 at 100 %
ROOT = Path(__file__).resolve().parent.parent
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}


class Start:
    """Fills the top of a window's transcript until the first question."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.reading: int | None = None  # the worker's job
        self.language = ""  # of the examples
        self.examples = Examples([], [])
        self.small: dict[str, Image.Image] = {}  # by path; a picture that cannot be read is not shown
        self.photos: list[ImageTk.PhotoImage] = []  # Tk itself keeps no reference

    def read(self) -> None:
        """Read the checkpoint's examples in another thread, and show them."""
        checkpoint, language = self.window.models.checkpoint, self.window.language
        if checkpoint is None:
            return

        def read() -> tuple[Examples, dict[str, Image.Image]]:
            found, small = examples_of(checkpoint, language), {}
            for picture, _ in found.pictures:
                try:
                    image = load_image(picture, self.window.pictures.max_pixels())
                except ImageError:
                    continue
                small[picture] = ImageOps.fit(image, (SIDE, SIDE))
            return found, small

        self.language, self.reading = language, self.window.worker.read(read)

    def on_event(self, kind: str, value: Any) -> None:
        self.reading = None
        if kind == "read":
            self.examples, self.small = value
            self.show()

    # ------------------------------------------------------------------------------------------ what is shown

    def show(self) -> None:
        """Show what can be done now. After the first question there is nothing to show."""
        window = self.window
        if window.conversation.turns:
            return
        self.photos = []
        if window.worker.assistant is None and window.models.loading is None:
            self._show_ways_to_a_model()
        elif window.conversation.images:
            self._show_questions()
        else:
            self._show_pictures()
        if self.language not in ("", window.language):
            self.read()

    def _show_ways_to_a_model(self) -> None:
        window = self.window
        frame = window.view.transcript.start(window.t("start_model"))
        for key, command in (("open_readme", self.open_readme), ("choose_checkpoint", window.models.choose)):
            self._add(frame, window.view.look.button(frame, window.t(key), command))

    def _show_pictures(self) -> None:
        window, look = self.window, self.window.view.look
        frame = window.view.transcript.start(window.t("start_examples" if self.small else "start_picture"))
        for picture, image in self.small.items():
            photo = ImageTk.PhotoImage(image.resize((look.px(SIDE // 2),) * 2), master=frame)
            self.photos.append(photo)

            def open_it(picture: str = picture) -> None:
                window.pictures.open_example(picture)

            button = look.button(frame, "", open_it, "Chip.TButton")
            button.configure(image=str(photo), padding=look.px(4))
            button.pack(side="left", padx=look.px(4))

    def _show_questions(self) -> None:
        window, look = self.window, self.window.view.look
        frame = window.view.transcript.start(window.t("start_questions"))
        width = max(look.px(280), window.view.transcript.text.winfo_width() - look.px(60))
        for question in self._questions():

            def ask(question: str = question) -> None:
                window.view.question_box.text = question
                window.questions.ask()

            line = look.shortened(question, look.small, width)
            self._add(frame, look.button(frame, line, ask, "Chip.TButton"))

    def _add(self, frame: ttk.Frame, button: ttk.Button) -> None:
        button.pack(pady=self.window.view.look.px(3))

    def _questions(self) -> list[str]:
        """Questions about the picture if it is an example, else such as fit any picture."""
        shown, window = self.window.conversation.paths[0], self.window
        for picture, questions in self.examples.pictures:
            if str(Path(picture).resolve()) == shown:
                return questions
        return self.examples.questions or [window.t(f"question_{number}") for number in (1, 2, 3)]

    def open_readme(self) -> None:
        """Show the page that says how to train or get a model, in the browser or what the system has for such files."""
        file = READMES[self.window.language]
        if not webbrowser.open(file.as_uri()):
            self.window.say("note", self.window.t("readme_at", file=file))
