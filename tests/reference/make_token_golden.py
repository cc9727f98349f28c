"""Writes tests/golden/tokens.json: texts and the token ids that Hugging Face's tokenizer gives them.

    python make_token_golden.py SmolLM2-135M-Instruct.Q4_1.gguf --passage passage.txt

Needs the packages gguf, tokenizers and jinja2. The reference tokenizer is built from the model file's own
vocabulary and merges, set up as SmolLM2's tokenizer.json sets it up: numbers split off one by one, then
GPT-2's byte-level pre-tokenizer. --passage names a longer text (the committed one is Genesis 1:1-20 of the
King James Bible, printed by `bible -f Gen1:1-20` of Debian's bible-kjv); without it, the passage already in
the golden file is kept.

The ids are compared with llama.cpp's as well: through the package llama_cpp where it can be imported, else
from --llama-ids, a JSON list of one list of ids per case, in the order of "cases" in the golden file
(llama_tokenize with add_special false and parse_special true for the cases whose "specials" is "parse").
The two differ in LLAMA_DIFFERS alone; the golden file holds Hugging Face's ids there too. Any other
difference, and any listed one that is gone, is an error.
"""

import argparse
import json
import pathlib
import sys

import gguf
import jinja2
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tokens.json"

# name, text, whether control tokens are parsed
CASES = [
    ("empty", "", False),
    ("one space", " ", False),
    ("one letter", "a", False),
    ("prose", "It was the best of times, it was the worst of times.", False),
    ("digits", "12345 and 6 7, 3.14159; year 2024.", False),
    ("digits after spaces", "a  1   22\n 3\t4", False),
    ("digits after letters", "x1y22z 4th B2B", False),
    ("contractions", "I'm sure they've said it's what we'd do; you'll see he can't, they're", False),
    ("upper-case contractions", "I'M SURE IT'S THEY'VE", False),
    ("quotes", "'single' \"double\" ''s '' 'tis rock 'n' roll o'clock", False),
    ("typographic apostrophe", "it\u2019s \u201cquoted\u201d \u2013 dash \u2014 em", False),
    ("code", "for (int i = 0; i < n; ++i) {\n  sum += a[i] * 2.5e-3;  // add\n}\n", False),
    ("python", "def f(x):\n    return x ** 2 if x else None\n\n\nclass A:\n\tpass\n", False),
    ("url", "See https://example.org/a_b/c?d=1&e=%20#frag or mail me@example.org!", False),
    ("inner spaces", "two  spaces   three    four", False),
    ("leading spaces", "   leading", False),
    ("trailing spaces", "trailing   ", False),
    ("only spaces", "          ", False),
    ("newlines", "\n\nline\n\n\nline\n \n  x\r\ny\r\n", False),
    ("tabs", "\ta\t\tb\t c \t d", False),
    ("punctuation", "...!?!?--==>> <<== @#$%^&*()_+{}|:\"<>?", False),
    ("accents", "Příliš žluťoučký kůň – Ünïcödé naïve café", False),
    ("decomposed accents", "cafe\u0301 nai\u0308ve A\u030a", False),
    ("cjk", "我能吞下玻璃而不伤身体。日本語のテキスト、カタカナ。한국어 문장", False),
    ("full-width digits", "１２３ と 四五六", False),
    ("arabic", "السلام عليكم ورحمة الله ١٢٣٤", False),
    ("hebrew", "שָׁלוֹם עולם", False),
    ("devanagari", "क्षत्रिय हिन्दी में लिखा १२३", False),
    ("thai", "สวัสดีชาวโลก ๔๕", False),
    ("cyrillic and greek", "Съешь же ещё этих булок. Ξεσκεπάζω τὴν ψυχοφθόρα", False),
    ("emoji", "hi 👋🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇨🇿 ok ☺️", False),
    ("superscripts", "x² + y³ = z⁴ H₂O", False),
    ("numerals", "Ⅻ ⅷ ½ ¾ ⅔ ① ⑳ ㊿ 〇 ৴", False),
    ("no-break space", "a\u00a0b \u00a0 c\u00a0\u00a0d", False),
    ("next line", "a\u0085b \u0085 c", False),
    ("mongolian vowel separator", "a\u180eb \u180e c\u180e\u180e d", False),
    ("ideographic space", "a\u3000b \u3000 c\u3000\u3000d\u30001", False),
    ("other spaces", "a\u2003b\u2009c\u2028d\u2029e\u202ff\u205fg\u1680h", False),
    ("zero-width", "a\u200bb\u200dc\ufeffd\u2060e", False),
    ("vertical tab and form feed", "a\x0bb\x0cc \x0b\x0c d", False),
    ("unit separators", "a\x1cb\x1ec\x1fd \x1c", False),
    ("control characters", "a\x00b\x01c\x07d\x1be\x7ff", False),
    ("bytes without a token", "a\x04b !\x04!\x04!! \x06\x13\x14\x16\x1d ok", False),
    ("planes without a token", "x\U00040000y \U000e0001 \U0010ffff.", False),
    ("replacement character", "bad \ufffd\ufffd byte", False),
    ("private use", "\ue000 \uf8ff", False),
    ("control tokens as text", "<|im_start|>user\nhi<|im_end|>\n<|endoftext|> <repo_name>", False),
    ("control tokens parsed", "<|im_start|>user\nhi <|im_end|>\n<|endoftext|> <repo_name>x<file_sep>", True),
    ("control tokens adjoining", "<|im_start|><|im_start|><|im_end|> <|im_end|>", True),
    ("nearly control tokens", "<|im_start|<|im_end|>> <<|im_end|>| <|IM_END|>", True),
    ("long word", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 4, False),
    ("repeats", "a" * 100 + "!" * 99 + "ab" * 50 + "=" * 80, False),
]

# Cases in which llama.cpp gives other ids, and why.
LLAMA_DIFFERS = {
    "bytes without a token": "llama.cpp drops such a byte after merging, so that its neighbours do not merge",
}

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHATS = [
    {"system": None, "document": "The pot holds 7 litres of soup.", "question": "How much soup is there?",
     "prefix": ""},
    {"system": "Answer briefly.", "document": "  Indented.\n\nIt's  late.\n", "question": "Is it late? ",
     "prefix": "Answer:"},
    {"system": "", "document": "\n\nBlank lines first", "question": "What's first?", "prefix": " Yes"},
]


def reference_tokenizer(reader, parse):
    """SmolLM2's tokenizer as the package tokenizers runs it."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens(control)
    assert tokenizer.get_vocab_size() == len(tokens)
    tokenizer.encode_special_tokens = not parse
    return tokenizer


def golden_chats(reader, tokenizer):
    """Whole prompts, rendered from the file's own template."""
    template = jinja2.Environment().from_string(reader.fields["tokenizer.chat_template"].contents())
    chats = []
    for chat in CHATS:
        messages = [{"role": "user", "content": chat["document"] + "\n\n" + chat["question"]}]
        if chat["system"] is not None:
            messages.insert(0, {"role": "system", "content": chat["system"]})
        text = template.render(messages=messages, add_generation_prompt=True) + chat["prefix"]
        assert chat["system"] is not None or SYSTEM in text
        chats.append({**chat, "text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids})
    return chats


def llama_ids(arguments, cases):
    """llama.cpp's ids for each case, or None where neither source is at hand."""
    if arguments.llama_ids:
        return json.loads(pathlib.Path(arguments.llama_ids).read_text())
    try:
        import llama_cpp
    except ImportError:
        return None
    model = llama_cpp.Llama(arguments.model, vocab_only=True, verbose=False)
    return [
        model.tokenize(case["text"].encode(), add_bos=False, special=case["specials"] == "parse")
        for case in cases
    ]


def check_llama(arguments, cases):
    found = llama_ids(arguments, cases)
    if found is None:
        print("llama.cpp's ids were not compared: no package llama_cpp and no --llama-ids")
        return
    assert len(found) == len(cases), "the list of llama.cpp's ids belongs to other cases"
    differing = {case["name"] for case, ids in zip(cases, found) if ids != case["ids"]}
    for case, ids in zip(cases, found):
        if case["name"] in differing ^ set(LLAMA_DIFFERS):
            print(f"{case['name']}: Hugging Face {case['ids']}, llama.cpp {ids}")
    if differing != set(LLAMA_DIFFERS):
        sys.exit("llama.cpp differs in other cases than LLAMA_DIFFERS lists")
    print(f"llama.cpp agrees on {len(cases) - len(differing)} of {len(cases)} cases, differs as expected on the rest")


def passage(arguments):
    if arguments.passage:
        return pathlib.Path(arguments.passage).read_text()
    old = json.loads(GOLDEN.read_text())
    return next(case["text"] for case in old["cases"] if case["name"] == "passage")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="SmolLM2's GGUF file")
    parser.add_argument("--passage", help="a longer text (default: the one in the golden file)")
    parser.add_argument("--llama-ids", help="llama.cpp's ids, where the package llama_cpp is not at hand")
    arguments = parser.parse_args()

    reader = gguf.GGUFReader(arguments.model)
    tokenizer = {parse: reference_tokenizer(reader, parse) for parse in (False, True)}
    cases = [
        {
            "name": name,
            "text": text,
            "specials": "parse" if parse else "text",
            "ids": tokenizer[parse].encode(text, add_special_tokens=False).ids,
        }
        for name, text, parse in [*CASES, ("passage", passage(arguments), False)]
    ]
    golden = {"cases": cases, "chats": golden_chats(reader, tokenizer[True])}
    lines = [f"{json.dumps(key)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for key, rows in golden.items()]
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")
    check_llama(arguments, cases)


if __name__ == "__main__":
    main()
