#!/usr/bin/env python3
"""The table of needles.csv in Markdown: answer NLL and, in brackets, hit rate in per cent, mean over seeds.

    benchmarks/llama_cpp/table.py benchmarks/llama_cpp/needles.csv
"""

import collections
import csv
import statistics
import sys


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__.strip())
    with open(sys.argv[1]) as file:
        rows = list(csv.DictReader(file))
    cells = collections.defaultdict(list)
    for row in rows:
        cells[row["tokens"], row["policy"], row["cache_type"], row["depth"]].append(row)
    unique = lambda column: list(dict.fromkeys(row[column] for row in rows))
    depths = sorted(unique("depth"), key=float)
    print("| tokens | policy | cache |" + "".join(f" {depth} |" for depth in depths))
    print("|---|---|---|" + "---|" * len(depths))
    for tokens in sorted(unique("tokens"), key=int):
        for policy in unique("policy"):
            for cache_type in unique("cache_type"):
                if not any(cells[tokens, policy, cache_type, depth] for depth in depths):
                    continue
                line = f"| {int(tokens):,} | {policy} | {cache_type} |"
                for depth in depths:
                    found = cells[tokens, policy, cache_type, depth]
                    mean = lambda column: statistics.mean(float(row[column]) for row in found)
                    line += f" {mean('answer_nll'):.2f} ({100 * mean('hit_rate'):.0f}) |" if found else " |"
                print(line)


if __name__ == "__main__":
    main()
