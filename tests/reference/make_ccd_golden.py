#!/usr/bin/env python3
"""Make tests/golden/logits.json and tests/golden/ccd_*.json from the independent Python implementation.

Everything is computed in double precision. Each distillation run is then repeated in single precision, once in the
largest chunks and once in small ones, and must keep the very same entries: only then may a test ask a single
precision engine for exactly these indices. The text is Genesis as the Debian package bible-kjv prints it; the
token ids go into the files, so tests need neither the text nor a tokenizer.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
from dataclasses import asdict

import numpy as np
import torch

from ccd import Pot, Settings
from smollm2 import Cache, SmolLM2, tokenizer

DOCUMENT_TOKENS = 780
QUESTION = "\n\nQuestion: What did God call the firmament?\nAnswer:"  # also the catalyst
ANSWER = " And God called the firmament Heaven."
LEAST_MARGIN = 1e-5  # relative; a single precision engine is good for a few 1e-6 on attention scores
SMALL_CHUNK = 37

# name -> settings, pinned spans of the document [from, to), and the token of the text where the document starts.
# The starts were searched for: with 90 lanes a run makes hundreds of selections, and at most starts one of them is
# closer than rounding in single precision can tell apart.
RUNS = {
    "infinipot_head_sum": (Settings("infinipot", "head"), [], 4),
    "infinipot_layer_sum": (Settings("infinipot", "layer", kernel=9), [(0, 20), (300, 308)], 0),
    "infinipot_shared_max": (Settings("infinipot", "shared", aggregate="max", kernel=9, alpha=0.25), [(0, 20)], 0),
    "infinipot_head_max": (
        Settings("infinipot", "head", aggregate="max", kernel=5, alpha=0.0, recent=16),
        [(0, 20), (300, 308)],
        0,
    ),
    "infinipot_shared_peak": (
        Settings("infinipot", "shared", over_queries="max", aggregate="peak", kernel=17, alpha=0.0),
        [(0, 20)],
        0,
    ),
    "infinipot_recommended": (
        Settings("infinipot", "shared", over_queries="max", aggregate="peak", kernel=49, lag=16, alpha=0.0),
        [(0, 20)],
        0,
    ),
    "infinipot_terms": (
        Settings("infinipot", "shared", over_queries="max", aggregate="peak", kernel=17, alpha=0.0, term_share=0.35, layers=24),
        [(0, 20)],
        0,
    ),
    "streaming_llm": (Settings("streaming_llm", "head"), [], 0),
    "snapkv": (Settings("snapkv", "head", window=32, kernel=5), [], 6),
    "tova": (Settings("tova", "head"), [], 2),
    "h2o": (Settings("h2o", "head"), [], 0),
    "sirllm": (Settings("sirllm", "head", decay=0.9), [], 0),
    "knorm": (Settings("knorm", "shared"), [], 0),
    "keydiff": (Settings("keydiff", "shared", recent=16), [], 0),
    "value_norm": (Settings("value_norm", "shared"), [], 0),
    "truncation": (Settings("truncation", "head"), [], 0),
    "reread": (Settings("reread", "shared", kernel=9), [(0, 20)], 0),
    "reread_low": (Settings("reread", "shared", layers=8, kernel=9, pooling="mean"), [(0, 20)], 0),
    "expected_attention": (Settings("expected_attention", "head"), [], 4),
    "temporal_redundancy": (Settings("temporal_redundancy", "layer", period=3, frames=8), [], 1),
}


def rounded(value):
    """More digits than single precision has, few enough that another summation order hardly ever changes one.

    NuC is a difference of two numbers near 20, so a small one has fewer good digits: hence the limit on decimals too.
    """
    return round(float(f"{value:.9g}"), 11) if np.isfinite(value) else None


def read(model, settings, pinned, document, question, answer, chunk=None):
    """Feed the document (its pinned spans as such), then the question and the answer."""
    pot = Pot(model, settings, catalyst=question)
    cuts = sorted({0, len(document), *(edge for span in pinned for edge in span)})
    for start, end in zip(cuts, cuts[1:]):
        pot.feed(document[start:end], pinned=(start, end) in pinned, chunk=chunk)
    pot.feed(question, chunk=chunk)
    pot.feed(answer, chunk=chunk)
    return pot


def mask(indices):
    """Hexadecimal number whose bit i says that entry i was kept."""
    return f"{sum(1 << int(i) for i in indices):x}"


def golden_run(name, text, question, answer, model, single, header):
    settings, pinned, start = RUNS[name]
    document = text[start : start + DOCUMENT_TOKENS]
    pot = read(model, settings, pinned, document, question, answer)
    for chunk in (None, SMALL_CHUNK) if single else ():
        other = read(single, settings, pinned, document, question, answer, chunk)
        same = all(
            np.array_equal(x, y)
            for a, b in zip(pot.distillations, other.distillations, strict=True)
            for x, y in zip(a.kept, b.kept, strict=True)
        )
        if not same:
            raise SystemExit(f"{name}: single precision keeps other entries; choose another start")
    margin = pot.smallest_margin()
    if margin.relative < LEAST_MARGIN:
        raise SystemExit(f"{name}: margin {margin} is too small for single precision; choose another start")
    first = pot.distillations[0]
    shown = sorted({0, len(pot.lanes) // 2, len(pot.lanes) - 1})
    answer_nll = float(np.mean(pot.stream_nuc[-len(answer) :]))
    print(f"{name}: {len(pot.distillations)} distillations, answer NLL {answer_nll:.6f}, {margin}", flush=True)
    return header | {
        "settings": asdict(settings) | {"protected_recent": settings.protected_recent(), "limit": pot.limit},
        "lanes": len(pot.lanes),
        "document_start": start,
        "document": document,
        "pinned": pinned,
        "question": question,
        "answer": answer,
        "catalyst": pot.catalyst,
        "distillations": [
            {"stream_position": d.stream_position, "kept": [mask(lane) for lane in d.kept]} for d in pot.distillations
        ],
        "first_distillation_scores": {
            score: {
                str(lane): [rounded(x) if c else None for x, c in zip(values[lane], first.candidates[lane])]
                for lane in shown
            }
            for score, values in first.scores.items()
        },
        "final_positions": {
            "entries": len(pot),
            "sum": pot.position.sum(axis=1).tolist(),
            "xor": np.bitwise_xor.reduce(pot.position, axis=1).tolist(),
        },
        "nuc": [rounded(x) for x in pot.stream_nuc],
        "answer_nll": rounded(answer_nll),
        "smallest_margin": asdict(margin) | {"relative": rounded(margin.relative)},
    }


def golden_logits(text, model, header):
    tokens = text[:100]
    logits = model.forward(tokens, Cache(model))
    vocabulary = sorted({(i * 7919 + 13) % logits.shape[1] for i in range(200)})
    top = logits.topk(2, dim=1).values
    return header | {
        "tokens": tokens,
        "argmax": logits.argmax(dim=1).tolist(),
        "argmax_lead": [rounded(x) for x in (top[:, 0] - top[:, 1]).tolist()],
        "logsumexp": [rounded(x) for x in torch.logsumexp(logits, dim=1).tolist()],
        "vocabulary": vocabulary,
        "logits": {str(i): [rounded(x) for x in logits[i, vocabulary].tolist()] for i in (0, 1, 10, 50, 99)},
    }


def write(folder, name, content):
    path = folder / f"{name}.json"
    # One member per line keeps differences readable without spending a line on every number.
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="Runs: " + ", ".join(RUNS)
    )
    arguments.add_argument("model", help="SmolLM2-135M-Instruct as a GGUF file")
    arguments.add_argument("--out", type=pathlib.Path, default=here.parent / "golden", help="default: tests/golden")
    arguments.add_argument("--only", nargs="+", choices=["logits", *RUNS], help="make only these")
    arguments.add_argument("--text", type=pathlib.Path, help="text to use instead of `bible -f Gen1:1-Gen4:26`")
    arguments.add_argument("--dtype", choices=["float64", "float32"], default="float64", help="of the golden numbers")
    arguments.add_argument("--no-check", action="store_true", help="skip the repetition in single precision")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    if options.text:
        text = options.text.read_text()
    else:
        text = subprocess.run(["bible", "-f", "Gen1:1-Gen4:26"], capture_output=True, text=True, check=True).stdout
    encode = tokenizer(options.model)
    text, question, answer = (encode.encode(s).ids for s in (text, QUESTION, ANSWER))
    model = SmolLM2(options.model, getattr(torch, options.dtype))
    single = None if options.no_check else SmolLM2(options.model, torch.float32)
    model_path = pathlib.Path(options.model)
    header = {
        "model": model_path.name,
        "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
        "dtype": options.dtype,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or ["logits", *RUNS]:
        if name == "logits":
            write(options.out, "logits", golden_logits(text, model, header))
        else:
            write(options.out, f"ccd_{name}", golden_run(name, text, question, answer, model, single, header))


if __name__ == "__main__":
    main()
