"""Trial of a tokenizer.json in a child process: its patterns and normalisers may take any time and memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from data_manager.errors import DataError

FILE = "tokenizer.json"
CPU_SECONDS = 30
"""CPU time in which a tokenizer must be read and encode a few short texts; the largest published ones take about 3 s."""
MEMORY = 3 << 30
"""Address space of the trial. [bytes]"""
_MOST_TOKENS = 50
"""Tokens for each byte of a text; no useful tokenizer has more than a few."""
_LARGEST_ID = 1 << 24
"""A model has a row of weights for each id."""
_CHILD = r"""
import json, string, sys
sys.path[:] = filter(None, sys.path)  # without the working directory
seconds, memory = map(int, sys.argv[2:4])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
except (ImportError, ValueError, OSError):
    pass
from tokenizers import Tokenizer
try:
    tokenizer = Tokenizer.from_file(sys.argv[1])
except Exception:
    sys.exit(0)  # the caller reads the file again and reports it
found = {"largest": max(tokenizer.get_vocab().values(), default=0), "ratio": 0}
texts = [
    "The quick brown fox jumps over the lazy dog, 0123456789 times.\n",
    string.printable, "a" * 64 + "!", " " * 64 + "x", "\n" * 16 + "=" * 64, "caf\u00e9 \u4e2d\u6587 \U0001f600",
]
for text in texts if found["largest"] < 2**31 else ():
    try:
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
    except Exception:  # a word outside a vocabulary without an unknown token
        continue
    except BaseException as error:
        found["panic"] = str(error)
        break
    found["ratio"] = max(found["ratio"], count / len(text.encode()))
print(json.dumps(found))
"""


def try_tokenizer(folder: Path) -> None:
    """Read the tokenizer.json of a folder, if it has one, and encode short texts with it, in a child process.

    Raises DataError if that takes too much time, memory, ids or tokens, or if the tokenizer's library panics.
    """
    path = folder / FILE
    if not path.is_file():
        return
    words = [sys.executable, "-c", _CHILD, str(path), str(CPU_SECONDS), str(MEMORY)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=20 * CPU_SECONDS)
    except subprocess.TimeoutExpired:
        raise _refused(path, "takes minutes for a few short texts") from None
    if done.returncode in (-getattr(signal, "SIGXCPU", 24), -getattr(signal, "SIGKILL", 9)):
        raise _refused(path, f"takes more than {CPU_SECONDS} s or too much memory for a few short texts")
    if done.returncode < 0 or "MemoryError" in done.stderr:
        raise _refused(path, f"takes more than {MEMORY / 2**30:g} GiB of memory for a few short texts")
    found = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
    if "panic" in found:
        raise _refused(path, f"fails at a short text: {found['panic']}")
    if found.get("largest", 0) >= _LARGEST_ID:
        raise DataError(f"{path} has a token with the id {found['largest']:,}; ids must be below {_LARGEST_ID:,}")
    if found.get("ratio", 0) > _MOST_TOKENS:
        raise _refused(path, f"makes {found['ratio']:,.0f} tokens of each byte of a text")


def _refused(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}; check its normalizer and the regular expressions of its pre_tokenizer")
