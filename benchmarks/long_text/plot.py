#!/usr/bin/env python3
"""Draws lengths.csv and million.csv, as lengths.svg and million.svg. Needs matplotlib.

    benchmarks/long_text/plot.py            both
    benchmarks/long_text/plot.py million    one of them
"""

import argparse
import csv
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


def million():
    """Memory and time per token along one long text."""
    rows = rows_of(HERE / "million.csv")
    tokens, seconds = [int(row["tokens"]) for row in rows], [float(row["seconds"]) for row in rows]
    step = max(1, round(WINDOW / (tokens[1] - tokens[0])))
    at = range(step, len(rows), step)
    times = [1000 * (seconds[i] - seconds[i - step]) / (tokens[i] - tokens[i - step]) for i in at]
    figure, (memory, time) = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True)
    resident = [float(row["resident_mib"]) for row in rows]
    memory.plot([t / 1e6 for t in tokens], resident)
    memory.set(ylabel="resident memory, MiB", ylim=(0, 1.3 * max(resident)))
    time.plot([tokens[i] / 1e6 for i in at], times)
    time.axhspan(0.95 * statistics.median(times), 1.05 * statistics.median(times), alpha=0.15, label="median ± 5 %")
    time.set(ylabel="ms per token", xlabel="tokens read, millions", ylim=(0, 1.3 * max(times)))
    time.legend(loc="lower right", fontsize="small")
    for panel in (memory, time):
        panel.grid(alpha=0.3)
    save(figure, HERE / "million.svg")


PICTURES = {"lengths": lengths, "million": million}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", choices=[[], *PICTURES], help="[both]")
    plt.rcParams.update({"svg.hashsalt": "infinipot", "svg.fonttype": "none", "font.family": "sans-serif"})
    for name in parser.parse_args().pictures or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
