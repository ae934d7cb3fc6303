"""Measure validity, uniqueness, novelty and diversity of a run's molecules, beside other samplers and runs.

    python -m benchmarks.molecules --run runs/molecules_zinc --samples 1000 --output docs/molecules.png
    python -m benchmarks.molecules --run runs/molecules_zinc --vary temperature=0.8 --vary sampler=confidence,steps=32 \\
        --baseline polydiff --baseline runs/molecules_zinc_decoder --curve 200 --output docs/molecules.png

The table has a row for the run with its own config, for each --vary (keys of the section `generation`), and for each
baseline: another run's folder, or polydiff, the published sampler that redraws every token at each step and never masks
again, with the same weights and at the run's temperature (see `benchmarks.polydiff_sampler`). --curve draws samples
from each checkpoint of the run and of the baseline runs. All from one seed; intervals are of 95 %.
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
"""Names of the published sampler's rows, and the value of `copies`."""


class Measurement:
    """Figures of one row of the table."""

    def __init__(self, name: str, smiles: Sequence[str], known: Sequence[str], seed: int, seconds: float) -> None:
        from model_factory.evaluation.metrics.molecules import molecule_figures

        self.name, self.seconds, self.count = name, seconds, len(smiles)
        self.report = molecule_figures(smiles, known, seed)

    def cells(self) -> list[str]:
        """Format the cells of a Markdown table; a missing figure is empty."""
        found = {figure.name: figure for figure in self.report.figures}
        shown = [
            f"{found[name].value:.3f} ({found[name].low:.3f}-{found[name].high:.3f})" if name in found else ""
            for name in FIGURES
        ]
        return [self.name, f"{self.count:,}", *shown, f"{self.seconds / max(1, self.count):.2f}"]

    def plain(self) -> dict[str, Any]:
        """Return the figures for --json."""
        return {"name": self.name, "samples": self.count, "seconds": self.seconds, **self.report.as_dict()}


def load(folder: Path, options: Sequence[str]) -> Any:
    """Load a run with overrides of its section `generation`."""
    from model_factory.evaluation.run import open_run

    return open_run(folder, [f"generation.{option}" for option in options], device="cpu")


def sample_run(run: Any, count: int, seed: int) -> list[str]:
    """Sample SMILES with the run's sampler, with lengths from its data."""
    from model_factory.evaluation.sampling.draw import draw
    from model_factory.evaluation.sampling.sample import Request

    generation = run.generation.model_copy(update={"num_samples": count})
    asked = replace(run, config=run.config.model_copy(update={"generation": generation}))
    return [sample.text for sample in draw(asked, Request(seed=seed)).samples]


def sample_polydiff(run: Any, count: int, seed: int, *, copies: bool) -> list[str]:
    """Sample SMILES with the published sampler, of the same lengths as the run's samples."""
    import torch

    from benchmarks.polydiff_sampler import redraw_every_token
    from model_factory.evaluation.sampling.discrete import draw_lengths

    tokenizer, generator = run.require_tokenizer(), torch.Generator().manual_seed(seed)
    found = []
    for lengths in torch.split(draw_lengths(run, count, seed), 64):
        settings: dict[str, Any] = {"copies": copies, "temperature": run.generation.temperature}
        for row in redraw_every_token(run.model, lengths, **settings, generator=generator):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            found.append(tokenizer.decode(row[:end]))
    return found


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield the names of the table's rows, and the functions that draw their samples."""
    run, count, seed = load(args.run, args.set), args.samples, args.seed
    yield args.run.name, partial(sample_run, run, count, seed)
    for variant in args.vary:
        other = load(args.run, [*args.set, *variant.split(",")])
        yield variant, partial(sample_run, other, count, seed)
    for baseline in args.baseline:
        if baseline == "polydiff":
            for name, copies in POLYDIFF.items():
                yield name, partial(sample_polydiff, run, count, seed, copies=copies)
        else:
            beside = load(Path(baseline), ())
            yield beside.folder.name, partial(sample_run, beside, count, seed)


def validity_curve(folder: Path, options: Sequence[str], count: int, seed: int, known: Sequence[str]) -> list[Point]:
    """Measure validity at each checkpoint of a run, with averaged weights if it has them."""
    from model_factory.training.network import restore_network
    from model_factory.training.run.checkpoints import checkpoint_folder, list_checkpoint_steps

    run, found = load(folder, options), []
    for step in sorted(list_checkpoint_steps(folder)):
        restore_network(run.model, run.task, run.config, checkpoint_folder(folder, step))
        figure = Measurement(folder.name, sample_run(run, count, seed), known, seed, 0.0).report.figures[0]
        found.append((step, figure.value, figure.low, figure.high))
        print(f"{folder.name} at step {step:,}: {figure.value:.3f}", file=sys.stderr, flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and plot; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.molecules", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a diffusion run on molecules")
    parser.add_argument("--samples", type=int, default=1000, help="samples of each row (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of generation, for the run"
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="add a row with these overrides of generation",
    )
    parser.add_argument("--baseline", action="append", default=[], help="polydiff, or the folder of a run")
    parser.add_argument("--curve", type=int, default=0, metavar="N", help="draw N samples from each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="path of the plot, a PNG")
    parser.add_argument("--json", type=Path, help="path of a JSON file with all figures")
    args = parser.parse_args(argv)
    from benchmarks.report import table
    from model_factory.evaluation.metrics.molecules import known_molecules

    known = list(known_molecules(load(args.run, ())))
    measured = []
    for name, draw in rows(args):
        start = time.process_time()
        smiles = draw()
        measured.append(Measurement(name, smiles, known, args.seed, time.process_time() - start))
        print("\t".join(measured[-1].cells()), file=sys.stderr, flush=True)
    folders = [args.run, *(Path(one) for one in args.baseline if one != "polydiff")] if args.curve else []
    options = {args.run: args.set}
    curves = {
        folder.name: validity_curve(folder, options.get(folder, ()), args.curve, args.seed, known) for folder in folders
    }
    print(table(["sampler", "samples", *FIGURES, "CPU s a sample"], [one.cells() for one in measured]))
    if args.json is not None:
        content = {"rows": [one.plain() for one in measured], "curves": curves}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.output is not None:
        draw_plots([one.plain() for one in measured], curves, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
