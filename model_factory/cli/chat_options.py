"""Option `--chat` of `generate.py`: a conversation on the terminal, or in turns from a pipe."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from model_factory.cli.live_text import LiveText
from model_factory.cli.run_command import announce_device
from model_factory.evaluation.sampling.prompt import PromptError, refuse_lone_surrogates
from model_factory.yaml_config.errors import escape_controls, escape_line
from model_factory.yaml_config.exit_codes import GOOD, INVALID

EXAMPLES = """\
  python generate.py --run runs/chat --chat             a conversation; /clear forgets it, /quit or Ctrl-D ends it
  printf 'Hello\\nAnd you?\\n' | python generate.py --run runs/chat --chat --json     turns from a pipe"""
_COMMANDS = {"/clear": "forget the conversation", "/quit": "end, as Ctrl-D does"}


def add_chat_option(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--chat",
        action="store_true",
        help="talk with a run that was trained on messages: each line of standard input is a turn, /clear and /quit are "
        "commands",
    )


def check_chat_option(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    """Call `usage_error` where options do not fit together."""
    for name in ("input", "prompt", "num_samples", "interpolate", "edit") if args.chat else ():
        if getattr(args, name):
            usage_error(
                f"--{name.replace('_', '-')} and --chat exclude each other: --chat reads turns and answers each"
            )


def run_chat(args: argparse.Namespace, folder: Path, overrides: list[str]) -> int:
    """Answer the turns of standard input until it ends; return the exit code, which is 1 where a turn has no answer.

    On a terminal the answer is drawn as it is denoised, and a turn without an answer can be corrected.
    """
    from model_factory.evaluation.run import open_run
    from model_factory.evaluation.sampling.chat import Chat
    from model_factory.evaluation.sampling.sample import Request

    run = open_run(folder, overrides, device=args.device)
    is_typed = sys.stdin.isatty() and sys.stdout.isatty()
    is_live = sys.stdout.isatty() and not args.json
    live, failures = LiveText(sys.stdout, is_terminal=is_live), 0
    watch = (lambda read: live.show(read()[0].text)) if is_live else None
    chat = Chat(run, Request((), args.seed, args.length, args.condition, watch=watch))
    announce_device(run)
    for note in run.notes:
        print(escape_controls(f"note: {note}"), file=sys.stderr)
    if is_typed:
        print("; ".join(f"{name}: {what}" for name, what in _COMMANDS.items()), file=sys.stderr)
    for number, turn in enumerate(_read_turns(is_typed), 1):
        word = turn.strip()
        if word == "/quit":
            break
        if word == "/clear":
            chat.clear()
            continue
        if not word:
            continue
        try:
            if re.fullmatch(r"/[a-z]+", word):
                raise PromptError(f"there is no command {word}; the commands are {', '.join(_COMMANDS)}")
            refuse_lone_surrogates(turn, what="the turn")
            found = chat.answer(turn)
        except PromptError as error:
            failures += 1
            print(f"<stdin>:{number}: {escape_line(str(error))}", file=sys.stderr)
            continue
        if args.json:
            line = {"line": number, "user": turn, "assistant": found.text, "network_calls": found.network_calls}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            live.finish(found.text)
    return INVALID if failures and not is_typed else GOOD


def _read_turns(is_typed: bool) -> Iterator[str]:
    """Yield the lines of standard input without their ends."""
    while True:
        try:
            line = input("> ") + "\n" if is_typed else sys.stdin.readline()
        except EOFError:
            print()
            return
        if not line:
            return
        yield line.removesuffix("\n").removesuffix("\r")
