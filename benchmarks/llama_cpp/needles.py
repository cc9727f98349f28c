#!/usr/bin/env python3
"""What is left of one sentence after a long text has gone through a pot: llama.cpp under every policy.

One sentence with a seven-digit number is hidden in a text at a given depth. The model reads the text through the pot, is
asked for the number, and its cross-entropy on the right answer is measured (nats per token; guessing digits is about 2),
beside the share of the sentence's entries that is still in the pot. Every cell of the table is one run of infinipot-llama
(or infinipot-read); cells that the output file has already are not run again.

    benchmarks/llama_cpp/needles.py --model MODEL.gguf --haystack TEXT.txt --out needles.csv
"""

import argparse
import concurrent.futures
import csv
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

COLUMNS = ["tokens", "cache_type", "policy", "depth", "seed", "document_tokens", "distillations", "answer_nll", "hit_rate",
           "answer_text", "pot_mib", "peak_rss_mib"]
KEY = COLUMNS[:5]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/examples/infinipot-llama", help="[%(default)s]")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--haystack", required=True, type=pathlib.Path, help="text file to hide the sentence in")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="CSV file, appended to")
    parser.add_argument("--tokens", type=int, nargs="+", default=[6000, 24000], help="length of the text, about %(default)s")
    parser.add_argument("--depths", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7, 0.9], help="0 .. 1 %(default)s")
    parser.add_argument("--cache-types", nargs="+", default=["f16", "q8_0"], help="%(default)s")
    parser.add_argument("--policies", nargs="+", default=["full", "context_shift", "streaming_llm", "snapkv", "infinipot"],
                        help="each may have options of its own, such as 'infinipot --kernel 17' %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the number and the place in the text %(default)s")
    parser.add_argument("--pot", type=int, default=2048, help="entries [%(default)s]")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, of one thread each [%(default)s]")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="more options for the program; the last option")
    return parser.parse_args()


def document(haystack, tokens, depth, seed):
    """A text of about `tokens` tokens that begins somewhere in the haystack, and the number that is hidden in it."""
    draw = random.Random(seed)
    length = round(tokens * 4.3)  # characters of English per token of SmolLM2's vocabulary
    if length > len(haystack):
        sys.exit(f"the haystack has {len(haystack)} characters; {tokens} tokens take about {length}")
    begin = haystack.find("\n", draw.randrange(len(haystack) - length + 1)) + 1 if seed else 0
    text = haystack[begin:begin + length]
    place = text.find(". ", round(depth * (len(text) - 200))) + 2  # after a sentence
    number = draw.randrange(1_000_000, 10_000_000)
    return number, f"{text[:place]}The access code of the old library is {number}. {text[place:]}"


def run(options, haystack, cell):
    number, text = document(haystack, cell["tokens"], cell["depth"], cell["seed"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        command = [options.program, "--model", options.model, "--document", file.name,
                   "--question", "What is the access code of the old library?",
                   "--answer-prefix", "The access code of the old library is", "--answer", f" {number}.",
                   "--needle", f"The access code of the old library is {number}.",
                   "--policy", *cell["policy"].split(), "--generate", "8", "--json", "-"]
        if cell["policy"] != "full":
            command += ["--pot", str(options.pot)]
        if cell["cache_type"] != "-":
            command += ["--cache-type", cell["cache_type"]]
        if options.jobs > 1:
            command += ["--threads", "1"]
        done = subprocess.run(command + options.more, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    report = json.loads(done.stdout)
    return cell | {"document_tokens": report["document_tokens"], "distillations": report["distillations"],
                   "answer_nll": f"{report['answer_nll']:.4f}", "hit_rate": f"{report['hit_rate']:.4f}",
                   "answer_text": report["answer_text"].strip().replace("\n", " ")[:40],
                   "pot_mib": f"{report['pot_bytes'] / 2**20:.1f}", "peak_rss_mib": f"{report['peak_rss_bytes'] / 2**20:.0f}"}


def main():
    options = arguments()
    haystack = options.haystack.read_text(errors="replace")
    done = set()
    if options.out.exists():
        with options.out.open() as file:
            done = {tuple(row[column] for column in KEY) for row in csv.DictReader(file)}
    cells = [dict(zip(KEY, values)) for values in
             itertools.product(options.tokens, options.cache_types, options.policies, options.depths, options.seeds)]
    cells = [cell for cell in cells if tuple(str(cell[column]) for column in KEY) not in done]
    lock = threading.Lock()
    with options.out.open("a", newline="") as file, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        runs = [pool.submit(run, options, haystack, cell) for cell in cells]
        for i, future in enumerate(concurrent.futures.as_completed(runs), 1):
            row = future.result()
            with lock:
                writer.writerow(row)
                file.flush()
            print(f"{i}/{len(cells)} {row['tokens']} {row['cache_type']} {row['policy']} at {row['depth']}: "
                  f"NLL {row['answer_nll']}, hit rate {row['hit_rate']}", file=sys.stderr)


if __name__ == "__main__":
    main()
