"""Needles: sentences that are hidden in a text, and the question that only they answer."""

import dataclasses
import itertools
import random
import statistics

import listings
import trials

KEYS = ["kind", "known", "tokens", "depth", "seed", "haystack", "policy", "settings", "pot", "model", "program"]

CODE_NAMES = ["old library", "north gate", "blue warehouse", "harbour office", "town archive", "clock tower", "glass factory",
              "river station"]
CITIES = ["Lisbon", "Toronto", "Nairobi", "Helsinki", "Santiago", "Kyoto", "Dublin", "Warsaw", "Havana", "Oslo"]
PEOPLE = ["Martha Quill", "Edwin Sparrow", "Clara Winters", "Tobias Reed", "Agnes Holloway", "Jonas Marsh"]
COLOURS = ["green", "silver", "yellow", "purple", "orange", "crimson", "golden", "grey"]
THINGS = ["teapot", "lantern", "violin", "umbrella", "compass", "saddle", "mirror", "basket"]
PLACES = ["under the stairs", "behind the stove", "in the attic", "below the bridge", "inside the bell", "beside the well"]


@dataclasses.dataclass(frozen=True)
class Needle:
    sentences: list  # one, or two that must be joined
    question: str
    answer_prefix: str
    answer: str  # what follows the prefix


def number(draw):
    name, code = draw.choice(CODE_NAMES), draw.randrange(1_000_000, 10_000_000)
    return Needle([f"The access code of the {name} is {code}."], f"What is the access code of the {name}?",
                  f"The access code of the {name} is", f" {code}.")


def phrase(draw):
    person, thing = draw.choice(PEOPLE), f"{draw.choice(COLOURS)} {draw.choice(THINGS)}"
    place = draw.choice(PLACES)
    return Needle([f"{person} hid the {thing} {place}."], f"What did {person} hide, and where?", f"{person} hid the",
                  f" {thing} {place}.")


def joined(draw):
    person, city, code = draw.choice(PEOPLE), draw.choice(CITIES), draw.randrange(1_000, 10_000)
    return Needle([f"{person} lives in {city}.", f"The telephone number of everybody in {city} is {code}."],
                  f"What is the telephone number of {person}?", f"The telephone number of {person} is", f" {code}.")


KINDS = {"number": number, "phrase": phrase, "joined": joined}
ALL_KINDS = [*KINDS, *listings.KINDS]


def make(kind, seed):
    return KINDS[kind](random.Random(f"{kind} {seed}"))


def hide(needle, haystack, tokens, depth, seed):
    """A text of about `tokens` tokens that begins at a paragraph of the haystack, with the needle at the given depth, after a
    sentence. Of two sentences the second stands a tenth of the text after the first (before it near the end)."""
    length = round(tokens * 4.3)  # characters of English per token of SmolLM2's vocabulary
    if length > len(haystack):
        raise ValueError(f"the haystack has {len(haystack)} characters; {tokens} tokens take about {length}")
    begin = haystack.find("\n", random.Random(f"place {seed}").randrange(len(haystack) - length + 1)) + 1
    text = haystack[begin:begin + length]
    depths = [depth, depth + 0.1 if depth <= 0.85 else depth - 0.1][:len(needle.sentences)]
    for where, sentence in sorted(zip(depths, needle.sentences), reverse=True):
        place = text.find(". ", round(where * (len(text) - 200)))
        place = len(text) if place < 0 else place + 2
        text = f"{text[:place]}{sentence} {text[place:]}"
    return text


def hidden(kind, haystack, tokens, depth, seed):
    """A needle of any kind, and the text that has it."""
    if kind in listings.KINDS:
        document, gold, *asked = listings.make(kind, haystack, tokens, depth, seed)
        return Needle(gold, *asked), document
    needle = make(kind, seed)
    return needle, hide(needle, haystack, tokens, depth, seed)


def cells(options, policies, kinds=("number",), known=("yes",), lengths=(6000,), depths=(0.5,), seeds=(1,), pot=None):
    """Trials of every combination, to be performed."""
    return [{"kind": kind, "known": known, "tokens": tokens, "depth": depth, "seed": seed, "haystack": options.haystack.name,
             **trials.who(options, policy, pot)}
            for kind, known, tokens, depth, seed, policy in itertools.product(kinds, known, lengths, depths, seeds, policies)]


def perform(options, haystack, cell):
    return run(options, haystack, cell)[0]


def run(options, haystack, cell, more=()):
    """What was measured, and the program's whole report."""
    needle, document = hidden(cell["kind"], haystack, cell["tokens"], cell["depth"], cell["seed"])
    report = trials.run(options, cell, document, needle.sentences,
                        ["--question", needle.question, "--answer-prefix", needle.answer_prefix, "--answer", needle.answer,
                         "--generate", "16", *trials.catalyst(cell), *more])
    found = needle.answer.strip(" .") in report["answer_text"]
    return trials.measured(report) | {"exact": float(found)}, report


# Beside that, NuC along the text: such trials are of a kind of their own.
TRACED_KEYS = [*KEYS, "windows"]
TAIL = 512  # last tokens of a text


def perform_traced(options, haystack, cell):
    """As perform(), with the mean NuC in each of some windows of the document, in its last tokens, and the needle's mean and
    largest. Needles of one sentence only."""
    if len(make(cell["kind"], cell["seed"]).sentences) > 1:
        raise ValueError(f"NuC is traced along needles of one sentence, which {cell['kind']} is not")
    measured, report = run(options, haystack, cell, ["--nuc"])
    turn = report["turns"][0]
    begin, needle = turn["document_position"], turn["needle_position"]
    document = report["nuc"][begin:begin + turn["document_tokens"]]
    borders = [round(i * len(document) / cell["windows"]) for i in range(cell["windows"] + 1)]
    of_needle = report["nuc"][needle:needle + turn["needle_tokens"]]
    return measured | {"nuc": [round(statistics.fmean(document[a:b]), 4) for a, b in itertools.pairwise(borders)],
                       "tail_nll": round(statistics.fmean(document[-TAIL:]), 4), "needle_depth": (needle - begin) / len(document),
                       "needle_nuc": round(statistics.fmean(of_needle), 4), "needle_peak": max(of_needle)}
