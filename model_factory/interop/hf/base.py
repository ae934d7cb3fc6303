"""Base of our models as classes of transformers: a network under one attribute, built from the config's section."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from model_factory.interop.hf.config import ModelFactoryHubConfig


class ModelFactoryModel(PreTrainedModel):
    """Holder of a `network`, which initialises its own weights."""

    base_model_prefix: ClassVar[str] = "network"
    main_input_name: ClassVar[str] = "input_ids"

    def __init__(self, config: ModelFactoryHubConfig, network: nn.Module | None = None) -> None:
        """Build the network of the config, or hold `network`, which has that section."""
        super().__init__(config)
        self.network: Any = config.build() if network is None else network
        self._computed = {name: buffer.clone() for name, buffer in self.named_non_persistent_buffers()}
        self._tied_weights_keys = _find_tied(self)
        self.config.tie_word_embeddings = bool(self._tied_weights_keys)
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Restore the buffers that follow from the section, which loading leaves empty; draw no weights."""
        for name, value in self._computed.items():
            self.get_buffer(name).copy_(value)


def _find_tied(model: nn.Module) -> dict[str, str]:
    """Return the further names of parameters that a model has under several, each with the first one."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            tied[name] = other
    return tied
