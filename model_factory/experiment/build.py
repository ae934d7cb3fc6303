"""Build the model with real weights and run one forward pass, for `parse_args.py --build`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from model.model_factory import create_model
from model.types import PerformerParams
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.cross_checks import read_feature_widths, reads_speech
from model_factory.experiment.inputs import check_output_width, check_shapes, example_inputs
from model_factory.experiment.pair_checks import row_length
from model_factory.yaml_config.strict_model import StrictModel

# Fill in the sizes that a model's section leaves out from its data sets: `vocab_size`, sequence length, `input_dim`.


@runtime_checkable
class Sized(Protocol):
    """Model section that can take sizes from a data set."""

    def sized(self, vocab_size: int | None, length: int | None) -> StrictModel:
        """Return a copy with missing sizes filled in; raises ValueError if a given size is too small."""


def with_vocabulary(config: ExperimentConfig) -> ExperimentConfig:
    """Return a copy whose model has the vocabulary of its data sets' tokenizer, their sequence length and feature width.

    Sizes that the file gives are kept. Returns the same config if the file has no model or no data set, or the model type
    takes no sizes. With `training`, a front end of the task fits the features to the model, and `input_dim` is kept. Raises ValueError if a given size is smaller than the tokenizer's, DataError if the corpus of the
    tokenizer cannot be read.
    """
    if config.model is None or not config.datasets or not isinstance(config.model.config, Sized):
        return config
    tokenizer = next(filter(None, map(DatasetManager.tokenizer, config.datasets)), None)
    lengths = (row_length(config.model, entry) for entry in config.datasets)
    length = next(filter(None, lengths), None)
    section: Any = config.model.config if config.training else _with_input_dim(config.model.config, config.datasets)
    sized = section.sized(tokenizer.vocab_size if tokenizer else None, length)
    return config.model_copy(update={"model": config.model.model_copy(update={"config": sized})})


def _with_input_dim(section: StrictModel, datasets: Sequence[DatasetConfig]) -> StrictModel:
    """Return a copy whose first stack has the width of the features as `input_dim`, unless that is its d_model."""
    first = next(((name, value) for name, value in section if isinstance(value, PerformerParams)), None)
    widths = set(read_feature_widths(datasets).values())
    if first is None or len(widths) != 1 or first[1].input_dim is not None or not reads_speech(first[1], datasets):
        return section
    name, stack = first
    width = widths.pop()
    return (
        section
        if width == stack.d_model
        else section.model_copy(update={name: stack.model_copy(update={"input_dim": width})})
    )


@dataclass(frozen=True)
class Built:
    """Result of a build: device, number of parameters, output shape, seconds."""

    name: str
    device: str
    parameters: int
    input_text: str
    output_shape: list[int]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        return dict(vars(self))

    def text(self) -> str:
        """Return one line for the terminal."""
        return (
            f"built {self.name!r} on {self.device}: {self.parameters:,} parameters; {self.input_text} gave "
            f"{self.output_shape} in {self.seconds:.2f} s"
        )


def build_and_run(config: ExperimentConfig) -> Built:
    """Build the model of an experiment and run it forward once on an example input.

    Shapes are run without storage first. Raises ValueError if the file has no model or the model cannot be built (a
    missing device, token ids out of range, an output of another width), RuntimeError or MemoryError if the machine has
    too little memory, and any error of a custom network.
    """
    if config.model is None:
        raise ValueError("--build needs a section 'model'")
    config = with_vocabulary(config)
    assert config.model is not None
    import torch

    check_shapes(config)
    start = time.perf_counter()
    model = create_model(config.model).eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = example_inputs(config, batch_size=2, model=model)
    with torch.no_grad():
        output = inputs.run(model)
    check_output_width(config, model, output)
    return Built(
        name=config.model.name,
        device=str(device),
        parameters=sum(p.numel() for p in model.parameters()),
        input_text=inputs.text,
        output_shape=list(output.shape),
        seconds=time.perf_counter() - start,
    )
