"""Writes golden/architectures.json: logits of tiny models by Hugging Face transformers, in double precision.

    python make_architectures_golden.py ../golden/architectures.json

Weights are not in the file: tests/smollm2/tiny_architectures.hpp computes the same from their names. Metadata and
tensors of RoPE are what llama.cpp's convert_hf_to_gguf.py writes for the model (conversion/base.py, llama.py, phi.py).
"""

import json
import math
import sys

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

LAYERS, EMBEDDING, FEED_FORWARD, QUERY_HEADS, KV_HEADS, VOCABULARY, LENGTH = 2, 48, 40, 4, 2, 40, 48
ROWS = [0, 1, 5, 20, 47]


def weights(name, shape):
    """splitmix64 of FNV-1a of the name plus the index, as numbers in -0.5 .. 0.5; norms are around 1."""
    seed = np.uint64(14695981039346656037)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            seed = (seed ^ np.uint64(byte)) * np.uint64(1099511628211)
        x = (seed + np.arange(math.prod(shape), dtype=np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    numbers = (x >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    if "norm" in name:
        numbers += 1
    return torch.tensor(numbers.astype(np.float32).reshape(shape))


def rounded(numbers):
    return [float(f"{number:.9g}") for number in numbers]


def float32(number):
    return float(np.float32(number))


def gguf_rope(rope, head_dim):
    """The converter's metadata and tensors."""
    kind, metadata, tensors = rope["rope_type"], {}, {}
    if kind in ("linear", "yarn"):
        metadata = {"rope.scaling.type": kind, "rope.scaling.factor": rope["factor"]}
    if kind == "yarn":
        metadata["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if kind == "llama3":
        divisors = []
        for i in range(0, head_dim, 2):
            wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
            original = rope["original_max_position_embeddings"]
            low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
            smooth = min(max((original / wavelength - low) / (high - low), 0), 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
        tensors = {"rope_freqs.weight": rounded(map(float32, divisors))}
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        metadata = {
            "rope.scaling.type": kind,
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(rope["factor"]) / math.log(original)),
        }
        tensors = {
            "rope_factors_long.weight": rope["long_factor"],
            "rope_factors_short.weight": rope["short_factor"],
        }
    return metadata, tensors


def case(name, architecture="llama", rope=None, head_dim=EMBEDDING // QUERY_HEADS, biases=False, tied=False):
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[architecture]
    rope = {"rope_type": "default", "rope_theta": 500.0} | (rope or {})
    context = int(rope.get("original_max_position_embeddings", 64) * rope.get("factor", 1))
    more = {} if architecture == "qwen2" else {"head_dim": head_dim, "attention_bias": biases}
    config = config_class(
        vocab_size=VOCABULARY, hidden_size=EMBEDDING, intermediate_size=FEED_FORWARD, num_hidden_layers=LAYERS,
        num_attention_heads=QUERY_HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=context,
        rms_norm_eps=1e-5, tie_word_embeddings=tied, rope_parameters=dict(rope), attn_implementation="eager", **more,
    )
    model = model_class(config).double().eval()
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}  # a tied one once
    model.load_state_dict({name: weights(name, shape).double() for name, shape in shapes.items()}, strict=not tied)
    tokens = [(7 * i * i + 3 * i + 1) % VOCABULARY for i in range(LENGTH)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    metadata, tensors = gguf_rope(rope, head_dim)
    if head_dim != EMBEDDING // QUERY_HEADS:
        metadata |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    return {
        "name": name, "architecture": architecture, "theta": rope["rope_theta"], "context_length": context,
        "metadata": metadata, "rope_tensors": tensors, "weights": {name: list(shape) for name, shape in shapes.items()},
        "tokens": tokens, "logits": {str(row): rounded(logits[row].tolist()) for row in ROWS},
    }


def cases():
    yield case("plain", tied=True)
    yield case("linear", rope={"rope_type": "linear", "factor": 4.0})
    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    yield case("llama3", rope={"rope_type": "llama3", "factor": 8.0} | llama3)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
    yield case("yarn", rope=yarn)
    longrope = {
        "rope_type": "longrope", "factor": 4.0, "short_factor": [1.0, 1.0625, 1.125, 1.25, 1.5, 1.75],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 3.5, 4.0],
    }
    # llama.cpp has room for 256 tokens at least.
    yield case("longrope_short", rope=longrope | {"original_max_position_embeddings": 256})
    yield case("longrope_long", rope=longrope | {"original_max_position_embeddings": 32})
    yield case("biases", biases=True)
    yield case("biases_yarn", rope=yarn, biases=True)
    yield case("qwen2", "qwen2")
    yield case("qwen3", "qwen3", head_dim=16)
    yield case("qwen3_yarn_biases", "qwen3", rope=yarn, head_dim=16, biases=True)


def main():
    lines = ",\n".join(json.dumps(item) for item in cases())
    text = f'{{"source": "transformers {transformers.__version__}",\n"cases": [\n{lines}\n]}}\n'
    with open(sys.argv[1], "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
