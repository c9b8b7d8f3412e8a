"""Answer a question with onnxruntime, tokenizers, Pillow and numpy: python answer.py "What is this?" photo.jpg"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class OnnxModel:
    def __init__(self, folder):
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # "<|im_end|>" in a question is text, not a control token
        self.vision, self.language = (InferenceSession(folder / f"{name}.onnx") for name in ("vision", "language"))
        self.past = [entry for entry in self.language.get_inputs() if entry.name.startswith("past")]

    def turn(self, question):
        """Ids of a question, with <|extra_0|> for each picture, up to its answer. settings["end"] follows an answer."""
        s, (first, *others) = self.settings, (self.tokenizer.encode(text).ids for text in question.split("<|extra_0|>"))
        return s["user"] + sum(([s["image"]] * s["image_tokens"] + ids for ids in others), first) + s["assistant"]

    def pixels(self, images):
        """Pictures -> pixel_values [n, 3, H, W] float32; n may be 0."""
        s, arrays = self.settings, []
        for image in images:
            image = ImageOps.exif_transpose(image).convert("RGB").resize(s["size"], s["resample"])
            values = (np.asarray(image) * s["scale"]).astype(np.float32)  # [H, W, 3]
            arrays.append((values - np.float32(s["mean"])) / np.float32(s["std"]))
        return np.reshape(np.array(arrays, np.float32), (-1, *s["size"][::-1], 3)).transpose(0, 3, 1, 2)

    def logits(self, ids, pixels, past=None, keep=1):
        """Logits [1, keep, V] of the last of ``ids``, and the keys and values of all so far."""
        past = past or [np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32) for entry in self.past]
        given = {entry.name: value for entry, value in zip(self.past, past, strict=True)}
        given |= {"input_ids": np.array([ids]), "positions": np.arange(len(ids) - keep, len(ids))}
        given["attention_mask"] = np.ones((1, past[0].shape[2] + len(ids)), np.int64)
        (given["visual_tokens"],) = self.vision.run(None, {"pixel_values": pixels})  # of no picture: none
        return self.language.run(None, given)

    def answer(self, ids, pixels, max_new_tokens=128):
        """The greedy answer to a prompt."""
        new: list[int] = []
        logits, *past = self.logits(ids, pixels)
        while len(new) < max_new_tokens:
            logits[0, -1, self.settings["image"]] = -np.inf  # never the picture's placeholder
            new.append(int(logits[0, -1].argmax()))
            if new[-1] in self.settings["stops"]:
                break
            logits, *past = self.logits(new[-1:], pixels[:0], past)
        return self.tokenizer.decode(new).strip()


if __name__ == "__main__":
    (question, *files), model = sys.argv[1:], OnnxModel(Path(__file__).parent)
    ids = model.settings["system"] + model.turn("<|extra_0|>" * len(files) + "\n" * bool(files) + question)
    print(model.answer(ids, model.pixels([Image.open(file) for file in files])))
