"""One module for each format of annotations: how its records are read, and what each of them says.
A new format is one module and one entry of FORMATS. May import what dataset.preparing may."""

from __future__ import annotations

from dataset.converters import (
    ali,
    bbox,
    coco_captions,
    coco_instances,
    flickr30k,
    gqa,
    llava,
    parquet,
    qwen_vl,
    refcoco,
    table,
    textvqa,
    visual_genome,
    vqa,
)
from dataset.converters.base import Format

# format: auto takes the first that knows a file by its sign.
FORMATS: dict[str, Format] = {
    "parquet": parquet.FORMAT,
    "vqa": vqa.FORMAT,
    "textvqa": textvqa.FORMAT,
    "gqa": gqa.FORMAT,
    "coco_captions": coco_captions.FORMAT,
    "flickr30k": flickr30k.FORMAT,
    "coco_instances": coco_instances.FORMAT,
    "refcoco": refcoco.FORMAT,
    "visual_genome": visual_genome.FORMAT,
    "bbox": bbox.FORMAT,
    "table": table.FORMAT,
    "qwen_vl": qwen_vl.FORMAT,
    "llava": llava.FORMAT,
    "ali": ali.FORMAT,
}
OLD_NAMES = {"coco": "llava"}  # old name -> name
AUTO = "auto"
