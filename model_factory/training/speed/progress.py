"""Text about a run's progress: the header at the start, and the figures of each logged step."""

from collections.abc import Mapping

from torch import nn

from data_manager.rows.lengths import row_lengths
from data_manager.rows.shards import MappedRows
from data_manager.rows.token_stream import TokenStream
from model.discrete.model import DiffusionModel
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.share import Share
from model_factory.training.splits import Splits, is_table

_MOST_PARTS = 6


def describe_run(
    config: ExperimentConfig,
    network: nn.Module,
    splits: Splits,
    settings: TrainingConfig,
    share: Share,
    offset: int = 0,
) -> list[str]:
    """Return the header of a run: model, rows, length and precision, a line each.

    `offset` is the position in the stream of rows at which step 0 would begin.
    """
    assert config.model is not None
    noise_draw = getattr(getattr(network, "objective", None), "noise_draw", None)
    is_bound = getattr(noise_draw, "is_bound", True)
    return [
        f"model: {config.model.name} ({config.model.model_type}), {_parameters(network)}",
        f"data: {_rows(splits)}",
        f"length: {_length(splits.train_rows, settings, share, offset)}",
        f"precision: {'bfloat16' if settings.bf16 else 'float16' if settings.fp16 else 'float32'}",
        f"logits: {_logits(network)}",
        *([] if is_bound else ["loss: of clipped times in training, which is no bound; evaluations compute the bound"]),
    ]


def _logits(network: nn.Module) -> str:
    """Say whether the loss of a step makes its logits in chunks of rows, or those of the whole batch."""
    if isinstance(network, DiffusionModel):
        if not network.has_row_form:
            return "of the whole batch; the objective, its process or its parameterisation has no loss of single rows"
        head = network.call.output_head
    elif hasattr(getattr(network, "decoder", None), "nats"):
        return "of the latent decoder in chunks of counted tokens, which backward makes again"
    else:
        head = getattr(network, "output_head", None)
    if head is None:
        return "of the whole batch, as the network gives no plain linear head apart"
    return f"in chunks of rows with a loss, by a head of {len(head.table):,} x {head.table.shape[1]:,}"


def _rows(splits: Splits) -> str:
    """Describe the rows to train and to evaluate on; tokens are counted only where the rows are a table on disk."""
    train, evaluation = splits.train, splits.evaluation
    if evaluation is None:
        evaluated = "none to evaluate on"
    else:
        evaluated = (
            "a stream to evaluate on" if isinstance(evaluation, TokenStream) else f"{len(evaluation):,} to evaluate on"
        )
    if splits.train_rows is None:
        return f"a stream of rows to train on; {evaluated}"
    is_counted = is_table(train) and not isinstance(train, TokenStream | MappedRows)
    tokens = f", {sum(int(one.sum()) for one in row_lengths(train).values()):,} tokens" if is_counted else ""
    return f"{splits.train_rows:,} rows to train on{tokens}; {evaluated}"


def _length(rows: int | None, settings: TrainingConfig, share: Share, offset: int) -> str:
    steps = f"{settings.max_steps:,} steps of {share.rows:,} rows"
    if rows is None:
        return steps
    epochs = (offset + settings.max_steps * share.rows) / rows
    return f"{steps}, {epochs:,.3g} epochs; an epoch has {rows / share.rows:,.4g} steps"


def _parameters(network: nn.Module) -> str:
    """Describe the number of parameters, that of the largest parts, and of those that are trained."""
    total = sum(value.numel() for value in network.parameters())
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in network.named_children()}
    while len(counts) == 1:  # a wrapper around the network
        inner = network.get_submodule(next(iter(counts)))
        network, counts = (
            inner,
            {name: sum(value.numel() for value in part.parameters()) for name, part in inner.named_children()},
        )
    largest = sorted(((size, name) for name, size in counts.items() if size), reverse=True)[:_MOST_PARTS]
    parts = ", ".join(f"{name} {size:,}" for size, name in largest)
    some = f", of which {trained:,} are trained" if trained < total else ""
    return f"{total:,} parameters{some}" + (f" ({parts})" if parts else "")


def describe_seconds(seconds: float) -> str:
    """Return a duration such as `4.2 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_progress(entry: Mapping[str, float], *, memory: bool = False) -> str:
    """Return the figures of a logged step for the terminal, with `memory` also the most memory in use."""
    shown = {name: f"{entry[name]:.4g}" for name in ("loss", "eval_loss", "learning_rate") if name in entry}
    if "tokens_per_second" in entry:
        shown["tokens/s"] = f"{entry['tokens_per_second']:,.0f}"
    if "data_wait" in entry:
        shown["data wait"] = f"{entry['data_wait']:.1%}"
    if "mfu" in entry:
        shown["MFU"] = f"{entry['mfu']:.1%}"
    if memory and "memory_gib" in entry:
        shown["memory"] = f"{entry['memory_gib']:.2f} GiB"
    return "  ".join(f"{name} {value}" for name, value in shown.items())
