#!/usr/bin/env python3
"""Make tests/golden/recall_*.json from the independent Python implementation.

A text is read with one policy while an archive keeps all of it; then the archive is distilled for a question. All is
computed in double precision, and repeated in single precision, in small chunks and in large ones; with the latter,
rows are moved before they are rounded, by a few times what single precision errs, so that more codes round the other
way. All must keep the same entries, or, where a run makes too many choices for that, hardly any others: `differing` is
how many in a thousand do in the repetitions. The text is Genesis as in make_ccd_golden.py.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from archive import Archive, RecallSettings, Step, continued, recall, rounded_rows
from ccd import Pot, Settings
from make_ccd_golden import SMALL_CHUNK, mask, rounded, write
from smollm2 import SmolLM2, tokenizer

FIRMAMENT = ("\n\nQuestion: What did God call the firmament?\nAnswer:", " And God called the firmament Heaven.")
RIVER = ("\n\nQuestion: What is the name of the first river?\nAnswer:", " The name of the first is Pison.")
LEAST_MARGIN = 1e-5
NOISE = 1e-5  # of a group's largest magnitude; rows in single precision err by a few 1e-6
# Of an answer's logits and nats, as the test has it; repetitions must differ by no more than half of it.
TOLERANCE = {"f32": 1e-3, "f16": 1e-2, "int8": 1e-2, "int4": 4e-2, "int4_channels": 4e-2}
LEAST_LEAD = 0.01  # of a draft's tokens, in logits


def recommended(granularity, capacity=256, keep=96):
    """The recall's policy: an entry counts as much as the catalyst's token that attends to it most."""
    return Settings(
        "infinipot", granularity, capacity, keep, over_queries="max", aggregate="peak", kernel=17, alpha=0.0
    )


@dataclass(frozen=True)
class Run:
    reading: Settings
    recalling: Settings
    start: int  # token of the text where the document starts
    pinned: list
    turns: list  # tokens of the document that are read before, and texts of question and answer
    kinds: list
    steps: int = 2
    anew: bool = True
    catalyst: str = ""  # of the reading
    exact: list = field(default_factory=lambda: list(TOLERANCE))


RUNS = {
    "shared": Run(
        Settings("streaming_llm", "shared", keep=96),
        recommended("shared"),
        4,
        [(0, 20)],
        [(1500, *FIRMAMENT)],
        ["f32", "f16", "int8", "int4"],
    ),
    # NuC comes from the archive, entries in the middle are pinned, and the pot that recalls is another one.
    "nuc": Run(
        Settings("infinipot", "shared", keep=96, kernel=9),
        Settings("infinipot", "shared", 384, 96, kernel=9),
        0,
        [(0, 20), (300, 308)],
        [(1100, *FIRMAMENT)],
        ["f32", "int8", "int4_channels"],
        steps=1,
        catalyst="\n\nWhat matters in the text above?",
    ),
    "head": Run(
        Settings("infinipot", "head", keep=96, alpha=0.0, kernel=9, over_queries="max"),
        recommended("head"),
        0,
        [(0, 20)],
        [(800, *FIRMAMENT)],
        ["f32", "int8", "int4"],
        catalyst="\n\nWhat matters in the text above?",
        exact=["f32"],
    ),
    "conversation": Run(
        Settings("streaming_llm", "shared", keep=96),
        recommended("shared"),
        0,
        [(0, 20)],
        [(800, *RIVER), (500, *FIRMAMENT), (0, *RIVER)],
        ["f32"],
        steps=1,
        anew=False,
    ),
}


@dataclass(frozen=True)
class Outcome:
    step: Step  # the last one
    logits: torch.Tensor  # of the answer's first token
    nuc: list  # of the answer


def feed_document(pot, document, pinned, chunk):
    cuts = sorted({0, len(document), *(edge for span in pinned for edge in span)})
    for start, end in zip(cuts, cuts[1:]):
        pot.feed(document[start:end], pinned=(start, end) in pinned, chunk=chunk)


def ask(pot, question, answer):
    pot.feed(question)
    logits = pot.last_logits
    pot.feed(answer)
    return logits, pot.stream_nuc[-len(answer) :]


def play(model, run, text, encode, chunk=None, noise=0.0, seed=1):
    """Everything that happens, turn by turn: [turn][(kind, steps, anew)] -> what came of it."""
    archive = Archive("f32")
    reader = Pot(model, run.reading, encode(run.catalyst), archive)
    at, results = run.start, []
    for turn, (count, question, answer) in enumerate(run.turns):
        feed_document(reader, text[at : at + count], run.pinned if turn == 0 else [], chunk)
        at += count
        question, answer, outcomes = encode(question), encode(answer), {}
        for kind in run.kinds:
            of_kind = archive.kept_as(kind, 0.0 if kind == "f32" else noise, seed)
            known = None
            for anew in (False, True) if run.anew else (False,):
                settings = RecallSettings(run.steps, read_anew=anew)
                steps = recall(reader, of_kind, question, run.recalling, settings, known)
                known = steps[0].pot
                for count, step in enumerate(steps, 1):
                    logits, nuc = ask(continued(reader, step.found), question, answer)
                    outcomes[kind, count, anew] = Outcome(step, logits, nuc)
        results.append(outcomes)
        first = next(iter(outcomes.values()))
        reader = continued(reader, first.step.found, archive)
        ask(reader, question, answer)
    return reader, archive, results


def differing(a, b):
    """How many in a thousand of the entries that one pot keeps the other does not."""
    lanes = [(set(x.tolist()), set(y.tolist())) for x, y in zip(a.position, b.position, strict=True)]
    return 1000 * sum(len(x - y) for x, y in lanes) / sum(len(x) for x, _ in lanes)


def spread(name, run, results, others):
    """By (kind, steps, anew), the largest share of entries that differ, and differences of the answer's logits and
    NuC where none do. What must not differ makes the script fail."""
    worst = {}
    for turn, other in zip(results, others, strict=True):
        for key, outcome in turn.items():
            again = other[key]
            share = differing(outcome.step.found, again.step.found)
            if key[0] in run.exact and (share > 0 or outcome.step.draft != again.step.draft):
                raise SystemExit(f"{name} {key}: {share:.2f} in a thousand are others, or drafts differ")
            logits = (outcome.logits - again.logits).abs().max().item()
            nuc = np.abs(np.subtract(outcome.nuc, again.nuc)).max()
            now = (share, logits, nuc) if share == 0 else (share, 0, 0)
            worst[key] = np.maximum(worst.get(key, np.zeros(3)), now)
    return worst


def golden_run(name, run, text, encode, model, single, header):
    reader, archive, results = play(model, run, text, encode)
    check_margins(name, run, reader, results)
    repetitions = [{"noise": NOISE}, {"chunk": SMALL_CHUNK}] if single else []
    worst = {key: np.zeros(3) for turn in results for key in turn}
    for options in repetitions:
        now = spread(name, run, results, play(single, run, text, encode, **options)[2])
        for key in worst:
            print(f"{name} {key} {options}: others in a thousand, logits, nats: {now[key]}", flush=True)
            worst[key] = np.maximum(worst[key], now[key])
    for key, differences in worst.items():
        if key[0] in run.exact and max(differences[1:]) > TOLERANCE[key[0]] / 2:
            raise SystemExit(f"{name} {key}: answers differ by {differences}")
    at, turns = run.start, []
    for (count, question, answer), outcomes in zip(run.turns, results, strict=True):
        turns.append(
            {
                "document": text[at : at + count],
                "question": encode(question),
                "answer": encode(answer),
                "recalls": [recalled(key, outcome, worst[key][0]) for key, outcome in outcomes.items()],
            }
        )
        at += count
    return header | {
        "reading": asdict(run.reading),
        "reading_catalyst": encode(run.catalyst),
        "recalling": asdict(run.recalling),
        "document_start": run.start,
        "pinned": run.pinned,
        "lanes": len(reader.lanes),
        "archived": len(archive),
        "turns": turns,
    }


def check_margins(name, run, reader, results):
    reading = reader.smallest_margin()
    print(f"{name}: reading, {reading}")
    for turn in results:
        for (kind, steps, anew), outcome in turn.items():
            pot, lead = outcome.step.pot, outcome.step.lead
            margin = pot.smallest_margin().relative
            print(
                f"{name} {kind}, {steps} steps, anew {anew}: {len(pot.distillations)} distillations, answer NLL"
                f" {np.mean(outcome.nuc):.4f}, margin {margin:.2g}, draft's lead {lead:.2g}",
                flush=True,
            )
            if kind in run.exact and min(reading.relative, margin) < LEAST_MARGIN:
                raise SystemExit("margin too small for single precision; choose another start")
            if lead < LEAST_LEAD:
                raise SystemExit("a draft's token is too close; choose another start")


def recalled(key, outcome, differing):
    (kind, steps, anew), pot = key, outcome.step.pot
    vocabulary = [i * 7919 % len(outcome.logits) for i in range(1, 9)]
    return {
        "type": kind,
        "steps": steps,
        "read_anew": anew,
        "limit": pot.limit,
        "distillations": len(pot.distillations),
        "draft": outcome.step.draft,
        "kept": [mask(lane) for lane in outcome.step.found.position],
        "differing": rounded(differing),
        "vocabulary": vocabulary,
        "logits": [rounded(x) for x in outcome.logits[vocabulary].tolist()],
        "answer_nuc": [rounded(x) for x in outcome.nuc],
        "smallest_margin": rounded(pot.smallest_margin().relative),
    }


def golden_rows(text, model, header):
    """Rows of the model and some made up, as they are read back."""
    archive = Archive("f32")
    Pot(model, RUNS["shared"].reading, archive=archive).feed(text[:40])
    places = (0, 0, 1), (1, 2, 39), (15, 1, 20), (29, 0, 7)
    rows = [of_call[0][place] for of_call in (archive.keys, archive.values) for place in places]
    channel = np.arange(rows[0].size, dtype=np.float32)
    rows += [0 * channel, 0 * channel + np.float32(0.3), channel / 4 - 3, np.where(channel == 40, 6e4, 1e-3 * channel)]
    rows = np.stack(rows).astype(np.float32)
    tables = {"rows": rows} | {kind: rounded_rows(rows, kind) for kind in ("f16", "int8", "int4")}
    # 9 digits tell every number in single precision from its neighbours.
    return header | {name: [[float(f"{x:.9g}") for x in row] for row in table] for name, table in tables.items()}


def main():
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="Runs: " + ", ".join(RUNS)
    )
    arguments.add_argument("model", help="SmolLM2-135M-Instruct as a GGUF file")
    arguments.add_argument("--out", type=pathlib.Path, default=here.parent / "golden", help="default: tests/golden")
    arguments.add_argument("--only", nargs="+", choices=["rows", *RUNS], help="make only these")
    arguments.add_argument("--kinds", nargs="+", help="of archives, instead of a run's own")
    arguments.add_argument("--start", type=int, help="token of the text where the document starts, to search for one")
    arguments.add_argument("--text", type=pathlib.Path, help="text to use instead of `bible -f Gen1:1-Gen4:26`")
    arguments.add_argument("--no-check", action="store_true", help="skip the repetitions")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    if options.text:
        text = options.text.read_text()
    else:
        text = subprocess.run(["bible", "-f", "Gen1:1-Gen4:26"], capture_output=True, text=True, check=True).stdout
    bpe = tokenizer(options.model)

    def encode(string):
        return bpe.encode(string).ids

    text = encode(text)
    model = SmolLM2(options.model)
    single = None if options.no_check else SmolLM2(options.model, torch.float32)
    model_path = pathlib.Path(options.model)
    header = {"model": model_path.name, "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest()}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or ["rows", *RUNS]:
        if name == "rows":
            write(options.out, "recall_rows", golden_rows(text, model, header))
            continue
        run = RUNS[name]
        if options.kinds:
            run = replace(run, kinds=options.kinds)
        if options.start is not None:
            run = replace(run, start=options.start)
        write(options.out, f"recall_{name}", golden_run(name, run, text, encode, model, single, header))


if __name__ == "__main__":
    main()
