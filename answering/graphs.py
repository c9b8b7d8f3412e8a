"""Answering without waiting for Python: what the GPU runs for a token is recorded once, as a CUDA graph, and replayed.

A decoding step of Qwen2.5-1.5B is about 1,450 kernels. Launched from Python, it took 42 to 56 ms on one H200; the GPU
was busy for 4 ms of that. A graph is bound to addresses and shapes. So keys and values are in a cache of fixed length,
prompts are filled up to a multiple of 64 tokens, and inputs and logits are in tensors that stay.

On a CPU the same functions run without being recorded: tests compare them with transformers' ``generate``.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import Cache, LogitsProcessorList, StaticCache, StoppingCriteriaList, SuppressTokensLogitsProcessor

from model.adapters import base_of
from model.model import MMultiModal
from qwen.decoding_step import DecodingStep

STEP = 256  # a cache holds a multiple of this many tokens, so that a conversation seldom needs a longer one
BLOCK = 64  # prompts are filled up to a multiple of this many tokens: one graph for each
MOST_GRAPHS = 8  # of a batch
MOST_BATCHES = 4
# Rows for which the kernels of qwen/decoding_step.py compute a step. They compute row by row: 1, 4 and 8 rows of 1.5B
# take 1.03, 2.15 and 3.67 ms on an H200, where the recorded forward pass takes 3.98 ms for 1 row and 4.98 for 4.
MOST_ROWS = 8
MOST_PICTURES = 4  # more go through the tower together: the GPU is then busy for longer than launching takes

logger = logging.getLogger(__name__)


class Recorder:
    """Records functions on CUDA; on other devices, and after the first failure, they run as they are."""

    def __init__(self, device: torch.device) -> None:
        self.records = device.type == "cuda"
        self.pool = torch.cuda.graph_pool_handle() if self.records else None  # replays never overlap: one for all
        self.stream = torch.cuda.Stream(device) if self.records else None

    def record(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        try:
            graph = torch.cuda.CUDAGraph()
            # thread_local: another thread, such as the one that prepares pictures, may use CUDA meanwhile.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                function()
        except Exception as error:
            self.records = False
            logger.warning("answering without CUDA graphs, since recording failed: %s", str(error).partition("\n")[0])
            return None
        return graph


class Graph:
    """A function that reads and writes tensors that stay. Its second call records it, later ones replay the record.

    The first call loads and tunes kernels, which cannot be recorded, and a shape that occurs once is not worth it.
    """

    def __init__(self, function: Callable[[], None], recorder: Recorder) -> None:
        self.function, self.recorder, self.calls = function, recorder, 0
        self.recorded: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.recorded is not None:
            self.recorded.replay()
            return
        self.function()
        self.calls += 1
        if self.calls == 2 and self.recorder.records:
            self.recorded = self.recorder.record(self.function)


class Graphs:
    """What a model runs while it answers, recorded: the tower, and a static batch for each number of rows."""

    def __init__(self, model: MMultiModal) -> None:
        self.model, self.language = model, base_of(model.language)
        self.recorder = Recorder(model.device)
        self.kernels = DecodingStep.supports(self.language)
        self.batches: OrderedDict[int, StaticBatch] = OrderedDict()  # by rows, the least recently used first
        self.tower: _Tower | None = None

    @staticmethod
    def serve(model: MMultiModal) -> bool:
        """Whether a model's pictures are in the sequence, and every layer attends to all tokens before, by SDPA."""
        config = base_of(model.language).config
        full = all(kind == "full_attention" for kind in config.layer_types)
        return model.projector.in_sequence and full and config._attn_implementation in ("sdpa", "tree_attention")

    def fit(self, tokens: int) -> bool:
        """Whether a model may read this many: a Qwen-1 computes otherwise from its ``seq_length`` on."""
        return tokens <= getattr(self.language.config, "seq_length", tokens)

    def batch(self, rows: int, tokens: int) -> StaticBatch:
        """The static batch for ``rows`` of at least ``tokens`` tokens. The caller may overwrite what it holds."""
        batch = self.batches.pop(rows, None)
        if batch is None or batch.length < tokens + BLOCK:  # a filled prompt ends up to BLOCK - 1 tokens after it
            batch = StaticBatch(self.language, self.recorder, rows, -(-(tokens + BLOCK) // STEP) * STEP)
            self._give_kernels(batch)
        self.batches[rows] = batch
        while len(self.batches) > MOST_BATCHES:
            self.batches.popitem(last=False)
        return batch

    def _give_kernels(self, batch: StaticBatch) -> None:
        """Let a new batch use the kernels of qwen/decoding_step.py, if a first call compiles them."""
        if not self.kernels or batch.rows > MOST_ROWS:
            return
        try:
            kernels = DecodingStep(self.language, batch.cache)
            kernels(batch.token, batch.token, batch.starts, batch.slot)
        except Exception as error:  # such as triton's when there is no C compiler
            self.kernels = False
            logger.warning("answering without own kernels, since they failed: %s", str(error).partition("\n")[0])
        else:
            batch.kernels = kernels

    @torch.no_grad()
    def embed(self, ids: Sequence[int], pixels: torch.Tensor) -> torch.Tensor:
        """``ids`` of T tokens that show ``pixels`` [n, 3, H, W] -> embeddings [1, T, D]."""
        input_ids = torch.tensor([list(ids)], device=self.model.device)  # [1, T]
        if len(pixels) == 0:
            return self.embed_ids(input_ids)
        return self.language.embed(input_ids, [self.encode(pixels)])

    @torch.no_grad()
    def embed_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``input_ids`` [B, T] -> embeddings [B, T, D]."""
        return self.language.get_input_embeddings()(input_ids)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """``pixels`` [n, 3, H, W] -> visual tokens [n, N, D]."""
        if len(pixels) > MOST_PICTURES:
            return self.model.encode_images(pixels)
        if self.tower is None:
            self.tower = _Tower(self.model, self.recorder, pixels[:1])
        return torch.cat([self.tower(picture) for picture in pixels.split(1)])


class _Tower:
    """Tower and projector for one picture, recorded."""

    def __init__(self, model: MMultiModal, recorder: Recorder, pixels: torch.Tensor) -> None:
        self.model = model
        self.pixels = pixels.clone()  # [1, 3, H, W]
        language = base_of(model.language)
        size = 1, model.num_visual_tokens, language.config.hidden_size
        self.tokens = torch.zeros(*size, dtype=language.dtype, device=pixels.device)  # [1, N, D]
        self.graph = Graph(self._encode, recorder)

    def _encode(self) -> None:
        self.tokens.copy_(self.model.encode_images(self.pixels))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """``pixels`` [1, 3, H, W] -> visual tokens [1, N, D]."""
        self.pixels.copy_(pixels)
        self.graph()
        return self.tokens.clone()


class StaticBatch:
    """A cache for ``rows`` rows of ``length`` tokens, and everything that reads and writes it.

    Row b has its first token in slot ``starts[b]``, and all rows end at the same slot. Tokens of slots after that are
    not seen, and overwritten later. They must be finite: 0 times a NaN of an earlier answer would be NaN.
    """

    def __init__(self, language: Any, recorder: Recorder, rows: int, length: int) -> None:
        self.language, self.recorder, self.rows, self.length = language, recorder, rows, length
        config = language.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        of_float = {"dtype": language.dtype, "device": language.device}
        of_int = {"dtype": torch.long, "device": language.device}
        layers = config.num_hidden_layers
        self.storage = torch.zeros(layers, 2, rows, heads, length, width, **of_float)  # keys, then values
        self.lengths = torch.zeros(layers, **of_int)
        self.cache = _static_cache(config, self.storage, self.lengths)
        self.slot = torch.zeros(1, **of_int)  # of the next token to read
        self.starts = torch.zeros(rows, **of_int)
        self.last = torch.zeros(1, **of_int)  # the index of the last token among those that are read
        self.seen = torch.ones(rows, length, dtype=torch.bool, device=language.device)
        self.token = torch.zeros(rows, 1, **of_int)
        self.logits = torch.zeros(rows, config.vocab_size, dtype=torch.float32, device=language.device)
        self.kernels: DecodingStep | None = None
        self.graphs: OrderedDict[Any, tuple[Graph, Any]] = OrderedDict()  # with their inputs; the oldest first

    # ------------------------------------------------------------------------------------------ prompts

    def read_first(self, embeds: torch.Tensor) -> None:
        """Whole prompts ``embeds`` [B, n, D] without padding."""
        tokens = embeds.shape[1]
        self.read(embeds, 0, torch.arange(tokens, device=embeds.device).expand(self.rows, -1))
        self.end_at(tokens, [tokens] * self.rows)

    def end_at(self, slot: int, tokens: Sequence[int]) -> None:
        """Say that the rows have ``tokens`` each, of which the last is in the slot before this one."""
        self.slot.fill_(slot)
        self.starts.copy_(torch.tensor([slot - number for number in tokens]))

    @torch.no_grad()
    def read(self, embeds: torch.Tensor, slot: int, position_ids: torch.Tensor) -> None:
        """Tokens ``embeds`` [B, n, D] at ``position_ids`` [B, n] into slots from ``slot`` on, and the last's logits.

        At slot 0 they see each other only. Else they also see the slots before that ``seen`` [B, length] allows.
        """
        tokens = embeds.shape[1]
        filled = -(-tokens // BLOCK) * BLOCK
        fresh = slot == 0

        def make() -> tuple[Graph, Any]:
            inputs = embeds.new_zeros(self.rows, filled, embeds.shape[2]), position_ids.new_zeros(self.rows, filled)
            return Graph(partial(self._read, *inputs, fresh), self.recorder), inputs

        graph, inputs = self._graph(("read", filled, fresh), make)
        inputs[0][:, :tokens] = embeds
        inputs[0][:, tokens:] = 0
        inputs[1][:, :tokens] = position_ids
        self.clear(slot)
        self.slot.fill_(slot)
        self.last.fill_(tokens - 1)
        graph()

    def clear(self, begin: int) -> None:
        """Forget what is in slots from ``begin`` on."""
        self.storage[..., begin:, :] = 0

    def _read(self, embeds: torch.Tensor, position_ids: torch.Tensor, fresh: bool) -> None:
        """``embeds`` [B, n, D] and ``position_ids`` [B, n], of which those after ``last`` are anything."""
        slots = self.slot + torch.arange(embeds.shape[1], device=embeds.device)  # [n]
        mask = None  # causal
        if not fresh:
            keys = torch.arange(self.length, device=embeds.device)
            own = keys == slots[:, None]  # [n, length]: padding sees itself, since a row of nothing would be NaN
            mask = self._added((keys <= slots[:, None]) & self.seen[:, None, None] | own)  # [B, 1, n, length]
        hidden_states = self._layers(slots, mask, inputs_embeds=embeds, position_ids=position_ids)  # [B, n, D]
        last = hidden_states.index_select(1, self.last)[:, 0]  # [B, D]
        self.logits.copy_(self.language.lm_head(last))

    def _layers(self, slots: torch.Tensor, mask: torch.Tensor | None, **inputs: torch.Tensor) -> torch.Tensor:
        """The decoder layers' output [B, n, D] for tokens at ``slots`` [n]; without a mask, for those alone."""
        cache = _Writer(self.cache, slots, shows_all=mask is not None)
        masks = {"full_attention": mask}
        output = self.language.model(attention_mask=masks, past_key_values=cache, use_cache=True, **inputs)
        return output.last_hidden_state

    def _added(self, seen: torch.Tensor) -> torch.Tensor:
        """A mask of bools as what SDPA adds to scores; given bools, it would do this in every layer."""
        return torch.where(seen, 0.0, -torch.inf).to(self.storage.dtype)

    @torch.no_grad()
    def copy_row(self, row: int, other: StaticBatch, begin: int, tokens: int) -> None:
        """The first ``tokens`` of the only row of another batch into slots from ``begin`` on, and its logits."""
        self.storage[:, :, row, :, begin : begin + tokens] = other.storage[:, :, 0, :, :tokens]
        self.logits[row] = other.logits[0]

    @torch.no_grad()
    def move_row(self, row: int, begin: int, end: int, by: int) -> None:
        """Move the tokens in slots ``begin`` to ``end`` by ``by`` slots. They keep their positions."""
        moved = self.storage[:, :, row, :, begin:end].clone()
        self.storage[:, :, row, :, begin + by : end + by] = moved

    @torch.no_grad()
    def take_in(self, cache: Cache, tokens: int, begin: int = 0) -> None:
        """The first ``tokens`` of all rows of a cache into slots from ``begin`` on."""
        if cache is self.cache:
            return
        for number, layer in enumerate(cache.layers):
            self.storage[number, 0, :, :, begin : begin + tokens] = layer.keys[:, :, :tokens]
            self.storage[number, 1, :, :, begin : begin + tokens] = layer.values[:, :, :tokens]

    # ------------------------------------------------------------------------------------------ answers

    def step(self) -> None:
        """Read ``token`` [B, 1], give the logits of the next one, and move to the next slot."""
        position_ids = (self.slot - self.starts)[:, None]  # [B, 1]
        if self.kernels is not None:
            self.logits.copy_(self.kernels(self.token, position_ids, self.starts, self.slot))
        else:
            keys = torch.arange(self.length, device=self.slot.device)
            seen = (keys >= self.starts[:, None]) & (keys <= self.slot)  # [B, length]
            mask = self._added(seen[:, None, None])  # [B, 1, 1, length]
            hidden_states = self._layers(self.slot, mask, input_ids=self.token, position_ids=position_ids)  # [B, 1, D]
            self.logits.copy_(self.language.lm_head(hidden_states[:, 0]))
        self.slot.add_(1)

    def choose(self, suppressed: torch.Tensor) -> None:
        """The most likely token, of which the next step is: ``token`` [B, 1]."""
        scores = self.logits.index_fill(1, suppressed, -torch.inf)
        self.token.copy_(scores.argmax(1, keepdim=True))

    def _greedy_step(self, suppressed: torch.Tensor) -> None:
        self.step()
        self.choose(suppressed)

    def answer(self, ids: torch.Tensor, mask: torch.Tensor, streamer: Any = None, **options: Any) -> torch.Tensor:
        """Ids [B, new] of the answers to the prompts that were read last: ``ids`` [B, T], padded where ``mask`` is 0.

        Both are on the CPU. transformers' ``generate`` prepares ``options``; only the loop over tokens is this one.
        """
        said = self.language.generate(
            input_ids=ids.to(self.slot.device),
            attention_mask=mask.to(self.slot.device),
            streamer=streamer,
            custom_generate=partial(self._decode, ids=ids, streamer=streamer),
            **options,
        )
        return said[:, ids.shape[1] :]

    def _decode(
        self,
        language: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Any,
        *,
        ids: torch.Tensor,
        streamer: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Ids [B, T + new] on the CPU: transformers' ``_sample``, but the next step runs while the host looks at a
        token. The result of the last step is not used.

        Tokens, streamer and stopping criteria are on the CPU; ``logits_processor`` and sampling are on the device.
        """
        suppressed = None if generation_config.do_sample else _suppressed(logits_processor)
        choose, step = self._ways(suppressed, input_ids, logits_processor, generation_config.do_sample)
        ends_rows = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        padding = generation_config._pad_token_tensor.cpu() if ends_rows else None
        most = stopping_criteria.max_length
        on_host = _OnHost(self.token)
        unfinished = torch.ones(len(ids), dtype=torch.bool)
        choose()
        while True:
            on_host.begin()
            if most is None or ids.shape[1] + 1 < most:
                step()
            tokens = on_host.end()  # [B]
            if padding is not None:
                tokens = tokens.where(unfinished, padding)
            ids = torch.cat([ids, tokens[:, None]], 1)
            if streamer is not None:
                streamer.put(tokens)
            unfinished &= ~stopping_criteria(ids, None)
            if not unfinished.any():
                break
            if suppressed is None:
                choose()
        if streamer is not None:
            streamer.end()
        return ids

    def _ways(
        self,
        suppressed: tuple[int, ...] | None,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        do_sample: bool,
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """How the next token is chosen, and what computes the logits after it (and, if greedy, the token after it)."""
        if suppressed is not None:
            without = torch.tensor(suppressed, dtype=torch.long, device=self.slot.device)
            graph, (without,) = self._graph(
                ("greedy", suppressed),
                lambda: (Graph(partial(self._greedy_step, without), self.recorder), (without,)),
            )
            return partial(self.choose, without), graph
        graph, _ = self._graph("step", lambda: (Graph(self.step, self.recorder), ()))
        said = [input_ids]  # [B, T + new]

        def choose() -> None:
            scores = logits_processor(said[0], self.logits.clone())  # [B, V]
            if do_sample:
                token = torch.multinomial(scores.softmax(-1), num_samples=1)
            else:
                token = scores.argmax(-1, keepdim=True)
            self.token.copy_(token)
            said[0] = torch.cat([said[0], token], 1)

        return choose, graph

    def _graph(self, key: Any, make: Callable[[], tuple[Graph, Any]]) -> tuple[Graph, Any]:
        self.graphs[key] = self.graphs.pop(key) if key in self.graphs else make()
        while len(self.graphs) > MOST_GRAPHS:
            self.graphs.popitem(last=False)
        return self.graphs[key]


class _Writer:
    """What decoder layers take for their cache: it writes at given slots, which transformers' counts itself."""

    def __init__(self, cache: StaticCache, slots: torch.Tensor, shows_all: bool) -> None:
        self.cache, self.slots, self.shows_all = cache, slots, shows_all

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``keys`` and ``values`` [B, K, n, E] -> those of all slots [B, K, length, E], or the same."""
        kept = self.cache.layers[layer]
        kept.keys.index_copy_(2, self.slots, keys)
        kept.values.index_copy_(2, self.slots, values)
        return (kept.keys, kept.values) if self.shows_all else (keys, values)

    def get_seq_length(self, layer: int = 0) -> int:
        return 0  # asked for where there is no mask: nothing before is seen


class _OnHost:
    """Tokens [B, 1] of the device, copied to the host while the device runs on."""

    def __init__(self, token: torch.Tensor) -> None:
        self.token, self.cuda = token, token.device.type == "cuda"
        self.copy = torch.zeros(token.shape, dtype=token.dtype, pin_memory=self.cuda)
        self.copied = torch.cuda.Event() if self.cuda else None

    def begin(self) -> None:
        self.copy.copy_(self.token, non_blocking=self.cuda)
        if self.copied is not None:
            self.copied.record(torch.cuda.current_stream(self.token.device))

    def end(self) -> torch.Tensor:
        """The tokens [B]."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.copy[:, 0].clone()


def _static_cache(config: Any, storage: torch.Tensor, lengths: torch.Tensor) -> StaticCache:
    """A cache whose tensors are parts of ``storage`` [layers, 2, B, K, length, E] and ``lengths`` [layers]."""
    cache = StaticCache(config=config, max_cache_len=storage.shape[4])
    for number, layer in enumerate(cache.layers):
        keys, values = storage[number]
        layer.keys, layer.values, layer.cumulative_length = keys, values, lengths[number]
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    return cache


def _suppressed(logits_processor: LogitsProcessorList) -> tuple[int, ...] | None:
    """The tokens that processors never allow, if that is all they do."""
    if not all(isinstance(processor, SuppressTokensLogitsProcessor) for processor in logits_processor):
        return None
    return tuple(token for processor in logits_processor for token in processor.suppress_tokens.tolist())
