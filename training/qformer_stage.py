"""BLIP-2's first stage: the Q-Former alone learns from pictures and their captions (Li et al. 2023, arXiv:2301.12597,
section 3.2), on features of a frozen tower.

The Q-Former is the connector ``qformer`` with what its second stage does not need: text layers of transformers'
``Blip2QFormerModel``, and word embeddings and heads of this project. No language model is loaded; the captions are cut
into tokens by its tokenizer. ``train.start_from`` gives a second stage the Q-Former, and leaves the rest out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerModel, GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from dataset.prompt import IGNORE_INDEX
from model.adapters import assert_trainable
from model.connectors.qformer import STD, QFormerConnector
from model.model import MMultiModal, tower_options
from qwen.tokenizer import Tokenizer
from training.losses import (
    LossName,
    generation_loss,
    hard_negatives,
    mask_words,
    masked_words_loss,
    matching_loss,
    query_text_loss,
    query_text_mask,
    query_text_similarities,
)
from visual.load import load_vision
from visual.SIGLIP_VIT import feature_width

if TYPE_CHECKING:
    from settings import Config

LONGEST = 32  # tokens of a caption, as in the paper; the rest is cut
SHARED_WIDTH = 256  # of the space in which queries and texts are compared, as in the paper


class TextQFormer(QFormerConnector):
    """The connector with words: ``vocabulary`` embeddings, and one each for [CLS], [DEC] and [MASK]."""

    def __init__(self, vision_width: int, vocabulary: int, **options: Any) -> None:
        super().__init__(vision_width, 1, **options)
        del self.language_projection  # the second stage's
        config = copy.deepcopy(self.qformer.config)
        config.use_qformer_text_input = True
        self.qformer = Blip2QFormerModel(config)
        width, self.vocabulary = config.hidden_size, vocabulary
        self.words = nn.Embedding(vocabulary + 3, width)
        self.positions = nn.Embedding(LONGEST + 1, width)
        self.image_projection, self.text_projection = (nn.Linear(width, SHARED_WIDTH) for _ in range(2))
        self.match = nn.Linear(width, 2)
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # the paper's temperature
        for weight in (self.words.weight, self.positions.weight, self.match.weight):
            nn.init.normal_(weight, std=STD)

    @property
    def special(self) -> tuple[int, int, int]:
        """The ids of [CLS], [DEC] and [MASK]."""
        return self.vocabulary, self.vocabulary + 1, self.vocabulary + 2

    def encode(self, features: Tensor, ids: Tensor, words: Tensor, loss: LossName) -> tuple[Tensor, Tensor]:
        """``features`` [n, N, Dv] and ``ids`` [n, T] -> queries [n, M, D] and words [n, T, D], with a loss's mask."""
        queries = self.query_tokens.expand(len(ids), -1, -1)
        embedded = self.words(ids) + self.positions.weight[: ids.shape[1]]  # [n, T, D]
        mask = query_text_mask(loss, queries.shape[1], words)
        hidden_states = self.qformer(
            query_embeds=torch.cat([queries, embedded], 1),
            query_length=queries.shape[1],
            attention_mask=mask,
            encoder_hidden_states=features,
        ).last_hidden_state
        return hidden_states[:, : queries.shape[1]], hidden_states[:, queries.shape[1] :]

    def word_logits(self, hidden_states: Tensor) -> Tensor:
        """[..., D] -> [..., V], by the matrix of the word embeddings."""
        return nn.functional.linear(hidden_states, self.words.weight[: self.vocabulary], self.word_bias)


class NoLanguage(nn.Module):
    """In place of a language model, which this stage does not load."""

    generation_config = GenerationConfig()


class QFormerStage(MMultiModal):
    """Tower and Q-Former without a language model; ``forward`` gives the sum of ``losses``."""

    projector: TextQFormer

    def __init__(self, vision: Any, projector: TextQFormer, losses: list[LossName], drop_first_token: bool) -> None:
        super().__init__(vision, NoLanguage(), projector, drop_first_token=drop_first_token)
        self.losses = losses

    def forward(  # type: ignore[override]  # a batch of the same dataset, another loss
        self,
        input_ids: Tensor,
        labels: Tensor,
        images_per_row: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_index: Tensor | None = None,
        segments: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        use_all: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The loss of the rows with one picture; arguments as for :meth:`model.model.MMultiModal.forward`.

        A row's caption is what its labels say; of a tree a branch's, drawn at random in training. Batches count by
        their labels, as those of other runs do.
        """
        unused = sum(p.sum() for p in self.projector.parameters()) * 0.0
        rows = images_per_row == 1
        if not rows.any():
            return CausalLMOutputWithPast(loss=unused)
        if image_features is None:
            with torch.no_grad(), torch.autocast(labels.device.type, enabled=False):
                image_features = self.vision(pixel_values)
        if image_index is not None:
            image_features = image_features[image_index]  # [K, N, Dv]
        own = image_features[(images_per_row.cumsum(0) - 1)[rows]]  # [n, N, Dv]
        features = self.projector.standardised(self.kept(own)).to(self.projector.dtype)
        ids, words = self.captions(labels[rows], None if segments is None else segments[rows])
        loss = self.total(features, ids, words)
        if num_items_in_batch is not None:
            loss = loss * (labels[:, 1:] != IGNORE_INDEX).sum() / num_items_in_batch
        return CausalLMOutputWithPast(loss=loss + unused if use_all else loss)

    def captions(self, labels: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor]:
        """``ids`` [n, T] of one branch's labels each, padded on the right, and which of them are words [n, T]."""
        found = []
        for number, row in enumerate(labels):
            wanted = row != IGNORE_INDEX
            if segments is not None:
                branches = segments[number][wanted].unique()
                drawn = int(torch.randint(len(branches), (1,))) if self.training else 0
                wanted &= segments[number] == branches[drawn]
            found.append(row[wanted][:LONGEST])
        lengths = torch.tensor([len(row) for row in found], device=labels.device)
        ids = nn.utils.rnn.pad_sequence(found, batch_first=True)
        return ids, torch.arange(ids.shape[1], device=labels.device) < lengths[:, None]

    def total(self, features: Tensor, ids: Tensor, words: Tensor) -> Tensor:
        """The sum of the losses of pairs of ``features`` [n, N, Dv] and captions ``ids`` [n, T]."""
        cls, dec, mask = self.projector.special
        seen = nn.functional.pad(words, (1, 0), value=True)  # [n, 1 + T]

        def begun_with(first: int, rest: Tensor) -> Tensor:
            return nn.functional.pad(rest, (1, 0), value=first)

        queries, texts = self.projector.encode(features, begun_with(cls, ids), seen, "itc")
        queries, texts = self.projector.image_projection(queries), self.projector.text_projection(texts[:, 0])
        losses = []
        if "itc" in self.losses:
            losses.append(query_text_loss(texts, queries, self.projector.log_scale))
        if "itm" in self.losses:
            similar = query_text_similarities(texts, queries, self.projector.log_scale)
            losses.append(self.matching(features, begun_with(cls, ids), seen, similar))
        if "itg" in self.losses:
            _, hidden_states = self.projector.encode(features, begun_with(dec, ids)[:, :-1], seen[:, :-1], "itg")
            losses.append(generation_loss(self.projector.word_logits(hidden_states), ids, words))
        if "mlm" in self.losses:
            inputs, labels = mask_words(ids, words, mask)
            _, hidden_states = self.projector.encode(features, begun_with(cls, inputs), seen, "mlm")
            losses.append(masked_words_loss(self.projector.word_logits(hidden_states[:, 1:]), labels))
        return torch.stack(losses).sum()

    def matching(self, features: Tensor, ids: Tensor, seen: Tensor, similar: Tensor) -> Tensor:
        """The loss of n matched pairs, and of 2 n hard negatives where there is more than one pair."""
        count = len(ids)
        pictures = texts = torch.arange(count, device=ids.device)
        if count > 1:
            other_pictures, other_texts = hard_negatives(similar)
            pictures = torch.cat([pictures, other_pictures, pictures])
            texts = torch.cat([texts, texts, other_texts])
        queries, _ = self.projector.encode(features[pictures], ids[texts], seen[texts], "itm")
        return matching_loss(self.projector.match(queries).mean(1), count)

    def set_attention(self, implementation: str) -> None:
        """There is no language model whose attention could be chosen."""

    def gradient_checkpointing_enable(self) -> None:
        self.projector.qformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def build_qformer_stage(config: Config, tokenizer: Tokenizer, dtype: torch.dtype) -> QFormerStage:
    """The model of a run whose ``train.losses`` are of the Q-Former alone: frozen tower, fresh Q-Former in fp32."""
    vision = load_vision(config.vision.path, dtype, **tower_options(config))
    vision.requires_grad_(False)
    options = {**config.projector.sizes, "standardize": config.projector.standardize}
    projector = TextQFormer(feature_width(vision), len(tokenizer), **options)
    losses: list[LossName] = [name for name in config.train.losses if name != "answers"]
    model = QFormerStage(vision, projector, losses, config.vision.drop_first_token)
    assert_trainable(model, config)
    return model.eval()
