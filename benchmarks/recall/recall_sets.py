"""Texts and the questions that nobody knew while they were read, and the ways to recall."""

import dataclasses
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "quality"))

import datasets  # noqa: E402
import needles  # noqa: E402

DEPTHS = [0.1, 0.3, 0.5, 0.7, 0.9]
KINDS = list(needles.KINDS)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to recall; pot 0 is the reader's own."""
    steps: int = 1
    next: str = "draft"
    type: str = "int8"
    read_anew: bool = False
    prefix: bool = True
    draft_anew: bool = False
    pot: int = 0
    recent: int = 0
    landmark: str = ""
    run: int = 256
    over: str = "sum"
    behind: int = 0
    heads: tuple = ()
    share: float = 1.0

    @property
    def name(self):
        words = [f"{self.steps} step" + ("s" if self.steps > 1 else "") + (f" by {self.next}" if self.steps > 1 else "")]
        words += ["read anew"] if self.read_anew else []
        words += ["by a draft from what was read anew"] if self.draft_anew else []
        words += [self.type]
        words += [] if self.prefix else ["without the prefix"]
        words += [f"pot of {self.pot}"] if self.pot else []
        words += [f"{self.recent} recent"] if self.recent else []
        words += [f"{self.share:.0%} by {self.landmark} of {self.run}, {self.over}, {self.behind} behind" + (f", heads {' '.join(map(str, self.heads))}" if self.heads else "")] if self.landmark else []
        return ", ".join(words)

    def job(self):
        return dataclasses.asdict(self) | {"name": self.name}


def variant(text):
    """That of words such as 'steps=2 type=f32 read_anew=yes'."""
    types = {field.name: field.type for field in dataclasses.fields(Variant)}
    values = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in types or not value:
            raise ValueError(f"{word!r} must be NAME=VALUE, with a name of {', '.join(types)}")
        values[name] = value == "yes" if types[name] in (bool, "bool") else {"int": int, "float": float, "str": str}[
            getattr(types[name], "__name__", types[name])](value)
    return Variant(**values)


@dataclasses.dataclass(frozen=True)
class Text:
    """A document, or several of a conversation, and questions: dicts of name, question, answer_prefix, answer, gold and perhaps
    document. `tokens` is about what there is to read."""
    set: str
    id: str
    part: int  # parts are measured one after the other, so that each part gives a whole small table
    pot: int
    keep: int
    document: str
    questions: list
    tokens: int
    conversation: bool = False


def question(name, needle, document=""):
    return {"name": name, "question": needle.question, "answer_prefix": needle.answer_prefix, "answer": needle.answer,
            "gold": needle.sentences, "document": document}


def cut(haystack, tokens, seed):
    """A text of about `tokens` tokens that begins at a paragraph: the one that needles.hide() takes."""
    return needles.hide(needles.Needle([], "", "", ""), haystack, tokens, 0, seed)


def hide(text, placed):
    """The text with sentences, given as (depth, sentence), each after a sentence of it."""
    for depth, sentence in sorted(placed, reverse=True):
        place = text.find(". ", round(depth * (len(text) - 200)))
        place = len(text) if place < 0 else place + 2
        text = f"{text[:place]}{sentence} {text[place:]}"
    return text


def needle_text(haystack, tokens, row, seed):
    """A text with a number, a phrase and two sentences to be joined, each at another of the depths; over the rows 0 .. 4 each kind
    is at every depth once. Its questions, named KIND DEPTH."""
    placed, questions = [], []
    for k, kind in enumerate(KINDS):
        depth = DEPTHS[(row + 2 * k) % len(DEPTHS)]
        needle = needles.make(kind, seed)
        # As needles.hide(): the second of two sentences stands a tenth of the text after the first, or before it near the end.
        depths = [depth, depth + 0.1 if depth <= 0.85 else depth - 0.1]
        placed += zip(depths, needle.sentences)
        questions.append(question(f"{kind} {depth}", needle))
    return hide(cut(haystack, tokens, seed), placed), questions


def needle_texts(haystack, tokens, seeds, pot=2048, keep=1024, first_part=0):
    for part, seed in enumerate(seeds, first_part):
        for row in range(len(DEPTHS)):
            document, questions = needle_text(haystack, tokens, row, seed)
            yield Text(f"needles {tokens}", f"seed {seed}, {row}", part, pot, keep, document, questions, tokens)


def task_texts(form, path, group="test", count=None, parts=3, pot=512, keep=256):
    """Questions of a set whose data name the supporting sentences: of a group of its rows, `count` at most."""
    examples = datasets.select([f"{form}:{path}"], group=group, count=count).values()
    for number, example in enumerate(examples):
        asked = {"name": "answer", "question": example.question, "answer_prefix": example.answer_prefix,
                 "answer": datasets.expected(example), "gold": list(example.gold), "document": ""}
        yield Text(form, example.id, number * parts // len(examples), pot, keep, example.document, [asked],
                   round(len(example.document) / datasets.CHARACTERS_PER_TOKEN))


def conversation_texts(haystack, seeds, tokens=3500, parts=3):
    """Two documents, a number in the first and a phrase in the second, each asked for after its document, and the number once more
    at the end."""
    seeds = list(seeds)
    for i, seed in enumerate(seeds):
        draw = random.Random(f"conversation {seed}")
        number, phrase = needles.make("number", seed), needles.make("phrase", seed)
        first = hide(cut(haystack, tokens, seed), [(draw.choice(DEPTHS), number.sentences[0])])
        second = hide(cut(haystack, tokens, seed + 100), [(draw.choice(DEPTHS), phrase.sentences[0])])
        questions = [question("1: number in document 1", number, first), question("2: phrase in document 2", phrase, second),
                     question("3: the number again", number)]
        yield Text("conversation", f"seed {seed}", i * parts // len(seeds), 2048, 1024, "", questions, 2 * tokens, True)


ONE, TWO, THREE = Variant(), Variant(steps=2), Variant(steps=3)


def but(variants, **changes):
    return [dataclasses.replace(variant, **changes) for variant in variants]


FOUND = [Variant(steps=2, next="found_and_question", pot=1024)]

# What is read how, and then recalled how.
PLANS = {
    "needles 6000": {"full": [], "gold": [], "known": [], "reread": [ONE], "streaming_llm": [
        ONE, TWO, *but([ONE], read_anew=True), *but([ONE], type="f32"), *but([ONE], type="int4"), *but([ONE, TWO], prefix=False)]},
    "needles 24000": {"gold": [], "known": [], "reread": [ONE], "streaming_llm": [ONE, TWO, *but([ONE], read_anew=True), *but([ONE], prefix=False)]},
    "hotpotqa": {"full": [], "gold": [], "known": [], "reread": but([TWO], pot=1024), "streaming_llm": [
        ONE, TWO, *but([ONE, TWO, THREE], pot=1024), *but([ONE, TWO], pot=1024, read_anew=True), *but([TWO], pot=1024, type="f32"),
        *but([TWO], pot=1024, type="int4"), *but([TWO], pot=1024, prefix=False), *FOUND]},
    "musique": {"full": [], "gold": [], "known": [], "reread": but([TWO], pot=1024), "streaming_llm": [
        ONE, TWO, *but([ONE, TWO, THREE], pot=1024), *but([TWO], pot=1024, read_anew=True), *FOUND]},
    "conversation": {"full": [], "known": [], "reread": [], "streaming_llm": [None, ONE, TWO]},
}
# What takes long, and is only of the texts of the first part.
FIRST_PART = {
    "needles 6000": [Variant(type="tokens")],
    "hotpotqa": [Variant(type="tokens", pot=1024), Variant(steps=2, next="found", pot=1024)],
}
# Where a question that is known takes a reading of its own for too long, only of this kind.
KNOWN_KIND = {"needles 24000": "number"}


def plan_of(text):
    """{reading: variants}."""
    plan = dict(PLANS.get(text.set) or PLANS["needles 24000"])
    if text.part == 0:
        plan["streaming_llm"] = [*plan["streaming_llm"], *FIRST_PART.get(text.set, [])]
    return plan


def questions_of(text, reading):
    kind = KNOWN_KIND.get(text.set, "") if reading == "known" else ""
    return [question for question in text.questions if question["name"].startswith(kind)]
