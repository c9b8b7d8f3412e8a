"""What must hold when a reader is given any bytes at all.

tests/test_fuzz.py feeds them with seeded mutations, tests/helpers/guided.py with what a coverage-guided fuzzer finds.
Each writes the bytes where its reader looks, and lets through no error but the reader's own, in one line.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from common.errors import UserError
from dataset.converters import FORMATS
from dataset.converters.base import File, Format
from dataset.converters.look import look_at
from dataset.image import ImageError, load_image
from dataset.preparing.json_reader import read_json
from dataset.preparing.process import process_ali, process_coco
from dataset.preparing.turns import talk_of
from dataset.records import RecordError
from dataset.shards import contents, parts_of, read_shard
from qwen.tokenizer import IMAGE_TOKEN
from settings import Config, load_config

CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", IMAGE_TOKEN, "<image>")


def annotations(folder: Path, content: bytes) -> list[dict]:
    """Raw annotations, taken for either format: the conversations that were kept."""
    file, paths, kept = folder / "a.json", {"a.jpg": Path("a.jpg")}, []
    file.write_bytes(content)
    try:
        records = read_json(file)
    except UserError as error:
        assert "\n" not in str(error)
        return kept
    for process in (process_ali, process_coco):
        rejected: list = []
        changes: dict = {}
        options = {"rejected": rejected, "changes": changes}
        images, annotations = process(records, paths, images_per_conversation=2, **options)
        json.dumps([images, annotations], ensure_ascii=False).encode("utf-8")
        assert all("\n" not in reason and len(reason) < 300 for _, reason in rejected)
        assert all(0 <= first < len(records) and count > 0 for count, first in changes.values())
        for key, conversation in ((key, c) for key, group in annotations.items() for c in group):
            kept.append(conversation)
            shown = 0 if key == "text" else len(conversation.get("images", [key]))
            questions = [turn["q"] for turn in conversation["turns"]]
            answers = [text for turn in conversation["turns"] for text in turn["a"]]
            assert answers and all(text.strip() for text in (*questions, *answers))
            assert sum(text.count(IMAGE_TOKEN) for text in questions) == shown
            others = [text.replace(IMAGE_TOKEN, "") for text in questions]
            texts = [*others, *answers, conversation.get("system", "")]
            assert not any(token in text for text in texts for token in CONTROL)
    return kept


def formats(folder: Path, content: bytes) -> int:
    """A file, read in every format and in the one that it looks like: how many of its records can be used."""
    path, kept = folder / "a.data", 0
    path.write_bytes(content)
    try:
        look = look_at(path)
        assert all("\n" not in (form.known_by(look) or "") for form in FORMATS.values())
    except UserError as error:
        assert "\n" not in str(error)
    for name, form in FORMATS.items():
        if name != "parquet":  # its bytes are pyarrow's: see parquet_file
            kept += _records(form, File(path, questions=path))
    return kept


def parquet_file(folder: Path, content: bytes) -> int:
    """A Parquet file with pictures inside: how many of its records can be used."""
    path = folder / "a.parquet"
    path.write_bytes(content)
    return _records(FORMATS["parquet"], File(path, pictures=folder / "pictures"))


def _records(form: Format, file: File) -> int:
    kept = 0
    try:
        for record in form.read(file):
            try:
                example = form.example(record)
                talk = talk_of(example, len(example.images), "0", keep_all_captions=True)
                assert talk.turns and all(isinstance(name, str) and name for name in example.images)
                assert example.split in (None, "train", "validation", "test")
                kept += 1
            except RecordError as error:
                assert len(str(error)) < 600
    except UserError as error:
        assert "\n" not in str(error)
    return kept


def format_files() -> list[bytes]:
    """A small file in each format that is text."""
    question = {"question_id": 1, "image_id": 9, "question": "What?", "set_name": "train"}
    answers = [{"answer": "net", "answer_id": 1}, {"answer": "mesh", "answer_id": 2}]
    said = [{"question_id": 1, "image_id": 9, "question_type": "one", "answers": answers}]
    captions = [{"image_id": 9, "caption": "A dog."}, {"image_id": 9, "caption": "一只狗"}]
    sentences = [{"filename": "a.jpg", "split": "restval", "sentences": [{"raw": "A dog."}]}]
    parts = [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"text": "?"}, {"ref": "x", "box": [1, 2, 3, 4]}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A dog."}]
    asked = [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\n?"}, {"from": "gpt", "value": ["yes", "no"]}]
    region = {"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}
    objects: list[object] = [
        {"data_subtype": "train2014", "questions": [question], "annotations": said, "question_types": {"one": "Sport"}},
        {"data": [{**question, "answers": ["net", "mesh"]}]},
        {"07": {"question": "?", "imageId": "9", "answer": "yes", "types": {"structural": "verify"}}},
        {"images": [{"id": 9, "file_name": "a.jpg"}], "licenses": [{"id": 1}], "annotations": captions},
        {"images": sentences, "dataset": "flickr30k"},
        [{"images": ["a.jpg"], "messages": talk}, {"image": "a.jpg", "conversations": asked}],
        [{"query": "<img>a.jpg</img>?", "response": "yes", "history": [["a", "b"]], "system": "s"}],
        [{"image": "a.jpg", "question": "?", "answer": ["yes", "no"], "split": "val", "options": ["a", "b"]}],
        {"images": [{"id": 9, "file_name": "a"}], "categories": [{"id": 1, "name": "b"}], "annotations": [region]},
        [{"ref_id": 1, "image_id": 9, "sentences": [{"sent": "a dog"}], "bbox": [1, 2, 3, 4]}],
        [{"id": 9, "regions": [{"image_id": 9, "x": 1, "y": 2, "width": 3, "height": 4, "phrase": "a dog"}]}],
        [{"image": "a.jpg", "label": "a dog", "bbox": [[1, 2, 3, 4]]}],
    ]
    tables = [
        'image;question;answer;type;split\r\na.jpg;"Is it ""red""?";yes;is;val\r\n;1+1?;2;;\r\n',
        "sep=,\nimage,question,answer_1,answer_2,A,B\na.jpg,?,yes,no,x,y\n",
        "image_name| comment_number| comment\na.jpg| 0| A dog .\n",
        "a.jpg#0\tA dog .\na.jpg#1\tA cat .\nCOCO_train2014_1#0\t一只狗\n",
    ]
    texts = [json.dumps(value, ensure_ascii=False) for value in objects] + tables
    return [text.encode() for text in texts] + [tables[0].encode("utf-16")]


def config(folder: Path, content: bytes) -> bool:
    """``config.yaml``: whether it was taken."""
    file = folder / "a.yaml"
    file.write_bytes(content)
    try:
        assert isinstance(load_config(file, check_models=False), Config)
        return True
    except UserError as error:
        assert "\n" not in str(error)
        return False


def manifest(folder: Path, content: bytes) -> dict | None:
    """The manifest of the checkpoint ``folder``: what it says, None where it or a file of the checkpoint is damaged."""
    from model.checkpoint import read_manifest  # torch, which the other readers do without
    from model.manifest import check_files

    (folder / "manifest.json").write_bytes(content)
    try:
        found = read_manifest(folder)
        check_files(folder, found)
        return found
    except UserError as error:
        assert "\n" not in str(error)
        return None


def image(folder: Path, content: bytes) -> bool:
    """An image file: whether it was opened."""
    file = folder / "a.png"
    file.write_bytes(content)
    try:
        opened = load_image(file, max_pixels=1_000_000)
        assert opened.mode == "RGB" and 0 < opened.width * opened.height <= 1_000_000
        return True
    except ImageError as error:
        assert "\n" not in str(error) and str(folder) not in str(error)
        return False


def shard(folder: Path, content: bytes) -> int:
    """A tar shard: how many records were read before its end or the first damage."""
    file, count = folder / "a.tar", 0
    file.write_bytes(content)
    try:
        for row in read_shard(file):
            count += 1
            try:
                images, said = contents(row)
                assert all(images)
                parts_of(said)
            except RecordError as error:
                assert "\n" not in str(error) and len(str(error)) < 300
    except Exception as error:  # any class is damage, but a number says that the disk failed, which it did not
        assert not isinstance(error, (AssertionError, MemoryError)) and not getattr(error, "errno", None)
    return count


def shards() -> list[bytes]:
    """Small tar shards: with ustar, GNU and PAX headers, long names, a sparse member and a link."""
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, text in (("1.png", b"x"), ("1.json", b'{"caption": "a"}'), ("2" * 90 + ".txt", b"b" * 600)):
                member = tarfile.TarInfo(name)
                member.size, member.pax_headers = len(text), {"comment": "中文", "mtime": "1.5"}
                tar.addfile(member, io.BytesIO(text))
            for name, headers in (("3/" + "n" * 120 + ".jpg", {}), ("4.jpg", {"GNU.sparse.map": "0,1", "size": "1"})):
                if form != tarfile.USTAR_FORMAT or not headers:
                    member = tarfile.TarInfo(name[: None if form != tarfile.USTAR_FORMAT else 60])
                    member.size, member.pax_headers = 1, headers
                    tar.addfile(member, io.BytesIO(b"z"))
            link = tarfile.TarInfo("5.json")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        content = file.getvalue().rstrip(b"\0")
        made.append(content + bytes(-len(content) % 512 + 1024))
    return made


def image_files() -> list[bytes]:
    """A small picture in each format that Pillow writes and reads."""
    picture = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    files = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "TGA", "WEBP", "JPEG2000", "AVIF"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        files.append(stream.getvalue())
    return files
