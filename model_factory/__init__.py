"""One YAML file to a checked, built, trained transformer or text diffusion model.

    import model_factory

    experiment = model_factory.parse_experiment("experiment.yml")
    model = model_factory.create_model(experiment.model)

Every name that user code needs is here, and every `register_*` decorator. A name is imported when it is first used, so
`import model_factory` itself imports neither torch nor pydantic nor any module of the project.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_manager.data_manager import DatasetManager as DatasetManager
    from data_manager.dataset_types import DatasetConfig as DatasetConfig
    from data_manager.registry import register_source as register_source
    from data_manager.row_types import TokensConfig as TokensConfig
    from data_manager.speech.types import SpeechCorpusConfig as SpeechCorpusConfig
    from data_manager.tokenizers.base import read_vocabulary as read_vocabulary
    from data_manager.tokenizers.base import write_vocabulary as write_vocabulary
    from data_manager.tokenizers.registry import register_tokenizer as register_tokenizer
    from data_manager.tokenizers.smiles import SmilesTokenizer as SmilesTokenizer
    from model.activations import ActivationFunctions as ActivationFunctions
    from model.attention.feature_maps import FeatureMap as FeatureMap
    from model.bert_diffusion_model import BertDiffusionModel as BertDiffusionModel
    from model.bert_factory import build_medium_bert_diffusion_model as build_medium_bert_diffusion_model
    from model.checkpoints.performer_pytorch import load_performer_pytorch as load_performer_pytorch
    from model.core_registry import register_attention as register_attention
    from model.denoisers.registry import register_backbone as register_backbone
    from model.denoisers.view import BackboneView as BackboneView
    from model.feature_registry import register_feature_map as register_feature_map
    from model.latent.registry import register_latent_decoder as register_latent_decoder
    from model.latent.registry import register_latent_denoiser as register_latent_denoiser
    from model.latent.registry import register_latent_encoder as register_latent_encoder
    from model.latent.registry import register_latent_pooler as register_latent_pooler
    from model.latent.registry import register_latent_route as register_latent_route
    from model.latent.registry import register_latent_sampler as register_latent_sampler
    from model.latent.registry import register_latent_schedule as register_latent_schedule
    from model.model_factory import ModelFactory as ModelFactory
    from model.model_factory import create_model as create_model
    from model.model_factory import load_model as load_model
    from model.model_types import DecoderConfig as DecoderConfig
    from model.model_types import EncoderConfig as EncoderConfig
    from model.model_types import EncoderDecoderConfig as EncoderDecoderConfig
    from model.model_types import ModelConfig as ModelConfig
    from model.registry import register_model as register_model
    from model.types import PerformerParams as PerformerParams
    from model_factory.diffusion.objectives.losses import ScoreEntropyLoss as ScoreEntropyLoss
    from model_factory.diffusion.objectives.parameterisation import X0Parameterisation as X0Parameterisation
    from model_factory.diffusion.processes.forward_process import Graph as Graph
    from model_factory.diffusion.processes.noise_schedule import AlphaSchedule as AlphaSchedule
    from model_factory.diffusion.registry import register_objective as register_objective
    from model_factory.diffusion.registry import register_process as register_process
    from model_factory.diffusion.registry import register_sampler as register_sampler
    from model_factory.diffusion.registry import register_schedule as register_schedule
    from model_factory.diffusion.samplers.standard import AncestralSampler as AncestralSampler
    from model_factory.evaluation.figure import Report as Report
    from model_factory.evaluation.metrics.likelihood import ratio_figure as ratio_figure
    from model_factory.experiment.build import with_vocabulary as with_vocabulary
    from model_factory.experiment.config import ExperimentConfig as ExperimentConfig
    from model_factory.experiment.metric_registry import register_metric as register_metric
    from model_factory.experiment.task_registry import register_task as register_task
    from model_factory.training.engine import train as train
    from model_factory.training.run.folder import load_run as load_run
    from model_factory.training.tasks.base import Task as Task
    from model_factory.yaml_config.errors import ConfigError as ConfigError
    from model_factory.yaml_config.strict_model import StrictModel as StrictModel
    from parse_args import parse_config as parse_config
    from parse_args import parse_experiment as parse_experiment

_MODULES = {
    "data_manager.tokenizers.registry": ("register_tokenizer",),
    "model.feature_registry": ("register_feature_map",),
    "model_factory.diffusion.registry": (
        "register_objective",
        "register_process",
        "register_sampler",
        "register_schedule",
    ),
    "model_factory.experiment.metric_registry": ("register_metric",),
    "model.latent.registry": (
        "register_latent_decoder",
        "register_latent_denoiser",
        "register_latent_encoder",
        "register_latent_pooler",
        "register_latent_route",
        "register_latent_sampler",
        "register_latent_schedule",
    ),
    "data_manager.data_manager": ("DatasetManager",),
    "data_manager.dataset_types": ("DatasetConfig",),
    "data_manager.registry": ("register_source",),
    "data_manager.row_types": ("TokensConfig",),
    "data_manager.speech.types": ("SpeechCorpusConfig",),
    "data_manager.tokenizers.smiles": ("SmilesTokenizer",),
    "model.activations": ("ActivationFunctions",),
    "model.bert_diffusion_model": ("BertDiffusionModel",),
    "model.bert_factory": ("build_medium_bert_diffusion_model",),
    "model.checkpoints.performer_pytorch": ("load_performer_pytorch",),
    "model.core_registry": ("register_attention",),
    "model.denoisers.registry": ("register_backbone",),
    "model.denoisers.view": ("BackboneView",),
    "model.model_factory": ("ModelFactory", "create_model", "load_model"),
    "model.model_types": ("DecoderConfig", "EncoderConfig", "EncoderDecoderConfig", "ModelConfig"),
    "model.registry": ("register_model",),
    "model.types": ("PerformerParams",),
    "model_factory.experiment.build": ("with_vocabulary",),
    "model_factory.experiment.config": ("ExperimentConfig",),
    "model_factory.experiment.task_registry": ("register_task",),
    "model_factory.training.engine": ("train",),
    "model_factory.training.run.folder": ("load_run",),
    "model_factory.yaml_config.errors": ("ConfigError",),
    "model_factory.yaml_config.strict_model": ("StrictModel",),
    "data_manager.tokenizers.base": ("read_vocabulary", "write_vocabulary"),
    "model.attention.feature_maps": ("FeatureMap",),
    "model_factory.diffusion.objectives.losses": ("ScoreEntropyLoss",),
    "model_factory.diffusion.objectives.parameterisation": ("X0Parameterisation",),
    "model_factory.diffusion.processes.forward_process": ("Graph",),
    "model_factory.diffusion.processes.noise_schedule": ("AlphaSchedule",),
    "model_factory.diffusion.samplers.standard": ("AncestralSampler",),
    "model_factory.evaluation.figure": ("Report",),
    "model_factory.evaluation.metrics.likelihood": ("ratio_figure",),
    "model_factory.training.tasks.base": ("Task",),
    "parse_args": ("parse_config", "parse_experiment"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use; raise AttributeError for any other."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, without importing any of them."""
    return sorted(_MODULE_OF)
