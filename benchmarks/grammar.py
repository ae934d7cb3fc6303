"""A small English grammar with agreement in number: training sentences, and an exact check of a model's samples.

    S  -> NP(n) VERB(n) NP(m)           n and m are singular or plural
    NP -> DETERMINER(n) [ADJECTIVE] NOUN(n)

    python -m benchmarks.grammar --count 1000 --seed 0 > train.txt

It has 162,000 sentences, so a training set of 4,000 has one in forty of them.
"""

import argparse
import random
from collections.abc import Sequence

DETERMINERS = (("the", "a", "every"), ("the", "two", "some"))
ADJECTIVES = ("old", "small", "green", "happy")
STEMS = ("dog", "cat", "farmer", "doctor", "robot", "painter")
VERBS = ("see", "find", "help", "like", "follow")
NOUNS = (STEMS, tuple(f"{stem}s" for stem in STEMS))
VERB_FORMS = (tuple(f"{verb}s" for verb in VERBS), VERBS)


def sentence(random_source: random.Random) -> str:
    """Draw one sentence from the rules."""
    choose = random_source.choice
    subject, other = random_source.randrange(2), random_source.randrange(2)
    words = [*_noun_phrase(subject, random_source), choose(VERB_FORMS[subject]), *_noun_phrase(other, random_source)]
    return " ".join(words)


def sentences(count: int, seed: int) -> list[str]:
    """Draw distinct sentences."""
    source, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        found[sentence(source)] = None
    return list(found)


def is_grammatical(text: str) -> bool:
    """Return True if the rules generate this text."""
    words = text.split(" ")
    return any(_is_sentence(words, subject, verbs) for subject, verbs in enumerate(VERB_FORMS))


def count() -> int:
    """Return the number of sentences."""
    phrases = [len(DETERMINERS[n]) * (len(ADJECTIVES) + 1) * len(NOUNS[n]) for n in (0, 1)]
    return sum(phrases) ** 2 * len(VERBS)


def share_grammatical(texts: Sequence[str]) -> float:
    """Return the share of texts that are sentences."""
    return sum(map(is_grammatical, texts)) / len(texts)


def _noun_phrase(number: int, random_source: random.Random) -> list[str]:
    adjective = [random_source.choice(ADJECTIVES)] if random_source.random() < 0.5 else []
    return [random_source.choice(DETERMINERS[number]), *adjective, random_source.choice(NOUNS[number])]


def _is_sentence(words: list[str], subject: int, verbs: Sequence[str]) -> bool:
    after = _after_phrase(words, subject)
    return bool(after) and after[0] in verbs and any(_after_phrase(after[1:], number) == [] for number in (0, 1))


def _after_phrase(words: list[str], number: int) -> list[str] | None:
    """Return the words after a noun phrase at the beginning; None without one."""
    if len(words) < 2 or words[0] not in DETERMINERS[number]:
        return None
    noun = 2 if words[1] in ADJECTIVES else 1
    return words[noun + 1 :] if len(words) > noun and words[noun] in NOUNS[number] else None


def main() -> None:
    """Print sentences, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("\n".join(sentences(args.count, args.seed)))


if __name__ == "__main__":
    main()
