"""The page: gradio's components, and what each event does to a tab's session and shows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.colors import zinc

from answering.checkpoints import is_demo
from answering.examples import QUESTIONS
from window.web import limits
from window.web.pictures import pictures_html, start_html
from window.web.sessions import SETTINGS, Line, Session, Sessions
from window.web.texts import LANGUAGES, preferred, text
from window.web.turns import Job

DECODING = ("greedy", "sampling")
# A tab's own key, which survives a reload: its conversation is found again.
TAB_KEY = """() => {
    const key = sessionStorage.getItem('tab') || crypto.randomUUID();
    sessionStorage.setItem('tab', key);
    return [key];
}"""
KEPT_FILES_S = 1800  # an uploaded file is removed after this time: whoever attached it has sent it by then
# The pictures' part of the page adds files as the paper clip does, and says which example was chosen. gradio drops a
# file above its own limit without a word, so one that is too large is refused before it is uploaded.
ON_PICTURES = """
const files = () => document.querySelector('#box input[type=file]');
element.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (button?.dataset.example) trigger('example', {number: Number(button.dataset.example)});
    else if (button) files().click();
});
element.addEventListener('dragover', (event) => event.preventDefault());
element.addEventListener('drop', (event) => {
    event.preventDefault();
    files().files = event.dataTransfer.files;
    files().dispatchEvent(new Event('change', {bubbles: true}));
});
for (const kind of ['change', 'drop', 'paste']) document.addEventListener(kind, (event) => {
    const added = event.target.files ?? event.dataTransfer?.files ?? event.clipboardData?.files ?? [];
    const found = [...added].find((file) => file.size > most);
    if (!found) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.target.files) event.target.value = '';
    trigger('large', {name: found.name, size: found.size});
}, true);
"""
# gradio's own edges of fields, and its hints in them, have less contrast than WCAG AA asks for (3 and 4.5).
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    input_border_color=zinc.c500,
    input_border_color_dark=zinc.c500,
    checkbox_border_color=zinc.c500,
    checkbox_border_color_dark=zinc.c500,
    checkbox_border_color_hover=zinc.c500,
    checkbox_border_color_hover_dark=zinc.c500,
    checkbox_label_border_color=zinc.c500,
    checkbox_label_border_color_dark=zinc.c500,
    input_placeholder_color=zinc.c500,
    input_placeholder_color_dark=zinc.c400,
)
CSS = """
#top { align-items: center; } #title h1 { margin: 0; font-size: 1.4rem; }
#language { flex: 0 0 auto; margin-left: auto; width: auto; }
#pictures .pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; }
#pictures figure { margin: 0; }
#pictures img { display: block; width: 100%; max-height: 55vh; object-fit: contain; border-radius: .5rem; }
#pictures figcaption, #pictures .legend { font-size: .85rem; margin: .25rem 0; overflow-wrap: anywhere; }
#pictures .legend img { display: inline; width: auto; vertical-align: middle; border: 1px solid #9ca3af; }
#pictures button { background: none; color: inherit; border: 2px solid transparent; border-radius: .5rem; }
#pictures button:is(:hover, :focus-visible) { border-color: var(--color-accent); }
#pictures .no-picture { width: 100%; border: 2px dashed #71717a; padding: 3rem 1rem; }
#pictures .examples { display: flex; flex-wrap: wrap; gap: .25rem; margin-left: -4px; }
#pictures .examples button { padding: 2px; } #pictures .examples img { width: 5rem; height: 5rem; }
.form:has(> #box), #checkpoint .wrap { border-color: #71717a !important; }
/* Under the mouse, gradio paints the chosen one white on white. */
label:hover input:checked { background-color: var(--checkbox-background-color-selected) !important; }
#numbers .form { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); align-items: end; }
#numbers .form { background: var(--block-background-fill); }
#checkpoint input { padding-right: 1.5rem; text-overflow: ellipsis; }
#chat .placeholder-content { padding: 1rem; text-align: center; white-space: pre-line; }
#bottom { align-items: center; } #status { flex: 1; } #status p { margin: 0; overflow-wrap: anywhere; }
#status .problem { color: #b91c1c; font-weight: 600; } .dark #status .problem { color: #fca5a5; }
#new { flex: 0 0 auto; width: auto; min-width: 0; }
/* On a narrow page the conversation comes after the pictures, and the settings last. */
@media (max-width: 700px) {
    #left { display: contents; } #look, #settings { order: 1; } #chat { height: 45vh !important; }
    #pictures .no-picture { padding: 1rem; } #pictures img { max-height: 28vh; }
    #pictures .pictures { grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
}
"""

Updates = dict[Any, Any]  # component -> its new value or properties
Values = dict[Any, Any]  # component -> what is in it


class Page:
    """The page of all tabs. ``blocks`` is what gradio serves."""

    def __init__(self, sessions: Sessions, kept_files_s: int = KEPT_FILES_S) -> None:
        self.sessions = sessions
        cleaning = (min(60, kept_files_s), kept_files_s)  # how often, and from which age, in seconds
        with gr.Blocks(title=text("en", "title"), analytics_enabled=False, delete_cache=cleaning) as self.blocks:
            self._build()
            self._connect()
        self.blocks.queue(default_concurrency_limit=None)  # the turns are those of window/web/turns.py

    # ------------------------------------------------------------------------------------------ components

    def _build(self) -> None:
        self.key = gr.Textbox(visible=False)
        with gr.Row(elem_id="top"):
            self.title = gr.HTML(elem_id="title")
            choices = [(name, code) for code, name in LANGUAGES.items()]
            self.language = gr.Radio(choices, show_label=False, container=False, elem_id="language", min_width=0)
        with gr.Row():
            with gr.Column(scale=2, min_width=280, elem_id="left"):
                most = f"const most = {limits.MOST_BYTES};"
                self.pictures = gr.HTML(elem_id="pictures", js_on_load=most + ON_PICTURES)
                self.look = gr.Checkbox(label=text("en", "look"), container=False, elem_id="look")
                self._build_settings()
            with gr.Column(scale=3, min_width=320):
                self.chat = gr.Chatbot(
                    elem_id="chat",
                    height="60vh",
                    render_markdown=False,
                    latex_delimiters=[],
                    group_consecutive_messages=False,
                    buttons=["copy"],
                    show_label=False,
                )
                with gr.Row(elem_id="chips"):
                    self.chips = [gr.Button(size="md", visible=False) for _ in range(QUESTIONS)]
                self.box = gr.MultimodalTextbox(
                    elem_id="box", sources=["upload"], file_count="multiple", show_label=False, autofocus=True
                )
                with gr.Row(elem_id="bottom"):
                    self.status = gr.HTML(elem_id="status")
                    self.new = gr.Button(size="md", scale=0, elem_id="new")

    def _build_settings(self) -> None:
        with gr.Accordion(open=False, elem_id="settings") as self.settings:
            self.checkpoint = gr.Dropdown([], elem_id="checkpoint")
            self.decoding = gr.Radio([], elem_id="decoding")
            with gr.Row(elem_id="numbers"):
                self.numbers = {
                    number.key: gr.Number(
                        value=None,
                        precision=0 if number.convert is int else None,
                        step=number.step,
                        elem_id=number.key,
                        min_width=120,
                    )
                    for number in SETTINGS
                }
            self.system = gr.Textbox(lines=2, max_length=limits.MOST_CHARACTERS, elem_id="system")

    def _connect(self) -> None:
        chosen = {self.checkpoint, self.decoding, self.system, *self.numbers.values()}
        shown = [self.chat, self.box, self.status, self.pictures, *self.chips]
        labels = {self.title, self.look, self.settings, self.new, *chosen}
        maps = [self.look, self.pictures, self.status]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.blocks.load(self.on_open, self.key, [self.language, *labels, *shown], js=TAB_KEY, **quiet)
        self.blocks.unload(self.on_close)
        self.language.input(self.on_language, self.language, [*labels, *shown], **quiet)
        self.checkpoint.input(self.on_checkpoint, self.checkpoint, [*labels, *shown], **quiet)
        self.pictures.example(self.on_example, None, shown, **quiet)
        self.pictures.large(self.on_large, None, self.status, **quiet)
        self.look.input(self.on_look, self.look, maps, **quiet)
        self.chat.select(self.on_select, None, maps, **quiet)
        # "multiple": a session refuses a second question itself, and says so; gradio would drop it without a word.
        sent = self.box.submit(self.on_submit, {self.box, *chosen}, shown, trigger_mode="multiple", **quiet)
        clicked = [chip.click(self.on_chip, {chip, *chosen}, shown, **quiet) for chip in self.chips]
        for asked in (sent, *clicked):
            asked.then(self.on_answered, None, maps, **quiet)
        self.box.stop(self.on_stop, None, None, queue=False, **quiet)
        for left in (self.new.click, self.chat.clear):
            left(self.on_new, None, shown, **quiet)

    # ------------------------------------------------------------------------------------------ what is shown

    def _labels(self, session: Session) -> Updates:
        """Every label and choice in the session's language."""
        t, model = session.t, self.sessions.model
        choices, config = model.choices(session.language), model.config(session.checkpoint)
        # What an empty field means is shown in it.
        own = {key: "" if config is None else str(getattr(config.generate, key)) for key in self.numbers}
        system = "" if config is None else config.language.system
        return {
            self.title: f"<h1>{escape(t('title'))}</h1>",
            self.look: gr.update(label=t("look"), value=session.looks),
            self.settings: gr.update(label=t("settings_short")),
            self.new: gr.update(value=t("new")),
            self.checkpoint: gr.update(label=t("model"), choices=choices),
            self.decoding: gr.update(label=t("decoding"), choices=[(t(name), name) for name in DECODING]),
            **{field: gr.update(label=t(key), placeholder=own[key]) for key, field in self.numbers.items()},
            self.system: gr.update(label=t("system"), placeholder=system),
        }

    def _decoding(self, session: Session) -> str:
        """The chosen checkpoint's own."""
        config = self.sessions.model.config(session.checkpoint)
        return DECODING[config is not None and config.generate.do_sample]

    def _shown(self, session: Session, question: str | None = None) -> Updates:
        """The whole conversation, and what can be done now. ``question`` replaces what is in the input."""
        busy, pictures = session.job is not None, bool(session.conversation.images)
        hint = session.t("ask_more" if pictures else "type_here")
        box = gr.update(placeholder=hint, submit_btn=not busy, stop_btn=busy)
        if question is not None:
            box["value"] = {"text": question, "files": []}
        questions = self.sessions.example_questions(session)
        offered: list[Updates] = [gr.update(value=question, visible=True) for question in questions]
        hidden = [gr.update(visible=False)] * (len(self.chips) - len(offered))
        return {
            **self._progress(session),
            self.box: box,
            self.pictures: self._pictures(session),
            **dict(zip(self.chips, offered + hidden, strict=True)),
        }

    def _pictures(self, session: Session) -> str:
        """The conversation's pictures, or what there is to begin with."""
        if session.conversation.images:
            return pictures_html(session)
        return start_html(session, self.sessions.examples(session).pictures)

    def _progress(self, session: Session) -> Updates:
        """What changes while an answer comes. Not the input: the next question may be typed there meanwhile."""
        messages = [_message(line) for line in session.lines]
        return {self.chat: gr.update(value=messages, placeholder=escape(self._start(session))), **self._said(session)}

    def _start(self, session: Session) -> str:
        """What is said where the conversation will be: who answers."""
        demo = [session.t("demo")] if is_demo(session.checkpoint) else []
        return "\n".join([session.said(self.sessions.who(session)), *demo])

    def _said(self, session: Session) -> Updates:
        job, said = session.job, session.said()
        if session.status.key == "waiting" and job is not None:
            said = session.t("waiting", before=self.sessions.turns.before(job))  # it moves up
        kind = "problem" if session.status.refused else "note"
        return {self.status: f'<p class="{kind}" role="status">{escape(said)}</p>'}

    def _maps(self, session: Session) -> Updates:
        return {self.look: session.looks, self.pictures: self._pictures(session), **self._said(session)}

    # ------------------------------------------------------------------------------------------ events

    def on_open(self, key: str, request: gr.Request) -> Updates:
        """A tab was opened or reloaded."""
        session = self.sessions.open(_tab(request), key, preferred(request.headers.get("accept-language", "")))
        labels = self._labels(session)
        labels[self.checkpoint]["value"] = str(session.checkpoint)
        labels[self.decoding]["value"] = self._decoding(session)
        for field in self.numbers.values():
            labels[field]["value"] = None  # else gradio shows 0
        return {self.language: session.language, **labels, **self._shown(session)}

    def on_close(self, request: gr.Request) -> None:
        self.sessions.close(_tab(request))

    def on_language(self, language: str, request: gr.Request) -> Updates:
        session = self.sessions.of(_tab(request))
        session.language = language
        return {**self._labels(session), **self._shown(session)}

    def on_checkpoint(self, checkpoint: str, request: gr.Request) -> Updates:
        """Another checkpoint was chosen. It is loaded when it has a question."""
        session = self.sessions.of(_tab(request))
        self.sessions.choose(session, Path(checkpoint))
        labels = self._labels(session)
        labels[self.decoding]["value"] = self._decoding(session)
        return {**labels, **self._shown(session)}

    def on_example(self, chosen: gr.EventData, request: gr.Request) -> Updates:
        """An example picture was clicked."""
        session = self.sessions.of(_tab(request))
        self.sessions.show_example(session, chosen.number)
        return self._shown(session)

    def on_large(self, file: gr.EventData, request: gr.Request) -> Updates:
        """A file was added that is too large; the browser did not send it."""
        session = self.sessions.of(_tab(request))
        session.refuse_file(str(file.name), int(file.size))
        return self._said(session)

    def on_submit(self, sent: Values, request: gr.Request) -> Iterator[Updates]:
        """Pictures, a question, or both were sent."""
        session, question, files = self.sessions.of(_tab(request)), sent[self.box]["text"], sent[self.box]["files"]
        read = self.sessions.show(session, files) if files else True
        if read and question.strip():
            yield from self._ask(session, question, sent)
        else:
            yield self._shown(session, question.strip())

    def on_chip(self, sent: Values, request: gr.Request) -> Iterator[Updates]:
        """One of the example questions was clicked."""
        (question,) = (sent[chip] for chip in self.chips if chip in sent)
        yield from self._ask(self.sessions.of(_tab(request)), question, sent)

    def _ask(self, session: Session, question: str, sent: Values) -> Iterator[Updates]:
        job = self.sessions.ask(session, question, Path(sent[self.checkpoint]), self._settings(sent))
        if job is not None:
            yield self._shown(session, "")
            for _ in job.changes():
                yield self._progress(session)
        yield self._shown(session, session.take_back())

    def _settings(self, sent: Values) -> dict[str, Any]:
        """The settings of an answer. What is empty is left to the checkpoint's config."""
        filled = {key: sent[field] for key, field in self.numbers.items() if sent[field] is not None}
        system = {"system": sent[self.system]} if sent[self.system] else {}
        return {"do_sample": sent[self.decoding] == "sampling", **filled, **system}

    def on_stop(self, request: gr.Request) -> None:
        self.sessions.stop(self.sessions.of(_tab(request)))

    def on_new(self, request: gr.Request) -> Updates:
        session = self.sessions.of(_tab(request))
        self.sessions.restart(session)
        return self._shown(session)

    def on_answered(self, request: gr.Request) -> Iterator[Updates]:
        session = self.sessions.of(_tab(request))
        session.selected = None
        yield from self._look(session)

    def on_look(self, looks: bool, request: gr.Request) -> Iterator[Updates]:
        """The switch was turned on or off."""
        session = self.sessions.of(_tab(request))
        session.looks = looks
        yield from self._look(session)

    def on_select(self, chosen: gr.SelectData, request: gr.Request) -> Iterator[Updates]:
        """A line of the conversation was clicked: an answer's maps are shown."""
        session = self.sessions.of(_tab(request))
        number = chosen.index if isinstance(chosen.index, int) else chosen.index[0]
        line = session.lines[number] if number < len(session.lines) else None
        if line is not None and line.kind == "answer":
            session.looks, session.selected = True, line.turn
        yield from self._look(session)

    def _look(self, session: Session) -> Iterator[Updates]:
        job: Job | None = self.sessions.look(session)
        if job is not None:
            for _ in job.changes():
                yield self._said(session)
        yield self._maps(session)


def _tab(request: gr.Request) -> str:
    return str(request.session_hash)


def _message(line: Line) -> dict[str, str]:
    if line.kind == "note":
        return {"role": "assistant", "content": _as_text(f"— {line.text} —")}
    return {"role": "user" if line.kind == "question" else "assistant", "content": _as_text(line.text or "…")}


def _as_text(words: str) -> str:
    """What people and models write, for the chatbot, which takes it as HTML even without Markdown.

    Only what would begin a tag or an entity is escaped: the button that copies a message copies this.
    """
    return re.sub(r"&(?=[#A-Za-z])|<(?=[A-Za-z/!?])", lambda found: escape(found[0]), words)
