"""Any model whose output has a loss: the discrete diffusion models, and those of a user."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import UnfitError
from training.tasks.base import Batch, Task, real_tokens

PARTS = ("diffusion", "prior", "reconstruction")


class Diffusion(Task):
    """The model's own loss over `input_ids` and `attention_mask`; where its output has the bound's parts, the bound.

    A model whose `forward` takes them by keyword is given `rows` (int64 [B], the rows' places in the step), `batch_size`
    (the step's rows over all processes), `seed` (the step's own), so that its times and noise are those of one process,
    and `loss_weighting` (`bound` or `uniform`). One with a condition is given that of each row.
    """

    def check(self, network: nn.Module) -> None:
        """Only a model that takes `loss_weighting` can weigh its loss in another way."""
        if self.setting.training.loss_weighting != "bound" and "loss_weighting" not in _keywords(network):
            raise UnfitError(
                "training.loss_weighting: uniform asks for another weighting than the model's own loss has, and this "
                "model offers none; leave it out"
            )

    def weight(self, batch: Batch) -> Tensor:
        """Real tokens."""
        return real_tokens(batch).sum().float()

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss, and the bound with its parts, in nats a token."""
        output = network(batch["input_ids"], attention_mask=batch.get("attention_mask"), **self._extras(network, batch))
        metrics: dict[str, Tensor] = {"loss": output.loss}
        parts = {name: getattr(output, name, None) for name in PARTS}
        found = {name: part.mean() for name, part in parts.items() if isinstance(part, Tensor)}
        if network.training:  # where the parts at both ends are left out, to spare network calls
            return metrics | {"diffusion": found["diffusion"]} if "diffusion" in found else metrics
        if len(found) == len(PARTS):
            metrics |= {"bound": torch.stack(list(found.values())).sum(), **found}
        return metrics

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Texts drawn from noise, as long as the rows given; of rows of several lengths, each as long as one of them."""
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        sample: Callable[..., Tensor] | None = getattr(network, "sample", None)
        if tokenizer is None or sample is None:
            return []
        chosen: dict[str, Any] = {"steps": settings.steps, "sampler": settings.sampler_choice}
        given = {name: value for name, value in chosen.items() if value is not None}
        real = real_tokens(batch)
        count, length = settings.num_samples, real.shape[1]
        mask = real[torch.arange(count, device=real.device) % len(real)]
        if not bool(mask.all()) and hasattr(network, "draw"):  # a model of a user's own may take no mask
            given["mask"] = mask
        cond = condition_of(network, batch)
        if cond is not None:
            given["cond"] = cond[torch.arange(count, device=real.device) % len(real)]
        tokens = sample(count, length, generator=generator, **given).tolist()
        return [tokenizer.decode(row[:size]) for row, size in zip(tokens, mask.sum(1).tolist(), strict=True)]

    def _extras(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        noise = batch["noise"]
        offered = {
            "rows": noise.place,
            "batch_size": noise.batch_size,
            "seed": noise.step_seed,
            "loss_weighting": self.setting.training.loss_weighting,
        }
        given = {name: value for name, value in offered.items() if name in _keywords(network)}
        cond = condition_of(network, batch)
        return given if cond is None else given | {"cond": cond}


def condition_of(network: nn.Module, batch: Batch) -> Tensor | None:
    """What a model with a condition is told of each row: `labels` int64 [B], or the vectors `cond` float [B, size].

    None for a model without one; raises UnfitError where the data set does not have what the model asks for.
    """
    condition = getattr(getattr(network, "diffusion_config", None), "condition", None)
    if condition is None:
        return None
    key = "labels" if condition.num_classes is not None else "cond"
    if key not in batch:
        remedy = (
            "give it `label: COLUMN`" if key == "labels" else "give it `properties: [logp]` (of smiles) or `measured`"
        )
        remedy += ", or leave the condition out"
        raise UnfitError(f"model.condition asks for {key} of each row, and the data set has none; {remedy}")
    found: Tensor = batch[key]
    if key == "labels" and int(found.max()) >= condition.num_classes:
        raise UnfitError(
            f"model.condition has num_classes {condition.num_classes}, and a row is of class {int(found.max())}; classes "
            "are numbered from 0"
        )
    return found


def _keywords(network: nn.Module) -> set[str]:
    return set(inspect.signature(network.forward).parameters)
