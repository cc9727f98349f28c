"""What was lost, and what it cost: rows of tables, from the lines that infinipot-recall has written."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "quality"))

import trials  # noqa: E402

READINGS = {"full": "full cache", "gold": "gold alone, full cache", "known": "infinipot, question known",
            "streaming_llm": "streaming_llm", "reread": "reread"}
COLUMNS = ["set", "reading", "recall", "answers", "nll", "lost", "lost_median", "over_1", "to_known", "gold_kept", "answer_kept",
           "read_seconds", "seconds", "mib"]


def answers(lines):
    """One dict for each answer: where it comes from, what it lost against the full cache and against infinipot with the question
    known, on the same question. What was measured again counts once."""
    found = {}
    for line in lines:
        for answer in line["answers"]:
            variant = answer["variant"]
            # The full cache and pots are what they take; with an archive, it comes to the pot.
            bytes_ = answer.get("bytes", line.get("pot_bytes", 0))
            found[line["set"], line["id"], answer["question"], line["reading"], variant] = {
                "set": line["set"], "id": line["id"], "question": answer["question"], "reading": line["reading"], "recall": variant,
                "nll": answer["nll"], "gold_kept": answer.get("gold_kept"), "answer_kept": answer.get("answer_kept"), "tokens": line["tokens"],
                "read_seconds": answer.get("read_seconds", line.get("read_seconds")), "seconds": answer.get("seconds"),
                "mib": bytes_ / 2**20}
    found = list(found.values())
    for column, reading in (("lost", "full"), ("to_known", "known")):
        best = {(a["set"], a["id"], a["question"]): a["nll"] for a in found if a["reading"] == reading}
        for a in found:
            other = best.get((a["set"], a["id"], a["question"]))
            a[column] = None if other is None or a["nll"] is None else a["nll"] - other
    return found


def group_of(answer):
    """Needles by their kind, conversations by their question, tasks as they are."""
    name = answer["question"]
    if answer["set"].startswith("needles"):
        return f"{answer['set']}: {name.split()[0]}"
    return f"conversation, {name}" if answer["set"] == "conversation" else answer["set"]


def depth_of(answer):
    return float(answer["question"].split()[1]) if answer["set"].startswith("needles") else None


def rows_of(found, by_depth=False):
    """Means and standard errors, in the order of the lines' first appearance, set by set."""
    keyed = [a | {"set": group_of(a), "depth": depth_of(a)} for a in found if not by_depth or depth_of(a) is not None]
    keys = ["set", "reading", "recall", *(["depth"] if by_depth else [])]
    measures = ["nll", "lost", "to_known", "gold_kept", "answer_kept", "read_seconds", "seconds", "mib"]
    rows = trials.summary(keyed, keys, measures)
    for row in rows:
        row["answers"] = row.pop("trials")
        row["reading"] = READINGS.get(row["reading"], row["reading"])
        for cost in ("read_seconds", "seconds", "mib"):
            row.pop(f"{cost}_error")
    sets = list(dict.fromkeys(row["set"] for row in rows))
    return sorted(rows, key=lambda row: sets.index(row["set"]))


def paired(found, reading, recall, other_reading, other_recall):
    """{group: (mean, standard error, number)} of the NLL of one way less that of another, on the same questions."""
    def of(reading, recall):
        return {(a["set"], a["id"], a["question"]): a for a in found if (a["reading"], a["recall"]) == (reading, recall)}

    one, other = of(reading, recall), of(other_reading, other_recall)
    groups = {}
    for key in one.keys() & other.keys():
        groups.setdefault(group_of(one[key]), []).append(one[key]["nll"] - other[key]["nll"])
    return {group: (*trials.mean_and_error(values), len(values)) for group, values in sorted(groups.items())}
