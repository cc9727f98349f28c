#!/usr/bin/env python3
"""Draws drift.csv as drift.svg: relative error of keys by the number of distillations, a panel for each element type. Needs
matplotlib.

    benchmarks/storage/plot.py
"""

import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = pathlib.Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with (HERE / "drift.csv").open() as file:
        rows = list(csv.DictReader(file))
    plt.rcParams.update({"svg.hashsalt": "infinipot", "svg.fonttype": "none", "font.family": "sans-serif"})
    types = list(dict.fromkeys(row["type"] for row in rows))
    figure, panels = plt.subplots(1, len(types), figsize=(2.6 * len(types), 3.2), sharey=True)
    for panel, type_ in zip(panels, types):
        for storage, pairing in dict.fromkeys((row["storage"], row["pairing"]) for row in rows):
            own = [row for row in rows if (row["type"], row["storage"], row["pairing"]) == (type_, storage, pairing)]
            x = [int(row["distillations"]) for row in own]
            style = "-" if pairing == "half_split" else "--"
            colour = "tab:blue" if storage == "rotated" else "tab:green"
            panel.plot(x, [float(row["error"]) for row in own], style, color=colour, label=f"infinipot, {storage}, {pairing}")
            if own[0]["error_shifted_in_place"]:
                panel.plot(x, [float(row["error_shifted_in_place"]) for row in own], style, color="tab:red",
                           label=f"shifted in place, {pairing}")
        panel.set(title=type_, xscale="log", yscale="log", xlabel="distillations survived")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("RMS error / RMS of the key")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize="small", frameon=False)
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    figure.savefig(HERE / "drift.svg", metadata={"Date": None})  # the same picture for the same figures


if __name__ == "__main__":
    main()
