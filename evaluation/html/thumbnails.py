"""Small copies of the pictures, as data URIs, so that the report is one file."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from dataset.image import ImageError, load_image

# Longest edge in pixels, and about how many bytes the copy of a photo takes as a data URI (WebP, quality 78).
EDGES = {320: 20_000, 224: 11_000, 160: 7_000}


def edge_for(pictures: int, most_bytes: int) -> int:
    """The largest edge at which this many photos fit into ``most_bytes``; the smallest if none does."""
    return next((edge for edge, size in EDGES.items() if pictures * size <= most_bytes), min(EDGES))


class Thumbnails:
    """Makes the small copy of each picture once."""

    def __init__(self, edge: int, max_pixels: int) -> None:
        self.edge, self.max_pixels = edge, max_pixels
        self.made: dict[str, dict[str, Any]] = {}

    def __call__(self, path: str) -> dict[str, Any]:
        """``src``, a data URI, and ``size``, width and height; or ``problem``: why the picture cannot be shown."""
        if path not in self.made:
            try:
                image = load_image(path, self.max_pixels, self.edge)
                self.made[path] = {"src": data_uri(image, self.edge), "size": image.size}
            except ImageError as error:
                self.made[path] = {"problem": str(error)}
        return self.made[path]


def data_uri(image: Image.Image, edge: int) -> str:
    """A picture as a WebP no larger than ``edge`` pixels on its longer side; small ones keep their size."""
    image = image.copy()
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=78, method=2)  # 4 takes twice as long and saves a twentieth
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
