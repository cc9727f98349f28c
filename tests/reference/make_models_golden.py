"""Writes golden/models/NAME.json: tiny models of Hugging Face transformers, read through distillations with given
kept entries, in double precision. models/frame.py says how; models/*.py have the families.

    python make_models_golden.py ../golden/models [--only NAME ...]
"""

import argparse
import json
import pathlib

from models import dense, frame, mla, pictures, recurrent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    arguments = parser.parse_args()
    for families in (dense, mla, recurrent, pictures):
        for name, make in families.steered():
            if arguments.only is None or name in arguments.only:
                content = json.dumps(frame.run(make()), separators=(",", ":"))
                (arguments.folder / f"{name}.json").write_text(content.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
