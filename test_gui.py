"""A window to ask about a picture. (The name is the project's; it is not a test.)

    python test_gui.py [--checkpoint checkpoints/demo] [picture]

Everything that is not Tk lives in conversation.py: a worker thread loads the model and answers, and this window reads
its events every 30 ms. Nothing but the Tk thread touches Tk.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
from pathlib import Path

from conversation import Request, Worker, question_with_images
from dataset.image import ImageError, load_image
from dataset.prompt import Turn
from model.checkpoint import latest_checkpoint
from model.model import quiet_libraries

NO_TK = (
    "error: {reason}; install Tk (Debian and Ubuntu: apt install python3-tk, Fedora: dnf install python3-tkinter, "
    "macOS: brew install python-tk) or ask on the terminal: "
    'python ask.py --checkpoint {checkpoint} --image FILE "question"'
)
POLL_MS = 30  # half of what an eye notices; an idle poll costs microseconds


def main() -> int:
    parser = argparse.ArgumentParser(description="Open a window to ask a trained model about a picture.")
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint or a run's folder (default: the newest run)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("picture", nargs="?", help="a picture to open at once")
    args = parser.parse_args()
    quiet_libraries()
    checkpoint = Path(args.checkpoint) if args.checkpoint else newest_run(Path("checkpoints"))
    try:
        import tkinter

        root = tkinter.Tk()
    except (ImportError, RuntimeError) as error:
        return no_window(f"this Python has no Tk ({error})", checkpoint)
    except tkinter.TclError as error:
        return no_window(f"no display to open a window on ({error})", checkpoint)
    Window(root, checkpoint, args.device, args.picture)
    root.mainloop()
    return 0


def no_window(reason: str, checkpoint: Path | None) -> int:
    print(NO_TK.format(reason=reason, checkpoint=checkpoint or "DIR"), file=sys.stderr)
    return 2


def newest_run(folder: Path) -> Path | None:
    """The run whose latest checkpoint is the youngest, if any."""
    latest = [(found.stat().st_mtime, run) for run in folder.glob("*") if (found := latest_checkpoint(run))]
    return max(latest)[1] if latest else None


class Window:
    """Left the picture, right the conversation, below it the question."""

    def __init__(self, root, checkpoint: Path | None, device: str | None, picture: str | None) -> None:
        import tkinter
        from tkinter import ttk

        self.tk, self.ttk, self.root = tkinter, ttk, root
        self.worker = Worker()
        self.turns: list[Turn] = []
        self.image = self.photo = None
        self.job: int | None = None  # the job whose answer is awaited
        self.build()
        if checkpoint is None:
            self.say("No trained model was found under checkpoints/. Run `make demo` or train.py first.")
        else:
            self.worker.load(checkpoint, device)
        if picture:
            self.open_picture(picture)
        root.after(POLL_MS, self.poll)

    def build(self) -> None:
        root, ttk = self.root, self.ttk
        root.title("Ask about a picture")
        root.geometry("980x620")
        root.minsize(640, 420)
        left, right = ttk.Frame(root, padding=12), ttk.Frame(root, padding=(0, 12, 12, 12))
        left.grid(row=0, column=0, sticky="nsew")
        right.grid(row=0, column=1, sticky="nsew")
        root.columnconfigure((0, 1), weight=1, uniform="half")
        root.rowconfigure(0, weight=1)
        ttk.Button(left, text="Open picture…", command=self.choose_picture).pack(anchor="w")
        self.canvas = self.tk.Canvas(left, background="#e8e8ea", highlightthickness=0)
        self.canvas.pack(fill="both", expand=True, pady=(8, 0))
        self.canvas.bind("<Configure>", lambda event: self.show_picture())
        self.status = ttk.Label(right, text="", foreground="#666666")
        self.status.pack(side="bottom", anchor="w")
        self.build_question(right)
        style = {"width": 1, "padx": 10, "pady": 8, "relief": "flat", "font": "TkTextFont"}
        self.text = self.tk.Text(right, wrap="word", state="disabled", **style)
        self.text.tag_configure("question", font="TkHeadingFont", spacing1=10)
        self.text.tag_configure("note", foreground="#8a5a00")
        self.text.pack(fill="both", expand=True)
        root.bind("<Control-o>", lambda event: self.choose_picture())
        root.protocol("WM_DELETE_WINDOW", self.close)

    def build_question(self, parent) -> None:
        row = self.ttk.Frame(parent)
        row.pack(side="bottom", fill="x", pady=8)
        buttons = self.ttk.Frame(row)
        buttons.pack(side="right", padx=(8, 0))  # before the entry, which would take all the room
        style = {"wrap": "word", "relief": "solid", "borderwidth": 1, "font": "TkTextFont"}
        self.entry = self.tk.Text(row, height=2, width=1, **style)
        self.entry.pack(side="left", fill="both", expand=True)
        self.entry.bind("<Return>", self.on_return)
        self.entry.focus_set()
        self.ttk.Button(buttons, text="Ask", command=self.ask).pack(fill="x")
        self.ttk.Button(buttons, text="Stop", command=self.worker.stop).pack(fill="x", pady=4)
        self.ttk.Button(buttons, text="New", command=self.new_conversation).pack(fill="x")

    # ------------------------------------------------------------------------------------------ the picture

    def choose_picture(self) -> None:
        from tkinter import filedialog

        if path := filedialog.askopenfilename(parent=self.root):
            self.open_picture(path)

    def open_picture(self, path: str) -> None:
        try:
            image = load_image(path)
        except ImageError as error:
            self.say(f"{Path(path).name}: {error}")
            return
        self.image = image
        self.new_conversation()
        self.show_picture()

    def show_picture(self) -> None:
        if self.image is None:
            return
        from PIL import ImageTk

        width, height = max(self.canvas.winfo_width(), 2), max(self.canvas.winfo_height(), 2)
        scale = min(width / self.image.width, height / self.image.height)
        size = (max(1, round(self.image.width * scale)), max(1, round(self.image.height * scale)))
        self.photo = ImageTk.PhotoImage(self.image.resize(size), master=self.root)
        self.canvas.delete("all")
        self.canvas.create_image(width // 2, height // 2, image=self.photo)

    # ------------------------------------------------------------------------------------------ the conversation

    def on_return(self, event) -> str | None:
        if event.state & 0x1:  # Shift: a new line
            return None
        self.ask()
        return "break"

    def ask(self) -> None:
        question = self.entry.get("1.0", "end").strip()
        if not question:
            return
        if self.image is None:
            self.say("Open a picture first.")
            return
        if self.turns and self.turns[-1].answer is None:
            self.turns.pop()  # asked again before the answer was there
        self.entry.delete("1.0", "end")
        self.turns.append(Turn(question_with_images(question, 0 if self.turns else 1)))
        self.write(f"{question}\n", "question")
        self.job = self.worker.ask(Request(list(self.turns), [self.image]))
        self.status.configure(text="thinking…")

    def new_conversation(self) -> None:
        self.worker.stop()
        self.job, self.turns = None, []
        self.text.configure(state="normal")
        self.text.delete("1.0", "end")
        self.text.configure(state="disabled")

    def poll(self) -> None:
        """Take what the worker has to say; the only way from its thread to the window."""
        try:
            while True:
                self.on_event(*self.worker.events.get_nowait())
        except queue.Empty:
            pass
        self.root.after(POLL_MS, self.poll)

    def on_event(self, job: int, kind: str, value) -> None:
        if kind == "stage":
            self.status.configure(text=f"{value}…")
        elif kind == "ready":
            self.status.configure(text=f"{value.checkpoint}, on {value.device}")
        elif kind == "error":
            self.say(value)
            self.status.configure(text="")
        elif job == self.job and kind == "piece":
            self.write(value)
        elif job == self.job and kind == "answer":
            self.turns[-1].answer = value
            self.write("\n")
            self.status.configure(text="")

    def say(self, note: str) -> None:
        self.write(f"{note}\n", "note")

    def write(self, text: str, tag: str = "") -> None:
        self.text.configure(state="normal")
        self.text.insert("end", text, tag)
        self.text.configure(state="disabled")
        self.text.see("end")

    def close(self) -> None:
        self.worker.stop()
        self.root.destroy()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
