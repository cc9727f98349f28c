#!/usr/bin/env python3
"""Show that kvpress, given the same keys, values and attention of the real model, keeps the same entries as ccd.py.

For the policies that kvpress has. One full pot is distilled by both; every head of every layer must keep the same entries.
(The C++ library is compared with ccd.py by tests/golden/ccd_*.json.) Needs torch, numpy, gguf, tokenizers and kvpress:

    check_kvpress.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf TEXT.txt
"""

import argparse
import pathlib
import types

import numpy as np
import torch
from kvpress import ExpectedAttentionPress, KeyDiffPress, KnormPress, SnapKVPress, StreamingLLMPress, TOVAPress

from ccd import Pot, Settings
from smollm2 import SmolLM2, tokenizer

CASES = {
    "knorm": (Settings("knorm", sinks=0), KnormPress()),
    "keydiff": (Settings("keydiff", sinks=0), KeyDiffPress()),
    "snapkv": (Settings("snapkv", sinks=0, window=32, kernel=5), SnapKVPress(window_size=32, kernel_size=5)),
    "tova": (Settings("tova", sinks=0), TOVAPress()),
    "expected_attention": (Settings("expected_attention"), ExpectedAttentionPress(n_future_positions=512, n_sink=4)),
    "streaming_llm": (Settings("streaming_llm", sinks=4), StreamingLLMPress(compression_ratio=0.5, n_sink=4)),
}


def half_split(x):
    """Channels (0, 1, 2, ...) in the order (0, 2, ..., 1, 3, ...), as the pairing that kvpress knows has them."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)


def kept_by_kvpress(press, model, cache, keep):
    """[layer, kv head, keep], ascending."""

    def rotary_emb(x, positions):
        angles = (positions[..., None] * model.frequencies).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    module = types.SimpleNamespace(
        config=types.SimpleNamespace(num_attention_heads=model.heads, num_key_value_heads=model.kv_heads),
        head_dim=model.head_dim,
        q_proj=lambda hidden_states: hidden_states,
        rotary_emb=rotary_emb,
    )
    kept = []
    for layer in range(model.layers):
        keys = half_split(model.rotate(cache.keys[layer], 0))[None]
        attention = model.attention(cache, layer, keys.shape[2])[None]
        # In place of hidden states the queries that a press would make of them.
        hidden_states = half_split(cache.queries[layer]).transpose(0, 1).flatten(1)[None]
        scores = press.score(module, hidden_states, keys, cache.values[layer][None], attention, {})
        kept.append(scores.topk(keep, dim=-1).indices.sort(dim=-1).values[0])
    return torch.stack(kept).numpy()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="SmolLM2-135M-Instruct as a GGUF file")
    arguments.add_argument("text", type=pathlib.Path, help="any text of some hundred words")
    options = arguments.parse_args()
    torch.set_grad_enabled(False)
    model = SmolLM2(options.model, torch.float64)
    tokens = tokenizer(options.model).encode(options.text.read_text()[:4000]).ids
    for name, (settings, press) in CASES.items():
        pot = Pot(model, settings)
        pot.feed(tokens[: pot.limit])
        theirs = kept_by_kvpress(press, model, pot.cache, settings.keep)
        pot.distil()
        ours = pot.distillations[0].kept.reshape(theirs.shape)
        if not np.array_equal(ours, theirs):
            raise SystemExit(f"{name}: {(ours != theirs).any(axis=-1).sum()} of {ours.shape[0] * ours.shape[1]} heads differ")
        print(f"{name}: all {ours.shape[0] * ours.shape[1]} heads keep the same {settings.keep} of {pot.limit} entries")


if __name__ == "__main__":
    main()
