"""Tiny latent encoders and decoders that several tests share."""

import torch

from model.latent.connectors.hugging_face import decoder_of
from model.latent.connectors.hugging_face_reader import HuggingFaceReader
from model.latent.connectors.hugging_face_reader import shape_of as hugging_face_shape
from model.latent.connectors.injection import Injection
from model.latent.connectors.performer_reader import PerformerReader
from model.latent.connectors.performer_reader import shape_of as performer_shape
from model.latent.connectors.published import MODEL_CLASS
from model.latent.decoder import LatentDecoder
from model.transformer.performer import PerformerDecoder
from tests.model.tiny import params

LATENT, VOCAB = 6, 40
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
}


def config(architecture, **more):
    from transformers import AlbertConfig, BertConfig, DebertaConfig, GPT2Config, LlamaConfig, RobertaConfig, T5Config

    ends = {"bos_token_id": 1, "eos_token_id": 2}
    made = {
        "bert": lambda: BertConfig(**SIZES, **more),
        "roberta": lambda: RobertaConfig(**SIZES, **more),
        "deberta": lambda: DebertaConfig(**SIZES, **more),
        "albert": lambda: AlbertConfig(**SIZES, embedding_size=8, **more),
        "t5": lambda: T5Config(d_model=16, num_layers=2, num_heads=2, d_ff=32, d_kv=8, vocab_size=VOCAB, **more),
        "gpt2": lambda: GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCAB, n_positions=64, **ends, **more),
        "llama": lambda: LlamaConfig(**SIZES, num_key_value_heads=1, **ends, **more),
    }
    return made[architecture]()


def connector(name, **options):
    torch.manual_seed(0)
    kind = MODEL_CLASS[name]
    return kind(config(kind.architectures[0]), latent_size=LATENT, **options)


def hugging_face_decoder(architecture, routes, num_slots):
    torch.manual_seed(0)
    hf_config = config(architecture, **({"add_cross_attention": True} if "cross_attention" in routes else {}))
    reader = HuggingFaceReader(
        decoder_of(hf_config), Injection(LATENT, hugging_face_shape(hf_config), routes, num_slots)
    )
    return spread(LatentDecoder(reader))


def performer_decoder(routes, num_slots, **changes):
    torch.manual_seed(0)
    performer_params = params(vocab_size=VOCAB, use_cross_attention="cross_attention" in routes, **changes)
    return spread(
        LatentDecoder(
            PerformerReader(
                PerformerDecoder(performer_params),
                Injection(LATENT, performer_shape(performer_params), routes, num_slots),
            )
        )
    )


def spread(model):
    """Draw weights large enough that texts differ, and set evaluation mode."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()
