"""Building of the network that an experiment trains, and loading of its weights from a folder."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.load import load_tokenizer
from model.activation_checkpointing import CheckpointingError, checkpoint_activations
from model.checkpoint import CheckpointError, assign_tensors, with_device
from model.hub import replacing_weights
from model.model_factory import create_model
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.pretrained.published import read_pretrained
from model_factory.experiment.pretrained.section import is_published_place
from model_factory.experiment.task_registry import TASKS
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.ema import EMA
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.lora import add_adapters, merge_adapters
from model_factory.training.run.checkpoints import AVERAGE
from model_factory.training.run.weights import WEIGHTS, load_weights, read_weights
from model_factory.training.tasks.base import Batch, Task, TaskSetting
from model_factory.yaml_config.paths import expand_home


class Holder(nn.Module):
    """Module that holds a network as an attribute, for libraries that replace submodules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def build_network(
    config: ExperimentConfig, tokenizer: Tokenizer | None, *, device: str | None = None
) -> tuple[nn.Module, Task]:
    """Build the network, with the parts that its task adds to the model, and the task that `config` names.

    Raises UnfitError, and DeviceError for a device that this machine does not have.
    """
    assert config.model is not None
    model_config = config.model if device is None else with_device(config.model, device)
    setting = TaskSetting(config, tokenizer)
    name = setting.training.task_name
    if name is None:
        raise UnfitError("training.task is not set")
    task = TASKS.get(name).load()(setting)
    network = task.network(create_model(model_config))
    devices = sorted({str(parameter.device) for parameter in network.parameters()})
    if len(devices) > 1:
        raise UnfitError(f"training needs a model on one device, and this one is on {', '.join(devices)}")
    task.check(network)
    return network, task


def restore_network(network: nn.Module, task: Task, config: ExperimentConfig, folder: Path) -> None:
    """Load the weights of a run or of one of its checkpoints into a network: EMA applied, adapters merged.

    Raises RunFolderError for files that are missing, damaged or of another model.
    """
    settings = task.setting.training
    is_checkpoint = (folder / AVERAGE).is_file() or folder.name.startswith("checkpoint-")
    holder = Holder(network)
    if is_checkpoint and settings.lora is not None:
        add_adapters(holder, settings.lora)
    load_weights(network, folder / WEIGHTS, "config.yml")
    if is_checkpoint and settings.ema_decay is not None:
        load_ema(EMA(network, settings.ema_decay), folder).copy_to_network()
    if is_checkpoint and settings.lora is not None:
        merge_adapters(holder)


def load_ema(average: EMA, folder: Path) -> EMA:
    """Load an EMA from a checkpoint; raise RunFolderError if its file does not fit."""
    try:
        average.load(read_weights(folder / AVERAGE))
    except (KeyError, RuntimeError) as error:
        raise RunFolderError(f"{folder / AVERAGE} does not fit the model: {error}") from error
    return average


# Module that the Trainer trains: a network with its task, mapping a batch to a loss.


class TaskModule(nn.Module):
    """Module that calls the task inside `forward`, so that DDP, FSDP and torch.compile wrap every call of the task."""

    accepts_loss_kwargs = False  # otherwise the Trainer passes its item counts to forward and scales the loss by them

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's loss and metrics of a batch, scalars on the network's device."""
        return self.task(self.network, batch)


def build_task_module(
    config: ExperimentConfig, settings: TrainingConfig, tokenizer: Tokenizer | None, *, is_resumed: bool = False
) -> TaskModule:
    """Build the module to train: network and task, initial weights, adapters and checkpointed layers.

    The weights of a resumed run are replaced by those of its checkpoint. Raises UnfitError, DeviceError.
    """
    torch.manual_seed(settings.seed)
    with replacing_weights() if is_resumed else nullcontext():
        network, task = build_network(config, tokenizer)
    if settings.init_from is not None and not is_resumed:
        load_initial_weights(network, settings.init_from, tokenizer, str(settings.dataset))
    module = TaskModule(network, task)
    if settings.lora is not None:
        add_adapters(module, settings.lora)
    try:
        checkpoint_activations(network, settings.activation_checkpointing)
    except CheckpointingError as error:
        raise UnfitError(f"training.activation_checkpointing: {error}; leave it out") from error
    return module


def load_initial_weights(network: nn.Module, place: str, tokenizer: "Tokenizer | None", data: str) -> None:
    """Load the weights of another run or of a published model, for `training.init_from`.

    Raises UnfitError if they do not fit or are not there, or if a run's tokenizer is not that of data set `data`, and
    PublishedError for a published model that cannot be read.
    """
    if is_published_place(place):
        found = read_pretrained(place)
        try:
            assign_tensors(network, found.tensors, f"training.init_from: {place} does not fit this experiment")
        except CheckpointError as error:
            raise UnfitError(str(error)) from error
        return
    folder = expand_home(place)
    if not folder.is_dir():
        raise UnfitError(f"training.init_from: {folder} is not a folder")
    theirs = folder / "tokenizer"
    if tokenizer is not None and theirs.is_dir():
        known = load_tokenizer(theirs)
        if known.vocab_size != tokenizer.vocab_size or _first_tokens(known) != _first_tokens(tokenizer):
            raise UnfitError(
                f"training.init_from: {theirs} gives tokens other ids than the tokenizer of data set {data!r}; use the "
                f"run's tokenizer for the data set: tokenizer: {{run: {folder}}}"
            )
    load_weights(network, folder / WEIGHTS, "this experiment", UnfitError)


def _first_tokens(tokenizer: Tokenizer, count: int = 5000) -> list[str]:
    """Decode the first `count` ids one by one, to compare two tokenizers."""
    return [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, count))]
