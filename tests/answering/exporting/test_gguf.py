"""The gguf export: the files hold the model bit for bit, and llama.cpp answers as we do."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch

from answering.exporting import gguf_file
from answering.exporting.compare import pixels_of, prompt_of, sample_picture
from answering.exporting.formats import Options
from common import optional
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from model.adapters import base_of
from tests.conftest import write_config
from tests.helpers import exports
from tests.helpers.exports import trained_checkpoint
from tests.helpers.tiny import save_qwen, save_qwen3

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
from answering.exporting import gguf as module  # noqa: E402

ALL = ("vision.drop_first_token=false", "vision.image_context_length=9")  # every patch, as llama.cpp shows them


def exported(checkpoint, output, dtype="f32", **options):
    """The folder of an export, and our own model of the same checkpoint."""
    return exports.exported(checkpoint, output, form="gguf", dtype=dtype, **options)


@pytest.fixture(params=["qwen3 tied", "layer -2", "tower trained"])
def run(request, make_config, tmp_path):
    """A checkpoint of each kind that differs in what is written."""
    settings = list(ALL)
    if request.param == "qwen3 tied":
        settings.append(f"language.path={save_qwen3(tmp_path / 'qwen3', tie_word_embeddings=True)}")
    elif request.param == "layer -2":
        settings += ["vision.layer=-2", "projector.standardize=true"]
    elif request.param == "tower trained":
        settings += ["vision.train=last_blocks", "vision.last_blocks=1", "language.train=full"]
    return trained_checkpoint(make_config(*settings), tmp_path / "checkpoint")


def read(folder, part, dtype="f32"):
    """Keys and tensors of a file, by the package's own reader."""
    reader = gguf.GGUFReader(folder / f"{part}-{dtype}.gguf")
    return {name: field.contents() for name, field in reader.fields.items()}, gguf_file.read_tensors(reader)


def test_the_files_hold_the_merged_model_bit_for_bit(run, tmp_path):
    folder, source = exported(run, tmp_path / "export")
    keys, tensors = read(folder, "model")
    language, tower = base_of(source.model.language), base_of(source.model.vision)
    arch, block = keys["general.architecture"], language.model.layers[1]
    assert arch == language.config.model_type and keys[f"{arch}.block_count"] == 2
    for name, layer in (
        ("blk.1.attn_q.weight", block.self_attn.q_proj),
        ("blk.1.attn_output.weight", block.self_attn.o_proj),
        ("blk.1.ffn_gate.weight", block.mlp.gate_proj),
        ("token_embd.weight", language.model.embed_tokens),
    ):
        assert np.array_equal(tensors[name], layer.weight.detach().numpy()), name
    assert ("output.weight" in tensors) != language.config.tie_word_embeddings
    keys, tensors = read(folder, "mmproj")
    assert ("v.post_ln.weight" in tensors) == (source.config.vision.layer == -1)
    assert keys["clip.vision.feature_layer"] == [tower.config.num_hidden_layers]
    assert keys["clip.vision.image_grid_pinpoints"] == [0, 0] and keys["clip.projector_type"] == "mlp"
    folded = source.model.projector.folded()
    assert np.array_equal(tensors["mm.0.weight"], folded["0.weight"].numpy())
    assert np.array_equal(tensors["mm.2.bias"], folded["2.bias"].numpy())


@pytest.fixture(scope="module")
def simple(tmp_path_factory, siglip_folder, qwen_folder):
    """A checkpoint whose model answers something."""
    folder = tmp_path_factory.mktemp("simple")
    return trained_checkpoint(write_config(folder, siglip_folder, qwen_folder, ALL), folder / "checkpoint", moved=False)


@pytest.fixture(scope="module")
def plain(simple):
    """Its export in f32, and our model."""
    return exported(simple, simple.parent / "export")


def test_f16_halves_matrices_and_keeps_vectors(simple, tmp_path):
    folder, source = exported(simple, tmp_path / "export", "f16")
    _, tensors = read(folder, "model", "f16")
    block = base_of(source.model.language).model.layers[0]
    assert np.array_equal(tensors["blk.0.ffn_up.weight"], block.mlp.up_proj.weight.detach().half().numpy())
    assert tensors["blk.0.attn_q.bias"].dtype == tensors["output_norm.weight"].dtype == np.float32
    assert read(folder, "mmproj", "f16")[1]["v.position_embd.weight"].dtype == np.float32
    card = (folder / "README.md").read_text()
    assert "llama-quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M" in card
    assert "llama-server -m model-f16.gguf --mmproj mmproj-f16.gguf" in card and "ollama create" in card


def test_the_modelfile_names_both_files_and_the_system_message(plain):
    folder, source = plain
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM ./model-f32.gguf", "FROM ./mmproj-f32.gguf"]
    assert f'SYSTEM """{source.config.language.system}"""' in lines and 'PARAMETER stop "<|im_end|>"' in lines


def test_a_run_without_the_first_patch_is_exported_only_when_asked_and_called_not_exact(make_config, tmp_path, capsys):
    with pytest.raises(UserError, match="^--keep-first-patch: the run was trained with the first patch"):
        module.require(make_config(*ALL), Options("gguf", "f16", keep_first_patch=True))
    checkpoint = trained_checkpoint(make_config(), tmp_path / "checkpoint")
    with pytest.raises(UserError, match="llama.cpp cannot leave out the first patch.*--keep-first-patch"):
        exported(checkpoint, tmp_path / "export")
    folder, _ = exported(checkpoint, tmp_path / "export", keep_first_patch=True)
    assert "not exact" in capsys.readouterr().out
    assert "trained without the first patch" in (folder / "README.md").read_text()


def test_what_llama_cpp_does_not_compute_is_refused_by_name(make_config, tmp_path):
    with pytest.raises(UserError, match="vision towers of clip_vision_model were not tried"):
        module.refuse_other_towers({"model_type": "clip_vision_model"})
    with pytest.raises(UserError, match="the tower computes with gelu, llama.cpp with gelu_pytorch_tanh"):
        module.refuse_other_towers({"model_type": "siglip_vision_model", "hidden_act": "gelu"})
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
    settings = [*ALL, f"language.path={save_qwen(tmp_path / 'yarn', rope_parameters=yarn)}"]
    checkpoint = trained_checkpoint(make_config(*settings), tmp_path / "checkpoint")
    with pytest.raises(UserError, match="positions of the kind yarn are not written"):
        exported(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists() and not list(tmp_path.glob(".export*"))


def test_numbers_beyond_f16_and_an_absent_package_are_one_line(simple, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--dtype = f16: x has numbers beyond 65,504; use --dtype f32"):
        module.stored("x", torch.full((2, 2), 7e4), "f16")
    monkeypatch.setattr(optional, "is_installed", lambda package: False)
    with pytest.raises(UserError, match="^--format gguf: needs gguf; pip install gguf$"):
        exported(simple, tmp_path / "export")


@pytest.mark.parametrize("wrong", ["norm", "template"])
def test_an_export_that_differs_is_refused_and_removed(simple, tmp_path, monkeypatch, wrong):
    if wrong == "norm":
        monkeypatch.setattr(module, "has_final_norm", lambda tower: False)
        message = "logits differ from ours by"
    else:
        monkeypatch.setattr(module, "chat_template", lambda *given, **how: "{{ messages[0]['content'][-1]['text'] }}")
        message = "the export's prompt of .* differs from ours at token"
    with pytest.raises(UserError, match=message):
        exported(simple, tmp_path / "export")
    assert not (tmp_path / "export").exists() and not list(tmp_path.glob(".export*"))


@pytest.mark.parametrize("size", [(42, 42), (80, 30)])
def test_llama_cpp_gives_our_answer_and_log_probabilities(plain, size):
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, a wheel of llama.cpp, is not installed")
    folder, source = plain
    image = sample_picture(*size)
    found = llama_cpp(xllamacpp, folder, image, "What color is it?")
    request = Request([Turn(question_with_images("What color is it?", 1))], [image])
    ids, pixels = prompt_of(source, request), pixels_of(source, [image])
    new = [token["id"] for token in found]
    with torch.no_grad():
        full = torch.tensor([ids + new])
        logits = source.model(full, torch.ones_like(full), pixel_values=pixels, images_per_row=torch.tensor([1])).logits
    ours = logits[0, len(ids) - 1 : -1].log_softmax(-1)  # [new, V]
    apart = [
        abs(ours[position, top["id"]].item() - top["logprob"])
        for position, token in enumerate(found)
        for top in token["top_logprobs"]
    ]
    assert len(new) > 1 and max(apart) < 0.01
    assert new == ours.argmax(-1).tolist()


def llama_cpp(xllamacpp, folder, image, question):
    """The tokens of llama.cpp's greedy answer, with the log probabilities of the best five at each."""
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = str(folder / "model-f32.gguf"), str(folder / "mmproj-f32.gguf")
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.cpuparams.n_threads = 256, 1, 0, 1
    params.warmup = params.mmproj_use_gpu = False
    params.verbosity = 0
    file = io.BytesIO()
    image.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 6, "temperature": 0}
    answer = xllamacpp.Server(params).handle_chat_completions({**asked, "logprobs": True, "top_logprobs": 5})
    return answer["choices"][0]["logprobs"]["content"]
