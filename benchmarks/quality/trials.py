"""Trials: runs of infinipot-read (or infinipot-llama), one JSON line each, that a later call need not repeat."""

import argparse
import concurrent.futures
import csv
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parents[2]


def add_running(parser, required=True):
    parser.add_argument("--model", required=required, help="GGUF file of a Llama model")
    parser.add_argument("--program", default=HERE / "build/examples/infinipot-read", type=pathlib.Path,
                        help="infinipot-read or infinipot-llama [build/examples/infinipot-read]")
    parser.add_argument("--out", required=required, type=pathlib.Path, metavar="FILE.jsonl",
                        help="file to append a line to for each trial; trials already there are not run again")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once, of one thread each [%(default)s]")


def add_options(parser):
    add_running(parser)
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE.csv", help="write a summary: means and standard errors")
    parser.add_argument("--pot", type=int, default=2048, help="entries, for all policies but full [%(default)s]")
    parser.add_argument("--policies", nargs="+", default=["full", "gold", "truncation", "streaming_llm", "infinipot"], metavar="POLICY",
                        help="a policy of the program, with options of its own and a name if you like, such as "
                        "'wide=infinipot --kernel 17'; gold reads nothing but what the answer rests on, where that is known %(default)s")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="more options for the program; must come last")


def check_running(parser, options):
    if not options.program.is_file():
        parser.error(f"there is no {options.program}; build it, or name it by --program")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs} must be at least 1")


def check(parser, options):
    check_running(parser, options)
    if options.pot < 2:
        parser.error(f"--pot {options.pot} must be at least 2")
    check_policies(parser, options.policies)


def check_policies(parser, policies):
    names = [split_policy(policy)[0] for policy in policies]
    if len(set(names)) < len(names):
        parser.error(f"--policies: two have the same name: {', '.join(sorted(names))}")


def split_policy(text):
    """('wide', ['infinipot', '--kernel', '17']) of 'wide=infinipot --kernel 17'."""
    name, _, rest = text.partition("=") if "=" in text.split(" ")[0] else (text, "", text)
    return name, shlex.split(rest)


def gold_text(document, gold):
    """The sentences of a document that an answer rests on, in its order: those of a line on one line, without what stands between."""
    lines, last = [], None
    for place, sentence in sorted({(document.index(sentence), sentence) for sentence in gold}):
        line = document.count("\n", 0, place)
        lines.append([sentence]) if line != last else lines[-1].append(sentence)
        last = line
    return "\n".join(map(" ".join, lines))


def run(options, cell, document, gold, arguments):
    """What the program measured, as its JSON. `document` is text, gold sentences of it that the answer rests on; the cell has what
    who() says, where @archive is a file for this trial alone."""
    settings = shlex.split(cell["settings"])
    if settings == ["gold"]:
        document, settings = gold_text(document, gold), ["full"]
    with tempfile.TemporaryDirectory() as folder:
        text, archive = pathlib.Path(folder) / "text.txt", pathlib.Path(folder) / "archive"
        text.write_text(document)
        settings = [archive if word == "@archive" else word for word in settings]
        needles = [word for sentence in gold for word in ("--needle", sentence)]
        command = [options.program, "--model", options.model, "--document", text, "--policy", *settings, "--json", "-",
                   "--threads", "1", *arguments, *needles, *getattr(options, "more", [])]
        if settings[0] != "full":
            command += ["--pot", str(cell["pot"])]
        started = time.monotonic()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout) | {"seconds": time.monotonic() - started}


def who(options, policy, pot=None):
    """The part of a trial that says what it was run with."""
    name, settings = split_policy(policy)
    return {"policy": name, "settings": shlex.join(settings), "pot": pot or options.pot,
            "model": pathlib.Path(options.model).name, "program": options.program.name}


CATALYSTS = {"yes": "@prompt", "question": "@question", "no": "@generic"}  # by what is known of the question


def catalyst(cell):
    if "--catalyst" in cell["settings"]:
        return []
    return ["--catalyst", CATALYSTS[cell["known"]]]


def cost(report):
    """Seconds that distillations took, catalysts and re-reading included, for each second of other reading."""
    reading = report["prefill_seconds"] - report["distill_seconds"]
    return round(report["distill_seconds"] / reading, 4) if reading > 0 else None


def measured(report):
    """What every trial records."""
    figures = {key: report[key] for key in ("answer_nll", "hit_rate", "gold_kept", "answer_kept")}
    return {**{key: value if value is None else round(value, 6) for key, value in figures.items()}, "answer_text": report["answer_text"].strip(),
            "document_tokens": report["document_tokens"], "distillations": report["distillations"],
            "cost": cost(report), "nan_scores": report["nan_scores"], "pot_mib": round(report["pot_bytes"] / 2**20, 1),
            "seconds": round(report["seconds"], 2)}


def load(path):
    """Of a file, or of all files of a folder; nothing where there is none."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.exists() else []
    return [json.loads(line) for file in files for line in file.read_text().split("\n") if line.strip()]


def append(path, trial):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(trial, ensure_ascii=False) + "\n")


def key_of(trial, keys):
    return json.dumps([trial.get(key) for key in keys])


def what(cell):
    """A cell in a few words."""
    return ", ".join(str(cell[key]) for key in ("set", "kind", "length", "tokens", "depth", "policy") if cell.get(key))


def run_all(options, cells, keys, perform, cost=lambda cell: 1, file_of=None):
    """Performs the trials that options.out lacks, a file, or a folder where file_of(cell) is the file of each; a trial is
    perform(cell), which adds to the cell what it measured, and takes time in proportion to cost(cell). One that fails is reported and
    left out; see end(). Returns all trials of these cells, and how many failed."""
    file_of = file_of or (lambda cell: options.out)
    known = {key_of(trial, keys): trial for trial in load(options.out)}
    todo = [cell for cell in cells if key_of(cell, keys) not in known]
    started, failed, spent, whole = time.monotonic(), 0, 0, sum(map(cost, todo))
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(perform, cell): cell for cell in todo}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                cell = futures[future]
                spent += cost(cell)
                left = (time.monotonic() - started) / spent * (whole - spent)
                try:
                    trial = cell | future.result()
                except Exception as error:
                    failed += 1
                    outcome = f"failed: {error}"
                else:
                    known[key_of(trial, keys)] = trial
                    append(file_of(cell), trial)
                    outcome = "NLL -" if trial["answer_nll"] is None else f"NLL {trial['answer_nll']:.3f}"
                print(f"{number}/{len(todo)} {what(cell)}: {outcome} ({left / 60:.0f} min left)", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [known[key] for key in (key_of(cell, keys) for cell in cells) if key in known], failed


def end(failed):
    """Ends the program, with an error if trials failed."""
    sys.exit(f"{failed} trials failed and are missing above; call again to try them anew" if failed else 0)


def mean_and_error(values):
    """Mean and its standard error; None where there is nothing or a single value."""
    values = [value for value in values if value is not None and math.isfinite(value)]
    if not values:
        return None, None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def with_loss(trials, keys):
    """Trials, each with what its answer NLL lost against the full cache's on the same text, which `keys` name: texts differ far more
    than policies do. None where the full cache was not asked."""
    full = {key_of(trial, keys): trial["answer_nll"] for trial in trials
            if trial["settings"].split()[0] == "full"}

    def loss(trial):
        best = full.get(key_of(trial, keys))
        return None if best is None or trial["answer_nll"] is None else trial["answer_nll"] - best

    return [trial | {"lost": loss(trial)} for trial in trials]


def summary(trials, keys, scores):
    """A row for each combination of `keys`: number of trials, means and standard errors of `scores`. Of what was lost also the median,
    and how many lost over 1 nat per token: a mean hides that most lose nothing and some all."""
    groups = {}
    for trial in trials:
        groups.setdefault(tuple(trial.get(key) for key in keys), []).append(trial)
    rows = []
    for values, group in groups.items():
        row = dict(zip(keys, values)) | {"trials": len(group)}
        for score in scores:
            mean, error = mean_and_error([trial.get(score) for trial in group])
            row[score] = None if mean is None else round(mean, 4)
            row[f"{score}_error"] = None if error is None else round(error, 4)
            if score == "lost":
                lost = [trial["lost"] for trial in group if trial.get("lost") is not None]
                row["lost_median"] = round(float(statistics.median(lost)), 4) if lost else None
                row["over_1"] = sum(nats > 1 for nats in lost) if lost else None
        rows.append(row)
    return rows


def write_csv(path, rows):
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table(rows, columns):
    """Markdown."""
    def cell(row, column):
        value, error = row[column], row.get(f"{column}_error")
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
        return str(value)

    lines = [columns, *([cell(row, column) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in lines)
