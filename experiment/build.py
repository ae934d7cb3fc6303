"""Build the model with real weights and run one forward pass, for `parse_args.py --build`."""

import time
from dataclasses import dataclass
from typing import Any

from experiment.config import ExperimentConfig
from experiment.inputs import example_inputs
from experiment.vocabulary import with_vocabulary


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

    Raises ValueError if the file has no model or the model cannot be built (a missing device, token ids out of range),
    RuntimeError or MemoryError if the machine has too little memory.
    """
    if config.model is None:
        raise ValueError("--build needs a section 'model'")
    config = with_vocabulary(config)
    assert config.model is not None
    import torch

    from model.model_factory import create_model

    start = time.perf_counter()
    model = create_model(config.model).eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = example_inputs(config, batch_size=2)
    with torch.no_grad():
        output = inputs.run(model)
    return Built(
        name=config.model.name,
        device=str(device),
        parameters=sum(p.numel() for p in model.parameters()),
        input_text=inputs.text,
        output_shape=list(output.shape),
        seconds=time.perf_counter() - start,
    )
