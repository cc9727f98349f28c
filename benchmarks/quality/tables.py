"""Tables of trials: a CSV file for each, and Markdown between marks in README.md.

A mark says which figure of which tables: <!-- lost: needles questions --> ... <!-- end -->. Rows are texts and columns ways to read;
of lost_by_table a row is all texts of a table together. The rows of "ways" are ways to read, and the columns figures."""

import csv
import pathlib
import re

import plan
import trials

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "tables"
READMES = (HERE / "README.md", HERE.parent / "llama_cpp/README.md")
TEXT = ["kind", "set", "tokens", "depth", "seed", "haystack", "id"]  # names one
ALL = "all"  # in place of a text: those of the table together
MEASURES = ["answer_nll", "lost", "gold_kept", "answer_kept", "score", "cost", "document_tokens", "distillations"]

NAMES = {"number": "number", "phrase": "phrase", "joined": "two sentences", "cell": "cell of a table", "definition": "line of a function",
         "turn": "turn of a dialogue", "hotpotqa_train": "HotpotQA", "musique_train": "MuSiQue", "4096_niah_multikey_3": "RULER, UUIDs",
         "qa1_single-supporting-fact_test in persuasion": "bAbI 1 in a novel", "qa2_two-supporting-facts_test in persuasion":
         "bAbI 2 in a novel", "lines_200": "LongEval, lines", "topics_5": "LongEval, 5 topics", "topics_15": "LongEval, 15 topics",
         "multi_news": "multi_news, summary", "news_summ": "L-Eval news, summary", "gov_report_summ": "L-Eval reports, summary",
         "scientific_qa": "L-Eval, papers", "multidoc_qa": "L-Eval, forums", "coursera": "L-Eval, lectures", "tpo": "L-Eval, TOEFL",
         "passkey_examples": "passkey", "topic_retrieval_longchat": "L-Eval, first topic", "shortdep_qa": "LooGLE",
         "natural_question": "L-Eval, Natural Questions", "needles": "needles of six kinds", "questions": "HotpotQA, MuSiQue, bAbI",
         "lists": "strings, lines and topics in lists", "documents": "L-Eval's documents",
         "llama_cpp_kinds": "these five kinds",
         **{f"needles_{tokens}": "needles of six kinds" for tokens in (12_000, 24_000, 48_000)}}


def rows_of(done):
    done = [trial | {"score": trial.get("score", trial.get("exact")), "text": trial.get("kind") or trial["set"],
                     "length": trial.get("tokens")} for trial in trials.with_loss(done, TEXT)]
    together = [trial | {"text": ALL} for trial in done] if len({trial["text"] for trial in done}) > 1 else []
    return trials.summary(done + together, ["text", "length", "policy", "settings", "pot", "program"], MEASURES)


def write(folder, name, done):
    """FOLDER/NAME.csv of the trials of a table."""
    trials.write_csv(folder / f"{name}.csv", rows_of(done))


def read(folder, name):
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def number(row, measure, signed=False):
    if not row.get(measure):
        return ""
    text = f"{float(row[measure]):{'+' if signed else ''}.2f}"
    return text + (f" ± {float(row[f'{measure}_error']):.2f}" if row.get(f"{measure}_error") else "")


def shown(row, measure):
    """A figure; of losses also how many lose over 1 nat."""
    if row is None:
        return ""
    if measure != "lost":
        return number(row, measure)
    if row["policy"] == "full":
        return number(row, "answer_nll")
    over = int(row["over_1"])
    return number(row, "lost", signed=True) + (f" ({over})" if over else "")


def label(row, rows):
    """What is different among the rows."""
    def several(column):
        return len({other[column] for other in rows if other[column]}) > 1

    words = [NAMES.get(row["text"], row["text"])] if several("text") or not several("pot") else []
    words += [f"{int(row['length']):,} tokens"] if row["length"] and several("length") and not several("pot") else []
    words += [f"pot of {int(row['pot']):,}"] if several("pot") and not several("text") else []
    return ", ".join(words)


def markdown(header, lines):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines])


def by_text(measure, rows):
    """Columns are the ways to read that have the figure anywhere."""
    ways = [way for way in plan.READINGS if any(shown(row, measure) for row in rows if row["policy"] == way)]
    lines = {}
    for row in rows:
        lines.setdefault((label(row, rows), row["length"]), {})[row["policy"]] = row
    return markdown(["", "texts", *ways],
                    [[name, str(max(int(row["trials"]) for row in own.values())), *(shown(own.get(way), measure) for way in ways)]
                     for (name, _), own in lines.items()])


def way_in_words(policy):
    """'known, q8_0, head' of known_q8_0_head."""
    way = next((way for way in plan.READINGS if policy.startswith(f"{way}_")), policy)
    return f"{way}, {policy[len(way) + 1:]}".removesuffix(", ").replace("_shared", ", shared").replace("_head", ", head")


def by_way(rows):
    return markdown(["", "texts", "answer NLL", "lost", "needle kept", "right"],
                    [[way_in_words(row["policy"]), row["trials"],
                      number(row, "answer_nll"), shown(row, "lost") if row["policy"][:4] != "full" else "", number(row, "gold_kept"),
                      number(row, "score")] for row in rows])


def filled(text, folder=FOLDER):
    """The text of a README.md with its tables as the CSV files of a folder have them."""
    def table(match):
        measure, _, by_table = match[1].partition("_by_")
        rows = [row | ({"text": name} if by_table else {}) for name in match[2].split() for row in read(folder, name)
                if (row["text"] == ALL) == bool(by_table)]
        if not rows:
            return match[0]
        made = by_way(rows) if measure == "ways" else by_text(measure, rows)
        return f"<!-- {match[1]}: {match[2]} -->\n\n{made}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+): ([\w ]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def fill():
    for path in READMES:
        path.write_text(filled(path.read_text()))
