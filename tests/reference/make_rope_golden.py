"""Writes golden/rope.json: RoPE tables and M-RoPE rotations as Hugging Face transformers computes them (float32).

    python make_rope_golden.py ../golden/rope.json
"""

import json
import sys

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding


def exact(tensor):
    """Nine digits identify a float32."""
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


def table(kind, rotary_dim, theta, parameters, seq_len=None, max_positions=4096):
    """One parameter set: frequencies and attention factor. `parameters` are the names of the C++ structs."""
    renamed = {"original_context": "original_max_position_embeddings"}
    rope = {"rope_type": kind, "rope_theta": theta}
    rope |= {renamed.get(name, name): value for name, value in parameters.items()}
    if kind == "longrope":
        rope["long_factor"] = rope["short_factor"] = rope.pop("factors")
    if kind == "dynamic":
        # A text of factor * max_positions tokens under dynamic scaling by 1 is NTK-aware scaling by the factor.
        seq_len, rope["factor"] = int(parameters["factor"] * max_positions), 1.0
    config = LlamaConfig(
        head_dim=rotary_dim, hidden_size=rotary_dim, num_attention_heads=1, max_position_embeddings=max_positions,
        rope_parameters=rope,
    )
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=seq_len)
    return {
        "kind": kind, "rotary_dim": rotary_dim, "theta": theta, "parameters": parameters,
        "frequencies": exact(frequencies), "attention_factor": attention_factor,
    }


def tables():
    yield table("linear", 64, 10000.0, {"factor": 4.0})
    yield table("linear", 128, 1e6, {"factor": 2.5})
    yield table("dynamic", 64, 10000.0, {"factor": 2.0})
    yield table("dynamic", 128, 500000.0, {"factor": 8.0})
    yield table("yarn", 128, 10000.0, {"factor": 16.0, "original_context": 4096})
    yield table("yarn", 128, 1e6, {"factor": 4.0, "original_context": 32768})
    yield table("yarn", 64, 150000.0, {"factor": 32.0, "original_context": 4096, "truncate": False})
    deepseek = {"factor": 40.0, "original_context": 4096, "mscale": 1.0}
    yield table("yarn", 64, 10000.0, deepseek | {"mscale_all_dim": 0.707})
    yield table("yarn", 64, 10000.0, deepseek)
    yield table("yarn", 32, 10000.0, {"factor": 2.0, "original_context": 8192, "beta_fast": 64.0, "beta_slow": 4.0})
    yield table("yarn", 16, 10000.0, {"factor": 8.0, "original_context": 2048, "attention_factor": 0.75})
    # A trained context shorter than a turn of the fastest pair: the ramp starts below pair 0.
    yield table("yarn", 64, 10000.0, {"factor": 8.0, "original_context": 128})
    # Betas so close that the ramp has no length.
    yield table("yarn", 8, 10000.0, {"factor": 8.0, "original_context": 6, "beta_fast": 1.5, "beta_slow": 1.0})
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 8192}
    yield table("llama3", 128, 500000.0, llama3)
    yield table("llama3", 64, 500000.0, llama3 | {"factor": 32.0})
    narrow = {"low_freq_factor": 2.0, "high_freq_factor": 3.0, "original_context": 64}
    yield table("llama3", 16, 10000.0, llama3 | narrow)
    long = {"factors": [1.0 + 0.25 * i for i in range(32)], "factor": 32.0, "original_context": 4096}
    yield table("longrope", 64, 10000.0, long)
    yield table("longrope", 64, 10000.0, long | {"factor": 1.0})
    yield table("longrope", 64, 10000.0, long | {"attention_factor": 1.25})
    growing = {"factors": [1.5**i for i in range(8)], "factor": 4.0, "original_context": 8192}
    yield table("longrope", 16, 500000.0, growing)


def rotation(name, config_class, embedding, head_dim, sections, position):
    """One key, rotated for its three positions. Keys are multiples of 1/64, so that JSON holds them exactly."""
    config = config_class(
        hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    )
    key = torch.tensor([((37 * i) % 127 - 63) / 64 for i in range(head_dim)])[None, None, None]
    cos, sin = embedding(config)(key, torch.tensor(position)[:, None, None])
    _, rotated = apply_rotary_pos_emb(key, key, cos, sin)
    return {
        "model": name, "head_dim": head_dim, "theta": 1e6, "sections": sections, "position": position,
        "key": exact(key), "rotated": exact(rotated),
    }


def rotations():
    for position in ([0, 0, 0], [17, 17, 17], [40, 52, 45], [3, 900, 31]):
        yield rotation("qwen2_vl", Qwen2VLTextConfig, Qwen2VLRotaryEmbedding, 128, [16, 24, 24], position)
        yield rotation("qwen3_vl", Qwen3VLTextConfig, Qwen3VLTextRotaryEmbedding, 128, [24, 20, 20], position)
    yield rotation("qwen2_vl", Qwen2VLTextConfig, Qwen2VLRotaryEmbedding, 32, [2, 6, 8], [5, 6, 9])


def lines(items):
    return ",\n".join(json.dumps(item) for item in items)


def main():
    text = (
        f'{{"source": "transformers {transformers.__version__}",\n"tables": [\n{lines(tables())}\n],\n'
        f'"mrope": [\n{lines(rotations())}\n]}}\n'
    )
    with open(sys.argv[1], "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
