"""Built-in backbones; importing this module registers them, and imports no torch."""

from model.denoisers.config_types import (
    BertBackboneConfig,
    DDiTBackboneConfig,
    HuggingFaceBackboneConfig,
    PerformerBackboneConfig,
)
from model.denoisers.registry import register_backbone
from model_factory.yaml_config.registry import import_on_call

register_backbone(
    "performer", config=PerformerBackboneConfig, sigma_optional=True, takes_documents=True, token_levels=True
)(import_on_call("model.denoisers.performer:PerformerDenoiser"))
register_backbone(
    "ddit", config=DDiTBackboneConfig, sigma_optional=True, takes_documents=True, takes_blocks=True, token_levels=True
)(import_on_call("model.denoisers.ddit:DDiT"))
register_backbone("bert", config=BertBackboneConfig, sigma_optional=True, takes_documents=True, token_levels=True)(
    import_on_call("model.denoisers.bert:BertDenoiser")
)
register_backbone(
    "hugging_face",
    config=HuggingFaceBackboneConfig,
    sigma_optional=True,
    takes_documents=True,
    takes_blocks=True,
    token_levels=True,
    fixed_vocabulary=True,
)(import_on_call("model.denoisers.hugging_face:HuggingFaceDenoiser"))
