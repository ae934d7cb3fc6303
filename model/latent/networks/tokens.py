"""Denoisers that split a latent into a few tokens, with self-attention among the tokens of a row."""

from abc import abstractmethod

from torch import Tensor, nn

from model.latent.networks.conditions import Condition, check_inputs
from model.transformer.inputs import InputError
from model.transformer.performer import PerformerEncoder
from model.types import AttentionType, PerformerParams


class TokenNet(nn.Module):
    """Latent to `num_tokens` tokens of `d_model`, plus the projected conditioning (`tell`), through layers, and back.

    The linear layers in and out have separate weights for each token, which replaces position embeddings.
    """

    def __init__(self, latent_dim: int, d_model: int, num_tokens: int, time_dim: int, time_scale: float) -> None:
        super().__init__()
        if num_tokens < 1:
            raise InputError(f"num_tokens is {num_tokens}; use 1 or more")
        self.latent_dim, self.num_tokens, self.d_model = latent_dim, num_tokens, d_model
        self.condition = Condition(latent_dim, time_dim, time_scale)
        self.to_tokens = nn.Linear(latent_dim, num_tokens * d_model)
        self.tell = nn.Linear(latent_dim, d_model)
        self.to_latent = nn.Linear(num_tokens * d_model, latent_dim)

    @abstractmethod
    def mix(self, tokens: Tensor) -> Tensor:
        """Apply the layers to tokens [B, num_tokens, d_model]."""

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Denoise x [B, latent_dim] at t [B] or [B, 1] in [0, 1], given z_sem [B, latent_dim]; raises InputError."""
        condition = self.condition(check_inputs(x, t, z_sem, self.latent_dim), z_sem)
        tokens = self.to_tokens(x).unflatten(-1, (self.num_tokens, self.d_model))
        mixed = self.mix(tokens + self.tell(condition)[:, None])
        out: Tensor = self.to_latent(mixed.flatten(1))
        return out


class TransformerNet(TokenNet):
    """Transformer encoder (Vaswani et al. 2017), by default of four tokens of 512, 12 layers and 8 heads.

    Layers are pre-norm; `norm_first=False` and `time_scale=1.0` are closest to DMLP, whose network attends across the
    batch, a bug that is not reproduced. Raises InputError if `num_heads` does not divide `d_model`.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        d_model: int = 512,
        num_tokens: int = 4,
        num_layers: int = 12,
        num_heads: int = 8,
        dropout: float = 0.0,
        norm_first: bool = True,
        time_dim: int = 64,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__(latent_dim, d_model, num_tokens, time_dim, time_scale)
        if num_heads < 1 or d_model % num_heads:
            raise InputError(f"num_heads {num_heads} does not divide d_model {d_model}")
        # Separate layers: nn.TransformerEncoder would initialise all with the same weights.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                d_model, num_heads, 4 * d_model, dropout, "gelu", batch_first=True, norm_first=norm_first
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model) if norm_first else nn.Identity()

    def mix(self, tokens: Tensor) -> Tensor:
        """Apply the layers and the final norm to tokens [B, num_tokens, d_model]."""
        for layer in self.layers:
            tokens = layer(tokens)
        out: Tensor = self.norm(tokens)
        return out


class PerformerNet(TokenNet):
    """The same with this project's layers (`PerformerEncoder`), and any attention core that is not causal.

    Raises pydantic's ValidationError, a ValueError, for incompatible sizes.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        d_model: int = 512,
        num_tokens: int = 4,
        num_layers: int = 12,
        num_heads: int = 8,
        attention_type: AttentionType = "softmax",
        dropout: float = 0.0,
        time_dim: int = 64,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__(latent_dim, d_model, num_tokens, time_dim, time_scale)
        params = PerformerParams(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            attention_type=attention_type,
            dropout=dropout,
            position="none",
            device=str(self.tell.weight.device),
        )
        self.encoder = PerformerEncoder(params)

    def mix(self, tokens: Tensor) -> Tensor:
        """Apply the encoder to tokens [B, num_tokens, d_model]."""
        out: Tensor = self.encoder(tokens)
        return out
