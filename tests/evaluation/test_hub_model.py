"""Other people's models: each family answers by its own processor, in a batch as alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BlipForQuestionAnswering, BlipProcessor, ViltForQuestionAnswering, ViltProcessor, pipeline
from transformers.models.smolvlm import processing_smolvlm

from common.errors import UserError
from common.optional import is_installed
from dataset.prompt import Request, Turn, question_with_images
from evaluation import hub_model
from evaluation.hub_model import load_hub_model, picture_part
from evaluation.messages import messages_of
from tests.helpers import others
from tests.helpers.llava import edit_config, save_llava
from tests.helpers.tiny import picture

FAMILIES = {
    "llava": save_llava,
    "qwen2.5-vl": others.qwen_vl,
    "qwen3-vl": lambda folder: others.qwen_vl(folder, "3"),
    "smolvlm": others.smolvlm,
    "blip questions": lambda folder: others.blip(folder, question_answering=True),
    "blip captions": lambda folder: others.blip(folder, question_answering=False),
    "vilt": others.vilt,
}


def request(text: str, *colors: str) -> Request:
    return Request([Turn(question_with_images(text, len(colors)))], [picture(color) for color in colors])


REQUESTS = [request("what color is it?", "red"), request("is it a very big cat?", "blue"), request("who?")]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_answers_in_a_batch_as_alone(tmp_path, monkeypatch, family):
    monkeypatch.setattr(processing_smolvlm, "num2words", str, raising=False)  # it counts the frames of videos
    model = load_hub_model(str(FAMILIES[family](tmp_path)), "cpu")
    answers = model.answer(REQUESTS, max_new_tokens=4)
    assert answers == [model.answer([request], max_new_tokens=4)[0] for request in REQUESTS]
    assert len(set(answers)) > 1 and all(answers)


@pytest.mark.skipif(is_installed("num2words"), reason="num2words is installed")
def test_a_package_that_a_processor_lacks_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(processing_smolvlm, "num2words", str, raising=False)
    folder = others.smolvlm(tmp_path)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(UserError, match="its processor needs a package: Package `num2words` is required") as raised:
        load_hub_model(str(folder), "cpu")
    assert "\n" not in str(raised.value)


def test_a_llava_answers_as_the_pipeline_of_transformers(tmp_path):
    folder = str(save_llava(tmp_path))
    asked = request("what color is it?", "red")
    with torch.random.fork_rng():
        pipe = pipeline("image-text-to-text", folder, device="cpu")
        (said,) = pipe(text=messages_of(asked, "", picture_part), max_new_tokens=6, do_sample=False)
    (answer,) = load_hub_model(folder, "cpu").answer([asked], max_new_tokens=6)
    assert answer == said["generated_text"][-1]["content"].strip() != ""


def test_blip_and_vilt_answer_as_their_classes(tmp_path):
    blip, vilt = str(others.blip(tmp_path / "blip", True)), str(others.vilt(tmp_path / "vilt"))
    image, text = picture("blue"), "is it a cat?"
    processor = BlipProcessor.from_pretrained(blip)
    inputs = processor(image, text, return_tensors="pt")
    ids = BlipForQuestionAnswering.from_pretrained(blip).generate(**inputs, max_new_tokens=4, do_sample=False)
    answer = processor.decode(ids[0], skip_special_tokens=True)
    assert load_hub_model(blip, "cpu").answer([request(text, "blue")], max_new_tokens=4) == [answer.strip()]
    model = ViltForQuestionAnswering.from_pretrained(vilt)
    with torch.no_grad():
        logits = model(**ViltProcessor.from_pretrained(vilt)(image, text, return_tensors="pt")).logits
    answer = model.config.id2label[logits.argmax(-1).item()]
    assert load_hub_model(vilt, "cpu").answer([request(text, "blue")]) == [answer]


def test_blip_without_a_picture_sees_a_grey_one_and_refuses_two(tmp_path):
    model = load_hub_model(str(others.blip(tmp_path, True)), "cpu")
    grey = Request([Turn(question_with_images("who?", 1))], [hub_model.GREY])
    assert model.answer([request("who?")], max_new_tokens=4) == model.answer([grey], max_new_tokens=4)
    with pytest.raises(UserError, match="asked about one picture, not 2"):
        model.answer([request("who?", "red", "blue")])


def test_a_request_to_describe_is_no_text_for_blip_to_continue(tmp_path, monkeypatch):
    model = load_hub_model(str(others.blip(tmp_path, False)), "cpu")
    given, processor = [], model.processor.__class__.__call__
    monkeypatch.setattr(
        model.processor.__class__, "__call__", lambda *a, **k: given.append(k.get("text")) or processor(*a, **k)
    )
    model.answer([request("describe the picture", "red"), request("a photo of", "red")], max_new_tokens=3)
    assert given == [None, "a photo of"]


def test_system_texts_and_placeholders_become_messages():
    red, blue = picture("red"), picture("blue")
    asked = Request(
        [Turn("<|extra_0|>\nWho?", "Ann"), Turn("And <|extra_0|> here <image>?")], [red, blue], system="Be brief."
    )
    system, first, answer, second = messages_of(asked, "unused", picture_part)
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert first["content"] == [{"type": "image", "image": red}, {"type": "text", "text": "Who?"}]
    assert answer == {"role": "assistant", "content": [{"type": "text", "text": "Ann"}]}
    texts = [part.get("text") for part in second["content"]]
    assert texts == ["And", None, "here < image >?"] and second["content"][1]["image"] is blue
    assert messages_of(request("Who?"), "Look.", picture_part)[0]["content"][0]["text"] == "Look."
    assert [message["role"] for message in messages_of(request("Who?"), "", picture_part)] == ["user"]


def test_how_a_model_decodes_by_default_is_not_used(tmp_path):
    folder = save_llava(tmp_path)
    plain = load_hub_model(str(folder), "cpu").answer(REQUESTS, max_new_tokens=4)
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 9.0, "repetition_penalty": 3.0, "eos_token_id": 2, "pad_token_id": 550}'
    )
    model = load_hub_model(str(folder), "cpu")
    assert model.answer(REQUESTS, max_new_tokens=4) == plain and model.model.generation_config.eos_token_id == 2


def wrong_kind(folder: Path) -> None:
    edit_config(folder, model_type="bert", architectures=["BertModel"])


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text(encoding="utf-8").replace("chat_template", "other"), encoding="utf-8")


def no_projector(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "multi_modal_projector.linear_1" not in k}, folder / "model.safetensors"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_kind, "BertModel does not answer about pictures"),
        (no_template, "it has no chat template"),
        (no_projector, "2 tensors are missing, the first model.multi_modal_projector.linear_1.bias"),
    ],
)
def test_a_folder_that_cannot_answer_is_refused_in_one_line(tmp_path, fault, message):
    fault(save_llava(tmp_path))
    with pytest.raises(UserError, match=message) as raised:
        load_hub_model(str(tmp_path), "cpu")
    assert "\n" not in str(raised.value) and str(raised.value).startswith(f"--model = {tmp_path}: ")


def test_the_hash_knows_another_config(tmp_path):
    folder = save_llava(tmp_path)
    before = hub_model.folder_hash(folder)
    assert hub_model.folder_hash(folder) == before
    edit_config(folder, pad_token_id=1)
    assert hub_model.folder_hash(folder) != before
