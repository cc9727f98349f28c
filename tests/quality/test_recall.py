"""The harness of benchmarks/recall, and the archive of benchmarks/long_text: texts, resuming, tables, with programs that only pretend."""

import csv
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECALL = ROOT / "benchmarks/recall"
sys.path[:0] = [str(RECALL), str(ROOT / "benchmarks/long_text")]

import recall_sets as sets  # noqa: E402
import recall_tables as tables  # noqa: E402

import measure  # noqa: E402

HAYSTACK = "\n".join(f"Paragraph {i} says little. It goes on. It ends here." for i in range(9000))

# One that answers like infinipot-recall-trials: an NLL tells the reading, and the steps that variants take.
TRIALS = """#!/usr/bin/env python3
import json, sys
for line in sys.stdin:
    job = json.loads(line)
    if job["reading"] == "reread":
        print(json.dumps({"error": "no such reading"}), flush=True)
        continue
    documents = [open(path).read() for path in [job["document"], *(q["document"] for q in job["questions"])] if path]
    for question in job["questions"]:
        assert any(gold in "".join(documents) for gold in question["gold"]), question
    if len("".join(documents)) < 300:
        assert len(job["questions"]) == 1, job
        job["reading"] = "short"
    nll = {"short": 0.5, "full": 1, "known": 2, "streaming_llm": 4}[job["reading"]]
    answers = [] if job["conversation"] and job["variants"] else [
        {"question": q["name"], "variant": "", "nll": nll, "gold_kept": 0.5, "answer_kept": 1, "read_seconds": 3} for q in job["questions"]]
    answers += [{"question": q["name"], "variant": v["name"], "nll": nll - v.get("steps", 0), "seconds": 0.5, "bytes": 2 << 20}
                for q in job["questions"] for v in job["variants"]]
    print(json.dumps({"tokens": sum(map(len, documents)), "pot_bytes": 1 << 20, "read_seconds": 3, "answers": answers}), flush=True)
"""

# One that answers like infinipot-read with an archive; its archive remembers how much it read.
READ = """#!/usr/bin/env python3
import json, pathlib, sys
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
turn = {"archive_tokens": None, "archive_bytes": None, "archive_seconds": None, "recall_seconds": None, "answer_text": "",
        "answer_nll": None, "recall_distillations": None}
report = {"prefill_seconds": 100.0, "peak_rss_bytes": 1 << 28, "pot_bytes": 1 << 20, "full_cache_bytes": 1 << 40, "document_tokens": 0,
          "distillations": 3, "hit_rate": 1.0, "answer_nll": 0.3, "answer_text": "x", "tokens_per_second": 9.0, "ttft_seconds": 1.0}
if "--document" in a:
    text, tokens = open(a["--document"]).read(), int(a["--max-tokens"])
    for name in ("7463343", "2918604", "5036178"):
        assert 0 <= text.find(name) < 3.8 * tokens, name
    report["document_tokens"] = tokens
    if "--archive" in a:
        pathlib.Path(a["--archive"]).write_text(str(tokens))
        turn |= {"archive_tokens": tokens, "archive_bytes": tokens * 12000, "archive_seconds": 2.0}
        report["timeline"] = [{"tokens": t, "seconds": t / 10, "distillations": t // 1000, "resident_bytes": 1 << 28}
                              for t in range(0, tokens, int(a["--timeline"]))]
else:
    turn |= {"answer_nll": int(pathlib.Path(a["--archive"]).read_text()) / 1e6, "answer_text": a["--answer"], "recall_distillations": 5,
             "recall_seconds": 4.0}
print(json.dumps(report | {"turns": [turn]}))
"""


class Texts(unittest.TestCase):
    def test_every_kind_of_needle_is_at_every_depth_once(self):
        texts = list(sets.needle_texts(HAYSTACK, 3000, [1, 2]))
        self.assertEqual(len(texts), 10)
        for part in (0, 1):
            names = [question["name"] for text in texts if text.part == part for question in text.questions]
            self.assertEqual(sorted(names), sorted(f"{kind} {depth}" for kind in sets.KINDS for depth in sets.DEPTHS))
        for text in texts:
            for question in text.questions:
                for sentence in question["gold"]:
                    self.assertEqual(text.document.count(sentence), 1)
                depth = float(question["name"].split()[1])
                self.assertAlmostEqual(text.document.find(question["gold"][0]) / len(text.document), depth, delta=0.05)
        self.assertEqual(texts, list(sets.needle_texts(HAYSTACK, 3000, [1, 2])))

    def test_gold_is_in_the_tasks(self):
        rows = [{"_id": str(i), "question": f"{i}?", "answer": "a", "supporting_facts": [[f"T {i}", 1], ["T 999", 0], [f"T {i}", 7]],
                 "context": [[f"T {i}", ["First.", f" Second of {i}."]], ["U", ["Other."]]]} for i in range(120)]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "hotpotqa.json"
            path.write_text(json.dumps(rows))
            texts = list(sets.task_texts("hotpotqa", path))
            few = list(sets.task_texts("hotpotqa", path, "development", 6))
        self.assertEqual([text.id for text in texts], [str(i) for i in range(64, 100)])
        self.assertEqual([text.part for text in texts], [0] * 12 + [1] * 12 + [2] * 12)
        self.assertEqual([text.id for text in few], ["40", "44", "48", "52", "56", "60"])
        for text in texts:
            self.assertEqual(text.questions[0]["gold"], [f"Second of {text.id}."])
            self.assertIn(text.questions[0]["gold"][0], text.document)

    def test_musique_is_of_its_test_rows(self):
        rows = [{"id": str(i), "question": "q", "answer": "a", "answer_aliases": [], "paragraphs": [
            {"title": "T", "paragraph_text": f"text {i}", "is_supporting": True}]} for i in range(100)]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "musique.json"
            path.write_text(json.dumps(rows))
            ids = [int(text.id) for text in sets.task_texts("musique", path)]
        self.assertEqual(len(ids), 75)
        self.assertTrue(all(i % 4 for i in ids))

    def test_conversation_asks_the_first_again(self):
        (text,) = sets.conversation_texts(HAYSTACK, [3], tokens=2000)
        first, second, again = text.questions
        self.assertEqual(again | {"name": "", "document": ""}, first | {"name": "", "document": ""})
        self.assertIn(first["gold"][0], first["document"])
        self.assertIn(second["gold"][0], second["document"])
        self.assertEqual(again["document"], "")

    def test_names_tell_variants_apart(self):
        for plan in sets.PLANS.values():
            for variants in plan.values():
                names = [variant.name for variant in variants if variant]
                self.assertEqual(len(set(names)), len(names))
        self.assertEqual(sets.variant("steps=2 type=int4 read_anew=yes prefix=no pot=1024 share=0.5").job() | {"name": ""},
                         sets.Variant(2, type="int4", read_anew=True, prefix=False, pot=1024, share=0.5).job() | {"name": ""})
        with self.assertRaisesRegex(ValueError, "with a name of steps"):
            sets.variant("stride=2")


class Programs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, text in (("trials", TRIALS), ("read", READ), ("haystack.txt", HAYSTACK), ("emma.txt", HAYSTACK)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def call(self, *more, sets_=("needles",)):
        return subprocess.run([sys.executable, RECALL / "infinipot-recall", "--model", "m.gguf", "--program", self.folder / "trials", "--out",
                               self.folder / "out.jsonl", "--haystack", self.folder / "emma.txt", "--csv", self.folder / "out.csv", "--lengths",
                               "6000", "--sets", *sets_, *more], capture_output=True, text=True)

    def lines(self):
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def rows(self, name="out.csv"):
        with (self.folder / name).open() as file:
            return list(csv.DictReader(file))

    def test_table(self):
        done = self.call("--seeds", "1", "--readings", "full", "known", "streaming_llm", "--variants", "steps=1", "steps=2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.lines()), 15)
        row = next(r for r in self.rows() if r["set"] == "needles 6000: phrase" and r["recall"].startswith("2 steps"))
        self.assertEqual([row[k] for k in ("reading", "answers", "nll", "lost", "over_1", "to_known", "seconds", "mib")],
                         ["streaming_llm", "5", "2.0", "1.0", "0", "0.0", "0.5", "2.0"])
        blind = next(r for r in self.rows() if r["reading"] == "streaming_llm" and not r["recall"])
        self.assertEqual([blind[k] for k in ("lost", "lost_median", "over_1", "gold_kept", "answer_kept", "read_seconds", "mib")],
                         ["3.0", "3.0", "5", "0.5", "1.0", "3.0", "1.0"])
        self.assertEqual({row["depth"] for row in self.rows("out_depths.csv")}, set(map(str, sets.DEPTHS)))
        self.assertIn("needles 6000: joined", done.stdout)

    def test_gold_alone_is_read_for_each_question(self):
        done = self.call("--seeds", "1", "--readings", "full", "gold")
        self.assertEqual(done.returncode, 0, done.stderr)
        gold = {row["set"]: (row["answers"], row["lost"], row["to_known"]) for row in self.rows() if row["reading"].startswith("gold")}
        self.assertEqual(gold, {f"needles 6000: {kind}": ("5", "-0.5", "") for kind in sets.KINDS})
        self.assertEqual(self.call("--seeds", "1", "--readings", "gold").stderr, "", "it is not read again")

    def test_rows_and_haystacks_are_of_a_group(self):
        done = self.call("--rows", "development")
        self.assertIn("emma.txt is none of the development haystacks", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotEqual(done.returncode, 0)

    def test_goes_on_where_it_stopped(self):
        few = ["--seeds", "1", "--readings", "streaming_llm"]
        self.call(*few, "--variants", "steps=1")
        self.assertEqual(len(self.lines()), 5)
        again = self.call(*few, "--variants", "steps=1")
        self.assertEqual((again.stderr, len(self.lines())), ("", 5))
        self.call(*few, "--variants", "steps=1", "steps=3")
        self.assertEqual([len({a["variant"] for a in line["answers"]}) for line in self.lines()[5:]], [2] * 5, "what is missing, and the pot")
        self.assertEqual({row["answers"] for row in self.rows()}, {"5"}, "no answer counts twice")
        table = self.call(*few, "--only-table", "--program", "nowhere")
        self.assertEqual((table.returncode, len(self.lines())), (0, 10))

    def test_what_fails_is_left_out(self):
        done = self.call("--seeds", "1", "--readings", "full", "reread")
        self.assertEqual(done.returncode, 1)
        self.assertIn("failed: no such reading", done.stderr)
        self.assertEqual({line["reading"] for line in self.lines()}, {"full"})

    def test_parts_come_in_turn(self):
        done = self.call("--readings", "full", "--jobs", "1")
        order = [line["id"].split(",")[0] for line in self.lines()]
        self.assertEqual(order, sorted(order), done.stderr)
        self.assertIn("min left", done.stderr)

    def test_conversation(self):
        done = self.call("--seeds", "1", "--readings", "streaming_llm", "full", sets_=["conversation"])
        self.assertEqual(done.returncode, 0, done.stderr)
        found = {(row["set"], row["recall"]): row["lost"] for row in self.rows() if row["reading"] == "streaming_llm"}
        self.assertEqual(found["conversation, 3: the number again", "2 steps by draft, int8"], "1.0")
        self.assertEqual(found["conversation, 1: number in document 1", ""], "3.0")

    def test_paired(self):
        self.call("--seeds", "1", "--readings", "streaming_llm", "--variants", "steps=1", "steps=2")
        found = tables.answers(self.lines())
        pairs = tables.paired(found, "streaming_llm", "2 steps by draft, int8", "streaming_llm", "1 step, int8")
        self.assertEqual(pairs["needles 6000: number"], (-1, 0, 5))

    def archive(self, *more):
        return subprocess.run([sys.executable, ROOT / "benchmarks/long_text/measure.py", "archive", "--model", "m.gguf", "--text",
                               self.folder / "haystack.txt", "--read", self.folder / "read", "--archive", self.folder / "archive", "--out",
                               self.folder / "out", "--tokens", "20000", *more], capture_output=True, text=True)

    def test_million_archive(self):
        done = self.archive()
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads((self.folder / "out/million_archive.json").read_text())
        self.assertEqual(list(found), ["short", "read", "ask"])
        self.assertEqual(found["ask"]["middle"], {
            "answer_nll": 0.02, "answer_text": " 2918604.", "recall_seconds": 4.0, "recall_distillations": 5, "peak_rss_mib": 256.0,
            "recall_over_reading": 0.04})
        self.assertEqual(found["short"]["answers"]["end"]["answer_nll"], 0.006)
        self.assertEqual((found["read"]["archive_share"], found["read"]["archive_bytes_per_token"]), (0.02, 12000))
        with (self.folder / "out/million_archive.csv").open() as file:
            self.assertEqual(len(list(csv.DictReader(file))), 1000)
        self.assertEqual(self.archive().stderr, "", "nothing is measured twice")

    def test_million_archive_asks_what_is_there(self):
        done = self.archive("--parts", "ask")
        self.assertIn("run the part read first", done.stderr)
        self.assertEqual(len({measure.sentence(name) for name in measure.HIDDEN}), 3)


if __name__ == "__main__":
    unittest.main()
