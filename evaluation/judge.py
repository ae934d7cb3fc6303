"""Judging samples by another language model: generative perplexity, and MAUVE on its features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_manager.tokenizer_base import Tokenizer
from evaluation.figure import Figure, Report
from evaluation.likelihood import ratio_figure
from evaluation.progress import progress_bar
from training.errors import RunFolderError, UnfitError

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
    from evaluation.mauve_score import mauve_report

    judge = load_judge(folder)
    report = Report([generative_perplexity(judge, texts, seed)])
    report.notes.append(f"judged by {judge.name}")
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
    from training.run_folder import load_run

    model, tokenizer, config = load_run(folder)
    if config.model is None or config.model.model_type != "decoder" or tokenizer is None:
        raise UnfitError(f"--judge {folder} is not a left-to-right language model; give {LAYOUT}")
    longest: int | None = model.params.max_length  # type: ignore[union-attr, assignment]
    return Judge(folder.name, tokenizer, model, model.hidden, longest, next(model.parameters()).device)


def _load_transformers_judge(folder: Path) -> Judge:
    from transformers import AutoModelForCausalLM

    from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer
    from model.hub import find_weights_problem

    if problem := find_weights_problem(folder):
        raise RunFolderError(f"--judge {folder}: {problem}")
    tokenizer = HuggingFaceTokenizer.load(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except Exception as error:  # transformers raises many types of error for a broken folder
        raise RunFolderError(f"--judge {folder} cannot be read as a language model: {error}") from error
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
