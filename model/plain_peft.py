"""peft, imported without bitsandbytes. Everything of ours takes peft's names from here.

peft imports bitsandbytes wherever it is installed, for layers that few runs have: 0.5 s in every script, and notices on
stderr. A run with 4-bit weights calls :func:`common.optional.import_bitsandbytes` before it makes adapters.
"""

from __future__ import annotations

import transformers  # noqa: F401  # first, so that only peft's own imports find bitsandbytes hidden

from common.optional import hidden

with hidden("bitsandbytes"):
    from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
    from peft.tuners import lora
    from peft.tuners.lora import LoraLayer

    # peft remembers the answers, and asks again for every layer that gets an adapter.
    is_bnb_available()
    is_bnb_4bit_available()

__all__ = [
    "LoraConfig",
    "LoraLayer",
    "PeftModel",
    "get_peft_model",
    "get_peft_model_state_dict",
    "lora",
    "set_peft_model_state_dict",
]
