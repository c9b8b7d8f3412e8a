"""Qwen, extended to take visual tokens among its words.

At each placeholder ``<|extra_0|>`` in ``input_ids``, a visual token replaces the word embedding. Everything after the
embedding is Qwen unchanged: KV cache, ``generate``, SDPA and gradient checkpointing. Calls without images go straight
to transformers, with results equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers import Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from qwen.last_layer import narrow_last_layer, positions_of
from qwen.tokenizer import IGNORE_INDEX
from qwen.tree_attention import NAME as TREE_ATTENTION
from qwen.tree_attention import TreeLayout, tree_layout
from qwen.tree_mask import check_mask, fill_blocks, tree_block_mask, tree_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Family
else:
    _Family = object  # at run time, a family's own class follows the mixin in the MRO


class ImageInputMixin(_Family):
    """What every Qwen family needs to take images.

    ``image_token_id`` is the id of ``<|extra_0|>`` in this model's tokenizer. Whoever loads both sets it, because the
    id differs between families (151646 in Qwen-1 only).
    """

    image_token_id: int | None = None
    grown_from: int  # rows of the embedding matrix before qwen.load.grow
    box_rows: Sequence[int] = ()  # ids of the marks of boxes that must be learnt (qwen.tokenizer.untrained_box_rows)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        narrow_last_layer(self.model.layers)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        images: list[torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        segments: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """``input_ids`` [B, T] -> logits [B, T, V], or with ``labels`` [B, T] a loss.

        With labels, the head and most of the last layer (qwen/last_layer.py) run only at the positions that have one:
        10 to 40 of 760 in a typical row, and a row of logits is 151,936 wide. ``logits`` is then None.

        Args:
            images: for each row, the visual tokens [n_b, N, D] of its n_b images in the order of their placeholders;
                n_b may be 0.
            num_items_in_batch: the summed loss is divided by it: the number of labels in the whole accumulated batch
                (None: the number in this call).
            segments: [B, T], the branch of a message tree that each token belongs to (:func:`tree_mask`). It replaces
                ``attention_mask`` and goes with ``position_ids`` that restart after the root.
            logits_to_keep: of transformers: how many positions from the end get logits; 0 for all.

        Raises:
            ValueError: placeholders and visual tokens of a row differ in number, no position has a label, or the
                attention in use would misread a mask of this kind.
        """
        # ``generate`` looks for these two names in the signature. Without ``position_ids``, padding between a cached
        # prefix and a short question would count as text. Without ``logits_to_keep``, there would be logits of a whole
        # prompt, 151,936 wide, where one row is needed.
        if labels is not None and self.config._attn_implementation == "flex_attention":
            if input_ids is None:
                raise ValueError("labels under flex_attention need input_ids")
            input_ids, labels, segments, position_ids = fill_blocks(
                input_ids, labels, segments, position_ids, kwargs.pop("attention_mask", None)
            )
        kwargs["position_ids"] = position_ids
        self._check_length(input_ids, position_ids, kwargs)
        if segments is not None:
            kwargs["attention_mask"] = self._attention_of(segments)
        if images is not None:
            kwargs["inputs_embeds"] = self.embed(input_ids, images)  # [B, T, D]
            input_ids = None
        if labels is None:
            return super().forward(input_ids=input_ids, logits_to_keep=logits_to_keep, **kwargs)
        return self._labelled_forward(input_ids, labels, num_items_in_batch, **kwargs)

    def _check_length(
        self, input_ids: torch.Tensor | None, position_ids: torch.Tensor | None, kwargs: dict[str, Any]
    ) -> None:
        """Refuse a sequence longer than a Qwen-1's ``seq_length``, where the original scales queries and rotary base.

        Raises:
            ValueError: names both lengths.
        """
        longest = getattr(self.config, "seq_length", None)
        if longest is None:
            return
        past = kwargs.get("past_key_values")
        shape = kwargs["inputs_embeds"].shape if input_ids is None else input_ids.shape
        length = shape[1] + (past.get_seq_length() if past is not None else 0)
        if length > longest and position_ids is not None:  # padding has no position, and branches share theirs
            length = int(position_ids.max()) + 1
        if length > longest:
            raise ValueError(
                f"a sequence of {length} tokens, but this Qwen-1 is right only up to its seq_length of {longest}; "
                f"lower language.max_length to {longest}"
            )

    def _labelled_forward(
        self,
        input_ids: torch.Tensor | None,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        mask = kwargs.get("attention_mask")
        check_mask(mask, self.config._attn_implementation, kwargs.get("position_ids"))
        if self.config._attn_implementation == TREE_ATTENTION and self._is_causal(mask):
            kwargs["attention_mask"] = {"full_attention": mask if isinstance(mask, TreeLayout) else None}
        targets = labels[:, 1:]  # [B, T-1]: position t predicts token t + 1
        labelled = targets != IGNORE_INDEX
        targets = targets[labelled]  # [L]
        if targets.numel() == 0:
            raise ValueError("no position in this batch has a label, so there is nothing to learn from it")
        if self._narrows():
            kwargs["rows"], labelled = positions_of(labelled)  # [B, M] each
        hidden_states = self.model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state  # [B, T or M, D]
        hidden_states = hidden_states[:, : labelled.shape[1]][labelled]  # [L, D]
        logits = self.lm_head(hidden_states).float()  # [L, V]
        total = F.cross_entropy(logits, targets, reduction="sum")
        count = targets.numel() if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=total / count)

    def _is_causal(self, mask: torch.Tensor | BlockMask | TreeLayout | None) -> bool:
        """Whether flash kernels do without this mask: a tree's layout, or at most padding on the right, which no
        token before it sees."""
        if not all(kind == "full_attention" for kind in self.config.layer_types):
            return False
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            return bool((mask.diff(dim=1) <= 0).all())
        return mask is None or isinstance(mask, TreeLayout)

    def _narrows(self) -> bool:
        """Whether the last layer may run at the labelled positions only: FlexAttention's masks are for all of them."""
        full = all(kind == "full_attention" for kind in self.config.layer_types)
        return full and self.config._attn_implementation in ("sdpa", "eager", TREE_ATTENTION)

    def _attention_of(self, segments: torch.Tensor) -> torch.Tensor | BlockMask | TreeLayout:
        """The branches' mask in the form that the attention in use takes."""
        if self.config._attn_implementation == "flex_attention":
            return tree_block_mask(segments)
        if self.config._attn_implementation == TREE_ATTENTION:
            return tree_layout(segments)
        mask = tree_mask(segments)
        if self.config._attn_implementation == "eager":  # which adds its mask to the scores
            return torch.where(mask, 0.0, torch.finfo(self.dtype).min).to(self.dtype)
        return mask

    def embed(self, input_ids: torch.Tensor | None, images: list[torch.Tensor]) -> torch.Tensor:
        """Word embeddings [B, T, D] with visual tokens in place of the placeholders; ``images`` as in :meth:`forward`.

        Raises:
            ValueError: placeholders and visual tokens of a row differ in number, or there are no ids.
        """
        if input_ids is None:
            raise ValueError("images need input_ids: the placeholders there say where the visual tokens belong")
        if self.image_token_id is None:
            raise ValueError("image_token_id is not set: it is the tokenizer's id of <|extra_0|>")
        embeds = self.get_input_embeddings()(input_ids)  # [B, T, D]
        placeholder = input_ids.eq(self.image_token_id)  # [B, T]
        self._check_counts(placeholder, images)
        if not any(len(image) for image in images):
            return embeds
        tokens = torch.cat([image.flatten(0, 1) for image in images])  # [sum n_b * N, D], row by row
        # masked_scatter fills row by row in the same order. In place, autograd would refuse the embedding leaf.
        return embeds.masked_scatter(placeholder.unsqueeze(-1), tokens.to(embeds.dtype))

    def _check_counts(self, placeholder: torch.Tensor, images: list[torch.Tensor]) -> None:
        if len(images) != len(placeholder):
            raise ValueError(f"images for {len(images)} rows, input_ids with {len(placeholder)}")
        for row, (wanted, image) in enumerate(zip(placeholder.sum(1).tolist(), images, strict=True)):
            given = image.shape[0] * image.shape[1] if len(image) else 0
            if wanted != given:
                raise ValueError(f"row {row} has {wanted} <|extra_0|> placeholders but {given} visual tokens")

    def generate(
        self, input_ids: torch.Tensor | None = None, images: list[torch.Tensor] | None = None, **kwargs
    ) -> torch.Tensor:
        """transformers' ``generate``; ``images`` as in :meth:`forward`. Returns ids [B, T + new], prompt included.

        The embeddings are computed once, here, so that beams and repeated sequences expand them like any other input.
        """
        if images is not None:
            embeds = self.embed(input_ids, images)  # [B, T, D]
            kwargs["inputs_embeds"] = embeds
            if kwargs.get("attention_mask") is None:  # without one, beams get position ids for one row only
                kwargs["attention_mask"] = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        return super().generate(input_ids, **kwargs)


class MQwen2ForCausalLM(ImageInputMixin, Qwen2ForCausalLM):
    """Qwen1.5, Qwen2 and Qwen2.5, which share an architecture."""


class MQwen3ForCausalLM(ImageInputMixin, Qwen3ForCausalLM):
    """Qwen3, dense."""


# By the config's model_type.
MODEL_CLASSES: dict[str, type[ImageInputMixin]] = {"qwen2": MQwen2ForCausalLM, "qwen3": MQwen3ForCausalLM}
