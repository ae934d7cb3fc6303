"""Settings of a run in lm-evaluation-harness: their checks, and the identity of a run with them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from model_factory.evaluation.run import LoadedRun
from model_factory.interop.denoiser_scores import BoundScorer, ChainScorer, Order
from model_factory.interop.harness_texts import canvas_of
from model_factory.interop.token_scores import DecoderScorer, Scorer
from model_factory.training.errors import UnfitError
from model_factory.training.run.checkpoints import find_newest_checkpoint
from model_factory.training.run.folder import RunFolder
from model_factory.training.tasks.diffusion import inserts_tokens
from model_factory.yaml_config.registry import closest

DRAWS = 128
FEW = 32
"""Number of draws below which a standard error is itself uncertain."""
_DEFAULT_LENGTH = 2048


@dataclass(frozen=True)
class HarnessSettings:
    """Arguments of the model in the harness (`--model_args`), beside those that it passes itself.

    Fields:
        pretrained: folder of the run; overrides: config values as in --set, one or several.
        likelihood: bound or chain, for denoisers (default: bound); decoders have one exact likelihood.
        draws: draws of the bound for an answer (default: 128); order: of the chain, left (default) or random; seed: of both.
        max_length: tokens of context and answer (default: those of the model, or of the rows that it was trained on).
        add_bos_token: put the begin token in front of texts (default: if the rows of the run begin with it).
        prefix_token_id: token in front of an answer without context (default: the one that begins texts in the run).
        log: file to which each answer's log-likelihood and standard error are written, as JSON lines.
    """

    pretrained: str
    overrides: tuple[str, ...] = ()
    likelihood: str | None = None
    draws: int | None = None
    order: str | None = None
    seed: int = 0
    max_length: int | None = None
    add_bos_token: bool | None = None
    prefix_token_id: int | None = None
    log: str | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "HarnessSettings":
        """Return the settings of a mapping; raise UnfitError for unknown names and for values that do not fit."""
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                near = closest(name, names)
                hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
                raise UnfitError(f"the model of the harness has no argument {name}; {hint}")
        if "pretrained" not in values:
            raise UnfitError("the model of the harness needs the folder of a run: --model_args pretrained=runs/mine")
        found = dict(values, pretrained=str(values["pretrained"]))
        overrides = found.get("overrides", ())
        found["overrides"] = (overrides,) if isinstance(overrides, str) else tuple(overrides)
        settings = cls(**found)
        settings._check()
        return settings

    def _check(self) -> None:
        """Raise UnfitError for a value that does not fit."""
        _check_choice("likelihood", self.likelihood, ("bound", "chain"))
        _check_choice("order", self.order, get_args(Order))
        for name, least in (("draws", 1), ("max_length", 2), ("seed", 0), ("prefix_token_id", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise UnfitError(f"{name}={value!r}: it takes a number of at least {least}")
        if self.add_bos_token not in (None, True, False):
            raise UnfitError(f"add_bos_token={self.add_bos_token!r}: it takes True or False")
        if self.draws is not None and self.likelihood == "chain":
            raise UnfitError("draws are of likelihood=bound; the chain rule draws nothing, leave them out")
        if self.order is not None and self.likelihood != "chain":
            raise UnfitError("order is of likelihood=chain; the bound is a mean over all orders, leave it out")

    def identity(self) -> str:
        """Return a hash of all that answers depend on: the files of the run, and the settings.

        Raises RunFolderError for a damaged checkpoint, OSError for a file that cannot be read.
        """
        settings = {name: value for name, value in asdict(self).items() if name not in ("pretrained", "log")}
        digest = sha256(json.dumps(settings).encode())
        for path in _files(RunFolder(self.pretrained)):
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0")
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def scorer(self, run: LoadedRun, batch_size: int) -> Scorer:
        """Return the way to score answers by a run; raise UnfitError for a run of another task, and for settings of one."""
        length = self.length(run)
        if run.task_name == "language_modelling":
            for name in ("likelihood", "draws", "order"):
                if getattr(self, name) is not None:
                    raise UnfitError(
                        f"{name} is for denoisers, and {run.folder} is a decoder, whose likelihood is exact"
                    )
            return DecoderScorer(run, length, batch_size)
        if run.task_name != "diffusion" or not hasattr(run.model, "objective"):
            raise UnfitError(
                f"{run.folder} is a run of task {run.task_name}; the harness asks for texts given texts, from decoders "
                "(language_modelling) and denoisers (diffusion)"
            )
        if inserts_tokens(run.model):
            raise UnfitError(
                f"{run.folder}: a model that inserts tokens has no likelihood of an answer given a context"
            )
        canvas = canvas_of(run)
        if self.likelihood == "chain":
            order: Any = self.order or "left"
            return ChainScorer(run, length, batch_size, order=order, seed=self.seed, canvas=canvas)
        return BoundScorer(run, length, batch_size, draws=self.draws or DRAWS, seed=self.seed, canvas=canvas)

    def length(self, run: LoadedRun) -> int:
        """Return the number of tokens that the model reads at once."""
        model: Any = run.model
        known = getattr(getattr(model, "params", None), "max_length", None)
        known = known or getattr(getattr(model, "diffusion_config", None), "sequence_length", None)
        return int(self.max_length or known or getattr(run.dataset_config, "limit", None) or _DEFAULT_LENGTH)

    def describe(self, run: LoadedRun) -> dict[str, Any]:
        """Describe the likelihood for the results: its kind, how it was drawn, and what `is_greedy` means."""
        if run.task_name == "language_modelling":
            return {"likelihood": "exact", "is_greedy": "the likeliest token after each context"}
        if self.likelihood == "chain":
            order = self.order or "left"
            return {
                "likelihood": f"chain rule along one order ({order})",
                "order": order,
                "seed": self.seed,
                "is_greedy": "each token is the likeliest at its turn",
            }
        model: Any = run.model
        by_counts = ", by counts" if model.objective.by_counts() else ""
        return {
            "likelihood": f"bound of objective {model.diffusion_config.objective.type}{by_counts}: at most the log-likelihood",
            "draws": self.draws or DRAWS,
            "seed": self.seed,
            "is_greedy": "the likeliest token at each position, in one call with the whole answer noised",
        }


def _check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise UnfitError(f"{name}={value!r}: it takes {' or '.join(choices)}")


def _files(run: RunFolder) -> list[Path]:
    """Return the files of a run that its answers depend on, in the order of their names."""
    found = [run.config, *run.path.glob("*.safetensors"), *run.path.glob("imported.json")]
    checkpoint = None if run.is_finished else find_newest_checkpoint(run.path)
    if checkpoint is not None:
        found += checkpoint.folder.glob("*.safetensors")
    found += [path for path in run.tokenizer.rglob("*") if path.is_file()]
    return sorted(found)
