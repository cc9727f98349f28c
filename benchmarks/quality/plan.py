"""What the tables are made of: which texts, read in which ways. infinipot-tables makes them."""

import dataclasses
import itertools

import datasets
import groups
import listings
import needles

# Ways to read: a policy, and what its catalyst is made of (trials.CATALYSTS).
READINGS = {
    "full": ("full", "yes"),
    "gold": ("gold", "yes"),
    "known": ("known=infinipot", "yes"),
    "question": ("question=infinipot", "question"),
    "terms": ("terms=infinipot --term-share 0.35", "yes"),
    "layers": ("layers=infinipot --layers 24", "yes"),
    "pinned": (f"pinned=infinipot --pin '{listings.KINDS['cell'].head}'", "yes"),
    "recalled": ("recalled=streaming_llm --archive @archive", "yes"),
    "reread": ("reread", "no"),
    "nuc": ("nuc", "no"),
    "blind": ("blind=streaming_llm", "no"),
    "context_shift": ("context_shift", "no"),
}
TRAINED = 8192  # tokens that SmolLM2 was trained on; beyond them a full cache reads nothing any more
PASSES = 3  # one for each third of the texts, which makes whole tables
HAYSTACKS = ["bible.txt", "emma.txt", "persuasion.txt", "snappy_lcet10.txt"]
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclasses.dataclass(frozen=True)
class Text:
    """One to be read, and asked about."""
    third: int  # of all texts, 0 .. PASSES - 1
    what: dict  # the part of a trial's cell that names it
    tokens: int  # about
    gold: bool  # whether what the answer rests on is known
    example: object = None  # of datasets, unless a needle is hidden in it


@dataclasses.dataclass(frozen=True)
class Hidden:
    """Needles. Each depth and seed has another haystack, so that all have their share."""
    kinds: tuple = tuple(needles.ALL_KINDS)
    tokens: int = 6000
    depths: tuple = DEPTHS
    seeds: tuple = tuple(range(1, PASSES + 1))

    files = HAYSTACKS

    def texts(self, find):
        for kind, depth, seed in itertools.product(self.kinds, self.depths, self.seeds):
            haystack = HAYSTACKS[(needles.ALL_KINDS.index(kind) + DEPTHS.index(depth) + seed) % len(HAYSTACKS)]
            groups.check_needles("test", haystack)
            yield Text(seed - 1, {"kind": kind, "tokens": self.tokens, "depth": depth, "seed": seed, "haystack": haystack},
                       self.tokens, True)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Test rows of a set."""
    form: str
    file: str
    count: int  # at most
    longest: int = TRAINED - 700  # tokens of a text; the question and the answer follow it
    haystack: str = ""  # of sets that are hidden in one

    @property
    def files(self):
        return [self.file, *([self.haystack] if self.haystack else [])]

    def texts(self, find):
        examples = datasets.select([f"{self.form}:{find(self.file)}"], 0, "test", self.count, self.longest,
                                   find(self.haystack) if self.haystack else None)
        for i, ((set_, id_), example) in enumerate(examples.items()):
            tokens = round(len(example.document) / datasets.CHARACTERS_PER_TOKEN)
            yield Text(i % PASSES, {"set": set_, "id": id_, "length": 0}, tokens, bool(example.gold), example)


@dataclasses.dataclass(frozen=True)
class Table:
    name: str  # of several that are one
    pot: int  # entries, of which half stay
    of: tuple
    readings: tuple
    program: str = "infinipot-read"
    options: tuple = ("",)  # of the program: each reading is made with each of them

    def asks(self, reading, text):
        if reading == "gold":
            return text.gold
        return reading != "full" or text.tokens < TRAINED


OF_NEEDLES = ("full", "gold", "known", "question", "recalled", "reread", "nuc", "blind")
OF_TASKS = ("full", "gold", "known", "recalled", "reread", "nuc", "blind")
OF_LONG = ("full", "known", "recalled", "reread", "nuc", "blind")
CACHES = tuple(f"--cache-type {cache} --granularity {granularity}" for cache in ("f16", "q8_0") for granularity in ("shared", "head"))
ANY = 1 << 30

TABLES = [
    Table("needles", 2048, (Hidden(),), OF_NEEDLES),
    Table("questions", 512, (Asked("hotpotqa", "hotpotqa_train.json", 36), Asked("musique", "musique_train.json", 36),
                             Asked("babi", "qa1_single-supporting-fact_test.txt", 24, haystack="persuasion.txt"),
                             Asked("babi", "qa2_two-supporting-facts_test.txt", 24, haystack="persuasion.txt")), OF_TASKS),
    Table("lists", 1024, (Asked("ruler", "4096_niah_multikey_3.jsonl", 12), Asked("longeval", "lines_200.jsonl", 12),
                          Asked("longeval", "topics_5.jsonl", 12)), OF_TASKS),
    Table("summaries", 1024, (Asked("longbench", "multi_news.jsonl", 12, 2500), Asked("leval", "news_summ.jsonl", 6),
                              Asked("leval", "gov_report_summ.jsonl", 6)), OF_LONG),
    Table("documents", 2048, (Asked("leval", "scientific_qa.jsonl", 12), Asked("leval", "multidoc_qa.jsonl", 12),
                              Asked("leval", "coursera.jsonl", 12), Asked("leval", "tpo.jsonl", 12)), OF_LONG),
    Table("pinned", 2048, (Hidden(("cell",)),), ("known", "pinned")),
    Table("llama_cpp", 2048, (Hidden(("number",), depths=(0.1, 0.5, 0.9)),), ("known",), "infinipot-llama", CACHES),
    Table("llama_cpp", 2048, (Hidden(("number",), depths=(0.1, 0.5, 0.9)),), ("full", "context_shift", "blind"), "infinipot-llama",
          ("--cache-type f16",)),
    Table("llama_cpp_kinds", 2048, (Hidden(("phrase", "joined", "cell", "definition", "turn"), depths=(0.5,)),),
          ("full", "known", "context_shift"), "infinipot-llama"),
    Table("pot_256", 256, (Hidden(("number",), depths=(0.5,)),), ("known", "terms", "layers", "blind")),  # reread has no room
    *(Table(f"pot_{pot}", pot, (Hidden(("number",), depths=(0.5,)),), ("known", "terms", "layers", "reread", "blind"))
      for pot in (512, 1024, 2048, 4096)),
    *(Table(f"needles_{tokens}", 2048, (Hidden(tokens=tokens, depths=depths),), ("known", "recalled", "reread", "nuc", "blind"))
      for tokens, depths in ((12_000, (0.1, 0.5, 0.9)), (24_000, (0.1, 0.9)), (48_000, (0.5,)))),
    Table("long_documents", 2048, (Asked("passkey", "passkey_examples.jsonl", 5, ANY), Asked("longeval", "topics_15.jsonl", 6, ANY),
                                   Asked("leval", "topic_retrieval_longchat.jsonl", 6, ANY), Asked("loogle", "shortdep_qa.jsonl", 6, ANY),
                                   Asked("leval", "natural_question.jsonl", 6, ANY)), OF_LONG),
]


def policy_of(reading, options):
    """As trials.split_policy() reads it; options are part of its name."""
    policy, known = READINGS[reading]
    if not options:
        return policy, known
    name, _, words = policy.partition("=") if "=" in policy.split(" ")[0] else (policy, "", policy)
    short = options.replace("--cache-type ", "").replace("--granularity ", "").replace(" ", "_")
    return f"{name}_{short}={words} {options}", known
