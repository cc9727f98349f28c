#!/usr/bin/env python3
"""Writes the tables of README.md from results.csv, results_keep_memory.csv and targets.csv, which the programs here make.

A mark says which table: <!-- f32 --> ... <!-- end -->.
"""

import csv
import pathlib
import re

FOLDER = pathlib.Path(__file__).resolve().parent
README = FOLDER / "README.md"
CASES = {"llama-layer": "Llama-3-8B, one layer", "llama": "Llama-3-8B, 32 layers", "smollm2": "SmolLM2-135M, 30 layers",
         "llama-layer-f16": "Llama layer, f16", "llama-layer-bf16": "Llama layer, bf16", "smollm2-f16": "SmolLM2, f16",
         "smollm2-bf16": "SmolLM2, bf16"}
SUMS = {"cap + select + compact": "the three", "cap + select + compact + nuc": "all four"}


def read(name):
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def ms(value):
    if value == "":
        return ""
    return f"{float(value):.0f}" if float(value) >= 100 else f"{float(value):.3g}"


def times(value):
    return "" if value == "" else f"{float(value):.1f}"


def stage_of(row):
    return f"nuc {row['shape']}" if row["stage"] == "nuc" else SUMS.get(row["stage"], row["stage"])


def markdown(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def one_thread(elements):
    kept = {(row["case"], row["stage"]): row for row in read("results_keep_memory.csv") if row["threads"] == "1"}
    lines = []
    for row in read("results.csv"):
        if row["threads"] == "1" and row["element"] in elements:
            other = kept[row["case"], row["stage"]]
            lines.append([CASES[row["case"]], stage_of(row), ms(row["ours_ms"]), ms(row["limit_ms"]), ms(row["torch_ms"]),
                          times(row["ratio"]), times(row["kvpress_ratio"]), ms(other["torch_ms"]), times(other["ratio"]),
                          times(other["kvpress_ratio"])])
    return markdown(["case", "stage", "ours, ms", "limit, ms", "torch, ms", "torch / ours", "kvpress / ours",
                     "torch, memory kept, ms", "/ ours", "kvpress / ours"], lines)


def two_threads():
    rows = {(row["case"], row["stage"], row["threads"]): row for row in read("results_keep_memory.csv")}
    lines = []
    for case in ("llama", "smollm2"):
        for stage in ("cap", "select", "compact", "nuc"):
            one, two = rows[case, stage, "1"], rows[case, stage, "2"]
            sides = [cell for side in ("ours_ms", "limit_ms")
                     for cell in (ms(one[side]), ms(two[side]), f"{float(one[side]) / float(two[side]):.2f}")]
            lines.append([CASES[case], stage, *sides, times(two["ratio"])])
    return markdown(["case", "stage", "ours: 1 thread, ms", "2 threads", "gain", "limit: 1 thread, ms", "2 threads", "gain",
                     "torch / ours, 2 threads"], lines)


def targets(shape):
    rows = [row for row in read("targets.csv") if row["shape"] == shape]
    builds, stages = (list(dict.fromkeys(row[column] for row in rows)) for column in ("build", "stage"))
    cells = {(row["stage"], row["build"]): f"{float(row['ours_ms']):.3g} ({float(row['of_limit']):.2f})" for row in rows}
    return markdown(["stage", *builds], [[stage, *(cells[stage, build] for build in builds)] for stage in stages])


TABLES = {"f32": lambda: one_thread(["f32"]), "16_bits": lambda: one_thread(["f16", "bf16"]), "two_threads": two_threads,
          "targets_llama": lambda: targets(CASES["llama-layer"]), "targets_smollm2": lambda: targets(CASES["smollm2"])}


def filled(text):
    """The text of README.md with its tables as the CSV files have them."""
    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", lambda mark: f"<!-- {mark[1]} -->\n\n{TABLES[mark[1]]()}\n\n<!-- end -->", text,
                  flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
