"""The language's side: Qwen, extended so that visual features can stand among the words.

Where ``input_ids`` holds the placeholder ``<|extra_0|>``, the word embedding is replaced by a visual feature, one
placeholder per feature. Everything behind the embedding is Qwen unchanged: KV cache, ``generate``, SDPA and gradient
checkpointing. Without images every call goes straight to transformers and is equal to it to the bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

IGNORE_INDEX = -100


class ImageInputMixin:
    """What every Qwen family needs to take images; the family's own class stands behind it in the MRO.

    ``image_token_id`` is the id of ``<|extra_0|>`` in this model's tokenizer. It is set by whoever owns both, since
    the id differs between families (151646 in Qwen-1 only).
    """

    image_token_id: int | None = None

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        images: list[torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """``input_ids`` [B, T] -> logits [B, T, V], or a loss where ``labels`` [B, T] are given.

        ``images[b]`` holds the projected features of row b: [n_b, N, D] for n_b images of N visual tokens each, in
        the order in which they stand in the row; n_b may be 0.

        With labels the head runs only on the positions that have one (10 to 40 of 760 in a typical row, and a row of
        logits is 151,936 wide), so ``logits`` is None. The loss is summed over labels and divided by
        ``num_items_in_batch``, the count over the whole accumulated batch (default: the count in this call).

        Raises:
            ValueError: the placeholders of a row and its visual tokens differ in number, or no position has a label.
        """
        if images is not None:
            kwargs["inputs_embeds"] = self.embed(input_ids, images)  # [B, T, D]
            input_ids = None
        if labels is None:
            return super().forward(input_ids=input_ids, **kwargs)
        return self._labelled_forward(input_ids, labels, num_items_in_batch, **kwargs)

    def _labelled_forward(self, input_ids, labels, num_items_in_batch, **kwargs) -> CausalLMOutputWithPast:
        hidden_states = self.model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state  # [B, T, D]
        targets = labels[:, 1:]  # [B, T-1]: position t predicts token t + 1
        labelled = targets != IGNORE_INDEX
        targets = targets[labelled]  # [L]
        if targets.numel() == 0:
            raise ValueError("no position in this batch has a label, so there is nothing to learn from it")
        logits = self.lm_head(hidden_states[:, :-1][labelled]).float()  # [L, V]
        total = F.cross_entropy(logits, targets, reduction="sum")
        count = targets.numel() if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=total / count)

    def embed(self, input_ids: torch.Tensor, images: list[torch.Tensor]) -> torch.Tensor:
        """Word embeddings [B, T, D] with the visual features in place of the placeholders."""
        embeds = self.get_input_embeddings()(input_ids)  # [B, T, D]
        placeholder = input_ids == self.image_token_id  # [B, T]
        self._check_counts(placeholder, images)
        if not any(len(image) for image in images):
            return embeds
        features = torch.cat([image.flatten(0, 1) for image in images])  # [sum n_b * N, D], row by row
        # masked_scatter fills row by row in the same order; in place, autograd would refuse the embedding leaf.
        return embeds.masked_scatter(placeholder.unsqueeze(-1), features.to(embeds.dtype))

    def _check_counts(self, placeholder: torch.Tensor, images: list[torch.Tensor]) -> None:
        if self.image_token_id is None:
            raise ValueError("image_token_id is not set: it is the tokenizer's id of <|extra_0|>")
        if len(images) != len(placeholder):
            raise ValueError(f"images for {len(images)} rows, input_ids with {len(placeholder)}")
        for row, (wanted, image) in enumerate(zip(placeholder.sum(1).tolist(), images, strict=True)):
            given = image.shape[0] * image.shape[1] if len(image) else 0
            if wanted != given:
                raise ValueError(f"row {row} has {wanted} <|extra_0|> placeholders but {given} visual tokens")

    def generate(self, input_ids: torch.Tensor | None = None, images: list[torch.Tensor] | None = None, **kwargs):
        """transformers' ``generate``; ``images`` as in :meth:`forward`. Returns ids [B, T + new], prompt included.

        The embeddings are made once, here, so that beams and repeated sequences expand them like any other input.
        """
        if images is not None:
            kwargs["inputs_embeds"] = self.embed(input_ids, images)
        return super().generate(input_ids, **kwargs)


class MQwen2ForCausalLM(ImageInputMixin, Qwen2ForCausalLM):
    """Qwen1.5, Qwen2 and Qwen2.5, which share an architecture."""


class MQwen3ForCausalLM(ImageInputMixin, Qwen3ForCausalLM):
    """Qwen3, dense."""


MODEL_CLASSES = {"qwen2": MQwen2ForCausalLM, "qwen3": MQwen3ForCausalLM}  # by the config's model_type
