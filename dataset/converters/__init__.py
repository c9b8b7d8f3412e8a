"""One module for each format of annotations: how its records are read, and what each of them says.
A new format is one module and one entry of FORMATS. May import what dataset.preparing may."""

from __future__ import annotations

from dataset.converters import ali, coco_captions, flickr30k, gqa, llava, parquet, qwen_vl, table, textvqa, vqa
from dataset.converters.base import Format

# format: auto takes the first that knows a file by its sign.
FORMATS: dict[str, Format] = {
    "parquet": parquet.FORMAT,
    "vqa": vqa.FORMAT,
    "textvqa": textvqa.FORMAT,
    "gqa": gqa.FORMAT,
    "coco_captions": coco_captions.FORMAT,
    "flickr30k": flickr30k.FORMAT,
    "table": table.FORMAT,
    "qwen_vl": qwen_vl.FORMAT,
    "llava": llava.FORMAT,
    "ali": ali.FORMAT,
}
OLD_NAMES = {"coco": "llava"}  # old name -> name
AUTO = "auto"
