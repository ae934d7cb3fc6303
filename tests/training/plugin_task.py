"""Plugin with a task that has a custom key."""

from typing import Literal

from model_factory.experiment.task_registry import register_task
from model_factory.training.tasks.language_modelling import LanguageModelling
from model_factory.yaml_config.strict_model import StrictModel


class ScaledConfig(StrictModel):
    """Keys of the task `scaled`."""

    type: Literal["scaled"] = "scaled"
    factor: float = 1.0


@register_task("scaled", columns=("input_ids",), model_types=("decoder",), config=ScaledConfig)
class Scaled(LanguageModelling):
    """Language modelling with a scaled loss."""

    def __call__(self, network, batch):
        config = self.setting.task_config
        assert isinstance(config, ScaledConfig)
        measured = super().__call__(network, batch)
        return {**measured, "loss": measured["loss"] * config.factor}
