#!/usr/bin/env python3
"""Time and memory while texts get longer: a pot, a full cache, and llama.cpp's context shift.

    measure.py lengths ...   4K .. 128K tokens: time per token, time to first token, peak memory -> lengths.csv
    measure.py million ...   one run of 1,000,000 tokens through 2,048 entries, a needle at its start -> million.csv, million.json
    measure.py archive ...   as many, read blind into an archive, three needles, each asked for afterwards by another run; beside that
                             6,000 tokens -> million_archive.csv, million_archive.json

Every figure is one run of a program that users have (infinipot-read, infinipot-llama); nothing else should run meanwhile. Cells
that lengths.csv has already are not run again, nor parts of million_archive.json. benchmarks/long_text/run.sh does it all, from nothing.
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

SETTINGS = ["--catalyst", "@question"]  # and the defaults
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

# Of the archive: where each stands, what it belongs to, and the number. Characters per token are rather fewer than there are, so that
# the last one is among the tokens that are read.
HIDDEN = {"beginning": (0.0, "old library", SECRET), "middle": (0.5, "north gate", 2918604), "end": (0.95, "clock tower", 5036178)}
CHARACTERS_PER_TOKEN = 3.8
SHORT = 6000
ARCHIVE_PARTS = ["short", "read", "ask"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lengths", "million", "archive"])
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--text", required=True, nargs="+", type=pathlib.Path, help="text files, read one after the other")
    parser.add_argument("--read", default="build/examples/infinipot-read", help="[%(default)s]")
    parser.add_argument("--llama", default="build/examples/infinipot-llama", help="[%(default)s]")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="folder [%(default)s]")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens %(default)s")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME",
                        help="only these, of: " + "; ".join(CONTESTANTS))
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of million and archive [%(default)s]")
    parser.add_argument("--archive", type=pathlib.Path, metavar="FILE", help="the archive, about 12 GB for 1,000,000 tokens; it stays, so "
                        "that later calls can ask it; needed for archive")
    parser.add_argument("--archive-type", default="int8", help="[%(default)s]")
    parser.add_argument("--parts", nargs="+", choices=ARCHIVE_PARTS, default=ARCHIVE_PARTS, help="of archive %(default)s")
    options = parser.parse_args()
    if options.what == "archive" and options.archive is None:
        parser.error("--archive is needed: where the archive is to be")
    if options.what != "archive" and options.tokens < 50_000:
        parser.error(f"--tokens {options.tokens} must be at least 50000: a tenth of them is timed by samples 1,000 apart")
    return options


def run(options, program, text, more):
    """The program's JSON."""
    document = [] if text is None else ["--document", text]
    command = [getattr(options, program), "--model", options.model, *document, "--json", "-", *more]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
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


def sentence(name):
    _, thing, number = HIDDEN[name]
    return f"The access code of the {thing} is {number}."


def question(name):
    _, thing, number = HIDDEN[name]
    return ["--question", f"What is the access code of the {thing}?", "--answer-prefix", f"The access code of the {thing} is", "--answer",
            f" {number}.", "--generate", "8"]


def with_hidden(text, tokens):
    """The text with all sentences, each behind a sentence or a line of it, for `tokens` tokens to be read."""
    for name, (depth, _, _) in sorted(HIDDEN.items(), key=lambda item: item[1][0], reverse=True):
        place = round(depth * tokens * CHARACTERS_PER_TOKEN)
        if place >= len(text):
            sys.exit(f"the text has {len(text)} characters; {tokens} tokens need {round(tokens * CHARACTERS_PER_TOKEN)}")
        if place > 0:
            place = min(found + 2 for mark in (". ", "\n\n") if (found := text.find(mark, place)) >= 0)
        text = f"{text[:place]}{sentence(name)} {text[place:]}"
    return text


def read_blind(options, path, tokens, archive):
    """Reads into a new archive; the timeline, and what it took."""
    archive.unlink(missing_ok=True)
    # Stays behind if it is cut short; the next call starts over.
    report = run(options, "read", path, ["--archive", archive, "--archive-type", options.archive_type, "--max-tokens", str(tokens),
                                         "--timeline", str(max(1, tokens // 1000))])
    if report["document_tokens"] != tokens:
        sys.exit(f"the text has only {report['document_tokens']} tokens; {tokens} were to be read")
    turn = report["turns"][-1]
    return report["timeline"], {
        "document_tokens": tokens, "archive_type": options.archive_type, "archive_gib": round(turn["archive_bytes"] / 2**30, 3),
        "archive_bytes_per_token": round(turn["archive_bytes"] / turn["archive_tokens"]), "read_seconds": round(report["prefill_seconds"], 1),
        "archive_seconds": round(turn["archive_seconds"], 1), "archive_share": round(turn["archive_seconds"] / report["prefill_seconds"], 4),
        "peak_rss_mib": mib(report["peak_rss_bytes"]), "pot_mib": mib(report["pot_bytes"]), "full_cache_mib": mib(report["full_cache_bytes"])}


def ask(options, archive, name):
    """Asks an archive, in a run of its own."""
    report = run(options, "read", None, ["--archive", archive, *question(name)])
    turn = report["turns"][-1]
    return {"answer_nll": round(turn["answer_nll"], 4), "answer_text": turn["answer_text"], "recall_seconds": round(turn["recall_seconds"], 2),
            "recall_distillations": turn["recall_distillations"], "peak_rss_mib": mib(report["peak_rss_bytes"])}


def ask_all(options, archive, read_seconds):
    answers = {}
    for name in HIDDEN:
        answer = ask(options, archive, name)
        answer["recall_over_reading"] = round(answer["recall_seconds"] / read_seconds, 4)
        answers[name] = answer
        print(f"{time.strftime('%H:%M:%S')} {name}: {answer}", file=sys.stderr, flush=True)
    return answers


def short_archive(options, text, _):
    """The same questions on a short text."""
    with tempfile.TemporaryDirectory() as folder:
        path, archive = pathlib.Path(folder) / "text.txt", pathlib.Path(folder) / "archive"
        path.write_text(with_hidden(text, SHORT))
        _, summary = read_blind(options, path, SHORT, archive)
        return summary | {"answers": ask_all(options, archive, summary["read_seconds"])}


def long_archive(options, text, _):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(with_hidden(text, options.tokens))
        file.flush()
        timeline, summary = read_blind(options, file.name, options.tokens, options.archive)
    with (options.out / "million_archive.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tokens", "seconds", "distillations", "resident_mib"])
        writer.writerows([s["tokens"], f"{s['seconds']:.3f}", s["distillations"], mib(s["resident_bytes"])] for s in timeline)
    resident = [sample["resident_bytes"] for sample in timeline[len(timeline) // 100:]]
    return summary | {"resident_mib_least_and_most": [mib(min(resident)), mib(max(resident))]}


def ask_long(options, _, done):
    if "read" not in done or not options.archive.exists():
        sys.exit(f"there is no {options.archive} to ask; run the part read first")
    return ask_all(options, options.archive, done["read"]["read_seconds"])


def measure_archive(options):
    out = options.out / "million_archive.json"
    done = json.loads(out.read_text()) if out.exists() else {}
    text = "".join(path.read_text(errors="replace") + "\n" for path in options.text)
    measure = {"short": short_archive, "read": long_archive, "ask": ask_long}
    for part in options.parts:
        if part in done:
            continue
        done[part] = measure[part](options, text, done)
        out.write_text(json.dumps(done, indent=1) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {part}: {json.dumps(done[part])}", file=sys.stderr, flush=True)


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "archive":
        return measure_archive(options)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        if options.what == "million":
            file.write(NEEDLE + " ")
        for text in options.text:
            file.write(text.read_text(errors="replace") + "\n")
        file.flush()
        (measure_million if options.what == "million" else measure_lengths)(options, file.name)


if __name__ == "__main__":
    main()
