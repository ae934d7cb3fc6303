"""Settings that the config of a published network of the DDiT family states, under one set of names.

SEDD, MDLM, BD3LM, UDLM, Duo and GIDD are one network (`backbone: ddit`) with different names of settings: in the hub's
config.json, and in the Hydra files of local checkpoints. A setting that no file states is None; tensors tell the sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from model.checkpoints.errors import PublishedError
from model.checkpoints.families import AUTOREGRESSIVE, FAMILIES, LANGUAGE_MODELS
from model_factory.yaml_config.registry import closest

_ALGORITHMS = {"duo_base": "duo", "distillation": "duo"}
_UNREAD = {
    "gidd": "GIDD-unif, whose network has soft-capped attention, attention sinks and a schedule in log-SNR",
    "diffusion_gemma": "DiffusionGemma, whose decoder needs the cache of a causal encoder and conditions on its own predictions",
}
"""Values of model_type that no network here fits."""
_REFUSED = {"d3pm": "a D3PM baseline, whose parameterisation is not read"}


@dataclass(frozen=True)
class Stated:
    """Settings of a published network that its config states; None where it does not."""

    family: str
    width: int | None = None
    cond_dim: int | None = None
    layers: int | None = None
    heads: int | None = None
    length: int | None = None
    vocab: int | None = None
    """Number of rows of the embedding; GIDD's is then padded."""
    dropout: float | None = None
    time_conditioning: bool | None = None
    block_size: int | None = None
    classes: int | None = None
    process: str | None = None
    schedule: Mapping[str, Any] | None = None
    scale_by_sigma: bool | None = None
    p_uniform: float | None = None


def read_settings(config: Mapping[str, Any], where: str, family: str | None) -> Stated:
    """Return what a config states; raise PublishedError for a family that is not known, or not a diffusion model.

    Arguments:
        config: content of config.json or of Hydra's config.yaml; where: its path, for messages.
        family: family that the user named, where the config does not.
    """
    if "model_type" in config:
        return _hub(config, where, family)
    model = config.get("model")
    if isinstance(model, Mapping) and isinstance(config.get("graph"), Mapping):
        return _sedd(config, model, where)
    if isinstance(model, Mapping):
        return _hydra(config, model, where, family)
    if family is not None:
        return Stated(family)
    raise PublishedError(
        f"{where}: says neither model_type nor, as SEDD's does, graph and model; families that are read are "
        f"{', '.join(FAMILIES)}; name the family of a checkpoint without a config: --family mdlm"
    )


def _hub(config: Mapping[str, Any], where: str, family: str | None) -> Stated:
    kind = str(config["model_type"]).lower()
    if kind == "dit" and "timestep_cond_dim" in config:
        return _gidd(config, where)
    if kind not in FAMILIES or kind in ("sedd", "gidd"):
        raise PublishedError(f"{where}: {_describe_unknown(kind)}")
    if _is_causal(config) or family == AUTOREGRESSIVE:
        return _autoregressive(config, where, length=_int(config, "model_length", where))
    if config.get("adaln") is False:
        raise PublishedError(
            f"{where}: adaln is false, a network without modulation by the noise level, which is not read"
        )
    has_classes = config.get("cfg") is True
    return Stated(
        kind,
        width=_int(config, "hidden_dim", where),
        cond_dim=_int(config, "cond_dim", where),
        layers=_int(config, "n_blocks", where),
        heads=_int(config, "n_heads", where),
        length=_int(config, "model_length", where),
        vocab=_int(config, "vocab_size", where),
        dropout=_float(config, "dropout", where),
        time_conditioning=_bool(config, "time_conditioning", where),
        block_size=_int(config, "block_size", where) if kind == "bd3lm" else None,
        classes=_int(config, "cfg_num_classes", where) if has_classes else None,
        process="uniform" if kind in ("udlm", "duo") else "absorbing",
    )


def _describe_unknown(kind: str) -> str:
    if kind == "dit":
        return "model_type dit without timestep_cond_dim is not GIDD's network, but that of another project"
    if kind in _UNREAD:
        return f"model_type {kind!r} is {_UNREAD[kind]}, which is not read"
    known = (*FAMILIES, *LANGUAGE_MODELS)
    near = closest(kind, list(known))
    hint = f"did you mean {near}?" if near else f"families that are read are {', '.join(known)}"
    return (
        f"model_type {kind!r} is no diffusion model that is read; {hint}. To adapt a masked or causal language model "
        "of Hugging Face, train it with backbone: {type: hugging_face, path: ...}; if it is DiffuGPT or DiffuLLaMA, name it: "
        "--family diffugpt, or diffullama"
    )


def _is_causal(config: Mapping[str, Any]) -> bool:
    return config.get("causal") is True or config.get("causal_attention") is True


def _autoregressive(config: Mapping[str, Any], where: str, length: int | None) -> Stated:
    """Read the config of an autoregressive baseline, with the keys of the hub or of a Hydra file's section `model`."""
    hub = "hidden_dim" in config
    return Stated(
        AUTOREGRESSIVE,
        width=_int(config, "hidden_dim" if hub else "hidden_size", where),
        layers=_int(config, "n_blocks", where),
        heads=_int(config, "n_heads", where),
        length=length,
        vocab=_int(config, "vocab_size", where),
        dropout=_float(config, "dropout", where),
    )


def _gidd(config: Mapping[str, Any], where: str) -> Stated:
    p_uniform = _float(config, "p_uniform", where)
    return Stated(
        "gidd",
        width=_int(config, "hidden_size", where),
        cond_dim=_int(config, "timestep_cond_dim", where),
        layers=_int(config, "num_hidden_layers", where),
        heads=_int(config, "num_attention_heads", where),
        length=_int(config, "max_seq_len", where),
        vocab=_int(config, "vocab_size", where),
        dropout=_float(config, "attention_dropout", where),
        time_conditioning=True,
        process="hybrid" if p_uniform else "absorbing",
        p_uniform=p_uniform,
    )


def _sedd(config: Mapping[str, Any], model: Mapping[str, Any], where: str) -> Stated:
    kind = str(config["graph"].get("type"))
    if kind not in ("absorb", "uniform"):
        raise PublishedError(f"{where}: graph.type is {kind!r}; absorb and uniform are read")
    tokens = _int(config, "tokens", where)
    return Stated(
        "sedd",
        width=_int(model, "hidden_size", where),
        cond_dim=_int(model, "cond_dim", where),
        layers=_int(model, "n_blocks", where),
        heads=_int(model, "n_heads", where),
        length=_int(model, "length", where),
        vocab=None if tokens is None else tokens + (kind == "absorb"),
        dropout=_float(model, "dropout", where),
        time_conditioning=True,
        process="absorbing" if kind == "absorb" else "uniform",
        schedule=_schedule(config.get("noise"), where),
        scale_by_sigma=_bool(model, "scale_by_sigma", where),
    )


def _hydra(config: Mapping[str, Any], model: Mapping[str, Any], where: str, family: str | None) -> Stated:
    """Read the Hydra file of MDLM's repository and of those that began as copies of it, and of GIDD's."""
    algorithm = config.get("algo")
    owner: Mapping[str, Any] = algorithm if isinstance(algorithm, Mapping) else config
    kind = str(owner.get("name", "")).lower() if owner is algorithm else _kind_of(config)
    kind = _ALGORITHMS.get(kind, kind)
    if AUTOREGRESSIVE in (kind, owner.get("parameterization"), family) or _is_causal(owner) or _is_causal(model):
        return _autoregressive(model, where, length=_int(model, "length", where))
    if kind in _REFUSED or owner.get("parameterization") in _REFUSED:
        reason = _REFUSED.get(kind) or _REFUSED[str(owner.get("parameterization"))]
        if kind not in FAMILIES:
            raise PublishedError(f"{where}: {reason}")
    if family is not None and kind in FAMILIES and kind != family:
        raise PublishedError(f"{where}: is a config of {kind}, and --family is {family}")
    kind = kind if kind in FAMILIES else family or ""
    if not kind:
        raise PublishedError(f"{where}: does not say which family the network is of; name it: --family {FAMILIES[1]}")
    return Stated(
        kind,
        width=_int(model, "hidden_size", where),
        cond_dim=_int(model, "cond_dim", where),
        layers=_int(model, "n_blocks", where),
        heads=_int(model, "n_heads", where),
        length=_int(model, "length", where) or _int(model, "max_seq_len", where),
        dropout=_float(model, "dropout", where),
        time_conditioning=_bool(owner, "time_conditioning", where) if kind != "gidd" else True,
        block_size=_int(config, "block_size", where) if kind == "bd3lm" else None,
        process={"udlm": "uniform", "duo": "uniform"}.get(kind, "absorbing") if kind != "gidd" else None,
        schedule=_schedule(config.get("noise"), where),
        p_uniform=_float(model, "p_uniform", where) if kind == "gidd" else None,
    )


def _kind_of(config: Mapping[str, Any]) -> str:
    """Return the family of a Hydra file without a section `algo`, by its process and parameterisation."""
    parameterization, process = config.get("parameterization"), config.get("diffusion")
    if parameterization == "ar":
        return "ar"
    if process == "uniform":
        return "udlm"
    return {"subs": "mdlm", "sedd": "sedd", "d3pm": "d3pm"}.get(str(parameterization), "")


def _schedule(noise: Any, where: str) -> Mapping[str, Any] | None:
    """Return the `schedule` section of a Hydra file's section `noise`."""
    if not isinstance(noise, Mapping) or "type" not in noise:
        return None
    kind = str(noise["type"]).replace("-", "").replace("_", "").lower()
    if kind == "loglinear":
        eps = _float(noise, "eps", where)
        return {"type": "loglinear", "eps": 1e-3 if eps is None else eps}
    if kind == "geometric":
        keys = ("sigma_min", "sigma_max")
        given = {key: _float(noise, key, where) for key in keys}
        return {"type": "geometric", **{key: value for key, value in given.items() if value is not None}}
    raise PublishedError(f"{where}: noise.type is {noise['type']!r}; loglinear and geometric are read")


def merge(first: Stated, second: Stated, where: str) -> Stated:
    """Return the settings of two files of one network; raise PublishedError where both state one and differ."""
    values = {}
    for name in (item.name for item in fields(Stated)):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours is not None and theirs is not None and ours != theirs:
            raise PublishedError(f"{where}: {name} is {theirs}, and the other config of the checkpoint says {ours}")
        values[name] = theirs if ours is None else ours
    return Stated(**values)


def _int(config: Mapping[str, Any], key: str, where: str) -> int | None:
    found: int | None = _typed(config, key, where, int, "a whole number")
    return found


def _float(config: Mapping[str, Any], key: str, where: str) -> float | None:
    found = _typed(config, key, where, (int, float), "a number")
    return None if found is None else float(found)


def _bool(config: Mapping[str, Any], key: str, where: str) -> bool | None:
    found: bool | None = _typed(config, key, where, bool, "true or false")
    return found


def _typed(config: Mapping[str, Any], key: str, where: str, kind: Any, text: str) -> Any:
    value = config.get(key)
    is_odd = isinstance(value, bool) and kind is not bool
    if value is None or (isinstance(value, kind) and not is_odd):
        return value
    raise PublishedError(f"{where}: {key} is {value!r}; expected {text}")
