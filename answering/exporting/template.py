"""The chat template of an export: Jinja that gives the ids of :func:`dataset.prompt.build_prompt`."""

from __future__ import annotations

import json

from dataset.layout import NO_THOUGHTS, can_think
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer

IMAGE = "<image>"  # the name of the placeholder in exports: lmms-eval and others have it in their code

# Content is text, or a list of parts. Its pictures come first, as in ask.py and the window. The loops are over
# message['content'] itself, because vLLM looks for that to find out that parts are welcome.
_TEMPLATE = """\
{%- set thoughts = @thoughts@ -%}
@system@{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['role'] == 'assistant' -%}{{- thoughts -}}{%- endif -%}
    {%- if message['content'] is string -%}
        {%- if message['role'] == 'assistant' and @thinks@ -%}
            {{- message['content'].split('</think>')[-1].strip() -}}
        {%- else -%}
            @plain@
        {%- endif -%}
    {%- else -%}
        {%- set seen = namespace(image=false) -%}
        {%- for part in message['content'] -%}
            {%- if @is_picture@ -%}{{- @picture@ -}}{%- set seen.image = true -%}{%- endif -%}
        {%- endfor -%}
        {%- if seen.image -%}{{- '\\n' -}}{%- endif -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' + thoughts -}}{%- endif -%}
"""

_SET_SYSTEM = """\
{%- if messages[0]['role'] != 'system' -%}
    {%- set said = [{'type': 'text', 'text': @text@}] -%}
    {%- set messages = [{'role': 'system', 'content': said}] + messages -%}
{%- endif -%}
"""

_SYSTEM = """\
{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\n' + @text@ + '<|im_end|>\\n' -}}{%- endif -%}
"""


# llama.cpp gives a picture as a part of the type media_marker whose text is its marker, or all parts as one text, with
# the question directly after the last marker. Training had a line break there; without it the log probabilities of a
# tiny model are off by 0.17, with it by 0.002.
_LLAMA_CPP = {
    "is_picture": "part['type'] == 'media_marker'",
    "picture": "part['text']",
    "plain": """\
{%- if '<__media' in message['content'] and '__>\\n' not in message['content'] -%}
                {%- set pieces = message['content'].split('__>') -%}
                {{- pieces[:-1] | join('__>') + '__>\\n' + pieces[-1] -}}
            {%- else -%}
                {{- message['content'] -}}
            {%- endif -%}""",
}
_LLAVA = {
    "is_picture": "part['type'] in ['image', 'image_url']",
    "picture": "'<image>'",
    "plain": "{{- message['content'] -}}",
}


def chat_template(tokenizer: Tokenizer, system: str, thinking: bool, *, llama_cpp: bool = False) -> str:
    """The template of a model that was trained with the system message ``system`` and ``language.thinking``.

    With ``llama_cpp`` it takes pictures as llama.cpp's programs give them, else as transformers and vLLM do.
    A template that the model brought along is kept, under a system message that the run set.
    """
    if IMAGE_TOKEN in str(tokenizer.chat_template):
        own = tokenizer.chat_template.replace(IMAGE_TOKEN, IMAGE)
        return (_SET_SYSTEM.replace("@text@", json.dumps(system, ensure_ascii=False)) if system else "") + own
    thoughts = NO_THOUGHTS if can_think(tokenizer) and not thinking else ""
    text = _TEMPLATE.replace("@system@", _SYSTEM if system else "")
    for name, code in (_LLAMA_CPP if llama_cpp else _LLAVA).items():
        text = text.replace(f"@{name}@", code)
    for name, value in (("thoughts", thoughts), ("thinks", thinking), ("text", system)):
        text = text.replace(f"@{name}@", json.dumps(value, ensure_ascii=False))  # Jinja reads JSON's texts
    return text
