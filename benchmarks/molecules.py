"""Molecules of a run: how many are valid, differ, are new and lie apart, beside other samplers and other runs.

    python -m benchmarks.molecules --run runs/molecules_zinc --samples 1000 --output docs/molecules.png
    python -m benchmarks.molecules --run runs/molecules_zinc --vary temperature=0.8 --vary sampler=confidence,steps=32 \\
        --baseline polydiff --baseline runs/molecules_zinc_decoder --curve 200 --output docs/molecules.png

A row of the table for the run as its file has it, for each --vary (keys of the section `generation`), and for each
baseline: another run's folder, or polydiff, the published sampler that draws every token anew at each step and masks
none again, over the same weights and at the run's temperature (see `benchmarks.polydiff_sampler`). --curve draws so many samples from each checkpoint
of the run and of the runs beside it. All from one seed; intervals are of 95 %.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.molecule_plots import Point, draw_plots

FIGURES = ("validity", "uniqueness", "novelty", "internal_diversity")
POLYDIFF = {"polydiff": False, "polydiff, copying": True}
"""Names of the published sampler's rows, and whether a token that is no mask is copied."""


class Measurement:
    """One row of the table."""

    def __init__(self, name: str, smiles: Sequence[str], known: Sequence[str], seed: int, seconds: float) -> None:
        from evaluation.molecules import molecule_figures

        self.name, self.seconds, self.count = name, seconds, len(smiles)
        self.report = molecule_figures(smiles, known, seed)

    def cells(self) -> list[str]:
        """Cells of a Markdown table; a figure that nothing is known of is empty."""
        found = {figure.name: figure for figure in self.report.figures}
        shown = [
            f"{found[name].value:.3f} ({found[name].low:.3f}-{found[name].high:.3f})" if name in found else ""
            for name in FIGURES
        ]
        return [self.name, f"{self.count:,}", *shown, f"{self.seconds / max(1, self.count):.2f}"]

    def plain(self) -> dict[str, Any]:
        """For --json."""
        return {"name": self.name, "samples": self.count, "seconds": self.seconds, **self.report.as_dict()}


def opened(folder: Path, options: Sequence[str]) -> Any:
    """A run with options of its section `generation`."""
    from evaluation.opened import open_run

    return open_run(folder, [f"generation.{option}" for option in options], device="cpu")


def drawn(run: Any, count: int, seed: int) -> list[str]:
    """SMILES by the run's own sampler, lengths as its data have them."""
    from evaluation.sample import Request
    from evaluation.sampling import draw

    generation = run.generation.model_copy(update={"num_samples": count})
    asked = replace(run, config=run.config.model_copy(update={"generation": generation}))
    return [sample.text for sample in draw(asked, Request(seed=seed)).samples]


def drawn_by_polydiff(run: Any, count: int, seed: int, *, copies: bool) -> list[str]:
    """SMILES by the published sampler, as long as those of the run's own."""
    import torch

    from benchmarks.polydiff_sampler import redraw_every_token
    from evaluation.sample_lengths import drawn_lengths

    tokenizer, generator = run.needs_tokenizer(), torch.Generator().manual_seed(seed)
    found = []
    for lengths in torch.split(drawn_lengths(run, count, seed), 64):
        settings: dict[str, Any] = {"copies": copies, "temperature": run.generation.temperature}
        for row in redraw_every_token(run.model, lengths, **settings, generator=generator):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            found.append(tokenizer.decode(row[:end]))
    return found


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Names of the table's rows, and what draws their samples."""
    run, count, seed = opened(args.run, args.set), args.samples, args.seed
    yield args.run.name, partial(drawn, run, count, seed)
    for variant in args.vary:
        other = opened(args.run, [*args.set, *variant.split(",")])
        yield variant, partial(drawn, other, count, seed)
    for baseline in args.baseline:
        if baseline == "polydiff":
            for name, copies in POLYDIFF.items():
                yield name, partial(drawn_by_polydiff, run, count, seed, copies=copies)
        else:
            beside = opened(Path(baseline), ())
            yield beside.folder.name, partial(drawn, beside, count, seed)


def curve(folder: Path, options: Sequence[str], count: int, seed: int, known: Sequence[str]) -> list[Point]:
    """Validity at each checkpoint of a run, averaged weights where it has them."""
    from training.checkpoints import checkpoint_folder, steps_of
    from training.network import restore_network

    run, found = opened(folder, options), []
    for step in sorted(steps_of(folder)):
        restore_network(run.model, run.task, run.config, checkpoint_folder(folder, step))
        figure = Measurement(folder.name, drawn(run, count, seed), known, seed, 0.0).report.figures[0]
        found.append((step, figure.value, figure.low, figure.high))
        print(f"{folder.name} at step {step:,}: {figure.value:.3f}", file=sys.stderr, flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and draw; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.molecules", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a diffusion run on molecules")
    parser.add_argument("--samples", type=int, default=1000, help="samples of each row (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of generation, for the run")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=VALUE,...", help="a row with these")
    parser.add_argument("--baseline", action="append", default=[], help="polydiff, or the folder of a run")
    parser.add_argument("--curve", type=int, default=0, metavar="N", help="N samples of each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="PNG to draw")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args(argv)
    from benchmarks.report import table
    from evaluation.molecules import known_molecules

    known = list(known_molecules(opened(args.run, ())))
    measured = []
    for name, draw in rows(args):
        start = time.process_time()
        smiles = draw()
        measured.append(Measurement(name, smiles, known, args.seed, time.process_time() - start))
        print("\t".join(measured[-1].cells()), file=sys.stderr, flush=True)
    folders = [args.run, *(Path(one) for one in args.baseline if one != "polydiff")] if args.curve else []
    options = {args.run: args.set}
    curves = {folder.name: curve(folder, options.get(folder, ()), args.curve, args.seed, known) for folder in folders}
    print(table(["sampler", "samples", *FIGURES, "CPU s a sample"], [one.cells() for one in measured]))
    if args.json is not None:
        content = {"rows": [one.plain() for one in measured], "curves": curves}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.output is not None:
        draw_plots([one.plain() for one in measured], curves, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
