"""Our models as classes of transformers; importing this package registers them with its Auto classes.

    import model_factory.interop.hf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("exported")

`config` holds the section of the model, and one module each has decoders, encoders, encoder-decoders and denoisers. This
package imports `model` and everything below it; `model_factory.interop.export` and the command line import it.
`python -m model_factory.interop.hf serve exported` is the command `transformers serve exported` with these classes.
"""

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from model_factory.interop.hf.config import (
    DecoderHubConfig,
    DenoiserHubConfig,
    EncoderDecoderHubConfig,
    EncoderHubConfig,
)
from model_factory.interop.hf.decoder import ModelFactoryForCausalLM
from model_factory.interop.hf.denoiser import ModelFactoryDenoiser
from model_factory.interop.hf.encoder import ModelFactoryEncoder
from model_factory.interop.hf.encoder_decoder import ModelFactoryForSeq2SeqLM

for _config, _class, _auto in (
    (DecoderHubConfig, ModelFactoryForCausalLM, AutoModelForCausalLM),
    (EncoderDecoderHubConfig, ModelFactoryForSeq2SeqLM, AutoModelForSeq2SeqLM),
    (EncoderHubConfig, ModelFactoryEncoder, None),
    (DenoiserHubConfig, ModelFactoryDenoiser, None),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _class, exist_ok=True)
    if _auto is not None:
        _auto.register(_config, _class, exist_ok=True)
    setattr(transformers, _class.__name__, _class)  # where `transformers serve` looks for the name in config.json
