"""How answers are scored, as LongBench does it: the best over the right answers, 0 .. 1. test_scores.py compares with its scorer."""

import collections
import re
import string


def words_of(text):
    """Lower case, without punctuation and articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(answer, right, classes=None):
    """Harmonic mean of precision and recall of words."""
    ours, theirs = words_of(answer), words_of(right)
    same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs)) if same else 0.0


def rouge_l(answer, right, classes=None):
    """F of the longest common subsequence of words, sentence by sentence, by the package rouge."""
    import rouge

    try:
        return rouge.Rouge().get_scores([answer], [right], avg=True)["rouge-l"]["f"]
    except (ValueError, RecursionError):  # nothing to compare
        return 0.0


def numbers(answer, wanted):
    found = re.findall(r"\d+", answer)
    return sum(number == wanted for number in found) / len(found) if found else 0.0


def count(answer, right, classes=None):
    """The share of the numbers in the answer that are the right one."""
    return numbers(answer, str(right))


def retrieval(answer, right, classes=None):
    """The same of the paragraph's number in "Paragraph 7"."""
    return numbers(answer, re.search(r"Paragraph (\d+)", right).group(1))


def classification(answer, right, classes=None):
    """1 / the number of classes that the answer names, if the right one is among them."""
    named = [name for name in classes if name in answer]
    for name in named:  # (the list shrinks meanwhile, as there) part of the right one's name
        if name in right and name != right:
            named.remove(name)
    return 1 / len(named) if right in named else 0.0


def exact(answer, right, classes=None):
    """Whether the answer holds the right one."""
    return float(" ".join(words_of(right)) in " ".join(words_of(answer)))


def choice(answer, right, classes=None):
    """Multiple choice: whether the letters that the answer begins with are the right ones."""
    found = re.match(r"\W*(?:answer\W*)?([A-D](?:\W*[A-D](?![a-z]))*)\b", answer, re.IGNORECASE)
    return float(found is not None and sorted(set(re.findall("[A-D]", found.group(1).upper()))) == sorted(set(right)))


FIRST_LINE = {"trec", "triviaqa", "samsum", "lsht"}  # sets whose answers are cut after a line


def best(score, answer, rights, classes=None, first_line=False):
    if first_line:
        answer = answer.lstrip("\n").split("\n")[0]
    return max((score(answer, right, classes) for right in rights), default=0.0)
