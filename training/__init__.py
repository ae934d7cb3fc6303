"""Training: types of the `training` and `generation` sections."""
