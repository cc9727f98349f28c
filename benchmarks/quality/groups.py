"""Which rows of a set may choose settings, and which are kept to test them: rows.json says it once, for every program.

Its slices are Python's; "rest" is what no other group of the set has."""

import json
import pathlib

GROUPS = ["development", "test", "all"]
TABLE = json.loads(pathlib.Path(__file__).with_name("rows.json").read_text())


def add_option(parser, default):
    parser.add_argument("--rows", choices=GROUPS, default=default,
                        help="which rows of a set, by rows.json; a test row's result is never a reason to change a setting [%(default)s]")


def places(text, count):
    """The rows that a slice such as 0:100:4 takes of `count`."""
    return range(count)[slice(*(int(part) if part else None for part in text.split(":")))]


def numbers(form, group, count):
    """The rows, ascending, that a group has of the first `count` of a set; all of the groups "used_up" and "all" as well."""
    if group == "all":
        return list(range(count))
    slices = TABLE[form]
    if group not in slices:
        raise ValueError(f"{form} has no {group} rows, but {', '.join(slices)}")
    if slices[group] != "rest":
        return list(places(slices[group], count))
    others = {number for text in slices.values() if text != "rest" for number in places(text, count)}
    return [number for number in range(count) if number not in others]


def haystack_of(path):
    """alice29 of snappy_alice29.txt."""
    return pathlib.Path(path).stem.removeprefix("snappy_")


def check_needles(group, haystack, seeds=()):
    """Throws if needles in this haystack, with these seeds, are not of the group."""
    if group == "all":
        return
    allowed = TABLE["needles"][group]
    if haystack_of(haystack) not in allowed["haystacks"]:
        raise ValueError(f"{pathlib.Path(haystack).name} is none of the {group} haystacks: {', '.join(allowed['haystacks'])}")
    if "seeds" in allowed and not set(seeds) <= set(places(allowed["seeds"], 1 << 20)):
        raise ValueError(f"seeds {' '.join(map(str, seeds))} are not all of the {group} seeds {allowed['seeds']}")
