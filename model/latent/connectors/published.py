"""The fifteen connectors by their published names: presets of a backbone, a pooler and the latent's routes.

Encoders are `Class(config, latent_size=64, pad_id=None)` and are called `(input_ids, attention_mask)`; decoders
`Class(config, latent_size=64, latent_as_gpt_emb=True, latent_as_gpt_memory=True)` and are called
`(input_ids=, past=latent, labels=, label_ignore=)`. `config` is a config of transformers. `from_pretrained(path, ...)`
starts from pretrained weights, or loads a connector that `save_pretrained(folder)` wrote.
"""

from copy import deepcopy
from typing import Any, ClassVar

from torch import Tensor, nn

from model.latent.connectors.hugging_face import add_block, decoder_of, encoder_of, take_pooler
from model.latent.connectors.hugging_face_reader import HuggingFaceReader, shape_of
from model.latent.connectors.injection import Injection
from model.latent.connectors.saving import Connector, check_architecture
from model.latent.decoder import LatentDecoder
from model.latent.encoder import LatentEncoder, top_layer


class EncoderConnector(Connector, LatentEncoder):
    """An encoder of transformers whose pooled output becomes mu and logvar by `linear`, hidden to 2 * latent_size.

    `pad_id` is the padding id if no mask is given; None: the config's. `backbone` is an existing one.
    Raises ConnectorError for a config of another architecture.
    """

    pooling: ClassVar[str] = "first"
    is_new: ClassVar[bool] = False
    """True if the backbone is frozen, and one layer on top of it is trained."""

    def __init__(
        self, config: Any, latent_size: int = 64, pad_id: int | None = None, *, backbone: nn.Module | None = None
    ) -> None:
        check_architecture(type(self), config)
        backbone = encoder_of(config) if backbone is None else backbone
        pad = config.pad_token_id if pad_id is None else pad_id
        pooler, top = take_pooler(backbone, self.pooling), top_layer(config) if self.is_new else None
        super().__init__(backbone, pooler, config.hidden_size, latent_size, pad_id=pad, top_layer=top)
        self.config, self.arguments = config, {"latent_size": latent_size, "pad_id": pad}

    @classmethod
    def backbone_from(cls, config: Any, path: str) -> nn.Module:
        """Load the pretrained backbone of a folder or of a name on the hub."""
        return encoder_of(config, path)

    def resize_token_embeddings(self, num_tokens: int) -> None:
        """Resize the embeddings to `num_tokens`, after tokens were added to a tokenizer."""
        self.config = resize_embeddings(self.backbone, self.config, num_tokens)


class BertForLatentConnector(EncoderConnector):
    """BERT with its pretrained pooler over the first token."""

    architectures = ("bert",)


class BertForLatentConnectorAVG(EncoderConnector):
    """BERT with its pooler over the masked mean."""

    architectures, pooling = ("bert",), "mean"


class BertForLatentConnectorNew(EncoderConnector):
    """BERT frozen, with one trained layer on top, and a pooler over the masked mean."""

    architectures, pooling, is_new = ("bert",), "mean", True


class RobertaForLatentConnector(EncoderConnector):
    """RoBERTa with a pooler over the masked mean."""

    architectures, pooling = ("roberta",), "mean"


class RobertaForLatentConnectorNew(EncoderConnector):
    """RoBERTa frozen, with one trained layer on top, and a pooler over the masked mean."""

    architectures, pooling, is_new = ("roberta",), "mean", True


class DebertaForLatentConnector(EncoderConnector):
    """DeBERTa with its context pooler."""

    architectures, pooling = ("deberta", "deberta-v2"), "context"


class DebertaForLatentConnectorNew(EncoderConnector):
    """DeBERTa frozen, with one trained layer on top, and a pooler over the masked mean."""

    architectures, pooling, is_new = ("deberta", "deberta-v2"), "mean", True


class T5EncoderForLatentConnector(EncoderConnector):
    """T5's encoder with a BERT-style pooler over the masked mean."""

    architectures, pooling = ("t5", "mt5", "umt5"), "mean"


class AlbertForLatentConnector(EncoderConnector):
    """ALBERT with a pooler over the masked mean."""

    architectures, pooling = ("albert",), "mean"


class GPT2ModelForVAE(Connector, HuggingFaceReader):
    """GPT-2 without a language head; `linear` maps a latent to a kv prefix of one slot, `linear_emb` to an embedding.

    Called as `(input_ids, past=latent)`, it returns (hidden states [B, N, hidden],).
    """

    architectures = ("gpt2",)
    has_new_block: ClassVar[bool] = False
    feed_forward: ClassVar[int | None] = None
    """Inner width of the new block, in multiples of the hidden size; None: that of the others."""

    def __init__(
        self,
        config: Any,
        latent_size: int = 64,
        latent_as_gpt_emb: bool = True,
        latent_as_gpt_memory: bool = True,
        *,
        backbone: nn.Module | None = None,
    ) -> None:
        check_architecture(type(self), config)
        backbone = decoder_of(config, has_head=False) if backbone is None else backbone
        if self.has_new_block:
            add_block(backbone, self.feed_forward and self.feed_forward * config.hidden_size)
        chosen = {"embedding": latent_as_gpt_emb, "memory": latent_as_gpt_memory}
        routes = [route for route, is_chosen in chosen.items() if is_chosen]
        super().__init__(backbone, Injection(latent_size, shape_of(backbone.config), routes))
        self.config = config
        self.arguments = {
            "latent_size": latent_size,
            "latent_as_gpt_emb": latent_as_gpt_emb,
            "latent_as_gpt_memory": latent_as_gpt_memory,
        }

    @classmethod
    def backbone_from(cls, config: Any, path: str) -> nn.Module:
        """Load the pretrained backbone of a folder or of a name on the hub."""
        return decoder_of(config, path, has_head=False)

    @property
    def linear(self) -> nn.Linear | None:
        """Layer from a latent to the kv prefix of each layer; None without the route memory."""
        layer: nn.Linear | None = self.injection.linear  # type: ignore[assignment]
        return layer

    @property
    def linear_emb(self) -> nn.Linear | None:
        """Layer from a latent to the vector added to embeddings; None without the route embedding."""
        layer: nn.Linear | None = self.injection.linear_emb  # type: ignore[assignment]
        return layer

    def change_order(self) -> None:
        """Do nothing: the published code moves the new block to the front here; ours is in front from the start."""

    def forward(self, input_ids: Tensor, past: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
        """Return hidden states of ids int [B, N] and latents `past` [B, latent_size]; attention_mask is [B, N]."""
        return (self.states(input_ids, past, None if attention_mask is None else attention_mask.bool()),)


class GPT2ModelForVAENew(GPT2ModelForVAE):
    """GPT-2 frozen, with one trained block in front."""

    has_new_block = True


class GPT2ModelForVAENew2(GPT2ModelForVAENew):
    """GPT-2 frozen, with one trained block in front whose feed-forward layer is 12 times as wide as the hidden size."""

    feed_forward = 12


class GPT2ForLatentConnector(Connector, LatentDecoder):
    """GPT-2 with its tied language head; the latent enters as a kv prefix, and is added to embeddings.

    With `head_bias` the head has a trained bias, 0 at first, as the published one has; GPT-2's own has none.
    """

    architectures = ("gpt2",)
    inner: ClassVar[type[GPT2ModelForVAE]] = GPT2ModelForVAE

    def __init__(
        self,
        config: Any,
        latent_size: int = 64,
        latent_as_gpt_emb: bool = True,
        latent_as_gpt_memory: bool = True,
        *,
        head_bias: bool = False,
        backbone: nn.Module | None = None,
    ) -> None:
        reader = self.inner(config, latent_size, latent_as_gpt_emb, latent_as_gpt_memory, backbone=backbone)
        embedding: Any = reader.backbone.get_input_embeddings()
        head = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
        head.weight = embedding.weight
        if head_bias:
            head.bias = nn.Parameter(embedding.weight.new_zeros(embedding.num_embeddings))
        super().__init__(reader, head)
        self.config, self.arguments = config, reader.arguments

    @classmethod
    def backbone_from(cls, config: Any, path: str) -> nn.Module:
        """Load the pretrained backbone of a folder or of a name on the hub."""
        return cls.inner.backbone_from(config, path)

    def resize_token_embeddings(self, num_tokens: int) -> None:
        """Resize the embeddings and the tied head to `num_tokens`, after tokens were added to a tokenizer."""
        backbone: Any = self.transformer.backbone
        self.config = resize_embeddings(backbone, self.config, num_tokens)
        assert self.lm_head is not None
        self.lm_head.weight = backbone.get_input_embeddings().weight
        self.lm_head.out_features = num_tokens
        if self.lm_head.bias is not None:
            own = self.lm_head.bias.data[:num_tokens]
            self.lm_head.bias = nn.Parameter(nn.functional.pad(own, (0, num_tokens - len(own))))

    def change_order(self) -> None:
        """Do nothing: the published code moves the new block to the front here; ours is in front from the start."""


class GPT2ForLatentConnectorNew(GPT2ForLatentConnector):
    """GPT-2 frozen, with one trained block in front."""

    inner = GPT2ModelForVAENew


class GPT2ForLatentConnectorNew2(GPT2ForLatentConnector):
    """GPT-2 frozen, with one trained block in front whose feed-forward layer is 12 times as wide as the hidden size."""

    inner = GPT2ModelForVAENew2


def resize_embeddings(backbone: Any, config: Any, num_tokens: int) -> Any:
    """Resize a backbone's embeddings to `num_tokens`; return a copy of the config with that vocab_size."""
    backbone.resize_token_embeddings(num_tokens)
    changed = deepcopy(config)
    changed.vocab_size = num_tokens
    return changed


ENCODERS: tuple[type[EncoderConnector], ...] = (
    BertForLatentConnector,
    BertForLatentConnectorAVG,
    BertForLatentConnectorNew,
    RobertaForLatentConnector,
    RobertaForLatentConnectorNew,
    DebertaForLatentConnector,
    DebertaForLatentConnectorNew,
    T5EncoderForLatentConnector,
    AlbertForLatentConnector,
)
DECODERS: tuple[type[GPT2ForLatentConnector], ...] = (
    GPT2ForLatentConnector,
    GPT2ForLatentConnectorNew,
    GPT2ForLatentConnectorNew2,
)
_READERS: tuple[type[GPT2ModelForVAE], ...] = (GPT2ModelForVAE, GPT2ModelForVAENew, GPT2ModelForVAENew2)
_ALL: tuple[type[Connector], ...] = (*ENCODERS, *_READERS, *DECODERS)
MODEL_CLASS: dict[str, type[Connector]] = {connector.__name__: connector for connector in _ALL}
"""All connectors by their published names."""
