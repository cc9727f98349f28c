"""Sets of questions about documents, in their published forms, as one list of examples."""

import ast
import dataclasses
import itertools
import json
import pathlib
import random
import re

import groups
import scores
import trials

KEYS = ["set", "id", "length", "known", "policy", "settings", "pot", "model", "program"]
CHARACTERS_PER_TOKEN = 4.3  # of English, in SmolLM2's vocabulary
SHORT = "Answer with a few words only."
LETTERS = "Answer with the letters of the right choices."


@dataclasses.dataclass(frozen=True)
class Example:
    id: str
    document: str
    question: str
    answers: list  # right ones; the cross-entropy is of the first
    score: str  # a function of scores.py
    answer_prefix: str = "Answer:"
    generate: int = 32  # tokens
    classes: list = None
    first_line: bool = False
    gold: tuple = ()  # the sentences of the document that the answer rests on, word for word; none where the set names none

    @property
    def terms(self):
        """The question without what it says about the form of the answer."""
        return self.question.removesuffix(SHORT).removesuffix(LETTERS).strip()


def lines(path):
    with path.open() as file:
        return [json.loads(line) for line in file if line.strip()]


def in_paragraphs(titled):
    return "\n\n".join(f"{title}\n{text}" for title, text in titled)


def lengthened(titled, distractors, tokens, draw):
    """The paragraphs in a random order among enough distractors for about `tokens` tokens (RULER's way for questions)."""
    titled, used = list(titled), {title for title, _ in titled}
    length = sum(len(title) + len(text) for title, text in titled)
    for title, text in draw.sample(distractors, len(distractors)):
        if length >= tokens * CHARACTERS_PER_TOKEN:
            break
        if title not in used:
            titled.append((title, text))
            used.add(title)
            length += len(title) + len(text)
    draw.shuffle(titled)
    return titled


def questions(path, key, answer_of, paragraphs_of, gold_of, tokens):
    """Questions whose texts may be lengthened by paragraphs of the others."""
    rows = json.loads(path.read_text())
    everything = [paragraph for row in rows for paragraph in paragraphs_of(row)]
    for row in rows:
        draw = random.Random(f"{path.stem} {row[key]}")
        titled = lengthened(paragraphs_of(row), everything, tokens, draw)
        yield Example(str(row[key]), in_paragraphs(titled), f"{row['question']} {SHORT}", answer_of(row), "f1",
                      gold=gold_of(row))


def gold_of_hotpotqa(row):
    return tuple(sentences[i].strip() for title, sentences in row["context"] for name, i in row["supporting_facts"]
                 if name == title and i < len(sentences))


def gold_of_musique(row):
    return tuple(p["paragraph_text"].strip() for p in row["paragraphs"] if p["is_supporting"])


def hotpotqa(path, tokens):
    return questions(path, "_id", lambda row: [row["answer"]],
                     lambda row: [(title, "".join(sentences)) for title, sentences in row["context"]], gold_of_hotpotqa, tokens)


def musique(path, tokens):
    return questions(path, "id", lambda row: [row["answer"], *row["answer_aliases"]],
                     lambda row: [(p["title"], p["paragraph_text"]) for p in row["paragraphs"]], gold_of_musique, tokens)


LEVAL_SCORES = {"f1": ("f1", 32), "rouge": ("rouge_l", 200)}


def leval(path, tokens):
    for number, row in enumerate(lines(path)):
        if row["evaluation"] not in ("f1", "rouge", "exam"):
            continue  # marked by people or by other models
        choices = "topic" not in path.stem
        name, most = LEVAL_SCORES.get(row["evaluation"], ("choice" if choices else "exact", 16))
        for i, (question, right) in enumerate(zip(row["instructions"], row["outputs"])):
            how = {"f1": f" {SHORT}", "choice": f"\n{LETTERS}"}.get(name, "")
            yield Example(f"{number}-{i}", row["input"], question + how, [right], name, generate=most,
                          answer_prefix="" if name == "rouge_l" else "Answer:")


LONGBENCH_SCORES = {"gov_report": "rouge_l", "qmsum": "rouge_l", "multi_news": "rouge_l", "samsum": "rouge_l", "trec": "classification",
                    "passage_retrieval_en": "retrieval", "passage_count": "count"}
LONGBENCH_LONG = {"gov_report": 512, "qmsum": 512, "multi_news": 512, "samsum": 128, "narrativeqa": 128, "qasper": 128}


def longbench(path, tokens):
    for row in lines(path):
        name = row["dataset"].removesuffix("_e")
        score = LONGBENCH_SCORES.get(name, "f1")
        question = row["input"] or "Write a one-page summary of all of the text above."
        yield Example(row["_id"], row["context"], f"{question} {SHORT}" if score == "f1" else question, row["answers"], score,
                      generate=LONGBENCH_LONG.get(name, 32), classes=row["all_classes"], first_line=name in scores.FIRST_LINE,
                      answer_prefix="" if score == "rouge_l" else "Answer:")


def line_with(document, words):
    """The line of a document in which some words stand first."""
    place = document.index(words)
    begin, end = document.rfind("\n", 0, place) + 1, document.find("\n", place)
    return document[begin:end if end >= 0 else None].strip()


def ruler(path, tokens):
    for row in lines(path):
        document, _, end = row["input"].rpartition("\n")
        question, _, prefix = end.partition("? ")
        yield Example(str(row["index"]), document, question + "?", row["outputs"], "exact", generate=64, answer_prefix=prefix.strip(),
                      gold=(line_with(document, row["outputs"][0]),))


def longeval(path, tokens):
    """Of both kinds that there are: a line's number, or the first of several topics."""
    for number, row in enumerate(lines(path)):
        yield longeval_topic(number, row) if "topics" in row else longeval_line(number, row)


def longeval_topic(number, row):
    document, _, question = row["prompt"].rpartition("Now the record ends.")
    topic = row["topics"][0]
    announced = re.search(rf"[^.]*{re.escape(topic)}\.", document, re.IGNORECASE)
    return Example(str(number), document.strip(), question.strip(), [topic], "exact", generate=32, answer_prefix="The first topic is",
                   gold=(announced[0].strip(),) if announced else ())


def longeval_line(number, row):
    document, _, question = row["prompt"].rpartition("\n\n")
    name = row["random_idx"][0]
    question = question.strip() or f"What is the <REGISTER_CONTENT> in line {name}?"
    return Example(str(number), document, question, [str(row["expected_number"])], "exact", generate=16,
                   answer_prefix=f"The <REGISTER_CONTENT> in line {name} is <", gold=(row["correct_line"].strip(),))


def loogle(path, tokens):
    for number, row in enumerate(lines(path)):
        for i, pair in enumerate(ast.literal_eval(row["qa_pairs"])):
            yield Example(f"{number}-{i}", row["input"], f"{pair['Q']} {SHORT}", [pair["A"]], "f1",
                          gold=(pair["S"],) if pair["S"] and pair["S"] in row["input"] else ())


def passkey(path, tokens):
    for number, row in enumerate(lines(path)):
        yield Example(str(number), row["input"], "What is the pass key?", [row["target"]], "exact", generate=16,
                      answer_prefix="The pass key is", gold=(line_with(row["input"], row["target"]),))


def stories(path):
    """Those of a file of bAbI: lists of (number, line, question's answer and support or nothing)."""
    found = []
    for line in path.read_text().splitlines():
        number, _, words = line.strip().partition(" ")
        if number == "1":
            found.append([])
        if number:
            text, *more = (part.strip() for part in re.split(r"[\t|]", words))
            found[-1].append((int(number), text, more))
    return found


def spread(sentences, haystack, tokens, draw):
    """A text of about `tokens` tokens of the haystack with sentences in it, in their order, each after a sentence at random."""
    length = round(tokens * CHARACTERS_PER_TOKEN) - sum(map(len, sentences))
    if not 0 < length <= len(haystack):
        raise ValueError(f"the haystack has {len(haystack)} characters; {tokens} tokens take about {length} of them")
    begin = haystack.find("\n", draw.randrange(len(haystack) - length + 1)) + 1
    text = haystack[begin:begin + length]
    ends = [match.end() for match in re.finditer(r"\. ", text)] or [len(text)]
    for place, sentence in reversed(list(zip(sorted(draw.choices(ends, k=len(sentences))), sentences))):
        text = f"{text[:place]}{sentence} {text[place:]}"
    return text


def babi(path, tokens, haystack=""):
    """The last question of each story, whose lines are hidden in a haystack (BABILong's way). An earlier line of the same words as
    one that the answer rests on is left out: it stands in the text once."""
    for number, story in enumerate(stories(path)):
        _, question, (answer, support) = next(line for line in reversed(story) if line[2])
        lines_ = {i: text for i, text, more in story if not more}
        support = [int(i) for i in support.split()]
        gold = [lines_[i] for i in sorted(support)]
        facts = [text for i, text in lines_.items() if text not in gold or i in support]
        document = spread(facts, haystack, tokens or BABI_TOKENS, random.Random(f"{path.stem} {number}"))
        thing = re.fullmatch(r"Where is (.+)\?", question)
        prefix = f"{thing[1][0].upper()}{thing[1][1:]} is in the" if thing else "Answer:"
        yield Example(str(number), document, question, [answer], "exact", prefix, generate=16, gold=tuple(gold))


BABI_TOKENS = 3000
FORMS = {"hotpotqa": hotpotqa, "musique": musique, "leval": leval, "longbench": longbench, "ruler": ruler,
         "longeval": longeval, "loogle": loogle, "passkey": passkey, "babi": babi}


def load(text, tokens, haystack=None):
    """The examples of FORM:FILE, in the file's order. Texts that can be are lengthened to about `tokens`; haystack, a file, is needed
    by those that are hidden in one."""
    form, _, path = text.partition(":")
    if form not in FORMS or not path:
        raise ValueError(f"{text!r} must be FORM:FILE, with a form of {', '.join(FORMS)}")
    if form != "babi":
        return list(FORMS[form](pathlib.Path(path), tokens))
    if haystack is None:
        raise ValueError(f"{text} needs --haystack, a text to hide its lines in")
    return list(babi(pathlib.Path(path), tokens, pathlib.Path(haystack).read_text(errors="replace")))


def capped(examples, count):
    """At most `count`, spread over all: neighbours may be questions about one document."""
    if count is None or count >= len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]


def select(sets, length=0, group="all", count=20, longest=1 << 30, haystack=None):
    """{(set, id): example} of sets FORM:FILE: those of a group of rows (see groups.py) that are not too long, `count` at most."""
    found = {}
    for name in sets:
        form, _, path = name.partition(":")
        examples = load(name, length, haystack)
        own = [examples[i] for i in groups.numbers(form, group, len(examples))]
        for example in capped([e for e in own if len(e.document) <= longest * CHARACTERS_PER_TOKEN], count):
            found[set_name(form, path, haystack), example.id] = example
    return found


def set_name(form, path, haystack):
    """What tables and trials call a set."""
    stem = pathlib.Path(path).stem
    return f"{stem} in {groups.haystack_of(haystack)}" if form == "babi" else stem


def cells(options, examples, policies, length=0, known=("yes",), pot=None):
    """Trials of every combination, to be performed; of gold alone where it is known."""
    found = [{"set": set_, "id": id_, "length": length, "known": known, **trials.who(options, policy, pot)}
             for (set_, id_), known, policy in itertools.product(examples, known, policies)]
    return [cell for cell in found if cell["settings"] != "gold" or examples[cell["set"], cell["id"]].gold]


def expected(example):
    """The answer as it follows its prefix."""
    return ("" if example.answer_prefix.endswith("<") else " ") + example.answers[0].strip()


def perform(options, examples, cell):
    example = examples[cell["set"], cell["id"]]
    prefix = ["--answer-prefix", example.answer_prefix] if example.answer_prefix else []
    report = trials.run(options, cell, example.document, example.gold,
                        ["--question", example.question, "--terms", example.terms, *prefix, "--answer", expected(example), "--generate",
                         str(example.generate), *trials.catalyst(cell)])
    score = scores.best(getattr(scores, example.score), report["answer_text"], example.answers, example.classes, example.first_line)
    return trials.measured(report) | {"score": score, "scored_by": example.score}
