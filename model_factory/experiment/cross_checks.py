"""All checks between sections: model, data sets, training and generation. No torch is imported and no data is read.

Each of `CHECKS` takes one `Context` and yields the problems that it finds. Checks of `training` are in
`experiment.training_checks`; `model_factory.experiment.file_headers` holds the checks that open files which the config names.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from data_manager.dataset_types import DatasetConfig
from data_manager.row_types import TokensConfig
from data_manager.speech.types import SpeechConfig
from data_manager.text.types import CorpusConfig
from model.denoisers.registry import find_level_problem
from model.latent.registry import LATENT_SAMPLERS
from model.model_types import ModelConfig
from model.types import PerformerParams
from model_factory.diffusion.registry import OBJECTIVES, PROCESSES, SAMPLERS
from model_factory.experiment.check_context import DISCRETE, LATENT, OWN_TASKS, SPEECH_TASKS, Check, Context
from model_factory.experiment.pair_checks import PAIR_CHECKS, is_joined, reads_sources
from model_factory.experiment.response_checks import RESPONSE_CHECKS
from model_factory.experiment.training_checks import TRAINING_CHECKS
from model_factory.yaml_config.check import advice
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.model_tree import walk
from model_factory.yaml_config.node import dotted
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import Location

FEWEST_TOKENS = {"bytes": 259, "bpe": 260}
"""Tokens of a tokenizer by its type, at least: the bytes and special tokens."""
_BERT_POSITIONS = 512
MOST_EXPANSION = 32
"""Largest factor by which the feed-forward layer is wider than d_model; above it a width is meant."""


def read_feature_widths(datasets: Sequence[DatasetConfig]) -> dict[str, int]:
    """Return the numbers in a frame of each speech data set by its name, if known.

    Parts of a mixture, and entries with noise, are left to the entry that reads them.
    """
    mixed = {name for entry in datasets for name in getattr(entry, "part_names", ())}
    speech = (entry for entry in datasets if isinstance(entry, SpeechConfig) and entry.name not in mixed)
    widths = {entry.name: entry.features.width() for entry in speech}
    return {name: width for name, width in widths.items() if width is not None}


def reads_speech(stack: PerformerParams, datasets: Sequence[DatasetConfig]) -> bool:
    """Return True if a stack without `input_dim` reads the features of its data sets, all of which are speech."""
    return stack.vocab_size is None and all(isinstance(entry, SpeechConfig) for entry in datasets)


def _feature_width(context: Context) -> Iterator[Problem]:
    """Check that frames of speech are as wide as `input_dim`, and of one width where that is left out.

    With `training`, or beside text data, a model without `input_dim` reads something else.
    """
    if context.model is None:
        return
    stack = next((value for _, value in context.model.config if isinstance(value, PerformerParams)), None)
    parts = getattr(context.model.config, "parts", None)
    if stack is None or not parts:
        return
    widths = read_feature_widths(context.datasets)
    path = ("model", parts[0], "input_dim")
    if stack.input_dim is None:
        trains = context.root.child("training") is not None
        if len(set(widths.values())) > 1 and reads_speech(stack, context.datasets) and not trains:
            each = ", ".join(f"{name!r} {width}" for name, width in widths.items())
            message = f"input_dim is left out, and the data sets have frames of several widths: {each}"
            yield context.problem(path, message, "set features in global_config, so that all have one width")
        return
    for entry in context.datasets:
        width = widths.get(entry.name)
        if width not in (None, stack.input_dim):
            kind, fix = entry.features.type, f"input_dim: {width}"  # type: ignore[attr-defined]
            message = f"input_dim is {stack.input_dim}, and {kind} features of data set {entry.name!r} have {width} numbers a frame"
            yield Problem(context.node(path).report_place, dotted(path), "relation", f"{message}; write {fix}", fix)


def _token_input(context: Context) -> Iterator[Problem]:
    """Check that a stack that is trained on tokens reads tokens, and attends to nothing that is not there."""
    if context.model is None or context.task not in OWN_TASKS or context.task in SPEECH_TASKS:
        return
    for part, stack in _stacks(context.model):
        if stack.input_dim is not None:
            message = f"input_dim is the width of float input, and data set {_name(context)!r} gives token ids"
            yield context.problem(("model", part, "input_dim"), message, "leave it out")
    if context.task == "language_modelling" and getattr(context.model.config, "use_cross_attention", False):
        message = "cross-attention needs a context, and language modelling gives none"
        fix = "leave it out, or model_type: encoder_decoder"
        yield context.problem(("model", "decoder", "use_cross_attention"), message, fix)


def _stacks(model: ModelConfig) -> list[tuple[str, PerformerParams]]:
    """Return the encoder and the decoder of a transformer, by the names of their sections."""
    if model.model_type in (DISCRETE, LATENT):
        return []
    fields = type(model.config).model_fields
    found = ((fields[name].alias or name, value) for name, value in model.config if isinstance(value, PerformerParams))
    return list(found)


def _name(context: Context) -> str:
    assert context.dataset is not None
    return context.dataset.name


def _lengths(context: Context) -> Iterator[Problem]:
    """Check that rows, and the sequences of a diffusion model, are no longer than the model can read."""
    model = context.model
    if model is None or model.model_type == LATENT or (context.dataset and is_joined(model, context.dataset)):
        return  # rows of a source and a canvas are checked by `pair_checks`
    limits: list[tuple[Location, str, int | None]] = []
    for part, stack in _stacks(model):
        limits.append((("model", part, "max_length"), part, stack.max_length))
    given: list[tuple[str, str, int]] = []
    anchored = 0
    if model.model_type == DISCRETE:
        section: Any = model.config
        anchored = int(OBJECTIVES.get(section.objective.type).variable_length)  # a state before each row
        limits.append((("model", "backbone", "max_length"), "backbone", getattr(section.backbone, "max_length", None)))
        given += [("sequences have", "length", section.length)] if section.length is not None else []
    entries = context.datasets if context.dataset is None else (context.dataset,)
    lengths = (entry.limit for entry in entries if isinstance(entry, TokensConfig))
    longest_row = max((length for length in lengths if length is not None), default=None)
    given += [("rows have up to", "sequence_length", longest_row)] if longest_row is not None else []
    for path, part, longest in limits:
        for what, key, size in given:
            shifted = part == "decoder"  # its input lacks the last token, which is only predicted
            if longest is not None and size - shifted + anchored > longest:
                message = f"{what} {size} tokens, and the {part} reads at most {longest - anchored}"
                yield context.problem(path, message, f"{key}: {longest - anchored}, or max_length: {size + anchored}")
                break


def _vocabulary(context: Context) -> Iterator[Problem]:
    """Check that a model that reads tokens has a vocabulary, and one that is large enough."""
    model = context.model
    if model is None:
        return
    given: list[tuple[Location, int | None]] = []
    if model.model_type == DISCRETE:
        given = [(("model", "vocab_size"), getattr(model.config, "vocab_size", None))]
    elif model.model_type == LATENT:
        parts: Any = model.config
        own = ((name, getattr(parts, name)) for name in ("encoder", "decoder"))
        given = [
            (("model", name, "vocab_size"), part.vocab_size)
            for name, part in own
            if hasattr(part, "vocab_size") and getattr(part, "path", None) is None
        ]
    else:
        given = [
            (("model", part, "vocab_size"), stack.vocab_size) for part, stack in _stacks(model) if stack.vocab_size
        ]
    has_data = not context.knows_data or context.root.child("datasets") is not None
    tokenizer = getattr(context.dataset, "tokenizer", None)
    for path, size in given:
        if size is None and not has_data:
            message = "vocab_size is missing, and there is no data set whose tokenizer would give it"
            yield context.problem(path, message, "vocab_size: 1000")
        elif size is not None and tokenizer is not None and size < (least := FEWEST_TOKENS.get(tokenizer.type, 0)):
            message = (
                f"vocab_size is {size}, and the tokenizer of data set {_name(context)!r} has {least} tokens or more"
            )
            yield context.problem(path, message, "leave it out")


def _condition(context: Context) -> Iterator[Problem]:
    """Check that the data set gives the properties or the classes that the model's condition asks for."""
    entry: Any = context.dataset
    condition: Any = getattr(context.model.config, "condition", None) if context.model else None
    if condition is None or entry is None:
        return
    names = entry.condition_names if isinstance(entry, CorpusConfig) else None
    if condition.size is not None and names is not None and len(names) != condition.size:
        given = f"data set {entry.name!r} gives {len(names) or 'none'}" + (f": {', '.join(names)}" if names else "")
        fix = f"size: {len(names)}" if names else "properties: [logp, qed] in a data set of smiles"
        message = f"a condition of size {condition.size} asks for as many properties of each row, and {given}"
        yield context.problem(("model", "condition", "size"), message, fix)
    elif (
        context.trains and condition.size is not None and context.columns is not None and "cond" not in context.columns
    ):
        message = f"the condition asks for properties of each row, and data set {entry.name!r} has none"
        yield context.problem(("model", "condition", "size"), message, "leave the condition out")
    classes = getattr(entry, "classes", None)
    if condition.num_classes is not None and classes and len(classes) != condition.num_classes:
        message = f"num_classes is {condition.num_classes}, and data set {entry.name!r} names {len(classes)} classes"
        yield context.problem(("model", "condition", "num_classes"), message, f"num_classes: {len(classes)}")
    elif context.trains and condition.num_classes is not None and context.columns and "labels" not in context.columns:
        message = f"the condition asks for the class of each row, and data set {entry.name!r} has none"
        yield context.problem(
            ("model", "condition", "num_classes"), message, "add label: COLUMN to a data set of columns"
        )


def _token_levels(context: Context) -> Iterator[Problem]:
    """Check that the network can read which tokens are given, where the noise does not show it."""
    model, columns = context.model, context.columns
    if context.task is None or model is None or model.model_type != DISCRETE or not columns:
        return
    section: Any = model.config
    is_prefixed = "source_ids" in columns and getattr(section.backbone, "encoder", None) is None
    if not is_prefixed and "response_mask" not in columns:
        return
    found, noise = find_level_problem(section.backbone), section.process.type
    if found is not None and not PROCESSES.get(noise).absorbing:
        theorem = f"under {noise} noise only its noise level, 0, shows the network that a given token is clean"
        message = f"{theorem}, and {found.message}, so it would not learn p(response | given tokens)"
        yield context.problem(("model", "backbone", *found.at), message, found.suggestion)


def _latent_rows(context: Context) -> Iterator[Problem]:
    """Check that rows fit a latent diffusion model: whole texts, no longer than its parts can read."""
    entry, model = context.dataset, context.model
    if model is None or model.model_type != LATENT or not isinstance(entry, TokensConfig):
        return
    path = context.dataset_path
    if entry.is_paired:
        message = "a latent encodes one text, and this data set has pairs; give it one of the two files alone"
        yield context.problem(path, message, "data_files: {train: train.en}")
    elif entry.layout != "whole":
        message = f"a latent encodes a whole text, and rows are {entry.layout}"
        yield context.problem((*path, "rows"), message, "rows: whole")
    for name in ("encoder", "decoder"):
        capacity = capacity_of(getattr(model.config, name))
        if capacity is not None and entry.limit is not None and entry.limit > capacity:
            message = f"rows have up to {entry.limit} tokens, and the {name} reads at most {capacity}"
            fix = f"sequence_length: {capacity}, or a longer max_length"
            yield context.problem(("model", name, "max_length"), message, fix)


def capacity_of(part: Any) -> int | None:
    """Return the tokens that a part of a latent model, built from scratch, can read; None without a known limit."""
    if getattr(part, "path", None) is not None or not hasattr(part, "max_length"):
        return None
    longest: int | None = part.max_length
    if longest is None:
        longest = _BERT_POSITIONS if hasattr(part, "hidden_size") else None
    if longest is None:
        return None
    slots = 1 if getattr(part, "latent_as_gpt_memory", False) else 0
    return longest - slots - getattr(part, "slots_in_front", 0)


def _insertion(context: Context) -> Iterator[Problem]:
    """Check that an objective that inserts tokens has whole texts, a largest gap, and steps and gaps to draw from."""
    section: Any = context.model.config if context.model and context.model.model_type == DISCRETE else None
    if section is None or not OBJECTIVES.get(section.objective.type).variable_length:
        return
    name, gaps = section.objective.type, getattr(section.objective, "gaps", None)
    entry, generation, at = context.dataset, context.generation, ("model", "objective", "type")
    if isinstance(entry, TokensConfig):
        path = context.dataset_path
        if entry.is_paired or "response_mask" in (context.columns or ()):
            message = f"objective {name} begins with an empty text, and has no distribution of a text given another"
            yield context.problem(at, message, "objective: {type: mdlm}")
        elif entry.layout != "whole":
            message = f"objective {name} inserts tokens to learn where a text ends, and rows are {entry.layout}"
            yield context.problem((*path, "rows"), message, "rows: whole")
        elif getattr(entry, "is_filled", False):
            message = f"objective {name} learns where a text ends, and rows filled with end tokens have one length"
            yield context.problem((*path, "fill"), message, "leave it out")
        elif gaps == "counts" and section.length is None and entry.limit is None:
            message = f"objective {name} predicts gaps of 0 to sequence_length tokens, which is not set"
            yield context.problem((*path, "sequence_length"), message, "sequence_length: 256, or gaps: expected")
    if generation is not None and generation.sampler_name == "thinned_insertion" and gaps == "expected":
        message = "thinned_insertion draws the sizes of gaps, and gaps: expected gives their mean"
        yield context.problem(("generation", "sampler"), message, "sampler: insertion, or gaps: counts")
    if generation is not None and generation.steps == 1:
        message = f"steps of objective {name} insert tokens, and the last one unmasks them"
        yield context.problem(("generation", "steps"), message, "steps: 128")


def _diffusion_generation(context: Context) -> Iterator[Problem]:
    """Check the settings of generation that only diffusion models have."""
    model, generation = context.model, context.generation
    if model is None or generation is None:
        return
    section: Any = model.config if model.model_type in (DISCRETE, LATENT) else None
    for key in ("sampler", "steps", "guidance"):
        path = ("generation", key)
        if not context.has(path):
            continue
        message = fix = None
        if section is None:
            message = f"{key} is for diffusion models, and this model is of type {model.model_type}"
        elif key == "sampler" and (name := generation.sampler_name) not in section.samplers:
            message, fix = _unfit_sampler(str(name), section)
        elif key == "steps" and (most := _latent_steps(section)) is not None and (generation.steps or 0) > most:
            message = f"steps {generation.steps} are more than the diffusion's num_steps {most}"
        elif key == "guidance" and not getattr(section, "source_dropout", 0) and reads_sources(context):
            message = "guidance over the source needs a model that is trained without it too"
            fix = "source_dropout: 0.1 in the model's section"
            message += f"; {advice(fix)}"
        elif key == "guidance" and not (getattr(section, "condition", None) or getattr(section, "source_dropout", 0)):
            message = "guidance needs a condition in the model's section"
        if message:
            yield Problem(context.node(path).place, dotted(path), "relation", message, fix)


def _latent_steps(section: Any) -> int | None:
    diffusion: Any = getattr(section, "diffusion", None)
    steps: int | None = getattr(diffusion, "num_steps", None)
    return steps


def _unfit_sampler(name: str, section: Any) -> tuple[str, str]:
    """Return the message for a sampler that does not fit a diffusion section, and what to write instead."""
    is_known = name in SAMPLERS or name in LATENT_SAMPLERS
    fix = closest(name, list(section.samplers)) or section.samplers[0]
    if not hasattr(section, "objective"):
        of = "a diffusion of latents"
    else:
        entry = OBJECTIVES.get(section.objective.type)
        is_of_objective = entry.blockwise or entry.variable_length
        of = f"objective {section.objective.type}" if is_of_objective else f"{section.process.type} noise"
    wrong = f"does not fit {of}" if is_known else "is unknown"
    fitting = f"of {of} {'is' if len(section.samplers) == 1 else 'are'} {', '.join(section.samplers)}"
    return f"sampler {name!r} {wrong}; {fitting}; try {fix}", fix


def _token_choice(context: Context) -> Iterator[Problem]:
    """Check that the choice of tokens fits the model, and that beam search draws nothing."""
    model, generation = context.model, context.generation
    if model is None or generation is None:
        return
    if model.model_type == DISCRETE:
        for key, is_given in (("top_k", generation.top_k is not None), ("num_beams", generation.num_beams > 1)):
            if is_given:
                message = f"{key} is for decoders and translators, and a diffusion model draws by top_p or temperature"
                yield context.problem(("generation", key), message, "leave it out")
        return
    if generation.num_beams == 1:
        return
    for key in ("top_k", "top_p"):
        if getattr(generation, key) is not None:
            message = f"{key} draws tokens, and beam search (num_beams {generation.num_beams}) draws none"
            yield context.problem(("generation", key), message, "leave one of them out")
    if generation.temperature not in (0.0, 1.0):
        message = f"temperature draws tokens, and beam search (num_beams {generation.num_beams}) draws none"
        yield context.problem(("generation", "temperature"), message, "leave one of them out")


def _feed_forward(context: Context) -> Iterator[Problem]:
    """Check that `d_ff`, a factor here, is not given as the width that it is in other tools; runs of before are loaded."""
    if context.model is None or not context.will_train:
        return
    for path, part in walk(context.model.config, ("model",)):
        factor, width = getattr(part, "d_ff", None), getattr(part, "d_model", None)
        if isinstance(factor, int) and isinstance(width, int) and factor > MOST_EXPANSION:
            message = f"d_ff is a factor, and the feed-forward layer would have {factor} * {width:,} channels"
            meant = max(1, round(factor / width))
            fix = f"d_ff: {meant}" + ("" if meant * width == factor else f" (a width of {meant * width:,})")
            yield context.problem((*path, "d_ff"), message, fix)


CHECKS: tuple[Check, ...] = (
    *TRAINING_CHECKS,
    *RESPONSE_CHECKS,
    *PAIR_CHECKS,
    *(
        _feature_width,
        _token_input,
        _lengths,
        _vocabulary,
        _condition,
        _token_levels,
        _latent_rows,
        _insertion,
        _diffusion_generation,
        _token_choice,
        _feed_forward,
    ),
)
