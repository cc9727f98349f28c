"""Figures from rows of their CSV files, as SVG by matplotlib."""

import sys

TRAINED = 8192  # positions that SmolLM2-135M was trained on
FLOORS = {"full": ("black", "-"), "truncation": ("grey", "--"), "streaming_llm": ("grey", ":")}
MARKERS = "osD^vPX<>"
SETS = {"needle": "needles", "hotpotqa": "HotpotQA"}
NLL = "answer NLL, nats per token"


def pyplot():
    """matplotlib, set to make the same picture of the same figures. Ends the program where it is missing."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("drawing needs matplotlib (pip install matplotlib); what was measured is saved: call again to draw it")
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "infinipot", "svg.fonttype": "none", "font.family": "sans-serif"})
    return plt


def save(figure, path, rect=(0, 0, 1, 1)):
    figure.tight_layout(rect=rect)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot().close(figure)


def save_with_legend(figure, panels, path, columns=5):
    """Below the panels, with each name once."""
    names = {}
    for panel in panels:
        panel.grid(alpha=0.3)
        for handle, label in zip(*panel.get_legend_handles_labels()):
            names.setdefault(label, handle)
    lines = -(-len(names) // columns)
    figure.legend(names.values(), names.keys(), loc="lower center", ncols=columns, fontsize="small", frameon=False)
    save(figure, path, rect=(0, 0.02 + 0.05 * lines, 1, 1))


def values(rows, key):
    """In the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def numbers(rows, key):
    """nan where there is none."""
    return [float("nan" if row[key] in ("", None) else row[key]) for row in rows]


def line(panel, rows, x, y, **style):
    """Means and standard errors over a column."""
    rows = sorted((row for row in rows if row[y]), key=lambda row: float(row[x]))
    errors = [0 if error != error else error for error in numbers(rows, f"{y}_error")]
    panel.errorbar(numbers(rows, x), numbers(rows, y), errors, capsize=2, markersize=4, **style)


def lines_of(panel, rows, x, y, key="policy"):
    for marker, name in zip(MARKERS, values(rows, key)):
        line(panel, [row for row in rows if row[key] == name], x, y, marker=marker, label=name)


def floors(panel, rows):
    """A level line for each policy that does not depend on what the figure varies."""
    for row in rows:
        if row["answer_nll"]:
            colour, style = FLOORS[row["policy"]]
            panel.axhline(float(row["answer_nll"]), color=colour, linestyle=style, linewidth=1, label=row["policy"])


def panels_of_sets(plt, rows):
    """(figure, panels, each panel's rows for all depths together)"""
    sets = values(rows, "set")
    figure, panels = plt.subplots(1, len(sets), figsize=(5.2 * len(sets), 4.2), squeeze=False)
    for panel, name in zip(panels[0], sets):
        panel.set(title=SETS[name], ylabel=NLL)
    return figure, panels[0], [[row for row in rows if row["set"] == name and not row["depth"]] for name in sets]


def hit_rate(rows, path):
    plt = pyplot()
    figure, (hits, nll) = plt.subplots(1, 2, figsize=(10.4, 4.4))
    for panel, column in ((hits, "hit_rate"), (nll, "answer_nll")):
        lines_of(panel, rows, "depth", column)
    hits.set(xlabel="depth of the needle", ylabel="share of the needle in the pot", ylim=(-0.03, 1.03))
    nll.set(xlabel="depth of the needle", ylabel=NLL)
    save_with_legend(figure, (hits, nll), path)


def budgets(rows, path):
    plt = pyplot()
    figure, panels, rows_of_each = panels_of_sets(plt, rows)
    for panel, own in zip(panels, rows_of_each):
        floors(panel, [row for row in own if row["policy"] == "full"])
        varied = [row for row in own if row["policy"] != "full"]
        lines_of(panel, varied, "pot", "answer_nll")
        panel.set(xscale="log", xlabel="entries of the pot")
        ticks = sorted({int(row["pot"]) for row in varied})
        panel.set_xticks(ticks, map(str, ticks), minor=False)
        panel.minorticks_off()
    save_with_legend(figure, panels, path)


def alpha(rows, path):
    plt = pyplot()
    figure, panels, rows_of_each = panels_of_sets(plt, rows)
    for panel, own in zip(panels, rows_of_each):
        floors(panel, [row for row in own if row["policy"] in FLOORS])
        lines_of(panel, [row for row in own if row["policy"] not in FLOORS], "alpha", "answer_nll")
        panel.set_xlabel("alpha: share chosen by NuC")
    save_with_legend(figure, panels, path)


def catalyst(rows, path):
    plt = pyplot()
    figure, panels, rows_of_each = panels_of_sets(plt, rows)
    for panel, own in zip(panels, rows_of_each):
        floors(panel, [row for row in own if row["policy"] in FLOORS])
        varied = [row for row in own if row["policy"] not in FLOORS]
        names = values(varied, "policy")
        for known, label, shift, marker in (("yes", "the question", -0.1, "o"), ("no", "generic", 0.1, "s")):
            placed = [row | {"x": names.index(row["policy"]) + shift} for row in varied if row["known"] == known]
            line(panel, placed, "x", "answer_nll", marker=marker, linestyle="", label=f"catalyst: {label}")
        panel.set_xticks(range(len(names)), names)
        panel.set_xlim(-0.5, len(names) - 0.5)
    save_with_legend(figure, panels, path)


def nuc(rows, path):
    plt = pyplot()
    figure, (along, needle) = plt.subplots(1, 2, figsize=(12, 4.4), width_ratios=(3, 1))
    policies = values(rows, "policy")
    for x, (marker, policy) in enumerate(zip(MARKERS, policies)):
        own = [row for row in rows if row["policy"] == policy]
        text = sorted((row for row in own if row["part"] == "text"), key=lambda row: float(row["depth"]))
        along.plot(numbers(text, "depth"), numbers(text, "nuc"), linewidth=1, color=f"C{x}", label=policy)
        for part, face in (("needle's peak", f"C{x}"), ("needle's mean", "white")):
            line(needle, [row | {"x": x} for row in own if row["part"] == part], "x", "nuc", marker=marker, linestyle="",
                 color=f"C{x}", markerfacecolor=face)
    for row in rows:
        if row["policy"] == policies[0] and row["part"] == "needle's peak":
            along.axvline(float(row["depth"]), color="grey", linewidth=1, linestyle=":", label="the needle")
    along.set(xlabel="depth in the text", ylabel="mean NuC of a window, nats")
    needle.set(title="needle: peak, and mean (open)", ylabel="NuC, nats", xticks=[], xlim=(-0.5, len(policies) - 0.5))
    needle.title.set_fontsize("medium")
    save_with_legend(figure, (along, needle), path)


def positions(rows, path):
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(10.4, 4.4))
    what = (("tail_nll", "mean NLL of the text's last 512 tokens, nats"), ("answer_nll", NLL))
    for panel, (column, label) in zip(panels, what):
        for i, policy in enumerate(values(rows, "policy")):
            for kind, style in (("reindexed", "-"), ("growing", "--")):
                own = [row for row in rows if (row["policy"], row["positions"]) == (policy, kind)]
                name = f"{policy}, CR-RoPE {'on' if kind == 'reindexed' else 'off'}"
                line(panel, own, "document_tokens", column, marker=MARKERS[i], linestyle=style, color=f"C{i}", label=name)
        panel.axvline(TRAINED, color="grey", linewidth=1, linestyle=":", label="positions in training")
        panel.set(xscale="log", xlabel="tokens of text", ylabel=label)
        ticks = [4000, 8000, 16000, 32000]
        panel.set_xticks(ticks, [f"{tick // 1000}K" for tick in ticks], minor=False)
        panel.minorticks_off()
    save_with_legend(figure, panels, path)
