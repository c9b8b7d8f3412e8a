"""The projector's first steps: its visual tokens learn to name what the answers about a picture say.

The language model does not run. An answer has a word vector, the mean of its tokens' embeddings, and a picture's visual
tokens are compared with it, by the sigmoid loss with which SigLIP compares pictures and texts (Zhai et al. 2023,
arXiv:2303.15343). So visual tokens are mixtures of words before the language model is trained to read them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn
from tqdm import tqdm

from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import encode_as_word
from model.adapters import base_of
from model.model import MMultiModal
from qwen.tokenizer import Tokenizer

if TYPE_CHECKING:
    from training.loop import Loop

BATCH = 96  # pictures in a step
CHUNK = 16  # pictures that the tower encodes together
FEATURE_BYTES = 2**31  # of features in memory: 1,200 pictures of so400m at 384, 66,000 of the demo's
# After 300 steps on the signs of demo/elsewhere.py, the tokens name the color of all test pictures. In trials with a
# learnt scale of the logits it was 99.5 %; 97.7 with a rate of 3e-3; 97.4 with a sharpness of 4.5 and 99.6 with 16.
RATE = 1e-2  # at the start, falling to 0
SHARPNESS = 10.0  # by which cosines are multiplied before the log-sum-exp over a picture's tokens
BIAS = -2.0  # of an answer's logit at the start; learnt
LENGTH = 2.0  # of visual tokens, in lengths of words, to which a penalty draws them
LENGTH_WEIGHT = 1.0


class Asked(NamedTuple):
    """A sample with one picture, and what is asked about it."""

    sample: int  # its index in the dataset
    image: str  # its picture's id
    turns: list[tuple[str, str]]  # a question and its answer; questions of one name have answers that can be compared


def align(loop: Loop) -> None:
    """``projector.align_steps`` steps on training pictures, in the first process; the others get its projector.

    Without any training picture that can be read, the projector keeps its start.
    """
    config, model, device = loop.config, loop.model, loop.accelerator.device
    model.projector.to(device)
    if loop.accelerator.is_main_process:
        asked = asked_pictures(loop.feed.known, random.Random(config.data.seed))
        features, asked = features_of(model, loop.feed.known, asked, device)  # [P, N, Dv]
        if asked:
            alignment = Alignment(model, loop.tokenizer, asked)
            right = alignment.train(features, config.projector.align_steps, config.data.seed)
            of = f"{config.projector.align_steps} steps of the projector alone on {len(features):,} pictures"
            print(f"align     {of}: {right:.1%} right about their answers", flush=True)
    for parameter in model.projector.parameters():
        parameter.data.copy_(broadcast(parameter.data))


def asked_pictures(dataset: ImageCaptionDataset, rng: random.Random) -> list[Asked]:
    """The samples with one picture, in random order, with all questions and their first reference answers.

    A question that occurs once has no other answers. Such questions of one language are taken as the same question.
    """
    conversations = dataset.conversations
    times = Counter(turn["q"] for _, conversation in conversations for turn in conversation["turns"])
    asked = []
    for sample, numbers in enumerate(dataset.trees):
        about = [conversations[number][1] for number in numbers]
        if all(len(conversation["images"]) == 1 for conversation in about):
            turns = [(turn, conversation["language"]) for conversation in about for turn in conversation["turns"]]
            named = [(turn["q"] if times[turn["q"]] > 1 else language, turn["a"][0]) for turn, language in turns]
            asked.append(Asked(sample, about[0]["images"][0], named))
    rng.shuffle(asked)
    return asked


@torch.no_grad()
def features_of(
    model: MMultiModal, dataset: ImageCaptionDataset, asked: Sequence[Asked], device: torch.device
) -> tuple[torch.Tensor, list[Asked]]:
    """Features [P, N, Dv] on the CPU of the first pictures, as many as FEATURE_BYTES hold, and which of ``asked``.

    Where the dataset gives another sample, because a picture is damaged, that one is left out.
    """
    model.vision.to(device)
    chunks: list[torch.Tensor] = []
    kept: list[Asked] = []
    for begin in tqdm(range(0, len(asked), CHUNK), desc="encoding pictures", leave=False, disable=None):
        found = [(one, dataset[one.sample]) for one in asked[begin : begin + CHUNK]]
        found = [(one, sample) for one, sample in found if set(sample["images"]) == {one.image}]
        if not found:
            continue
        kept += [one for one, _ in found]
        # [16, 3, H, W], or cached features [16, N, Dv]
        stacked = torch.stack([sample["pixel_values"][0] for _, sample in found]).to(device)
        chunks.append(model.kept(model.vision(stacked) if stacked.ndim == 4 else stacked).cpu())
        if sum(chunk.nbytes for chunk in chunks) >= FEATURE_BYTES:
            break
    return torch.cat(chunks) if chunks else torch.empty(0), kept


class Alignment:
    """Trains a model's projector until its tokens for the pictures of ``asked`` name their answers."""

    def __init__(self, model: MMultiModal, tokenizer: Tokenizer, asked: Sequence[Asked]) -> None:
        self.projector, self.asked = model.projector, asked
        self.answers = sorted({answer for one in asked for _, answer in one.turns})
        self.number = {answer: number for number, answer in enumerate(self.answers)}
        table = base_of(model.language).get_input_embeddings().weight.detach()  # [V, D]
        ids = [torch.tensor(encode_as_word(tokenizer, answer), device=table.device) for answer in self.answers]
        means = torch.stack([table[one].float().mean(0) for one in ids])  # [A, D]
        device = next(self.projector.parameters()).device
        # Less the mean of the answers, not of the table, which can be far from all words. A single answer becomes 0.
        self.words = F.normalize(means - means.mean(0), dim=-1).to(device)  # [A, D]
        self.word_length = table.norm(dim=1, dtype=torch.float32).median().item()
        self.bias = nn.Parameter(torch.full((len(self.answers),), BIAS, device=device))  # [A]

    def candidates(self, batch: Sequence[Asked]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """The numbers of the answers in a batch [A], and for each of its pictures which of these it has and which it
        could have, both bool [B, A].

        A picture could have each answer that the batch gives to one of its own questions. So an answer in another
        language, or about something that it was not asked, is not held against it.
        """
        numbers = sorted({self.number[answer] for one in batch for _, answer in one.turns})
        column = {number: at for at, number in enumerate(numbers)}
        given: dict[str, set[int]] = {}
        for one in batch:
            for question, answer in one.turns:
                given.setdefault(question, set()).add(column[self.number[answer]])
        has, could = (torch.zeros(len(batch), len(numbers), dtype=torch.bool) for _ in range(2))
        for row, one in enumerate(batch):
            has[row, [column[self.number[answer]] for _, answer in one.turns]] = True
            could[row, sorted(set().union(*(given[question] for question, _ in one.turns)))] = True
        return numbers, has, could

    def compare(self, tokens: torch.Tensor, numbers: list[int]) -> torch.Tensor:
        """How well ``tokens`` [B, N, D] name each of the answers ``numbers`` [A]: [B, A], 0 where they have nothing."""
        cosines = F.normalize(tokens, dim=-1) @ self.words[numbers].T  # [B, N, A]
        return (SHARPNESS * cosines).logsumexp(1) - math.log(tokens.shape[1])

    def loss(self, tokens: torch.Tensor, batch: Sequence[Asked]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the visual tokens [B, N, D] of a batch's pictures; and the share of right decisions about answers."""
        numbers, has, could = self.candidates(batch)
        has, could = has.to(tokens.device), could.to(tokens.device)
        logits = self.compare(tokens, numbers) + self.bias[numbers]  # [B, A]
        each = F.binary_cross_entropy_with_logits(logits, has.float(), reduction="none")  # [B, A]
        lengths = tokens.norm(dim=-1) / self.word_length  # [B, N]
        loss = (each * could).sum(1).mean() + LENGTH_WEIGHT * (lengths - LENGTH).square().mean()
        return loss, ((logits > 0) == has)[could].float().mean()

    def train(self, features: torch.Tensor, steps: int, seed: int) -> float:
        """Train on ``features`` [P, N, Dv]; the share of right decisions in the last tenth of the steps."""
        optimizer = torch.optim.AdamW([*self.projector.parameters(), self.bias], lr=RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        generator, right = torch.Generator().manual_seed(seed), []
        for step in tqdm(range(steps), desc="aligning the projector", leave=False, disable=None):
            drawn = torch.randint(len(features), (BATCH,), generator=generator).tolist()
            tokens = self.projector(features[drawn].to(self.words.device)).float()  # [B, N, D]
            loss, share = self.loss(tokens, [self.asked[number] for number in drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step >= steps - max(1, steps // 10):
                right.append(share.item())
        self.projector.zero_grad(set_to_none=True)
        return sum(right) / len(right)
