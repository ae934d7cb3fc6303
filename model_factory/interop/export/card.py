"""Model card of an export: README.md with front matter that the hub reads, and every figure with its command and interval.

Nothing is invented: the licence is the one that was given or that an imported model states, and figures come from files that
`model-factory evaluate --json` wrote for this run.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from model.hub import is_folder_path
from model_factory.training.errors import InputFileError, UnfitError
from model_factory.training.run.atomic_io import write_text
from model_factory.training.run.checkpoints import read_json
from model_factory.training.run.data_hashes import read_split_hashes
from model_factory.training.run.folder import RunFolder
from model_factory.yaml_config.dump import dump

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

CARD_FILE = "README.md"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LOADING = {
    "torch": """\
```python
import torch

model = torch.export.load("model.pt2").module()
```

`export.json` names its inputs and their dynamic axes.""",
    "onnx": """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
```

`export.json` names its inputs, their dynamic axes and the operator set.""",
}
_TAGS = {"diffusion": "text-diffusion", "decoder": "causal-lm", "encoder_decoder": "seq2seq", "encoder": "encoder"}
_PIPELINES = {"decoder": "text-generation", "diffusion": "text-generation", "encoder_decoder": "translation"}


def find_licence(given: str | None, folder: Path) -> str | None:
    """Return the licence that was given, else the one that an imported run's source states, else None.

    Raises UnfitError for a text that is no identifier.
    """
    if given is not None:
        if not _LICENCE.fullmatch(given):
            raise UnfitError(f"--license {given}: give an identifier of the hub, such as apache-2.0, mit or other")
        return given
    imported = RunFolder(folder).imported
    found = read_json(imported).get("licence") if imported.is_file() else None
    return found if isinstance(found, str) else None


def read_evaluation(path: Path, run: "LoadedRun") -> dict[str, Any]:
    """Return what `evaluate --json` wrote to a file; raise InputFileError unless it has figures of this run with a command."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        figures, command = found["figures"], found["command"]
        is_same = Path(found["run"]).resolve() == run.folder.resolve()
        complete = all({"name", "value", "low", "high", "n", "of", "method", "level"} <= set(one) for one in figures)
    except OSError as error:
        raise InputFileError(f"--evaluation {path}: cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise InputFileError(f"--evaluation {path}: {_REMEDY}") from error
    if not complete or not isinstance(command, str):
        raise InputFileError(f"--evaluation {path}: {_REMEDY}")
    if not is_same:
        raise InputFileError(f"--evaluation {path} is of the run {found['run']}, and {run.folder} is exported")
    return dict(found)


_REMEDY = (
    "is no report with figures and their command; write one: model-factory evaluate --run RUN --json > figures.json"
)


def write_card(
    run: "LoadedRun", folder: Path, form: str, facts: dict[str, str], licence: str | None, evaluations: Sequence[Any]
) -> None:
    """Write README.md into an exported folder."""
    assert run.config.model is not None
    kind = run.config.model.model_type
    data = ModelCardData(
        license=licence,
        library_name="transformers" if form == "hf" else form,
        pipeline_tag=_PIPELINES.get(kind),
        tags=["model-factory", _TAGS.get(kind, kind)],
        base_model=_base_model(run),
        model_name=run.config.model.name,
        eval_results=[result for evaluation in evaluations for result in _results(evaluation)] or None,
    )
    sections = [
        f"# {run.config.model.name}",
        f"A model of type `{kind}` (task {run.task_name}), trained and exported by model-factory.",
        "" if licence else "**Licence**: not stated.",
        "## Use",
        _describe_loading(form, facts, reads_source=bool(getattr(run.model, "has_encoder", False))),
        "## Figures",
        _describe_figures(evaluations),
        "## Training",
        _describe_training(run),
        "## Model",
        f"{facts.get('parameters', _count(run))} parameters.",
        f"```yaml\n{dump({'model': _without_none(run.config.model.to_section())}).rstrip()}\n```",
        "## Limits",
        _describe_limits(kind),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")
    write_text(folder / CARD_FILE, str(card))


def _results(evaluation: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=str(evaluation.get("task")),
            dataset_type=str(evaluation.get("dataset")),
            dataset_name=str(evaluation.get("dataset")),
            dataset_split=str(evaluation.get("split")),
            metric_type=figure["name"],
            metric_name=" ".join(filter(None, [figure["name"], figure.get("note", "")])),
            metric_value=figure["value"],
            metric_args={
                "command": evaluation["command"],
                "interval": [figure["low"], figure["high"]],
                **{key: figure.get(key) for key in ("level", "method", "n", "of", "unit", "seed")},
            },
        )
        for figure in evaluation["figures"]
        if figure["value"] is not None
    ]


def _describe_figures(evaluations: Sequence[dict[str, Any]]) -> str:
    if not evaluations:
        return "None was given."
    parts = []
    for evaluation in evaluations:
        lines = ["| figure | value | 95 % interval | over | note |", "| --- | --- | --- | --- | --- |"]
        for figure in evaluation["figures"]:
            if figure["value"] is None:
                continue
            interval = "none" if figure["low"] is None else f"{figure['low']:.4g} to {figure['high']:.4g}"
            value = f"{figure['value']:.4g} {figure.get('unit', '')}".rstrip()
            over = f"{figure['n']:,} {figure['of']} ({figure['method']})"
            lines.append(f"| {figure['name']} | {value} | {interval} | {over} | {figure.get('note', '')} |")
        where = f"On the split {evaluation.get('split')} of {evaluation.get('dataset')}, by"
        parts.append(f"{where}\n\n```bash\n{evaluation['command']}\n```\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _describe_loading(form: str, facts: dict[str, str], *, reads_source: bool) -> str:
    if form != "hf":
        return _LOADING[form]
    auto, _, needs = facts["load with"].partition(", after ")
    first = f"{needs}  # registers the class; the package is model-factory\n" if needs else ""
    use = {
        "ModelFactoryDenoiser": "tokens = model.generate(max_new_tokens=64, steps=32)",
        "ModelFactoryEncoder": "output = model(**tokenizer('text', return_tensors='pt'))",
    }.get(facts["class"], "tokens = model.generate(**tokenizer('text', return_tensors='pt'), max_new_tokens=64)")
    if reads_source:
        use = "source = tokenizer('text', return_tensors='pt').input_ids\n"
        use += "tokens = model.generate(context_ids=source, max_new_tokens=64, steps=32)"
    if not needs:
        use = "logits = model(input_ids).logits  # of a denoiser; config.model_factory.logits_shift is 1 if they lead by one"
    return (
        f"```python\n{first}from transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("FOLDER")\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")\n{use}\n```'
    )


def _describe_training(run: "LoadedRun") -> str:
    origin = RunFolder(run.folder).imported
    if origin.is_file():
        found = read_json(origin)
        assert isinstance(found, dict)
        place = str(found.get("from"))
        named = "a local folder" if is_folder_path(place) else place
        return f"Imported from {named}, family {found.get('family')}, revision {found.get('revision') or 'none'}."
    settings = run.training
    lines = [
        f"- steps: {settings.max_steps or 'by epochs'}; rows in a batch: {settings.batch_size}; seed: {settings.seed}"
    ]
    for name, record in read_split_hashes(RunFolder(run.folder).rows).items():
        lines.append(f"- {name} split of {settings.dataset}: {record['rows']:,} rows, sha256 {record['hash']}")
    return "\n".join(lines + [f"- note: {note}" for note in run.notes])


def _describe_limits(kind: str) -> str:
    shared = "It writes what its data make likely, which need not be true or harmless; it was not tested for any use."
    own = {
        "diffusion": " Its figures of likelihood are bounds: the value is at most the one given.",
        "decoder": " Assisted decoding, contrastive search, static and quantised caches are not supported.",
    }
    return shared + own.get(kind, "")


def _base_model(run: "LoadedRun") -> str | None:
    """Return the name on the hub of the model that this one began from; None for a folder and for fresh weights."""
    origin = RunFolder(run.folder).imported
    if origin.is_file():
        found = read_json(origin)
        is_hub = isinstance(found, dict) and found.get("revision")
        return str(found["from"]).partition("@")[0] if is_hub else None
    section: Any = None if run.config.model is None else run.config.model.config
    path = getattr(getattr(section, "backbone", None), "path", None)
    return path if isinstance(path, str) and not is_folder_path(path) and not Path(path).exists() else None


def _count(run: "LoadedRun") -> str:
    return f"{sum(parameter.numel() for parameter in run.model.parameters()):,}"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
