"""Ship `configs/` inside the package as `model_factory.configs`; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

CODE = find_packages(include=["model", "model.*", "data_manager", "data_manager.*", "model_factory", "model_factory.*"])
CONFIGS = [f"model_factory.{name}" for name in find_namespace_packages(include=["configs", "configs.*"])]

setup(packages=CODE + CONFIGS, package_dir={"model_factory.configs": "configs"})
