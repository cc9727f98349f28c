"""Sets of questions about documents, in their published forms, as one list of examples."""

import ast
import dataclasses
import itertools
import json
import pathlib
import random

import scores
import trials

KEYS = ["set", "id", "length", "known", "policy", "settings", "pot", "model", "program"]
CHARACTERS_PER_TOKEN = 4.3  # of English, in SmolLM2's vocabulary
SHORT = "Answer with a few words only."


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
    needle: str = ""  # a phrase of the document that is needed


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


def questions(path, key, answer_of, paragraphs_of, tokens):
    """Questions whose texts may be lengthened by paragraphs of the others."""
    rows = json.loads(path.read_text())
    everything = [paragraph for row in rows for paragraph in paragraphs_of(row)]
    for row in rows:
        draw = random.Random(f"{path.stem} {row[key]}")
        titled = lengthened(paragraphs_of(row), everything, tokens, draw)
        yield Example(str(row[key]), in_paragraphs(titled), f"{row['question']} {SHORT}", answer_of(row), "f1")


def hotpotqa(path, tokens):
    return questions(path, "_id", lambda row: [row["answer"]],
                     lambda row: [(title, "".join(sentences)) for title, sentences in row["context"]], tokens)


def musique(path, tokens):
    return questions(path, "id", lambda row: [row["answer"], *row["answer_aliases"]],
                     lambda row: [(p["title"], p["paragraph_text"]) for p in row["paragraphs"]], tokens)


LEVAL_SCORES = {"f1": ("f1", 32), "rouge": ("rouge_l", 200)}


def leval(path, tokens):
    for number, row in enumerate(lines(path)):
        if row["evaluation"] not in ("f1", "rouge", "exam"):
            continue  # marked by people or by other models
        choices = "topic" not in path.stem
        name, most = LEVAL_SCORES.get(row["evaluation"], ("choice" if choices else "exact", 16))
        for i, (question, right) in enumerate(zip(row["instructions"], row["outputs"])):
            how = {"f1": f" {SHORT}", "choice": "\nAnswer with the letters of the right choices."}.get(name, "")
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


def ruler(path, tokens):
    for row in lines(path):
        document, _, end = row["input"].rpartition("\n")
        question, _, prefix = end.partition("? ")
        yield Example(str(row["index"]), document, question + "?", row["outputs"], "exact", generate=64, answer_prefix=prefix.strip(),
                      needle=row["outputs"][0])


def longeval_lines(path, tokens):
    for number, row in enumerate(lines(path)):
        document, _, question = row["prompt"].rpartition("\n\n")
        name = row["random_idx"][0]
        question = question.strip() or f"What is the <REGISTER_CONTENT> in line {name}?"
        yield Example(str(number), document, question, [str(row["expected_number"])], "exact", generate=16,
                      answer_prefix=f"The <REGISTER_CONTENT> in line {name} is <", needle=row["correct_line"].strip())


def loogle(path, tokens):
    for number, row in enumerate(lines(path)):
        for i, pair in enumerate(ast.literal_eval(row["qa_pairs"])):
            yield Example(f"{number}-{i}", row["input"], f"{pair['Q']} {SHORT}", [pair["A"]], "f1", needle=pair["S"])


def passkey(path, tokens):
    for number, row in enumerate(lines(path)):
        yield Example(str(number), row["input"], "What is the pass key?", [row["target"]], "exact", generate=16, answer_prefix="The pass key is",
                      needle=row["target"])


FORMS = {"hotpotqa": hotpotqa, "musique": musique, "leval": leval, "longbench": longbench, "ruler": ruler,
         "longeval": longeval_lines, "loogle": loogle, "passkey": passkey}


def load(text, tokens):
    """The examples of FORM:FILE, in the file's order. Texts that can be are lengthened to about `tokens`."""
    form, _, path = text.partition(":")
    if form not in FORMS or not path:
        raise ValueError(f"{text!r} must be FORM:FILE, with a form of {', '.join(FORMS)}")
    return list(FORMS[form](pathlib.Path(path), tokens))


def select(sets, length=0, first=0, count=20, longest=1 << 30, every=1):
    """{(set, id): example} of sets FORM:FILE: one in `every` of those that are not too long, `count` of them."""
    found = {}
    for name in sets:
        short = [e for e in load(name, length) if len(e.document) <= longest * CHARACTERS_PER_TOKEN]
        for example in short[first::every][:count]:
            found[pathlib.Path(name.partition(":")[2]).stem, example.id] = example
    return found


def cells(options, examples, policies, length=0, known=("yes",), pot=None):
    """Trials of every combination, to be performed."""
    return [{"set": set_, "id": id_, "length": length, "known": known, **trials.who(options, policy, pot)}
            for (set_, id_), known, policy in itertools.product(examples, known, policies)]


def perform(options, examples, cell):
    example = examples[cell["set"], cell["id"]]
    prefix = ["--answer-prefix", example.answer_prefix] if example.answer_prefix else []
    space = "" if example.answer_prefix.endswith("<") else " "
    report = trials.run(options, cell, example.document,
                        ["--question", example.question, *prefix, "--answer", space + example.answers[0].strip(), "--generate",
                         str(example.generate), *(["--needle", example.needle] if example.needle else []),
                         *trials.catalyst(cell)])
    score = scores.best(getattr(scores, example.score), report["answer_text"], example.answers, example.classes, example.first_line)
    return trials.measured(report) | {"score": score, "scored_by": example.score, "expected": example.answers[0]}
