"""The harness of benchmarks/quality: its scores against LongBench's own, its texts, and trials that go on where they stopped."""

import importlib.util
import json
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

QUALITY = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/quality"
sys.path.insert(0, str(QUALITY))

import datasets  # noqa: E402
import needles  # noqa: E402
import scores  # noqa: E402
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
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
text = open(a["--document"]).read()
if a["--policy"] == "broken":
    sys.exit("no such policy")
print(json.dumps({"answer_nll": len(a.get("--pot", "")) + (a["--catalyst"] == "@question"),
                  "hit_rate": float(a.get("--needle", "?") in text), "answer_text": a["--answer"] + " indeed",
                  "document_tokens": len(text), "distillations": 3, "nan_scores": 0, "pot_bytes": 1 << 20}))
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

    def test_refuse_a_haystack_that_is_too_short(self):
        with self.assertRaisesRegex(ValueError, "has 5 characters"):
            needles.hide(needles.make("number", 1), "short", 3000, 0.5, 1)


class Datasets(unittest.TestCase):
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

    def test_paragraphs_are_lengthened_by_others(self):
        rows = [{"_id": str(i), "question": f"{i}?", "answer": "a", "context": [[f"Title {i} {j}", ["x" * 400]] for j in range(4)]}
                for i in range(20)]
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
                               self.folder / "out.jsonl", "--csv", self.folder / "out.csv", *more], capture_output=True, text=True)

    def needle(self, *more):
        return self.call("infinipot-needle", "--haystack", self.folder / "haystack.txt", "--lengths", "2000", "--seeds", "1", "2",
                         *more)

    def lines(self):
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def test_needle_goes_on_where_it_stopped(self):
        first = self.needle("--policies", "full", "some=infinipot --kernel 17", "--depths", "0.5")
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertEqual(len(self.lines()), 4)
        self.assertIn("4/4", first.stderr)
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
        self.assertEqual(rows[0], "kind,known,policy,tokens,depth,trials,answer_nll,answer_nll_error,hit_rate,hit_rate_error,exact,"
                         "exact_error")
        self.assertIn("number,yes,full,2000,0.1,2,1.0,0.0,1.0,0.0,1.0,0.0", rows)
        self.assertIn("number,no,full,2000,0.5,2,0.0,0.0,1.0,0.0,1.0,0.0", rows)

    def test_tasks(self):
        sets = self.folder / "set.jsonl"
        row = {"input": "Who?", "context": "A text.", "answers": ["he"], "all_classes": None, "language": "en", "dataset": "hotpotqa"}
        sets.write_text("\n".join(json.dumps(row | {"_id": str(i)}) for i in range(5)))
        done = self.call("infinipot-tasks", "--sets", f"longbench:{sets}", "--first", "1", "--count", "3", "--policies", "full",
                         "infinipot")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.lines()), 6)
        self.assertAlmostEqual(self.lines()[0]["score"], 2 / 3)
        self.assertEqual({line["id"] for line in self.lines()}, {"1", "2", "3"})

    def test_refuse_what_cannot_be(self):
        for more, message in [(["--depths", "2"], "must be 0 .. 1"), (["--pot", "1"], "--pot 1 must be at least 2"),
                              (["--policies", "full", "full"], "the same name"), (["--program", "nowhere"], "there is no nowhere"),
                              (["--policies", "broken"], "no such policy")]:
            done = self.needle(*more)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(message, done.stderr)


class Summary(unittest.TestCase):
    def test_means_and_standard_errors(self):
        rows = trials.summary([{"a": 1, "x": 1.0}, {"a": 1, "x": 3.0}, {"a": 2, "x": None}], ["a"], ["x"])
        self.assertEqual(rows, [{"a": 1, "trials": 2, "x": 2.0, "x_error": 1.0}, {"a": 2, "trials": 1, "x": None, "x_error": None}])


if __name__ == "__main__":
    unittest.main()
