"""The harness of benchmarks/quality: its scores against LongBench's own, its texts, and trials that go on where they stopped."""

import csv
import importlib.util
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

QUALITY = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/quality"
sys.path.insert(0, str(QUALITY))

import datasets  # noqa: E402
import drawing  # noqa: E402
import groups  # noqa: E402
import needles  # noqa: E402
import plan  # noqa: E402
import scores  # noqa: E402
import tables  # noqa: E402
import trials  # noqa: E402

# What LongBench's metrics.py (commit 2e00731, with rouge 1.0.1) gives: score, answer, right answer, classes, value.
LONGBENCH = [
    ('f1', 'The answer is Paris, the capital.', 'Paris', None, 0.4),
    ('f1', 'a spirit', 'spirit spirit', None, 0.6666666666666666),
    ('f1', '', 'Paris', None, 0),
    ('f1', 'An A-level; the U.S. of America', 'U.S. of america', None, 0.8571428571428571),
    ('f1', 'no', 'yes', None, 0),
    ('rouge_l', 'The cat sat on the mat. It was happy there.', 'The cat lay on the mat. The dog was happy.', None, 0.7368421002770082),
    ('rouge_l', 'One sentence only', 'Another, quite different text. With two sentences.', None, 0.0),
    ('rouge_l', '', 'something', None, 0.0),
    ('rouge_l', 'police gave the camp a two day reprieve on monday and arrested four people near city hall', 'Police gave the camp a reprieve. Four people were arrested near City Hall on Monday.', None, 0.43749999501953124),
    ('count', 'There are 7 of 12, so 7.', '7', None, 0.6666666666666666),
    ('count', 'none', '7', None, 0.0),
    ('retrieval', 'Paragraph 3 or 17', 'Paragraph 17', None, 0.5),
    ('retrieval', '17', 'Paragraph 17', None, 1.0),
    ('classification', 'a city', 'city', ['city', 'other city', 'country'], 1.0),
    ('classification', 'other city', 'other city', ['city', 'other city', 'country'], 1.0),
    ('classification', 'city or country', 'city', ['city', 'other city', 'country'], 0.5),
    ('classification', 'state', 'city', ['city', 'other city', 'country'], 0.0),
]

# A program that answers like infinipot-read, without a model: its NLL tells what it was called with.
PROGRAM = """#!/usr/bin/env python3
import json, sys
given = [word for word in sys.argv[1:] if word != "--nuc"]
a = dict(zip(given[::2], given[1::2]))
text = open(a["--document"]).read()
if a["--policy"] == "broken":
    sys.exit("no such policy")
if "--archive" in a:
    open(a["--archive"], "x").close()  # of no other trial
gold = [value for name, value in zip(given[::2], given[1::2]) if name == "--needle"]
needle = text.find(a.get("--needle", "?"))
there = sum(sentence in text for sentence in gold) / len(gold) if gold else None
turn = {"document_tokens": len(text), "document_position": 5, "needle_position": 5 + needle, "needle_tokens": 10}
# Characters are tokens, 1 nat each; the needle's are 3, the last of them 7.
nuc = {"nuc": [9] * 5 + [3 if needle <= i < needle + 9 else 7 if i == needle + 9 else 1 for i in range(len(text))] + [9] * 5}
print(json.dumps({"answer_nll": len(a.get("--pot", "")) + (a["--catalyst"] == "@prompt"),
                  "hit_rate": there, "gold_kept": there, "answer_kept": None if there is None else there / 2, "answer_text": a["--answer"] + " indeed",
                  "document_tokens": len(text), "distillations": 3, "nan_scores": 0, "pot_bytes": 1 << 20,
                  "prefill_seconds": 5.0, "distill_seconds": 1.0,
                  "turns": [turn], **(nuc if "--nuc" in sys.argv else {})}))
"""

# One that answers like infinipot-distil-once: the longer the words of a setting, the more it loses, of NLL and of gold. Short texts
# are easier by a nat.
DISTIL_ONCE = """#!/usr/bin/env python3
import json, sys
for line in sys.stdin:
    job = json.loads(line)
    text = open(job["document"]).read()
    if "broken" in job["settings"]:
        print(json.dumps({"error": "no such setting"}), flush=True)
        continue
    length = {"full": 0} | {name: len(" ".join(words)) for name, words in job["settings"].items()}
    result = {"tokens": len(text)}
    if job.get("nll", True):
        result["answer_nll"] = {name: (2 if len(text) > 500 else 1) + words / 10 for name, words in length.items()}
    assert all(sentence in text for sentence in job["gold"]), job
    if job["gold"]:
        result["gold_kept"] = {name: 1 - words / 100 for name, words in length.items()}
        result["answer_kept"] = {name: float(words < 10) for name, words in length.items()}
    print(json.dumps(result), flush=True)
"""

HAYSTACK = "\n".join(f"Paragraph {i} says little. It goes on. It ends here." for i in range(2000))


class Scores(unittest.TestCase):
    def test_equal_longbench(self):
        for name, answer, right, classes, value in LONGBENCH:
            if name == "rouge_l" and importlib.util.find_spec("rouge") is None:
                continue
            with self.subTest(name=name, answer=answer):
                self.assertAlmostEqual(getattr(scores, name)(answer, right, classes), value, places=12)

    def test_best_of_several_and_of_the_first_line(self):
        self.assertEqual(scores.best(scores.f1, "Paris", ["London", "Paris"]), 1)
        self.assertEqual(scores.best(scores.f1, "\nParis\nLondon", ["Paris"], first_line=True), 1)
        self.assertEqual(scores.best(scores.f1, "Paris", []), 0)

    def test_exact_and_choice(self):
        self.assertEqual(scores.exact("it is The Answer.", "answer"), 1)
        self.assertEqual(scores.exact("it is", "answer"), 0)
        for answer, right, value in [("B. because", "B", 1), ("Answer: C", "C", 1), ("A, C", "AC", 1), ("A", "AC", 0),
                                     ("because", "B", 0), ("", "B", 0)]:
            self.assertEqual(scores.choice(answer, right), value, answer)


class Needles(unittest.TestCase):
    def test_are_the_same_for_the_same_seed(self):
        for kind in needles.KINDS:
            self.assertEqual(needles.make(kind, 3), needles.make(kind, 3))
            self.assertGreater(len({needles.make(kind, seed).answer for seed in range(9)}), 4)

    def test_stand_at_their_depth_and_can_be_answered(self):
        for kind in needles.KINDS:
            for depth in (0, 0.25, 0.5, 1):
                needle = needles.make(kind, 1)
                text = needles.hide(needle, HAYSTACK, 3000, depth, 1)
                self.assertEqual(needles.hide(needle, HAYSTACK, 3000, depth, 1), text)
                for sentence in needle.sentences:
                    self.assertEqual(text.count(sentence), 1)
                self.assertAlmostEqual(text.find(needle.sentences[0]) / len(text), depth, delta=0.03)
                self.assertIn(needle.answer.strip(" ."), needle.sentences[-1])
                self.assertNotIn(needle.answer.strip(" ."), needle.answer_prefix)

    def test_stand_among_their_like(self):
        for kind in needles.listings.KINDS:
            for depth in (0, 0.3, 0.99):
                needle, text = needles.hidden(kind, HAYSTACK, 2500, depth, 1)
                self.assertEqual(needles.hidden(kind, HAYSTACK, 2500, depth, 1), (needle, text))
                for part in needle.sentences:
                    self.assertEqual(text.count(part), 1, part)
                self.assertAlmostEqual(text.find(needle.sentences[-1]) / len(text), depth, delta=0.05)
                self.assertIn(needle.answer.strip(), needle.sentences[-1])
                self.assertNotIn(needle.answer.strip(), needle.question + needle.answer_prefix)
                others = {needles.hidden(kind, HAYSTACK, 2500, depth, seed)[0].answer for seed in range(9)}
                self.assertGreater(len(others), 3)

    def test_a_table_has_at_most_500_rows_and_prose_around(self):
        needle, text = needles.hidden("cell", HAYSTACK * 9, 12000, 0.5, 1)
        header = text.index(needle.sentences[0])
        rows = text[header:].split("\n\n")[0].split("\n")
        self.assertEqual(len(rows), 501)
        self.assertTrue(all(row.count(",") == 3 for row in rows))
        self.assertGreater(header, 1000)
        self.assertIn(needle.sentences[1], rows)
        self.assertEqual(len({row.split(",")[0] for row in rows}), 501)

    def test_are_traced_only_if_they_are_one_sentence(self):
        with self.assertRaisesRegex(ValueError, "of one sentence, which joined is not"):
            needles.perform_traced(None, HAYSTACK, {"kind": "joined", "seed": 1})

    def test_refuse_a_haystack_that_is_too_short(self):
        with self.assertRaisesRegex(ValueError, "has 5 characters"):
            needles.hide(needles.make("number", 1), "short", 3000, 0.5, 1)


class Datasets(unittest.TestCase):
    def test_rows_of_no_two_groups_overlap(self):
        for form, slices in groups.TABLE.items():
            if form == "needles":
                continue
            self.assertLessEqual(set(slices), {"used_up", "development", "test"})
            own = {group: groups.numbers(form, group, 500) for group in slices}
            together = [number for numbers in own.values() for number in numbers]
            self.assertEqual(len(set(together)), len(together), form)
            self.assertTrue(own["test"], form)
        of_needles = groups.TABLE["needles"]
        self.assertFalse(set(of_needles["development"]["haystacks"]) & set(of_needles["test"]["haystacks"]))
        self.assertEqual(set(groups.TABLE), {*datasets.FORMS, "needles"})

    def test_rows_are_those_of_the_table(self):
        self.assertEqual(groups.numbers("hotpotqa", "development", 100), list(range(40, 64)))
        self.assertEqual(groups.numbers("hotpotqa", "test", 100), list(range(64, 100)))
        self.assertEqual(groups.numbers("musique", "development", 10), [0, 4, 8])
        self.assertEqual(groups.numbers("musique", "test", 10), [1, 2, 3, 5, 6, 7, 9])
        self.assertEqual(groups.numbers("babi", "test", 150), list(range(100, 150)))
        self.assertEqual(groups.numbers("longeval", "test", 3), [0, 1, 2])
        self.assertEqual(groups.numbers("hotpotqa", "all", 3), [0, 1, 2])
        with self.assertRaisesRegex(ValueError, "loogle has no development rows, but test"):
            groups.numbers("loogle", "development", 5)

    def test_needles_have_haystacks_of_their_group(self):
        groups.check_needles("development", "texts/jargon.txt", [1, 3])
        groups.check_needles("test", "texts/snappy_alice29.txt", [77])
        groups.check_needles("all", "other.txt", [77])
        for group, haystack, seeds, message in [("development", "emma.txt", [1], "emma.txt is none of the development haystacks: jargon"),
                                                ("test", "jargon.txt", [1], "jargon.txt is none of the test haystacks: bible, emma"),
                                                ("development", "jargon.txt", [3, 4], "seeds 3 4 are not all of the development seeds 1:4")]:
            with self.assertRaisesRegex(ValueError, message):
                groups.check_needles(group, haystack, seeds)

    def test_a_cap_spreads_over_all(self):
        self.assertEqual(datasets.capped(list("abcdefg"), 3), ["a", "c", "e"])
        self.assertEqual(datasets.capped(list("abc"), 3), ["a", "b", "c"])
        self.assertEqual(datasets.capped(list("abc"), None), ["a", "b", "c"])

    def test_gold_is_where_each_form_names_it(self):
        (hotpotqa,) = self.load("hotpotqa", [{"_id": "x", "question": "?", "answer": "a", "context": [
            ["T", ["One.", " Two.", " Three."]], ["U", ["Four.", " Five."]]], "supporting_facts": [["U", 1], ["T", 0], ["T", 7], ["V", 0]]}])
        self.assertEqual(set(hotpotqa.gold), {"Five.", "One."})
        (musique,) = self.load("musique", [{"id": "x", "question": "?", "answer": "a", "answer_aliases": [], "paragraphs": [
            {"title": "T", "paragraph_text": "One. Two.", "is_supporting": True},
            {"title": "U", "paragraph_text": "Three.", "is_supporting": False}]}])
        self.assertEqual(musique.gold, ("One. Two.",))
        (ruler,) = self.load("ruler", [{"index": 0, "outputs": ["77"], "input": "Memorize.\nThat of a is: 66.\nThat of b is: 77.\n"
                                        "What is that of b? That of b is"}])
        self.assertEqual((ruler.gold, ruler.question), (("That of b is: 77.",), "What is that of b?"))
        (passkey,) = self.load("passkey", [{"input": "Grass.\nThe pass key is 5. 5 is it.\nSky.", "target": "5"}])
        self.assertEqual(passkey.gold, ("The pass key is 5. 5 is it.",))
        loogle = self.load("loogle", [{"input": "One. Two.", "qa_pairs": str([{"Q": "?", "A": "a", "S": s} for s in ("Two.", "Three.", "")])}])
        self.assertEqual([e.gold for e in loogle], [("Two.",), (), ()])
        for example in (hotpotqa, musique, ruler, passkey, loogle[0]):
            self.assertTrue(all(sentence in example.document for sentence in example.gold))

    def test_gold_alone_is_in_the_order_of_the_text(self):
        document = "T\nOne. Two. Three.\n\nU\nFour. Five."
        self.assertEqual(trials.gold_text(document, ["Five.", "Three.", "One."]), "One. Three.\nFive.")
        self.assertEqual(trials.gold_text(document, ["One.", "One."]), "One.")
        with self.assertRaises(ValueError):
            trials.gold_text(document, ["Six."])

    def test_stories_are_hidden_in_order(self):
        story = ["1 Ann went to the hall.", "2 Bob went to the park.", "3 Where is Bob? \tpark\t2", "4 Ann went to the park.",
                 "5 Ann went to the hall.", "6 Where is Ann? |hall|5"]
        with tempfile.TemporaryDirectory() as folder:
            path, haystack = pathlib.Path(folder) / "qa1.txt", pathlib.Path(folder) / "snappy_hay.txt"
            path.write_text("\n".join([*story, *story[:2], "3 Where is the bag? \tpark\t2"]) + "\n")
            haystack.write_text(HAYSTACK)
            first, second = datasets.load(f"babi:{path}", 2000, haystack)
            self.assertEqual(datasets.load(f"babi:{path}", 2000, haystack), [first, second])
            self.assertEqual(len(datasets.load(f"babi:{path}", 0, haystack)[0].document) // 4.3, datasets.BABI_TOKENS)
            chosen = datasets.select([f"babi:{path}"], 2000, "development", haystack=haystack)
            with self.assertRaisesRegex(ValueError, "needs --haystack"):
                datasets.load(f"babi:{path}", 2000)
            with self.assertRaisesRegex(ValueError, "90000 tokens take about"):
                datasets.load(f"babi:{path}", 90_000, haystack)
        self.assertEqual(list(chosen), [("qa1 in hay", "0"), ("qa1 in hay", "1")])
        self.assertEqual((first.question, first.answer_prefix, first.answers, first.gold),
                         ("Where is Ann?", "Ann is in the", ["hall"], ("Ann went to the hall.",)))
        self.assertEqual((second.question, second.answer_prefix, second.answers, second.gold),
                         ("Where is the bag?", "The bag is in the", ["park"], ("Bob went to the park.",)))
        self.assertEqual(first.document.count("Ann went to the hall."), 1, "the first of two lines that say the same is left out")
        places = [first.document.find(line) for line in ("Bob went to the park.", "Ann went to the park.", "Ann went to the hall.")]
        self.assertEqual(places, sorted(places))
        self.assertGreater(places[0], 0)
        self.assertAlmostEqual(len(first.document), 2000 * datasets.CHARACTERS_PER_TOKEN, delta=100)
        self.assertNotIn("Where is", first.document)
        for place in places:
            self.assertEqual(first.document[place - 2:place], ". ", "after a sentence")

    def load(self, form, rows, tokens=0):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "file.jsonl"
            one = form in ("hotpotqa", "musique")
            path.write_text(json.dumps(rows) if one else "\n".join(map(json.dumps, rows)))
            return datasets.load(f"{form}:{path}", tokens)

    def test_longbench(self):
        row = {"input": "Who?", "context": "A text.", "answers": ["he", "she"], "all_classes": None, "_id": "x", "language": "en"}
        qa, news, trec = self.load("longbench", [row | {"dataset": "hotpotqa"}, row | {"dataset": "multi_news", "input": ""},
                                                 row | {"dataset": "trec_e", "all_classes": ["he"]}])
        self.assertEqual((qa.score, qa.answers, qa.document, qa.first_line), ("f1", ["he", "she"], "A text.", False))
        self.assertEqual((news.score, news.answer_prefix, news.generate), ("rouge_l", "", 512))
        self.assertEqual((trec.score, trec.classes, trec.first_line), ("classification", ["he"], True))

    def test_leval_leaves_out_what_people_mark(self):
        row = {"input": "A text.", "instructions": ["Who?", "Where?"], "outputs": ["he", "there"]}
        found = self.load("leval", [row | {"evaluation": how} for how in ("f1", "human", "LLM", "exam", "rouge")])
        self.assertEqual([(e.id, e.score) for e in found], [("0-0", "f1"), ("0-1", "f1"), ("3-0", "choice"), ("3-1", "choice"),
                                                            ("4-0", "rouge_l"), ("4-1", "rouge_l")])

    def test_paragraphs_are_lengthened_by_others(self):
        rows = [{"_id": str(i), "question": f"{i}?", "answer": "a", "context": [[f"Title {i} {j}", ["x" * 400]] for j in range(4)],
                 "supporting_facts": []} for i in range(20)]
        plain, long = self.load("hotpotqa", rows)[3], self.load("hotpotqa", rows, 2000)[3]
        self.assertEqual(long, self.load("hotpotqa", rows, 2000)[3])
        for j in range(4):
            self.assertEqual(long.document.count(f"Title 3 {j}\n"), 1)
            self.assertIn(f"Title 3 {j}\n", plain.document)
        self.assertAlmostEqual(len(long.document) / datasets.CHARACTERS_PER_TOKEN, 2000, delta=150)
        self.assertLess(len(plain.document), 1800)

    def test_refuse_other_forms(self):
        with self.assertRaisesRegex(ValueError, "form of hotpotqa"):
            datasets.load("other:file", 0)


class Programs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.folder / "program"
        self.program.write_text(PROGRAM)
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        (self.folder / "haystack.txt").write_text(HAYSTACK)

    def call(self, name, *more):
        return subprocess.run([sys.executable, QUALITY / name, "--model", "m.gguf", "--program", self.program, "--out",
                               self.folder / "out.jsonl", *more], capture_output=True, text=True)

    def needle(self, *more):
        return self.call("infinipot-needle", "--csv", self.folder / "out.csv", "--haystack", self.folder / "haystack.txt", "--lengths", "2000", "--seeds", "1", "2",
                         *more)

    def lines(self):
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def test_needle_goes_on_where_it_stopped(self):
        first = self.needle("--policies", "full", "some=infinipot --kernel 17", "--depths", "0.5")
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertEqual(len(self.lines()), 4)
        self.assertIn("4/4 number, 2000, 0.5, ", first.stderr)
        self.assertNotIn("m.gguf", first.stderr)
        again = self.needle("--policies", "full", "some=infinipot --kernel 17", "--depths", "0.5", "0.9")
        self.assertEqual(len(self.lines()), 8)
        self.assertIn("4/4", again.stderr)
        self.assertTrue(all(line["exact"] == 1 and line["hit_rate"] == 1 for line in self.lines()))
        self.needle("--policies", "some=infinipot --kernel 3", "--depths", "0.5")
        self.assertEqual(len(self.lines()), 10, "other settings under the same name are other trials")

    def test_needle_sums_up(self):
        done = self.needle("--policies", "full", "--known", "yes", "no", "--depths", "0.1", "0.5")
        self.assertIn("| full", done.stdout)
        rows = (self.folder / "out.csv").read_text().splitlines()
        self.assertEqual(rows[0], "kind,known,policy,tokens,depth,trials,answer_nll,answer_nll_error,lost,lost_error,lost_median,over_1,"
                         "gold_kept,gold_kept_error,answer_kept,answer_kept_error,hit_rate,hit_rate_error,exact,exact_error,cost,cost_error")
        self.assertIn("number,yes,full,2000,0.1,2,1.0,0.0,0.0,0.0,0.0,0,1.0,0.0,0.5,0.0,1.0,0.0,1.0,0.0,0.25,0.0", rows)
        self.assertIn("number,no,full,2000,0.5,2,0.0,0.0,0.0,0.0,0.0,0,1.0,0.0,0.5,0.0,1.0,0.0,1.0,0.0,0.25,0.0", rows)

    def test_each_trial_has_an_archive_of_its_own(self):
        done = self.needle("--policies", "recalled=streaming_llm --archive @archive", "--depths", "0.5", "0.9")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([line["settings"] for line in self.lines()], ["streaming_llm --archive @archive"] * 4)
        self.assertFalse((self.folder / "@archive").exists() or pathlib.Path("@archive").exists())

    def test_needles_of_every_kind_with_every_catalyst(self):
        done = self.needle("--policies", "full", "--kinds", *needles.ALL_KINDS, "--known", "yes", "question", "no", "--depths", "0.5")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.lines()), 2 * 3 * len(needles.ALL_KINDS))
        self.assertTrue(all(line["answer_nll"] == (line["known"] == "yes") for line in self.lines()))  # the prompt's catalyst alone

    def test_gold_as_a_policy_reads_gold_alone(self):
        done = self.needle("--kinds", "joined", "--depths", "0.5", "--policies", "full", "gold")
        self.assertEqual(done.returncode, 0, done.stderr)
        read = {line["seed"]: line["document_tokens"] for line in self.lines() if line["policy"] == "gold"}  # characters, here
        for seed in (1, 2):
            first, second = needles.make("joined", seed).sentences
            self.assertEqual(read[seed], len(f"{first}\n{second}"))
        self.assertTrue(all(line["gold_kept"] == 1 for line in self.lines()))
        self.assertGreater(min(line["document_tokens"] for line in self.lines() if line["policy"] == "full"), 7000)

    def sweep(self, *more):
        (self.folder / "distil").write_text(DISTIL_ONCE)
        (self.folder / "distil").chmod(0o755)
        (self.folder / "jargon.txt").write_text(HAYSTACK)
        return self.call("infinipot-sweep", "--program", self.folder / "distil", "--haystack", self.folder / "jargon.txt", "--tokens", "2000",
                         "--seeds", "1", "--csv", self.folder / "sweep.csv", *more)

    def swept(self, *columns):
        """Those columns of the CSV, and its settings."""
        with (self.folder / "sweep.csv").open() as file:
            return {(row["set"], row["setting"]): tuple(row[column] for column in columns) for row in csv.DictReader(file)}

    def test_sweep(self):
        done = self.sweep("--settings", "default", "wide=--kernel 33")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.swept("options", "texts", "answer_nll", "lost", "lost_error", "lost_median", "over_1"),
                         {("needle", "full"): ("", "5", "2.0", "0.0", "0.0", "0.0", "0"),
                          ("needle", "gold"): ("", "5", "1.0", "-1.0", "0.0", "-1.0", "0"),
                          ("needle", "default"): ("", "5", "2.0", "0.0", "0.0", "0.0", "0"),
                          ("needle", "wide"): ("--kernel 33", "5", "3.1", "1.1", "0.0", "1.1", "5")})
        self.assertEqual(len(self.lines()), 5)
        self.assertEqual({line["keep"] for line in self.lines()}, {line["keep"] for line in self.lines()[:1]})
        again = self.sweep("--settings", "default", "wide=--kernel 33", "more=--kernel 335")
        self.assertEqual(self.swept("options", "lost")["needle", "more"], ("--kernel 335", "1.2"))
        self.assertTrue(all(set(line["answer_nll"]) == {"full", "--kernel 335"} for line in self.lines()[5:]), "what is known is not run again")
        self.assertEqual(self.sweep("--settings", "default").stderr, "")
        self.sweep("--settings", "two=--catalyst 'a b' --catalyst c")
        self.assertEqual(self.swept("lost")["needle", "two"], ("2.7",), "quoted words are one")
        self.sweep("--unknown")
        self.assertEqual(self.swept("options", "lost")["needle", "reread"], ("--policy reread", "1.5"))
        self.assertIn("default", again.stdout)

    def test_sweep_compares_settings_text_by_text(self):
        self.sweep("--settings", "wide=--kernel 33")
        columns = ["gold_kept", "answer_kept", *(f"{m}_against{e}" for m in ("answer_nll", "gold_kept", "answer_kept") for e in ("", "_error"))]
        self.assertEqual(self.swept(*columns)["needle", "wide"], ("0.89", "0.0", "1.1", "0.0", "-0.11", "0.0", "-1.0", "0.0"))
        self.assertEqual(self.swept(*columns)["needle", "default"], ("1.0", "1.0", *["0.0"] * 6))
        self.sweep("--settings", "wide=--kernel 33", "two=--kernel 3 --sinks 0", "--against", "wide")
        self.assertEqual(self.swept("answer_nll_against", "gold_kept_against")["needle", "two"], ("0.9", "-0.09"))
        self.assertNotIn(("needle", "default"), self.swept("lost"))
        wrong = self.sweep("--settings", "wide=--kernel 33", "--against", "narrow")
        self.assertIn("--against narrow is none of the settings: wide", wrong.stderr)
        self.assertNotEqual(wrong.returncode, 0)

    def test_sweep_without_nll_asks_nothing(self):
        done = self.sweep("--settings", "wide=--kernel 33", "--no-nll")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(all("answer_nll" not in line and set(line["gold_kept"]) == {"", "full", "--kernel 33"} for line in self.lines()))
        self.assertEqual(self.swept("answer_nll", "gold_kept", "gold_kept_against", "answer_nll_against")["needle", "wide"],
                         ("", "0.89", "-0.11", ""))
        self.assertNotIn("answer_nll", done.stdout)
        self.sweep("--settings", "wide=--kernel 33")
        self.assertEqual(len(self.lines()), 10, "answers are asked for when they are wanted")
        self.sweep("--settings", "wide=--kernel 33", "--no-nll")
        self.assertEqual(len(self.lines()), 10)

    def test_sweep_takes_sets_and_their_rows(self):
        hotpotqa, news = self.folder / "hotpotqa.json", self.folder / "news.jsonl"
        hotpotqa.write_text(json.dumps(self.rows_of_hotpotqa(70)))
        row = {"input": "", "context": "A text.", "answers": ["he"], "all_classes": None, "language": "en", "dataset": "multi_news"}
        news.write_text(json.dumps(row | {"_id": "n"}))
        done = self.sweep("--sets", f"hotpotqa:{hotpotqa}", "--settings", "default", "--no-nll")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({line["id"] for line in self.lines()}, {str(i) for i in range(40, 64)})
        self.sweep("--sets", f"hotpotqa:{hotpotqa}", "--settings", "default", "--rows", "test", "--count", "3")
        self.assertEqual({line["id"] for line in self.lines()[24:]}, {"64", "66", "68"})
        babi = self.folder / "qa1.txt"
        babi.write_text("1 Ann went to the hall.\n2 Where is Ann? \thall\t1\n")
        self.sweep("--sets", f"babi:{babi}", "--settings", "default", "--no-nll")
        self.assertEqual([(line["set"], line["id"]) for line in self.lines()[27:]], [("qa1 in jargon", "0 2000")])
        none = self.sweep("--sets", f"longbench:{news}", "--rows", "test", "--no-nll")
        self.assertIn("no texts that name what an answer rests on", none.stderr)
        self.sweep("--sets", f"longbench:{news}", "--rows", "test", "--settings", "default")
        self.assertEqual(self.swept("lost", "gold_kept"), {("news", "full"): ("0.0", ""), ("news", "default"): ("0.0", "")})
        key = self.folder / "key.jsonl"
        key.write_text(json.dumps({"input": "The pass key is 5.", "target": "5"}))
        for more, message in [(["--sets", f"passkey:{key}"], "passkey has no development rows"),
                              (["--rows", "test"], "jargon.txt is none of the test haystacks"),
                              (["--seeds", "4"], "not all of the development seeds")]:
            refused = self.sweep(*more)
            self.assertIn(message, refused.stderr)
            self.assertNotIn("Traceback", refused.stderr)
            self.assertNotEqual(refused.returncode, 0)

    def test_sweep_reports_what_fails(self):
        done = self.sweep("--settings", "bad=broken")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no such setting", done.stderr)
        self.assertIn("5 trials failed", done.stderr)

    def test_what_fails_is_left_out_and_tried_again(self):
        done = self.needle("--policies", "broken", "full", "--depths", "0.5", "0.9")
        self.assertIn("2000, 0.5, broken: failed: ", done.stderr)
        self.assertIn("no such policy", done.stderr)
        self.assertIn("4 trials failed", done.stderr)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual([line["policy"] for line in self.lines()], ["full"] * 4)
        self.assertEqual(len((self.folder / "out.csv").read_text().splitlines()), 3)
        again = self.needle("--policies", "broken", "full", "--depths", "0.5", "0.9")
        self.assertIn("4/4", again.stderr)
        self.assertEqual(len(self.lines()), 4)

    def test_tasks(self):
        sets = self.folder / "set.jsonl"
        row = {"input": "Who?", "context": "A text.", "answers": ["he"], "all_classes": None, "language": "en", "dataset": "hotpotqa"}
        sets.write_text("\n".join(json.dumps(row | {"_id": str(i)}) for i in range(5)))
        done = self.call("infinipot-tasks", "--csv", self.folder / "out.csv", "--sets", f"longbench:{sets}", "--count", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.lines()), 12, "gold is left out where no support is named")
        self.assertAlmostEqual(self.lines()[0]["score"], 2 / 3)
        self.assertEqual({line["id"] for line in self.lines()}, {"0", "1", "3"})
        self.assertEqual(self.lines()[0]["cost"], 0.25)
        self.assertIsNone(self.lines()[0]["gold_kept"])
        key = self.folder / "key.jsonl"
        key.write_text(json.dumps({"input": "The pass key is 5.", "target": "5"}))
        wrong = self.call("infinipot-tasks", "--sets", f"passkey:{key}", "--rows", "development")
        self.assertIn("infinipot-tasks: passkey has no development rows", wrong.stderr)
        self.assertNotIn("Traceback", wrong.stderr)

    def rows_of_hotpotqa(self, count):
        return [{"_id": str(i), "question": f"{i}?", "answer": "a", "supporting_facts": [["Title", 0]],
                 "context": [["Title", [f"It is a {i}.", "x" * 400]], ["Other", ["y" * 400]]]} for i in range(count)]

    def test_tasks_of_sets_that_name_their_support(self):
        path = self.folder / "hotpotqa.json"
        path.write_text(json.dumps(self.rows_of_hotpotqa(100)))
        done = self.call("infinipot-tasks", "--csv", self.folder / "out.csv", "--sets", f"hotpotqa:{path}", "--count", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({line["id"] for line in self.lines()}, {"64", "82"})
        (gold,) = (line for line in self.lines() if line["policy"] == "gold" and line["id"] == "82")
        self.assertEqual((gold["document_tokens"], gold["gold_kept"], gold["answer_kept"]), (len("It is a 82."), 1, 0.5))
        with (self.folder / "out.csv").open() as file:
            rows = {row["policy"]: row for row in csv.DictReader(file)}
        self.assertEqual(set(rows), {"full", "gold", "truncation", "streaming_llm", "infinipot"})
        self.assertEqual([rows["infinipot"][name] for name in ("lost", "lost_error", "lost_median", "over_1", "gold_kept", "gold_kept_error")],
                         ["4.0", "0.0", "4.0", "2", "1.0", "0.0"])

    def tables(self, *more):
        return subprocess.run([sys.executable, QUALITY / "infinipot-tables", "--model", "m.gguf", "--programs", self.folder, "--data", self.folder,
                               "--out", self.folder, "--tables", "needles", "questions", "--passes", "1",
                               *more], capture_output=True, text=True)

    def test_tables(self):
        self.program.rename(self.folder / "infinipot-read")
        for name in plan.HAYSTACKS:
            (self.folder / name).write_text(HAYSTACK)
        (self.folder / "sets").mkdir()
        (self.folder / "sets/hotpotqa_train.json").write_text(json.dumps(self.rows_of_hotpotqa(100)))
        listed = self.tables("--list")
        self.assertIn("needles: 240 trials, 240 missing", listed.stdout)
        self.assertIn("questions: 84 trials, 84 missing", listed.stdout)
        self.assertIn("left out of questions: there is no musique_train.json, no qa1_single-supporting-fact_test.txt", listed.stderr)
        done = self.tables()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("324/324", done.stderr)
        files = {path.name: len(path.read_text().splitlines()) for path in (self.folder / "trials").iterdir()}
        self.assertEqual(files, {"needles.jsonl": 240, "questions.jsonl": 84})
        self.assertIn("needles: 240 trials, 0 missing, 0 min", self.tables("--list").stdout)
        self.assertNotIn("1/", self.tables().stderr)
        rows = tables.read(self.folder, "questions")
        self.assertEqual([(row["policy"], row["trials"]) for row in rows],
                         [(way, "12") for way in ("full", "gold", "known", "recalled", "reread", "nuc", "blind")])
        self.assertEqual({row["policy"]: row["lost"] for row in rows}["known"], "3.0")
        text = tables.filled("A\n<!-- lost: needles questions -->\nold\n<!-- end -->\nB <!-- lost: none -->\n<!-- end -->", self.folder)
        self.assertIn("| HotpotQA | 12 | 1.00 ± 0.00 | +0.00 ± 0.00 | +3.00 ± 0.00 (12) |  | +3.00", text)
        self.assertIn("| cell of a table | 5 |", text)
        self.assertNotIn("\nold\n", text)
        self.assertTrue(text.startswith("A\n") and text.endswith("\nB <!-- lost: none -->\n<!-- end -->"))
        self.assertEqual(tables.filled(text, self.folder), text)
        together = tables.filled("<!-- lost_by_table: needles questions -->\n<!-- end -->", self.folder)
        self.assertRegex(together, r"\n\| needles of six kinds \| 30 \| 1.00 ± 0.00 \| \+0.00 ± 0.00 \| \+4.00 ± 0.00 \(30\) \|")
        self.assertTrue(together.startswith("<!-- lost_by_table: needles questions -->\n"))
        self.assertNotIn("HotpotQA", together)  # the only text of its table

    def test_readmes_have_the_tables(self):
        for path in tables.READMES:
            self.assertEqual(path.read_text(), tables.filled(path.read_text()), path)

    def test_tables_name_what_there_is(self):
        for table in plan.TABLES:
            self.assertLessEqual(set(table.readings), set(plan.READINGS))
            for part in table.of:
                if isinstance(part, plan.Asked):
                    self.assertIn(part.form, datasets.FORMS)
        names = [plan.policy_of(reading, options)[0] for table in plan.TABLES if table.options != ("",) for reading in table.readings
                 for options in table.options]
        self.assertIn("known_f16_head=infinipot --cache-type f16 --granularity head", names)
        self.assertIn("full_f16=full --cache-type f16", names)
        self.assertEqual([tables.way_in_words(name) for name in ("known_q8_0_head", "context_shift_f16", "full")],
                         ["known, q8_0, head", "context_shift, f16", "full"])

    def test_topics_and_lines_are_of_one_form(self):
        rows = [{"test_id": 0, "topics": ["The sea", "Tea"], "prompt": "Begin. USER: I would like to discuss the topic of the sea. \n Now the "
                 "record ends. What is the first topic?"}]
        path = self.folder / "topics.jsonl"
        path.write_text(json.dumps(rows[0]))
        (example,) = datasets.load(f"longeval:{path}", 0)
        self.assertEqual((example.question, example.answers, example.gold), ("What is the first topic?", ["The sea"],
                                                                             ("USER: I would like to discuss the topic of the sea.",)))

    def test_refuse_what_cannot_be(self):
        for more, message in [(["--depths", "2"], "must be 0 .. 1"), (["--pot", "1"], "--pot 1 must be at least 2"),
                              (["--policies", "full", "full"], "the same name"), (["--program", "nowhere"], "there is no nowhere"),
                              (["--policies", "broken"], "no such policy")]:
            done = self.needle(*more)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(message, done.stderr)

    def figure(self, name, *more):
        """Its rows. It is drawn if matplotlib is there."""
        folder = self.folder / "figures"
        done = self.call("infinipot-figures", name, "--haystack", self.folder / "haystack.txt", "--folder", folder, "--length", "2000",
                         "--seeds", "1", "2", "--depths", "0.1", "0.5", *more)
        if importlib.util.find_spec("matplotlib") is None:
            self.assertIn("drawing needs matplotlib", done.stderr)
        else:
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("</svg>", (folder / f"{name}.svg").read_text())
        with (folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def questions(self):
        path = self.folder / "hotpotqa.json"
        path.write_text(json.dumps(self.rows_of_hotpotqa(70)))
        return ["--hotpotqa", path, "--count", "3"]

    def test_figure_of_hit_rates_takes_trials_of_needles(self):
        self.needle("--policies", "full", "infinipot", "--depths", "0.1")
        rows = self.figure("hit_rate", "--policies", "full", "infinipot")
        self.assertEqual(len(self.lines()), 8)
        self.assertEqual([(row["policy"], row["depth"], row["trials"]) for row in rows],
                         [("full", "0.1", "2"), ("infinipot", "0.1", "2"), ("full", "0.5", "2"), ("infinipot", "0.5", "2")])

    def test_figure_of_nuc(self):
        rows = self.figure("nuc", "--policies", "full", "infinipot")
        by_part = {part: [float(row["nuc"]) for row in rows if row["part"] == part and row["policy"] == "full"]
                   for part in ("text", "needle's peak", "needle's mean")}
        self.assertEqual((by_part["needle's peak"], by_part["needle's mean"]), ([7], [3.4]))
        self.assertEqual(len(by_part["text"]), 60)
        self.assertEqual((by_part["text"][0], by_part["text"][-1]), (1, 1))
        self.assertGreater(max(by_part["text"]), 1)

    def test_figure_of_budgets(self):
        rows = self.figure("budgets", "--policies", "infinipot", "--pots", "64", "128", *self.questions())
        self.assertEqual([(row["set"], row["policy"], row["pot"], row["depth"], row["trials"]) for row in rows],
                         [("needle", "full", "2048", "", "4"), ("needle", "infinipot", "64", "", "4"),
                          ("needle", "infinipot", "128", "", "4"), ("hotpotqa", "full", "2048", "", "3"),
                          ("hotpotqa", "infinipot", "64", "", "3"), ("hotpotqa", "infinipot", "128", "", "3")] +
                         [("needle", *policy, depth, "2") for policy, depth in
                          [(("full", "2048"), "0.1"), (("full", "2048"), "0.5"), (("infinipot", "64"), "0.1"),
                           (("infinipot", "64"), "0.5"), (("infinipot", "128"), "0.1"), (("infinipot", "128"), "0.5")]])
        self.assertEqual(float(rows[1]["answer_nll"]), 3)  # the program's, for a pot of two digits and a known question

    def test_figure_of_alpha(self):
        rows = self.figure("alpha")
        self.assertEqual(sum(not row["depth"] for row in rows), 3 + 2 * 5)
        settings = {line["settings"] for line in self.lines() if line["policy"] == "infinipot"}
        self.assertEqual(settings, {"infinipot"} | {f"infinipot --alpha {a}" for a in ("0.25", "0.5", "0.75", "1")})
        paper = "infinipot --granularity head --over-queries sum --over-heads sum --kernel 1 --alpha {} --sinks 0"
        self.assertEqual({line["settings"] for line in self.lines() if line["policy"] == "paper"},
                         {paper.format(a) for a in ("0", "0.25", "0.5", "0.75", "1")})

    def test_figure_of_catalysts(self):
        rows = self.figure("catalyst", "--policies", "infinipot", *self.questions())
        nll = {(row["set"], row["policy"], row["known"]): float(row["answer_nll"]) for row in rows if not row["depth"]}
        self.assertEqual(nll["needle", "infinipot", "yes"] - nll["needle", "infinipot", "no"], 1)
        self.assertEqual(nll["hotpotqa", "infinipot", "yes"] - nll["hotpotqa", "infinipot", "no"], 1)
        self.assertNotIn(("needle", "full", "no"), nll)

    def test_figure_of_positions(self):
        rows = self.figure("positions", "--lengths", "1500", "2000", "--policies", "infinipot")
        self.assertEqual([(row["positions"], row["tokens"], row["trials"], row["tail_nll"]) for row in rows],
                         [("reindexed", "1500", "2", "1.0"), ("growing", "1500", "2", "1.0"), ("reindexed", "2000", "2", "1.0"),
                          ("growing", "2000", "2", "1.0")])
        self.assertEqual({line["settings"] for line in self.lines()}, {"infinipot", "infinipot --positions growing"})

    def test_figure_is_drawn_again_without_a_trial(self):
        self.figure("hit_rate", "--policies", "full")
        trials_before = self.lines()
        rows = self.figure("hit_rate", "--redraw", "--program", "nowhere")
        self.assertEqual([row["policy"] for row in rows], ["full"] * 2)
        self.assertEqual(self.lines(), trials_before)

    def test_figures_say_that_matplotlib_is_missing(self):
        (self.folder / "matplotlib.py").write_text("raise ImportError")
        done = subprocess.run([sys.executable, QUALITY / "infinipot-figures", "hit_rate", "--model", "m.gguf", "--program", self.program,
                               "--out", self.folder / "out.jsonl", "--haystack", self.folder / "haystack.txt", "--folder", self.folder,
                               "--policies", "full", "--length", "2000"], capture_output=True, text=True,
                              env={"PYTHONPATH": str(self.folder), "PATH": os.environ["PATH"]})
        self.assertIn("drawing needs matplotlib", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotEqual(done.returncode, 0)
        self.assertTrue((self.folder / "hit_rate.csv").exists())

    def test_figures_refuse_what_cannot_be(self):
        for more, message in [(["--depths", "2"], "must be 0 .. 1"), (["--pots", "1"], "must be at least 2"),
                              (["--lengths", "700"], "must be above 700"), (["--count", "0"], "--count 0 must be at least 1"),
                              (["--policies", "full", "full"], "the same name"), (["--program", "nowhere"], "there is no nowhere")]:
            done = self.call("infinipot-figures", "hit_rate", "--haystack", self.folder / "haystack.txt", *more)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(message, done.stderr)
        self.assertIn("--haystack is required", self.call("infinipot-figures", "nuc").stderr)
        missing = self.call("infinipot-figures", "nuc", "--redraw", "--folder", self.folder)
        self.assertIn("there is no", missing.stderr)
        self.assertNotEqual(missing.returncode, 0)


class Summary(unittest.TestCase):
    def test_what_is_missing_is_not_drawn_and_nothing_is_zero(self):
        self.assertEqual([str(x) for x in drawing.numbers([{"x": 0}, {"x": ""}, {"x": None}, {"x": "0.5"}], "x")],
                         ["0.0", "nan", "nan", "0.5"])

    def test_loss_is_against_the_full_cache_on_the_same_text(self):
        given = [("a", "full", 1), ("a", "infinipot", 1.5), ("b", "infinipot", 7), ("c", "full", None), ("c", "infinipot", 2)]
        done = trials.with_loss([{"id": id_, "settings": settings, "answer_nll": nll} for id_, settings, nll in given], ["id"])
        self.assertEqual([trial["lost"] for trial in done], [0, 0.5, None, None, None])

    def test_means_and_standard_errors(self):
        rows = trials.summary([{"a": 1, "x": 1.0}, {"a": 1, "x": 3.0}, {"a": 2, "x": None}], ["a"], ["x"])
        self.assertEqual(rows, [{"a": 1, "trials": 2, "x": 2.0, "x_error": 1.0}, {"a": 2, "trials": 1, "x": None, "x_error": None}])

    def test_of_losses_the_median_too_and_how_many_are_over_a_nat(self):
        (row,) = trials.summary([{"lost": lost} for lost in (0.0, 1.0, 1.1, 5.0, None)], [], ["lost"])
        self.assertEqual((row["lost"], row["lost_median"], row["over_1"]), (1.775, 1.05, 2))
        (row,) = trials.summary([{"lost": None}], [], ["lost"])
        self.assertEqual((row["lost"], row["lost_median"], row["over_1"]), (None, None, None))


if __name__ == "__main__":
    unittest.main()
