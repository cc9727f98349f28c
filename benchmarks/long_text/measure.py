#!/usr/bin/env python3
"""Time and memory while texts get longer: a pot, a full cache, and llama.cpp's context shift.

    measure.py lengths ...   4K .. 128K tokens: time per token, time to first token, peak memory -> lengths.csv
    measure.py million ...   one run of 1,000,000 tokens through 2,048 entries, a needle at its start -> million.csv, million.json

Every figure is one run of a program that users have (infinipot-read, infinipot-llama); nothing else should run meanwhile. Cells
that lengths.csv has already are not run again. benchmarks/long_text/run.sh does it all, from nothing.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# What the published tables were measured with, whatever the defaults are by now.
SETTINGS = ["--catalyst", "@question", "--over-queries", "sum", "--over-heads", "max_share", "--kernel", "9", "--alpha", "0.25"]
LENGTHS = [4096, 8192, 16384, 32768, 65536, 131072]
CONTESTANTS = {
    "pot of 1,024": ("read", ["--pot", "1024", *SETTINGS]),
    "pot of 2,048": ("read", ["--pot", "2048", *SETTINGS]),
    "pot of 4,096": ("read", ["--pot", "4096", *SETTINGS]),
    "llama.cpp, context shift of 2,048": ("llama", ["--policy", "context_shift", "--pot", "2048"]),
    "full cache": ("read", ["--policy", "full"]),
}
COLUMNS = ["contestant", "tokens", "ms_per_token", "ms_per_token_at_end", "ttft_seconds", "peak_rss_mib", "cache_mib",
           "full_cache_mib", "distillations"]
QUESTION = ["--question", "What is the text above about?", "--generate", "1"]

SECRET = 7463343
NEEDLE = f"The access code of the old library is {SECRET}."
NEEDLE_QUESTION = ["--question", "What is the access code of the old library?", "--answer-prefix",
                   "The access code of the old library is", "--answer", f" {SECRET}.", "--needle", NEEDLE, "--generate", "8"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lengths", "million"])
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--text", required=True, nargs="+", type=pathlib.Path, help="text files, read one after the other")
    parser.add_argument("--read", default="build/examples/infinipot-read", help="[%(default)s]")
    parser.add_argument("--llama", default="build/examples/infinipot-llama", help="[%(default)s]")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="folder [%(default)s]")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens %(default)s")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME",
                        help="only these, of: " + "; ".join(CONTESTANTS))
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of million [%(default)s]")
    options = parser.parse_args()
    if options.tokens < 50_000:
        parser.error(f"--tokens {options.tokens} must be at least 50000: a tenth of them is timed by samples 1,000 apart")
    return options


def run(options, program, text, more):
    """The program's JSON."""
    command = [getattr(options, program), "--model", options.model, "--document", text, "--json", "-", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout)


def mib(size):
    return round(size / 2**20, 1)


def slope(timeline):
    """Milliseconds per token, between first and last sample."""
    first, last = timeline[0], timeline[-1]
    return 1000 * (last["seconds"] - first["seconds"]) / (last["tokens"] - first["tokens"])


def measure_length(options, text, name, tokens):
    program, more = CONTESTANTS[name]
    report = run(options, program, text, [*QUESTION, *more, "--max-tokens", str(tokens), "--timeline", "256"])
    if report["document_tokens"] != tokens:
        sys.exit(f"the text has only {report['document_tokens']} tokens; {tokens} were to be read")
    late = [sample for sample in report["timeline"] if sample["tokens"] >= 0.75 * tokens]
    return {"contestant": name, "tokens": tokens, "ms_per_token": f"{1000 / report['tokens_per_second']:.4f}",
            "ms_per_token_at_end": f"{slope(late):.4f}", "ttft_seconds": f"{report['ttft_seconds']:.3f}",
            "peak_rss_mib": mib(report["peak_rss_bytes"]), "cache_mib": mib(report["pot_bytes"]),
            "full_cache_mib": mib(report["full_cache_bytes"]), "distillations": report["distillations"]}


def measure_lengths(options, text):
    out = options.out / "lengths.csv"
    done = set()
    if out.exists():
        with out.open() as file:
            done = {(row["contestant"], int(row["tokens"])) for row in csv.DictReader(file)}
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for tokens in sorted(options.lengths):
            for name in options.contestants:
                if (name, tokens) in done:
                    continue
                row = measure_length(options, text, name, tokens)
                writer.writerow(row)
                file.flush()
                print(f"{time.strftime('%H:%M:%S')} {name}, {tokens} tokens: {row['ms_per_token']} ms per token, first token "
                      f"after {row['ttft_seconds']} s, {row['peak_rss_mib']} MiB", file=sys.stderr, flush=True)


def measure_million(options, text):
    report = run(options, "read", text, [*NEEDLE_QUESTION, *SETTINGS, "--pot", "2048", "--max-tokens", str(options.tokens), "--timeline", "1000"])
    if report["document_tokens"] != options.tokens:
        sys.exit(f"the text has only {report['document_tokens']} tokens; {options.tokens} were to be read")
    timeline = report.pop("timeline")
    with (options.out / "million.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tokens", "seconds", "distillations", "resident_mib"])
        writer.writerows([s["tokens"], f"{s['seconds']:.3f}", s["distillations"], mib(s["resident_bytes"])] for s in timeline)
    tenths = [slope(timeline[i * len(timeline) // 10:(i + 1) * len(timeline) // 10]) for i in range(10)]
    warm = timeline[len(timeline) // 100:]
    resident = [sample["resident_bytes"] for sample in warm]
    summary = {key: report[key] for key in ("document_tokens", "distillations", "answer_text", "answer_nll", "hit_rate",
                                            "tokens_per_second", "ttft_seconds", "distill_seconds", "catalyst_seconds")}
    summary |= {"ms_per_token_of_each_tenth": [round(value, 4) for value in tenths],
                "widest_tenth_from_median": round(max(abs(t / statistics.median(tenths) - 1) for t in tenths), 4),
                "last_tenth_over_first": round(tenths[-1] / tenths[0], 4),
                "resident_mib_least_and_most": [mib(min(resident)), mib(max(resident))],
                "pot_mib": mib(report["pot_bytes"]), "full_cache_mib": mib(report["full_cache_bytes"]),
                "peak_rss_mib": mib(report["peak_rss_bytes"])}
    text = json.dumps(summary, indent=1) + "\n"
    (options.out / "million.json").write_text(text)
    print(text, file=sys.stderr)


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        if options.what == "million":
            file.write(NEEDLE + " ")
        for text in options.text:
            file.write(text.read_text(errors="replace") + "\n")
        file.flush()
        (measure_million if options.what == "million" else measure_lengths)(options, file.name)


if __name__ == "__main__":
    main()
