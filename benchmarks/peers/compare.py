#!/usr/bin/env python3
"""The stages of a distillation: infinipot beside torch and kvpress, in turn in one run, on the same inputs.

Of each stage the results are checked to be equal before anything is timed. `torch` is the stage in torch as kvpress structures
it; `kvpress` is kvpress's own code, called on the same tensors. The limit is what the machine can do, measured in the same run.
With --threads 1 2 everything runs on one thread, then all of it on two.

    benchmarks/peers/compare.py --json peers.json
"""

import argparse
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

import numpy as np
import torch

import peers
from stages import Stages

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**30)}
CLOCKS = ["elapsed", "processor"]
TURN_MS = 20
AIMS = {"cap": 5, "select": 3, "compact": 7, "nuc": 5}  # times torch
VARIANTS = {"ours_top_k": "TopK alone, without the Selector's rules", "torch_table": "torch, cosines and sines from a table"}
CONTESTANTS = {"ours", "torch", "kvpress", *VARIANTS}  # all others are limits
COLUMNS = ["stage", "shape", "layers", "element", "threads", "ours_ms", "torch_ms", "kvpress_ms", "limit_ms", "limit", "ratio",
           "kvpress_ratio", "of_limit", "aim"]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    shape: peers.Shape
    element: str = "f32"
    vocab: int = 0  # no NuC without one
    nuc_rows: int = 0

    def options(self, inputs, threads):
        s = self.shape
        values = {"layers": s.layers, "query-heads": s.query_heads, "kv-heads": s.kv_heads, "head-dim": s.head_dim,
                  "entries": s.entries, "catalyst": s.catalyst, "keep": s.keep, "theta": s.theta, "element": self.element,
                  "rows": max(1, self.nuc_rows), "vocab": max(1, self.vocab), "inputs": inputs, "threads": threads}
        return [f"--{name}={value}" for name, value in values.items()]


LLAMA = peers.Shape(layers=32, query_heads=32, kv_heads=8, head_dim=128, entries=4096, catalyst=32, keep=2048, theta=500000)
SMOLLM2 = peers.Shape(layers=30, query_heads=9, kv_heads=3, head_dim=64, entries=2048, catalyst=32, keep=1024, theta=10000)
TINY = peers.Shape(layers=2, query_heads=4, kv_heads=2, head_dim=32, entries=256, catalyst=8, keep=100, theta=10000)
LAYER = dataclasses.replace(LLAMA, layers=1)

# NuC is scored for every token that is read between two distillations, except in the first case: one chunk of 256.
CASES = [
    Case("llama-layer", LAYER, vocab=49152, nuc_rows=256),
    Case("llama", LLAMA, vocab=128256, nuc_rows=LLAMA.read - LLAMA.keep),
    Case("smollm2", SMOLLM2, vocab=49152, nuc_rows=SMOLLM2.read - SMOLLM2.keep),
    Case("llama-layer-f16", LAYER, "f16"),
    Case("llama-layer-bf16", LAYER, "bf16"),
    Case("smollm2-f16", SMOLLM2, "f16"),
    Case("smollm2-bf16", SMOLLM2, "bf16"),
]
QUICK = [Case("tiny", TINY, vocab=1000, nuc_rows=20)] + [Case(f"tiny-{e}", TINY, e) for e in ("f16", "bf16")]


def arguments():
    here = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=here / "build/benchmarks/infinipot-stages",
                        help="infinipot-stages, built [build/benchmarks/infinipot-stages]")
    parser.add_argument("--cases", nargs="+", metavar="CASE", choices=[c.name for c in CASES],
                        help="only these, of: " + ", ".join(c.name for c in CASES))
    parser.add_argument("--quick", action="store_true", help="tiny shapes: checks that everything works; its times mean nothing")
    parser.add_argument("--turns", type=int, default=7, help="turns of each contestant, after one to warm up [%(default)s]")
    parser.add_argument("--clock", choices=CLOCKS, default="elapsed",
                        help="processor: the time that the program had the processor, for machines that are busy with other "
                        "things, where long runs would lose more than short ones [%(default)s]")
    parser.add_argument("--keep-memory", action="store_true",
                        help="glibc keeps what torch frees, so that its results need no fresh pages: torch at its best")
    parser.add_argument("--threads", type=int, nargs="+", default=[1],
                        help="of both sides and of the limits; each case is run for each of these %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs [%(default)s]")
    parser.add_argument("--temporary", type=pathlib.Path, metavar="FOLDER",
                        help="where inputs and results go, 1.6 GB at a time; in memory it is faster [the system's]")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the rows, with every sample")
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="write the rows")
    options = parser.parse_args()
    if min(options.threads) < 1:
        parser.error(f"--threads {min(options.threads)} must be at least 1")
    if options.turns < 1:
        parser.error(f"--turns {options.turns} must be at least 1")
    if not options.program.is_file():
        parser.error(f"there is no {options.program}; build the target infinipot-stages, or name it by --program")
    return options


def contestant(function):
    """A contestant that runs a function."""

    def run(count):
        samples = []
        for _ in range(count):
            processor, start = time.process_time(), time.perf_counter()
            function()
            elapsed = time.perf_counter() - start
            samples.append((1000 * elapsed, 1000 * (time.process_time() - processor)))
        return samples

    return run


def take_turns(contestants, turns):
    """Samples of each contestant, who run in turn so that a machine that drifts does so for all. A turn is several runs where
    those are short."""
    samples = {name: [] for name in contestants}
    runs = {name: max(1, min(5, int(TURN_MS / min(run(1))[0]))) for name, run in contestants.items()}  # and warms up
    for _ in range(turns):
        for name, run in contestants.items():
            samples[name] += run(runs[name])
    return samples


class Comparison:
    """One case on a number of threads: its inputs, checks and rows."""

    def __init__(self, case, threads, options):
        self.case, self.threads, self.options = case, threads, options
        self.rows = []

    def run(self):
        torch.set_num_threads(self.threads)
        inputs = self.drawn(peers.Inputs, self.case.shape, self.case.element)
        with self.stages(inputs, self.check_distillation) as ours:
            self.measure_distillation(ours.contestant, inputs)
        del inputs  # a gigabyte and more
        if self.case.vocab:
            logits = self.drawn(peers.Logits, self.case.nuc_rows, self.case.vocab)
            with self.stages(logits, self.check_nuc) as ours:
                self.row("nuc", {"ours": ours.contestant("nuc"), "torch": contestant(logits.torch_nuc),
                                 "read logits": ours.contestant("nuc_limit")})
            self.sum_up(["cap", "select", "compact", "nuc"])
        return self.rows

    def say(self, what):
        print(f"{time.strftime('%H:%M:%S')} {self.case.name}: {what}", file=sys.stderr, flush=True)

    def drawn(self, kind, *shape):
        self.say("inputs")
        return kind(*shape, self.options.seed)

    @contextlib.contextmanager
    def stages(self, inputs, check):
        """infinipot-stages with these inputs, when its results have passed the check."""
        with tempfile.TemporaryDirectory(prefix="infinipot-peers-", dir=self.options.temporary) as folder:
            inputs.write(folder)
            ours = Stages(self.options.program, self.case.options(folder, self.threads))
            self.say("checks")
            check(ours, inputs, folder)
        yield ours
        ours.close()

    def check_distillation(self, ours, inputs, folder):
        s = self.case.shape
        for stage in ("select", "select_top_k"):
            kept = ours.result(stage, folder, np.uint32).reshape(s.layers, s.kv_heads, s.keep)
            if not np.array_equal(kept, inputs.kept.numpy()):
                sys.exit(f"{self.case.name}: {stage} keeps other entries than torch")
        cap = ours.result("cap", folder).reshape(s.layers, s.kv_heads, s.read)
        compacted = ours.result("compact", folder).reshape(2, s.layers, s.kv_heads, s.keep, s.head_dim)
        for layer in range(s.layers):
            for name, scores in (("torch", inputs.torch_cap(layer)), ("kvpress", inputs.kvpress_cap(layer))):
                self.expect_near(f"cap of {name}, layer {layer}", cap[layer], scores, inputs.cap_tolerance())
            for name, (keys, values) in (("torch", inputs.torch_compact(layer)), ("kvpress", inputs.kvpress_compact(layer))):
                self.expect_near(f"keys of {name}, layer {layer}", compacted[0, layer], keys[0], inputs.key_tolerance())
                self.expect_near(f"values of {name}, layer {layer}", compacted[1, layer], values[0], 0)

    def check_nuc(self, ours, logits, folder):
        self.expect_near("nuc", ours.result("nuc", folder), logits.torch_nuc(), logits.tolerance())

    def expect_near(self, what, ours, theirs, tolerance):
        ours = torch.from_numpy(np.array(ours))
        if ours.shape != theirs.shape:
            sys.exit(f"{self.case.name}: {what}: {tuple(ours.shape)} is not {tuple(theirs.shape)}")
        error = float((ours - theirs.float()).abs().max())
        if not error <= tolerance:
            sys.exit(f"{self.case.name}: {what}: differs by {error:g}, more than {tolerance:g}")

    def layers(self, function):
        """A layer at a time, as kvpress does: what one layer made is gone before the next."""

        def run():
            for layer in range(self.case.shape.layers):
                function(layer)

        return contestant(run)

    def measure_distillation(self, ours, inputs):
        self.row("cap", {"ours": ours("cap"), "torch": self.layers(inputs.torch_cap),
                         "kvpress": self.layers(inputs.kvpress_cap), "Eigen GEMM": ours("cap_limit"),
                         "torch GEMM": self.layers(inputs.multiply)})
        self.row("select", {"ours": ours("select"), "torch": self.layers(inputs.torch_select),
                            "kvpress": self.layers(inputs.kvpress_select), "read scores": ours("select_limit"),
                            "ours_top_k": ours("select_top_k")})
        # kvpress's code is the torch of this stage.
        self.row("compact", {"ours": ours("compact"), "torch": self.layers(inputs.kvpress_compact),
                             "memcpy": ours("compact_limit"), "torch_table": self.layers(inputs.torch_compact)})
        self.sum_up(["cap", "select", "compact"])

    def shape_of(self, stage):
        s = self.case.shape
        if stage == "nuc":
            return f"{self.case.nuc_rows} x {self.case.vocab}"
        return f"H {s.query_heads}, G {s.kv_heads}, d {s.head_dim}, M {s.entries}, p {s.catalyst}, C {s.keep}"

    def row(self, stage, contestants):
        self.say(stage)
        samples = take_turns(contestants, self.options.turns)
        clock = CLOCKS.index(self.options.clock)
        median = {name: statistics.median(sample[clock] for sample in values) for name, values in samples.items()}
        if stage == "compact":
            median["kvpress"] = median["torch"]
        limit = min((name for name in median if name not in CONTESTANTS), key=median.get)
        self.add(stage, self.shape_of(stage), median, limit, AIMS[stage], samples=samples)

    def sum_up(self, stages):
        rows = [row for row in self.rows if row["stage"] in stages]
        median = {name: sum(row[f"{name}_ms"] for row in rows) for name in ("ours", "torch", "limit")}
        if all(row["kvpress_ms"] is not None for row in rows):
            median["kvpress"] = sum(row["kvpress_ms"] for row in rows)
        self.add(" + ".join(stages), self.shape_of("cap"), median, "limit", None)

    def add(self, stage, shape, median, limit, aim, **more):
        kvpress = median.get("kvpress")
        self.rows.append({
            "stage": stage, "case": self.case.name, "shape": shape,
            "layers": None if stage == "nuc" else self.case.shape.layers,
            "element": self.case.element, "threads": self.threads, "ours_ms": median["ours"], "torch_ms": median["torch"],
            "kvpress_ms": kvpress, "limit_ms": median[limit], "limit": limit if aim else "sum",
            "ratio": median["torch"] / median["ours"], "kvpress_ratio": kvpress and kvpress / median["ours"],
            "of_limit": median["ours"] / median[limit], "aim": aim, **more
        })
        self.rows[-1].update({f"{name}_ms": median[name] for name in VARIANTS if name in median})


def cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return str(value)


def table(rows):
    """Markdown."""
    names = {"ours_ms": "ours, ms", "torch_ms": "torch, ms", "kvpress_ms": "kvpress, ms", "limit_ms": "limit, ms",
             "ratio": "torch / ours", "kvpress_ratio": "kvpress / ours", "of_limit": "ours / limit"}
    shown = COLUMNS if len({row["threads"] for row in rows}) > 1 else [c for c in COLUMNS if c != "threads"]
    lines = [[names.get(column, column) for column in shown]] + [[cell(row[column]) for column in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in lines)


def restart_with(variables):
    """glibc reads them when a program starts."""
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **variables})


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    options = arguments()
    if options.keep_memory:
        restart_with(KEEP_MEMORY)
    torch.set_num_interop_threads(1)
    cases = QUICK if options.quick else [case for case in CASES if not options.cases or case.name in options.cases]
    rows = []
    with torch.inference_mode():
        for threads, case in itertools.product(options.threads, cases):
            rows += Comparison(case, threads, options).run()
    print(table(rows))
    missed = [f"{row['case']} {row['stage']} {row['ratio']:.2f}x of {row['aim']}x" for row in rows
              if row["aim"] and row["ratio"] < row["aim"]]
    for name, what in VARIANTS.items():
        print(f"\n{what}, ms: " + "; ".join(f"{row['case']} {cell(row[name + '_ms'])}" for row in rows if name + "_ms" in row))
    print("\nshort of the aim: " + ("; ".join(missed) or "none"))
    if options.json:
        report = {"processor": processor(), "torch": torch.__version__, "kvpress": peers.kvpress_version(),
                  "clock": options.clock, "keep_memory": options.keep_memory, "turns": options.turns,
                  "stages": [row for row in rows if row["stage"] in AIMS],
                  "sums": [row for row in rows if row["stage"] not in AIMS]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, ["case", *COLUMNS], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
