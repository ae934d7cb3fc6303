"""Normalisation of a condition's properties: mean and standard deviation over the training rows."""

import numpy as np
from numpy.typing import NDArray

from model.diffusion_types import ConditionConfig
from model.model_types import ModelConfig
from training.splits import Split, is_table


def fill_condition_scale(model: ModelConfig, rows: Split) -> ModelConfig:
    """Return a copy whose condition has `mean` and `std` of the column `cond` of `rows`, unless they are set.

    A constant property gets standard deviation 1. The config is returned unchanged if the model has no condition on
    properties, or if the rows have no properties or another number of them.
    """
    condition: ConditionConfig | None = getattr(model.config, "condition", None)
    if condition is None or condition.size is None or condition.mean is not None:
        return model
    if not is_table(rows) or "cond" not in rows.column_names:
        return model
    values = np.array(rows.with_format("numpy")["cond"][:], np.float64)
    if values.shape[1:] != (condition.size,):
        return model
    mean, std = values.mean(0), values.std(0)
    # six digits are precise enough, and easy to read in config.yml
    scale = {"mean": _rounded(mean), "std": _rounded(np.where(std > 0, std, 1.0))}
    section = model.config.model_copy(update={"condition": condition.model_copy(update=scale)})
    return model.model_copy(update={"config": section})


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
