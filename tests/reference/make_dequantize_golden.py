"""Writes tests/golden/dequantize.json: stored blocks and the numbers the package gguf decodes them to.

    python make_dequantize_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

Needs the packages gguf and numpy. Numbers are written as the bits of their 32-bit floats, so that nothing is
rounded. "blocks" holds random blocks of every type the engine reads (fixed seed; no NaN, whose bits are the
processor's business), "tensors" the first and last 32 numbers of some tensors of the model file.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "dequantize.json"
TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1]
TENSORS = [
    "token_embd.weight",
    "output_norm.weight",
    "blk.0.attn_q.weight",
    "blk.13.ffn_down.weight",
    "blk.29.attn_norm.weight",
    "blk.29.ffn_up.weight",
]
SHOWN = 32


def bits(numbers):
    return np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32).tolist()


def decode(data, kind):
    return np.asarray(gguf.quants.dequantize(data, kind), dtype=np.float32).ravel()


def random_blocks(generator, kind):
    values, size = gguf.GGML_QUANT_SIZES[kind]
    while True:
        data = generator.integers(0, 256, size=max(2, SHOWN // values) * size, dtype=np.uint8)
        view = data.view(np.float32) if kind == Type.F32 else data
        with np.errstate(all="ignore"):
            numbers = decode(view.view(np.float16) if kind == Type.F16 else view, kind)
        if not np.isnan(numbers).any():
            return {"type": int(kind), "data": data.tobytes().hex(), "bits": bits(numbers)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="SmolLM2's GGUF file")
    arguments = parser.parse_args()

    generator = np.random.default_rng(20240612)
    blocks = [random_blocks(generator, kind) for kind in TYPES for _ in range(3)]
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(arguments.model).tensors}
    tensors = []
    for name in TENSORS:
        numbers = decode(stored[name].data, stored[name].tensor_type)
        tensors.append({"name": name, "first": bits(numbers[:SHOWN]), "last": bits(numbers[-SHOWN:])})
    golden = {"blocks": blocks, "tensors": tensors}
    lines = [f"{json.dumps(key)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for key, rows in golden.items()]
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
