"""Judging samples by another language model: generative perplexity, and MAUVE on its features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_manager.progress import progress_bar
from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from model.hub import find_loading_problem, find_weights_problem
from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.likelihood import ratio_figure
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.run.folder import load_run

LAYOUT = "a run folder of a decoder, or a folder that transformers' save_pretrained wrote: config.json and weights"


@dataclass(frozen=True)
class Judge:
    """Language model that judges samples; `logits` and `hidden` map ids int64 [1, N] to [1, N, V] and [1, N, d]."""

    name: str
    tokenizer: Tokenizer
    logits: Any
    hidden: Any
    longest: int | None
    device: torch.device

    def ids(self, text: str) -> Tensor:
        """Encode a text as ids [1, N], truncated to the model's maximum length."""
        return torch.tensor([self.tokenizer.encode(text)[: self.longest]], device=self.device)


def load_judge(folder: Path) -> Judge:
    """Load the model of a folder; nothing is downloaded. Raises RunFolderError for any other folder."""
    if not folder.is_dir():
        raise RunFolderError(f"--judge {folder} is {'a file' if folder.exists() else 'not there'}; give {LAYOUT}")
    if (folder / "config.yml").is_file():
        return _load_run_judge(folder)
    if not (folder / "config.json").is_file():
        raise RunFolderError(f"--judge {folder} has neither config.yml nor config.json; give {LAYOUT}")
    return _load_transformers_judge(folder)


def measure_by_judge(folder: Path, texts: Sequence[str], human: Sequence[str], seed: int) -> Report:
    """Measure the perplexity of `texts` under the model of `folder`, and their MAUVE against `human`."""
    judge = load_judge(folder)
    report = Report(notes=[f"judged by {judge.name}"])
    with report.attempt("generative_perplexity", seed):
        report.figures.append(generative_perplexity(judge, texts, seed))
    with report.attempt("mauve", seed):
        report.add(mauve_report(judge, texts, human, seed))
    return report


@torch.no_grad()
def generative_perplexity(judge: Judge, texts: Sequence[str], seed: int) -> Figure:
    """Compute exp(nats / tokens) over the judge's tokens of all texts, except the first token of each.

    It is low for fluent texts, but also for repetitive ones: read it together with the entropy (arXiv 2409.02908).
    """
    nats, counts = [], []
    with progress_bar("judging", len(texts), "text") as track:
        for text in texts:
            ids = judge.ids(text)
            count = max(0, ids.shape[1] - 1)
            if count:
                losses = torch.nn.functional.cross_entropy(
                    judge.logits(ids)[0, :-1].float(), ids[0, 1:], reduction="sum"
                )
                nats.append(float(losses))
                counts.append(count)
            track(1)
    if not counts:
        raise UnfitError("no sample has two tokens of the judge's tokenizer, so there is no perplexity to compute")
    plain = ratio_figure("generative_perplexity", nats, counts, seed, of="samples")
    values = (_exp(plain.value), _exp(plain.low), _exp(plain.high))
    return Figure(plain.name, *values, plain.n, plain.of, seed, plain.method, "", f"under {judge.name}")


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _load_run_judge(folder: Path) -> Judge:
    model, tokenizer, config = load_run(folder)
    if config.model is None or config.model.model_type != "decoder" or tokenizer is None:
        raise UnfitError(f"--judge {folder} is not a left-to-right language model; give {LAYOUT}")
    longest: int | None = model.params.max_length  # type: ignore[union-attr, assignment]
    return Judge(folder.name, tokenizer, model, model.hidden, longest, next(model.parameters()).device)


def _load_transformers_judge(folder: Path) -> Judge:
    from transformers import AutoModelForCausalLM

    if problem := find_weights_problem(folder):
        raise RunFolderError(f"--judge {folder}: {problem}")
    tokenizer = HuggingFaceTokenizer.load(folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers raises many types of error for a broken folder
        raise RunFolderError(f"--judge {folder} cannot be read as a language model: {error}") from error
    if problem := find_loading_problem(model, found, allow_head=False):
        raise RunFolderError(f"--judge {folder}: {problem}")
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    longest = getattr(model.config, "max_position_embeddings", None)
    return Judge(
        folder.name,
        tokenizer,
        lambda ids: model(ids).logits,
        lambda ids: model(ids, output_hidden_states=True).hidden_states[-1],
        longest,
        model.device,
    )


# MAUVE (Pillutla et al. 2021, arXiv 2102.01454) of samples against human text, if its library is installed.


FEWEST = 20


def mauve_report(judge: "Judge", texts: Sequence[str], human: Sequence[str], seed: int) -> Report:
    """Compute the area under the divergence curve of both sides' features, 0 to 1; a note where that is impossible.

    A text's feature is the judge's last hidden state at its last token. There is no interval: resamples contain texts
    twice, which form false clusters in MAUVE.
    """
    if find_spec("mauve") is None:
        return Report(notes=["MAUVE was left out: its library is not installed; pip install mauve-text"])
    kept = [[text for text in side if len(judge.ids(text)[0])] for side in (texts, human)]
    if min(map(len, kept)) < FEWEST:
        few = min(map(len, kept))
        return Report(notes=[f"MAUVE was left out: it needs {FEWEST} texts on each side, and there are {few}"])
    import mauve

    drawn, reference = (_features(judge, side) for side in kept)
    score = mauve.compute_mauve(p_features=reference, q_features=drawn, seed=seed, verbose=False).mauve
    nothing = float("nan")
    note = f"features of {judge.name}"
    return Report([Figure("mauve", float(score), nothing, nothing, len(drawn), "samples", seed, "none", "", note)])


@torch.no_grad()
def _features(judge: "Judge", texts: Sequence[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    rows = [judge.hidden(judge.ids(text))[0, -1].float().cpu().numpy() for text in texts]
    return np.stack(rows)
