"""Options of `generate.py` for files: a text for each line of an input, written as it is ready."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from data_manager.progress import progress_bar
from model_factory.cli.run_command import announce_device
from model_factory.evaluation.sampling.prompt import unknown_characters_note
from model_factory.training.errors import InputFileError, UnfitError
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.exit_codes import GOOD, INVALID

if TYPE_CHECKING:
    from torch import nn

    from model_factory.evaluation.run import LoadedRun
    from model_factory.evaluation.sampling.line_files import Item
    from model_factory.evaluation.sampling.lines import LineSampler

EXAMPLES = """\
  python generate.py --run runs/en_de --input test.en --output test.de --set generation.num_beams=4
  python generate.py --run runs/en_de --input test.en --output test.de --resume     continue after an interruption
  python generate.py --run runs/asr --input a.flac b.wav --format stm      also folders of audio, and manifests
  python generate.py --run runs/mdlm --input texts_with_holes.txt --json > filled.jsonl
  python generate.py --run runs/answers --input questions.csv --output answers.txt     columns of the run's template"""
_BATCH = 64


def add_line_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of files."""
    parser.add_argument(
        "--input",
        metavar="FILE",
        nargs="+",
        help="write a text for each line of a UTF-8 file, or of standard input (-); for each row of a JSON or CSV file, if "
        "the run's rows have responses; for each recording of audio files, folders or manifests",
    )
    parser.add_argument(
        "--format",
        choices=("text", "stm", "rttm"),
        help="recordings: ID TEXT a line, or NIST's stm; rttm for diarization",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="with --input: new file for the texts (default: standard output)"
    )
    parser.add_argument("--resume", action="store_true", help="with --output: continue an output that was interrupted")
    parser.add_argument(
        "--batch-size", metavar="N", type=int, help=f"with --input: lines in a batch (default: {_BATCH})"
    )


def check_line_options(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    """Call `usage_error` where options do not fit together."""
    if not args.input:
        for name in ("output", "resume", "batch_size", "format"):
            if getattr(args, name):
                usage_error(f"--{name.replace('_', '-')} is for --input FILE; add the file, or leave it out")
        return
    if any(not path for path in args.input):
        usage_error("--input is empty; give it a file, or - for standard input")
    for name in ("prompt", "num_samples", "interpolate", "edit"):
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            usage_error(f"{option} and --input exclude each other: --input gives one text for each line of the file")
    if args.resume and not args.output:
        usage_error("--resume continues an output file; add --output FILE")
    if args.batch_size is not None and args.batch_size < 1:
        usage_error(f"--batch-size takes a number of lines of at least 1; got {args.batch_size}")


def write_lines(args: argparse.Namespace, folder: Path, overrides: list[str]) -> int:
    """Write a text for each line of the input; return the exit code, which is 1 where a line has no text."""
    from model_factory.evaluation.run import open_run
    from model_factory.evaluation.sampling.draw import check_request
    from model_factory.evaluation.sampling.given import prompt_texts
    from model_factory.evaluation.sampling.line_files import LineWriter, as_one_line, open_output
    from model_factory.evaluation.sampling.lines import text_sampler
    from model_factory.evaluation.sampling.recordings import (
        RecordingSampler,
        as_fields,
        choose_format,
        format_recording,
        read_recordings,
    )
    from model_factory.evaluation.sampling.sample import Request

    run = open_run(folder, overrides, device=args.device)
    announce_device(run)
    request = Request((), args.seed, args.length, args.condition)
    is_speech = run.task_name in ("speech_recognition", "diarization")
    if is_speech:
        check_request(run, request)
        form = choose_format(run, args.format)
        sampler: LineSampler = RecordingSampler(run)
        items = read_recordings(args.input)
    else:
        if args.format:
            raise UnfitError(f"--format {args.format} is for recordings, and {folder} is a run of task {run.task_name}")
        sampler, items = text_sampler(run, request), _read_texts(run, _single_file(args.input))
    output = open_output(Path(args.output) if args.output else None, _identity(args, run), resume=args.resume)
    for note in run.notes:
        print(escape_controls(f"note: {note}"), file=sys.stderr)
    is_terminal = args.output is None and sys.stdout.isatty()

    def show(item: "Item", found: Any, problem: str | None) -> str:
        if args.json:
            fields = as_fields(item, found) if is_speech else {"input": item.value, "output": found}
            fields = fields if problem is None else {**fields, "error": problem}
            return json.dumps({"line": item.number, **fields}, ensure_ascii=False) + "\n"
        shown = format_recording(item, found, form) if is_speech else as_one_line(found or "") + "\n"
        return escape_controls(shown) if is_terminal else shown

    def remark(value: Any) -> str | None:
        if run.tokenizer is None:
            return None
        return unknown_characters_note(prompt_texts(run, value), run.tokenizer, "the line")

    with progress_bar("lines", None, "line") as track:
        writer = LineWriter(sampler, output, show, args.batch_size or _BATCH, _complain, track, remark)
        with closing(output):
            writer.run(items)
    if args.output:
        print(escape_controls(f"{args.output}: {output.progress.written:,} lines written"), file=sys.stderr)
    if failures := output.progress.describe_failures():
        print(failures, file=sys.stderr)
        return INVALID
    return GOOD


def _read_texts(run: "LoadedRun", path: str) -> "Iterator[Item]":
    """Read the lines of a file, or the rows of a table of prompts for a run on rows with responses."""
    from model_factory.evaluation.data import kind_of_file
    from model_factory.evaluation.sampling.given import has_responses
    from model_factory.evaluation.sampling.line_files import read_lines, read_records

    is_table = has_responses(run) and kind_of_file(Path(path)) in ("json", "csv")
    return read_records(Path(path)) if is_table else read_lines(path)


def _complain(message: str) -> None:
    print(message, file=sys.stderr)


def _single_file(paths: list[str]) -> str:
    """Return the only path; raise InputFileError where it is no file, or not the only one."""
    path = paths[0]
    if len(paths) > 1:
        raise InputFileError(f"--input {' '.join(paths)}: texts are read from one file; join the files, or give one")
    if path != "-" and not Path(path).exists():
        raise InputFileError(f"--input {path}: there is no such file")
    if path != "-" and Path(path).is_dir():
        raise InputFileError(f"--input {path} is a folder; give a file with a text in each line")
    return path


def _identity(args: argparse.Namespace, run: "LoadedRun") -> dict[str, Any]:
    """Return what decides the texts beside the input: the weights, the settings, and the form of the output."""
    from model_factory.evaluation.sampling.line_files import WEIGHTS

    generation = {f"generation.{key}": value for key, value in run.generation.model_dump(mode="json").items()}
    del generation["generation.num_samples"]
    options = {f"--{name}": getattr(args, name) for name in ("seed", "length", "condition", "json", "format")}
    return {WEIGHTS: _hash_weights(run.model), **options, **generation}


def _hash_weights(model: "nn.Module") -> str:
    """Hash the weights and buffers of a model."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
