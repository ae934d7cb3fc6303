"""Targets that a diffusion model of pairs writes for sources, cut at the first end token."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model_factory.diffusion.randomness import Randomness, RowGenerators
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.discrete import describe_tokens
from model_factory.evaluation.sampling.prompt import PromptError
from model_factory.evaluation.sampling.sample import Request, Sample, Watch, batch_sizes
from model_factory.training.tasks.conditional_diffusion import ConditionalDiffusion

TASK = "conditional_diffusion"


def encode_source(run: LoadedRun, text: str) -> list[int]:
    """Return the ids of a source as the pairs have them, with begin and end token.

    Raises PromptError for a source that is longer than those of the pairs.
    """
    assert isinstance(run.task, ConditionalDiffusion)
    tokenizer, longest = run.require_tokenizer(), run.task.canvas
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text), tokenizer.eos_token_id]
    if len(ids) > longest:
        raise PromptError(
            f"the source takes {len(ids):,} tokens with its ends, and those of the run's pairs at most {longest:,} "
            "(sequence_length); shorten it"
        )
    return ids


@torch.no_grad()
def draw_targets(
    run: LoadedRun, sources: Sequence[Sequence[int]], generator: Randomness = None, watch: Watch | None = None
) -> list[Sample]:
    """Draw a target for each source in one batch, with the settings of the run's `generation`.

    Arguments:
        sources: ids with begin and end token, of any lengths.
        generator: seeds a stream for each source, or the streams; a target does not depend on the other sources.
        watch: see `Request.watch`.
    Raises the errors of the model's `draw`.
    """
    assert isinstance(run.task, ConditionalDiffusion)

    def show(rows: Tensor) -> None:
        assert watch is not None
        watch(lambda: [describe_tokens(run, row, end_after=0) for row in rows.tolist()])

    shown = None if watch is None else show
    tokenizer, found = run.require_tokenizer(), run.task.draw(run.model, sources, run.generation, generator, shown)
    return [Sample(tokenizer.decode(row), None, row, calls) for row, calls in zip(*found, strict=True)]


def draw_for_prompt(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    """Yield `generation.num_samples` targets of one source text, in batches; raises PromptError without a text."""
    if prompt is None:
        raise PromptError(f"{run.folder}: this model writes a target for a source: --prompt TEXT")
    source = encode_source(run, prompt)
    for count in batch_sizes(run.generation.num_samples, request.batch_size):
        streams = RowGenerators.from_generator(generator, count, run.device)
        found = draw_targets(run, [source] * count, streams, request.watch)
        yield [Sample(sample.text, prompt, sample.tokens, sample.network_calls) for sample in found]
