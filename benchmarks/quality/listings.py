"""Needles among their like: a row of a table, a function in a file of code, a turn of a dialogue."""

import dataclasses
import itertools
import random

PROSE = 4.3  # characters per token of SmolLM2's vocabulary
FIRST = ["Bram", "Ash", "Thorn", "Wick", "Holt", "Marl", "Keld", "Raven", "Stan", "Culm", "Pen", "Elm", "Oak", "Dun", "Fern", "Hart",
         "Gild", "Lang", "Mill", "North", "Sed", "Tor", "Up", "Wal", "Yar", "Bex", "Cran", "Dray", "Ever", "Fal"]
SECOND = ["ford", "bury", "ham", "ley", "ton", "wick", "combe", "field", "stead", "worth", "bridge", "mere", "don", "by", "thorpe", "well",
          "minster", "cliff", "gate", "port"]
TRADES = ["wool", "salt", "slate", "tin", "barley", "timber", "cheese", "herring", "leather", "glass"]
SPEAKERS = ["Martha", "Edwin", "Clara", "Tobias", "Agnes", "Jonas"]
SIZES = ["small", "heavy", "broken", "painted", "borrowed", "polished", "rusty", "spare", "dented", "old"]
COLOURS = ["green", "silver", "yellow", "purple", "orange", "crimson", "golden", "grey"]
THINGS = ["teapot", "lantern", "violin", "umbrella", "compass", "saddle", "mirror", "basket"]
PLACES = ["under the stairs", "behind the stove", "in the attic", "below the bridge", "inside the bell", "beside the well"]
TALK = ["It looks like rain again.", "I have not slept well.", "Did you hear the bell just now?", "The bread was good this morning.",
        "Nobody told me about it.", "We should write to your sister.", "That is what he always says.", "Let us talk about it later."]


def shuffled(draw, *lists):
    """All combinations, in a random order."""
    found = list(itertools.product(*lists))
    draw.shuffle(found)
    return iter(found)


def villages(draw):
    for first, middle, second in shuffled(draw, FIRST, ["", "ing", "er"], SECOND):
        yield first + middle + second


def rows(draw):
    """(row of a table, question, answer's prefix, answer)"""
    for village in villages(draw):
        households = str(draw.randrange(100, 1000))
        row = f"{village},{draw.choice(TRADES)},{draw.randrange(1000, 1900)},{households}"
        yield row, f"How many households does {village} have?", f"In {village}, the number of households is", f" {households}"


def functions(draw):
    for village in villages(draw):
        name, by, over, and_ = f"convert_{village.lower()}", *(draw.randrange(11, 100) for _ in range(3))
        body = f"weight * {by} + height // {over} - {and_}"
        yield (f"def {name}(weight, height):\n    return {body}\n", f"What does the function {name} return?",
               f"{name} returns", f" {body}")


def turns(draw):
    for speaker, size, colour, thing in shuffled(draw, SPEAKERS, SIZES, COLOURS, THINGS):
        what, place = f"the {size} {colour} {thing}", draw.choice(PLACES)
        others = "\n".join(f"{draw.choice(SPEAKERS)}: {draw.choice(TALK)}" for _ in range(2))
        yield f"{speaker}: I put {what} {place}.\n{others}", f"Where did {speaker} put {what}?", f"{speaker} put {what}", f" {place}"


@dataclasses.dataclass(frozen=True)
class Kind:
    items: object  # a function that draws them
    per_token: float  # characters
    head: str = ""  # first line
    most: int = 1 << 30  # items; prose stands around them if there is room


KINDS = {"cell": Kind(rows, 1.64, "village,trade,founded,households", 500), "definition": Kind(functions, 2.78), "turn": Kind(turns, 3.47)}


def listed(kind, tokens, draw):
    """As many items as there is room for, and the tokens that are left."""
    items, left = [], tokens - len(kind.head) / kind.per_token
    for item in kind.items(draw):
        if left <= 0 or len(items) == kind.most:
            return items, max(0, left)
        items.append(item)
        left -= (len(item[0]) + 1) / kind.per_token
    raise ValueError(f"there are too few items for {tokens} tokens")


def make(name, haystack, tokens, depth, seed):
    """(text of about so many tokens, its parts that the answer rests on, question, answer's prefix, answer). The item that is asked
    for stands at the depth."""
    kind, draw = KINDS[name], random.Random(f"{name} {seed}")
    items, left = listed(kind, tokens, draw)
    item, question, prefix, answer = items[min(len(items) - 1, round(depth * len(items)))]
    head = [kind.head] if kind.head else []
    text = "\n".join([*head, *(each for each, *_ in items)])
    if left > 0:
        prose = haystack_of(haystack, round(left * PROSE), draw)
        place = prose.find("\n", round(depth * (len(prose) - 1)))
        place = len(prose) if place < 0 else place
        text = f"{prose[:place]}\n\n{text}\n\n{prose[place:].lstrip()}"
    return text, [*head, item.split("\n")[0] if name == "turn" else item.strip()], question, prefix, answer


def haystack_of(haystack, length, draw):
    if length > len(haystack):
        raise ValueError(f"the haystack has {len(haystack)} characters, but {length} are wanted")
    begin = haystack.find("\n", draw.randrange(len(haystack) - length + 1)) + 1
    return haystack[begin:begin + length]
