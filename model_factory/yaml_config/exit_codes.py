"""Exit codes of every verb.

| code | meaning |
| --- | --- |
| 0 | good |
| 1 | the file, or what was asked of a run, is invalid |
| 2 | wrong usage, or a device that this machine lacks |
| 3 | a file or run folder cannot be read |
| 4 | the work failed: build, training, generation, evaluation or loading |
| 130 | interrupted by Ctrl-C; other signals end a training with 128 + their number |
"""

GOOD, INVALID, USAGE, UNREADABLE, FAILED = range(5)
INTERRUPTED = 130
