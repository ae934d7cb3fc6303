"""Mutators of a config's text, from bytes to bytes."""

import random
from collections.abc import Callable

from tools.fuzzing.values import RAW, TEXTS

Mutator = Callable[[bytes, random.Random], bytes]
_MARKS = b":-#[]{},&*!|>'\"%@`?\\ \t\n\r\x00\x1b\x7f\x85\xa0\xc3\xe2\xed\xf0\xfe\xff"
_BREAKS = (b"\r\n", b"\r", b"\n\n", b"\x0b", b"\x0c", "\u2028".encode(), "\x85".encode())


def flip(text: bytes, rng: random.Random) -> bytes:
    """Replace some bytes."""
    found = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 8)) if found else 0):
        found[rng.randrange(len(found))] = rng.randrange(256) if rng.random() < 0.3 else rng.choice(_MARKS)
    return bytes(found)


def insert(text: bytes, rng: random.Random) -> bytes:
    """Insert a punctuation mark, a scalar or Unicode text."""
    here = rng.randint(0, len(text))
    kind = rng.random()
    piece = bytes([rng.choice(_MARKS)]) if kind < 0.5 else rng.choice(RAW if kind < 0.8 else TEXTS).encode()
    return text[:here] + piece + text[here:]


def cut(text: bytes, rng: random.Random) -> bytes:
    """Delete a range, or truncate."""
    start = rng.randint(0, len(text))
    end = len(text) if rng.random() < 0.3 else min(len(text), start + rng.choice((1, 2, 5, 40)))
    return text[:start] + text[end:]


def lines(text: bytes, rng: random.Random) -> bytes:
    """Delete, duplicate, move or swap lines."""
    found = text.split(b"\n")
    here, there = rng.randrange(len(found)), rng.randrange(len(found))
    kind = rng.randrange(4)
    if kind == 0:
        del found[here]
    elif kind == 1:
        found.insert(there, found[here])
    elif kind == 2:
        found.insert(there, found.pop(here))
    else:
        found[here], found[there] = found[there], found[here]
    return b"\n".join(found)


def indent(text: bytes, rng: random.Random) -> bytes:
    """Indent or dedent one line, or all lines from one on, by spaces or a tab."""
    found = text.split(b"\n")
    start = rng.randrange(len(found))
    end = start + 1 if rng.random() < 0.7 else len(found)
    by = rng.choice((b" ", b"  ", b"\t", b"    ", b"\xc2\xa0", b""))
    found[start:end] = [by + line if by else line[rng.choice((1, 2)) :] for line in found[start:end]]
    return b"\n".join(found)


def scalar(text: bytes, rng: random.Random) -> bytes:
    """Replace a value after a colon by a raw YAML scalar."""
    found = text.split(b"\n")
    with_value = [index for index, line in enumerate(found) if b": " in line]
    if not with_value:
        return insert(text, rng)
    here = rng.choice(with_value)
    key, _, _ = found[here].partition(b": ")
    found[here] = key + b": " + rng.choice(RAW).encode()
    return b"\n".join(found)


def anchors(text: bytes, rng: random.Random) -> bytes:
    """Add an anchor, and aliases or merge keys after, before or inside it."""
    found = text.split(b"\n")
    keyed = [index for index, line in enumerate(found) if b":" in line and not line.lstrip().startswith(b"#")]
    if len(keyed) < 2:
        return insert(text, rng)
    for index, piece in zip(rng.sample(keyed, 2), (b" &a", rng.choice((b" *a", b" &a"))), strict=True):
        key, _, rest = found[index].partition(b":")
        found[index] = key + b":" + piece + (b"" if piece == b" *a" else rest)
    if rng.random() < 0.4:
        here = rng.choice(keyed)
        margin = found[here][: len(found[here]) - len(found[here].lstrip())]
        found.insert(here, margin + rng.choice((b"<<: *a", b"<<: [*a, *a]", b"<<: {a: *a}", b"<<:")))
    return b"\n".join(found)


def breaks(text: bytes, rng: random.Random) -> bytes:
    """Replace one or all line breaks."""
    return text.replace(b"\n", rng.choice(_BREAKS), rng.choice((1, 3, -1)))


def frame(text: bytes, rng: random.Random) -> bytes:
    """Add document markers, directives or byte order marks at either end, or change the encoding."""
    before = (
        b"---\n",
        b"%YAML 1.1\n---\n",
        b"%TAG ! x:\n---\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\n" * 50,
        b"? ",
        b"- ",
    )
    after = (b"\n---\n", b"\n...\n", b"\n... x\n", b"\n--- a\n", b"\x00", b"\n" + b" " * 3000, b"\n# end", b"\n  x")
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(before) + text
    if kind < 0.9:
        return text + rng.choice(after)
    return text.decode(errors="replace").encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")), "replace")


def repeat(text: bytes, rng: random.Random) -> bytes:
    """Repeat a range many times, up to a few hundred kilobytes."""
    start = rng.randint(0, len(text))
    piece = text[start : start + rng.choice((1, 4, 30))]
    many = rng.choice((2, 10, 100, 1000, 20_000))
    return (text[:start] + piece * many + text[start:])[:600_000]


def bomb(text: bytes, rng: random.Random) -> bytes:
    """Append nested aliases (a billion laughs bomb) or deep nesting."""
    if rng.random() < 0.5:
        levels = rng.choice((3, 6, 12))
        names = "\n".join(f"x-{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels))
        return text + f"\nx-0: &x0 [a, b]\n{names}\n".encode()
    mark = rng.choice(("[", "{a: ", "- ", "? "))
    return text + b"\nx-deep: " + (mark * rng.choice((10, 63, 64, 65, 1000, 50_000))).encode()


MUTATORS: tuple[Mutator, ...] = (flip, insert, cut, lines, indent, scalar, scalar, anchors, breaks, frame, repeat, bomb)


def mutate_text(text: bytes, rng: random.Random) -> bytes:
    """Apply one to four mutations in sequence."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        text = rng.choice(MUTATORS)(text, rng)
    return text
