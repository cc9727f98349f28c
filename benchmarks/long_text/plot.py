#!/usr/bin/env python3
"""Draws lengths.csv, million.csv and million_archive.csv, as SVG of the same names. Needs matplotlib.

    benchmarks/long_text/plot.py            all
    benchmarks/long_text/plot.py million    one of them
"""

import argparse
import csv
import json
import pathlib
import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402

HERE = pathlib.Path(__file__).parent
WINDOW = 20_000  # tokens over which a time per token is taken
MARKERS = "osD^v"


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def save(figure, path, rect=(0, 0, 1, 1)):
    figure.tight_layout(rect=rect)
    figure.savefig(path, metadata={"Date": None})  # the same picture for the same figures
    plt.close(figure)
    print(path)


def lengths():
    """Time per token at the end, time to first token and peak memory against the length of the text."""
    rows = rows_of(HERE / "lengths.csv")
    figure, panels = plt.subplots(1, 3, figsize=(13, 4))
    what = [("ms_per_token_at_end", "ms per token, over the last quarter"), ("ttft_seconds", "seconds to the first token"),
            ("peak_rss_mib", "peak memory, MiB")]
    for panel, (column, label) in zip(panels, what):
        for marker, name in zip(MARKERS, dict.fromkeys(row["contestant"] for row in rows)):
            own = [row for row in rows if row["contestant"] == name]
            panel.plot([int(row["tokens"]) for row in own], [float(row[column]) for row in own], marker=marker, label=name)
        panel.set(xscale="log", yscale="log", xlabel="tokens of text", ylabel=label)
        ticks = sorted({int(row["tokens"]) for row in rows})
        panel.set_xticks(ticks, [f"{tick // 1024}K" for tick in ticks], minor=False)
        panel.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False)
    save(figure, HERE / "lengths.svg", rect=(0, 0.08, 1, 1))


def times_of(rows):
    """Milliseconds per token, each over a window: (tokens in millions, times)."""
    tokens, seconds = [int(row["tokens"]) for row in rows], [float(row["seconds"]) for row in rows]
    step = max(1, round(WINDOW / (tokens[1] - tokens[0])))
    at = range(step, len(rows), step)
    return [tokens[i] / 1e6 for i in at], [1000 * (seconds[i] - seconds[i - step]) / (tokens[i] - tokens[i - step]) for i in at]


def draw_memory(panel, rows):
    resident = [float(row["resident_mib"]) for row in rows]
    panel.plot([int(row["tokens"]) / 1e6 for row in rows], resident)
    panel.set(ylabel="resident memory, MiB", ylim=(0, 1.3 * max(resident)))


def draw_times(panel, rows):
    at, times = times_of(rows)
    panel.plot(at, times)
    panel.axhspan(0.95 * statistics.median(times), 1.05 * statistics.median(times), alpha=0.15, label="median ± 5 %")
    panel.set(ylabel="ms per token", xlabel="tokens read, millions", ylim=(0, 1.3 * max(times)))
    panel.legend(loc="lower right", fontsize="small")


def million():
    """Memory and time per token along one long text."""
    rows = rows_of(HERE / "million.csv")
    figure, (memory, time) = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True)
    draw_memory(memory, rows)
    draw_times(time, rows)
    for panel in (memory, time):
        panel.grid(alpha=0.3)
    save(figure, HERE / "million.svg")


def million_archive():
    """The same of a text that was read into an archive, and what its questions then cost in nats, beside a short text."""
    rows, done = rows_of(HERE / "million_archive.csv"), json.loads((HERE / "million_archive.json").read_text())
    figure = plt.figure(figsize=(12, 4.6))
    grid = figure.add_gridspec(2, 2, width_ratios=[2, 1])
    memory, time, answers = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[:, 1])
    draw_memory(memory, rows)
    draw_times(time, rows)
    names = list(done["ask"])
    texts = {f"{done['short']['document_tokens']:,} tokens": done["short"]["answers"], f"{done['read']['document_tokens']:,} tokens": done["ask"]}
    for i, (label, own) in enumerate(texts.items()):
        answers.barh([k + 0.4 * i for k in range(len(names))], [own[name]["answer_nll"] for name in names], height=0.38, label=label)
    answers.set_yticks([k + 0.2 for k in range(len(names))], names)
    answers.invert_yaxis()
    answers.set(xlabel="answer NLL, nats per token")
    answers.legend(fontsize="small")
    for panel in (memory, time, answers):
        panel.grid(alpha=0.3)
    save(figure, HERE / "million_archive.svg")


PICTURES = {"lengths": lengths, "million": million, "million_archive": million_archive}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", choices=[[], *PICTURES], help="[all]")
    plt.rcParams.update({"svg.hashsalt": "infinipot", "svg.fonttype": "none", "font.family": "sans-serif"})
    for name in parser.parse_args().pictures or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
