"""The demo's vision tower, trained further on pictures of random shapes, so that it sees more than the demo shows."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SiglipImageProcessorPil, SiglipVisionModel

from dataset.prompt import IGNORE_INDEX
from demo import BACKBONES, optimizing, scenes, wide_pictures
from demo.parallel import draw_in_chunks
from demo.vision import MOST_SEEN, WORDS, mean_where, words_loss, words_of_patches
from demo.wide_pictures import FILLS, Pictures

# Drawn once, at 2 ms a picture and core, and kept as uint8 on the device: 231,000 pictures of 40 KB are 9 GB. The
# demo's were 3,000; in 5,000 steps the tower would see each of so few 267 times.
PAIRED_DRAWN, NAMED_DRAWN, DEMO_DRAWN = 120_000, 80_000, 30_000
HELD_OUT = 256  # pictures of each sort, for the printed shares
SHAPES = 240  # in the fixed list; the tower names them
# Pictures in a step, eight times what a core had. A step has some 1,400 operations, however many pictures it has; to
# start them on a GPU would take longer than to compute 64 pictures. An H200 with two other runs took 46 ms a step.
PAIRED, NAMED, DEMO = 192, 160, 160
# Patches that are encoded of each drawn picture: those on objects and some others. All 64 come only at the end, with
# half of the pictures, so that the tower learns last what it is used on.
KEPT, ALL_FROM = 28, 0.85
TEMPERATURE = 0.15  # of the pairs
# 1 for others. While the fills had 0.5 and 1, a probe of the features found 0.90 of the kitchen's patterns in
# demo/elsewhere.py, and 0.99 or more of its other words.
WEIGHTS = {
    "fill": 2.0,
    "pooled_fill": 3.0,
    "numbers": 3.0,
    "silhouette": 5.0,
    "window": 5.0,
    "pair": 0.5,
    "words": 2.0,
}


@dataclass(frozen=True)
class DemoPictures:
    """Pictures of the demo: pixels [N, 3, 112, 112] uint8, words of their patches [N, 63, 17] float."""

    pixels: torch.Tensor
    words: torch.Tensor

    def to(self, device: str) -> DemoPictures:
        return DemoPictures(self.pixels.to(device), self.words.to(device))


class LoudLinear(nn.Linear):
    """A linear layer of which some rows have a fixed length, so that its input must vary along them.

    A free head reads a direction however small its variance is; the demo's projector does not. After 2,600 steps with
    free heads every word of the demo's patches was right, but in 1,060 steps the demo came to 0.829 (color 0.78). 900
    more steps with these lengths, more of the demo's pictures and twice their weight brought it to 0.925 (color 0.95).
    """

    lengths: torch.Tensor

    def __init__(self, width: int, lengths: Sequence[float]) -> None:
        """``lengths`` of the rows; 0 leaves a row as it is trained."""
        super().__init__(width, len(lengths))
        self.register_buffer("lengths", torch.tensor(lengths))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scale = torch.where(self.lengths > 0, self.lengths / self.weight.norm(dim=1), 1.0)
        return F.linear(hidden_states, self.weight * scale[:, None], self.bias)


class Describer(nn.Module):
    """A SigLIP vision tower with linear heads for its training, by which each patch on an object describes the object.

    Without ``window``, the mask of the 3 x 3 patches around a patch, the silhouettes stayed at the mean of all in 150
    steps, and three runs that named 28 shapes stayed at chance.
    """

    def __init__(self, tower: SiglipVisionModel, shapes: int) -> None:
        super().__init__()
        self.tower = tower
        sizes = {
            "on": 1,  # whether the patch is on an object
            "silhouette": wide_pictures.CELLS**2,
            "window": 144,  # 3 x 3 patches of 4 x 4 cells
            "name": shapes,
            "pooled_fill": len(FILLS),  # from the mean of an object's patches
            "pair": 64,  # a vector of this mean
        }
        loud = {
            "fill": [1.0] * len(FILLS),
            "numbers": [0.0] * 4 + [0.2] * 5,  # a box as it is trained, a colour loud
            "words": [1.0] * len(WORDS),  # for the demo's pictures
        }
        width = tower.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.heads.update({name: LoudLinear(width, lengths) for name, lengths in loud.items()})

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, 112, 112] uint8 -> embeddings of the patches [B, 64, D]. The processor's scale: -1 to 1."""
        return self.tower.embeddings(pixels / 127.5 - 1)

    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings of any K patches [B, K, D] -> hidden states [B, K, D]. Positions are in the embeddings."""
        return self.tower.post_layernorm(self.tower.encoder(inputs_embeds=embeddings).last_hidden_state)


# ---------------------------------------------------------------------------------------------- targets


def patches_on_objects(cover: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """From the share of patches that objects cover [B, 2, 64]: largest share, its object, whether it is enough.

    Each is [B, 64]. Enough is 12 %, or 90 % of the object's best patch if that is less. It is never enough for patch
    0: the main model drops it, so nothing may be stored there.
    """
    share, owner = cover.max(1)
    least = (0.9 * cover.amax(2)).clamp(max=0.12)  # [B, 2]
    on = share > least.gather(1, owner)
    on[:, 0] = False
    return share, owner, on


def patches_kept(share: torch.Tensor, count: int) -> torch.Tensor:
    """[B, count] int64: patches that an object covers by more than 2 %, and random others; or some, if too many."""
    return ((share > 0.02) + torch.rand_like(share)).topk(count, dim=1).indices


def windows(mask: torch.Tensor) -> torch.Tensor:
    """[B, 32, 32] -> [B, 64, 144], the mask of the 3 x 3 patches around each patch."""
    return F.unfold(mask[:, None], kernel_size=12, stride=4, padding=4).mT


def numbers(pictures: Pictures) -> torch.Tensor:
    """[B, 2, 9], an object's box, its colour, and the colour's hue as a point on a circle of the chroma's radius."""
    red, green, blue = pictures.colors.unbind(-1)
    chroma = pictures.colors.amax(-1) - pictures.colors.amin(-1)  # 0 to 2
    hue = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    circle = 0.75 * chroma[..., None] * torch.stack([hue.cos(), hue.sin()], -1)
    return torch.cat([pictures.boxes, pictures.colors, circle], -1)


# ---------------------------------------------------------------------------------------------- losses


def describing_losses(
    model: Describer, pictures: Pictures, paired: int, kept: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses of all heads but ``words``, and shares that are right.

    The first ``paired`` pictures show the same first shape two by two. Of each picture ``kept`` patches are encoded.
    """
    share, owner, on = patches_on_objects(pictures.cover.flatten(2) / 255)
    patches = patches_kept(share, kept)  # [B, K]
    owner, on = owner.gather(1, patches), on.gather(1, patches)  # [B, K]
    embeddings = model.embed(pictures.pixels)
    hidden = model.encode(embeddings.gather(1, patches[..., None].expand(-1, -1, embeddings.shape[-1])))  # [B, K, D]
    row = torch.arange(len(pictures), device=hidden.device)[:, None]  # [B, 1]
    fill, name = pictures.fills[row, owner], pictures.names[row, owner]  # [B, K]
    outline = pictures.silhouettes.flatten(2)[row, owner] / 255  # [B, K, 100]
    around = windows(pictures.mask / 255)[row, patches]  # [B, K, 144]
    said = {head: model.heads[head](hidden) for head in ("fill", "numbers", "silhouette", "window", "name")}
    measures = numbers(pictures)[row, owner]  # [B, K, 9]
    each = {  # [B, K]; read where a patch is on an object
        "fill": _cross_entropies(said["fill"], fill),
        "numbers": F.smooth_l1_loss(said["numbers"], measures, beta=0.3, reduction="none").mean(-1),
        "silhouette": F.binary_cross_entropy_with_logits(said["silhouette"], outline, reduction="none").mean(-1),
        "window": F.binary_cross_entropy_with_logits(said["window"], around, reduction="none").mean(-1),
    }
    named = on & (name != IGNORE_INDEX)
    losses = {
        "on": F.binary_cross_entropy_with_logits(model.heads["on"](hidden)[..., 0], on.float()),
        **{head: mean_where(values, on) for head, values in each.items()},
        "name": mean_where(_cross_entropies(said["name"], name), named),
    }
    cells = ((said["silhouette"] > 0) == (outline > 0.5)).float().mean(-1)
    shares = {
        "fill": mean_where(said["fill"].argmax(-1) == fill, on),
        "silhouette": mean_where(cells, on),
        "name": mean_where(said["name"].argmax(-1) == name, named),
    }
    pooled_losses, pooled_shares = _pooled_losses(model, hidden, on & (owner == 0), pictures.fills[:, 0], paired)
    return losses | pooled_losses, shares | pooled_shares


def _cross_entropies(said: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """[B, K, C] logits, [B, K] int64 -> [B, K], 0 where nothing is right."""
    each = F.cross_entropy(said.flatten(0, 1), right.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return each.view_as(right)


def _pooled_losses(
    model: Describer, hidden: torch.Tensor, first: torch.Tensor, fill: torch.Tensor, paired: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and shares of the mean over a first object's patches: its fill, and which picture has the same shape.

    ``hidden`` [B, K, D], ``first`` [B, K] bool, ``fill`` [B]. For the pairs it is InfoNCE: among the other pictures,
    the one with the same shape has to have the most similar vector.
    """
    found = first.any(1)  # [B]; an object can lie on patch 0 alone
    mean = (hidden * first[..., None]).sum(1) / first.sum(1, keepdim=True).clamp(min=1)  # [B, D]
    said = model.heads["pooled_fill"](mean)  # [B, 6]
    vectors = F.normalize(model.heads["pair"](mean[:paired]), dim=-1)
    similar = vectors @ vectors.T / TEMPERATURE  # [P, P]
    similar = similar.masked_fill(torch.eye(paired, dtype=torch.bool, device=hidden.device), -1e4)
    other = torch.arange(paired, device=hidden.device) ^ 1
    both = found[:paired] & found[other]
    losses = {
        "pooled_fill": mean_where(F.cross_entropy(said, fill, reduction="none"), found),
        "pair": mean_where(F.cross_entropy(similar, other, reduction="none"), both),
    }
    shares = {
        "pooled_fill": mean_where(said.argmax(-1) == fill, found),
        "pair": mean_where(similar.argmax(-1) == other, both),
    }
    return losses, shares


def naming_loss(model: Describer, pixels: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the words of the demo's pictures, and the share right, as in train_vision: it must not forget them.

    ``pixels`` [B, 3, 112, 112] uint8, ``words`` [B, 63, 17].
    """
    return words_loss(model.heads["words"](model.encode(model.embed(pixels))[:, 1:]), words)


# ---------------------------------------------------------------------------------------------- training


def draw_demo(count: int, rng: random.Random, folds: Sequence[int]) -> DemoPictures:
    """Pictures of the demo whose scenes are in ``folds``."""
    drawn = [scenes.draw_scene(rng, MOST_SEEN, folds) for _ in range(count)]
    pixels = np.stack([np.asarray(scenes.render(scene, rng)) for scene in drawn])  # [count, 112, 112, 3]
    words = torch.stack([words_of_patches(scene)[1:] for scene in drawn])
    return DemoPictures(torch.from_numpy(pixels).permute(0, 3, 1, 2), words)


def draw_all(rng: random.Random, workers: int) -> tuple[Pictures, Pictures, DemoPictures]:
    """Pairs, named shapes, and the demo's pictures. The last HELD_OUT of the first two are not to be trained on."""
    shapes = [wide_pictures.draw_shape(rng) for _ in range(SHAPES)]
    draw_named = partial(wide_pictures.draw_named, shapes=shapes)
    draw_demos = partial(draw_demo, folds=range(2, scenes.FOLDS))
    return (
        draw_in_chunks(Pictures, wide_pictures.draw_pairs, PAIRED_DRAWN + HELD_OUT, "pairs", workers),
        draw_in_chunks(Pictures, draw_named, NAMED_DRAWN + HELD_OUT, "named shapes", workers),
        draw_in_chunks(DemoPictures, draw_demos, DEMO_DRAWN, "the demo's", workers),
    )


def wide_batch(paired: Pictures, named: Pictures, rng: random.Random, pairs: int, others: int) -> Pictures:
    """``pairs`` pairs, then ``others`` of the fixed shapes, in other colours than they were drawn in.

    The pairs are also mirrored. All of a batch alike, as the two of a pair have to keep one shape.
    """
    first = 2 * _some(len(paired) // 2, pairs, rng, paired.pixels.device)
    chosen = paired[torch.stack([first, first + 1], 1).flatten()]
    for axis in range(3):
        if rng.random() < 0.5:
            chosen = wide_pictures.mirrored(chosen, axis)
    parts = [chosen, named[_some(len(named), others, rng, named.pixels.device)]]
    parts = [wide_pictures.recolored(part, rng.sample(range(3), 3), rng.random() < 0.3) for part in parts]
    return Pictures(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


def _some(count: int, size: int, rng: random.Random, device: torch.device) -> torch.Tensor:
    """[size] int64 on the device, different numbers below ``count``. Sending them does not wait for the step before."""
    return torch.tensor(rng.sample(range(count), size)).to(device, non_blocking=True)


def wide_optimizer(
    model: Describer, steps: int
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for the matrices of the tower's layers, AdamW for the rest; one schedule for both.

    The rate is flat for half of the steps and then falls: it is while it falls that names and pairs are learnt (of the
    names, 20 % were right after 1,350 of 2,600 steps, and 44 % at the end).
    """
    inside, rest = optimizing.split(model.tower)
    groups = [{"params": rest, "lr": 1e-3}, {"params": list(model.heads.parameters()), "lr": 3e-3}]
    optimizers: list[torch.optim.Optimizer] = [
        optimizing.Muon(inside, lr=0.02),
        torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    schedule = optimizing.flat_then_falling(steps, 50)
    return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]


def train_wide(steps: int, device: str = "cpu", output: Path = BACKBONES, workers: int = 1) -> None:
    """Train the tower in demo/backbones/siglip further, and write it to ``output``/siglip.

    Each step has pairs of random shapes, shapes of the fixed list, and pictures of the demo. ``workers`` processes draw
    these first.
    """
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = device != "cpu"  # the weights in the repository were made so
    rng = random.Random(0)
    model = Describer(SiglipVisionModel.from_pretrained(BACKBONES / "siglip").train(), SHAPES)
    SiglipImageProcessorPil.from_pretrained(BACKBONES / "siglip").save_pretrained(output / "siglip")
    print(f"wide: {model.tower.num_parameters():,} parameters, {steps} steps on {device}")
    paired, named, demo = draw_all(rng, workers)
    model, paired, named, demo = model.to(device), paired.to(device), named.to(device), demo.to(device)
    held_out = wide_batch(paired[-HELD_OUT:], named[-HELD_OUT:], rng, HELD_OUT // 2, HELD_OUT)
    paired, named = paired[:-HELD_OUT], named[:-HELD_OUT]
    held_demo = draw_demo(HELD_OUT, random.Random(1), (scenes.VALIDATION_FOLD,)).to(device)
    optimizers, schedules = wide_optimizer(model, steps)
    start = time.time()
    for step in range(1, steps + 1):
        last = step > ALL_FROM * steps
        pairs, others = (PAIRED // 4, NAMED // 2) if last else (PAIRED // 2, NAMED)
        batch = wide_batch(paired, named, rng, pairs, others)
        losses, _ = describing_losses(model, batch, 2 * pairs, 64 if last else KEPT)
        chosen = _some(DEMO_DRAWN, DEMO, rng, demo.pixels.device)
        losses["words"], _ = naming_loss(model, demo.pixels[chosen], demo.words[chosen])
        total = torch.stack([WEIGHTS.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        optimizing.step(total, model, optimizers, schedules)
        if step % 50 == 0:
            print(f"{step:6d}  losses {_listed(losses)}  {time.time() - start:6.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            with torch.no_grad():
                _, shares = describing_losses(model, held_out, HELD_OUT, 64)
                _, shares["words"] = naming_loss(model, held_demo.pixels, held_demo.words)
            print(f"{step:6d}  right on held-out pictures: {_listed(shares)}", flush=True)
            model.tower.save_pretrained(output / "siglip")


def _listed(values: Mapping[str, torch.Tensor]) -> str:
    return "  ".join(f"{name} {value.item():.3f}" for name, value in values.items())
