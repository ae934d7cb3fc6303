"""Predictions of an evaluation, a JSON object a line: what each row holds, what the model makes of it, and its scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_factory.evaluation.rows import Split
from model_factory.training.errors import WriteError
from model_factory.training.tasks.base import real_tokens


class Predictions:
    """File of predictions, written while rows are measured; without a path nothing is written.

    Until `finish` it is a hidden file beside the path, so that a failed evaluation leaves the file of before.

    A line has `row` (its number in the split, from 0), `id` where the row has one, `input` (a text, or audio files), and
    where there are any `reference`, `prediction` and `score`, numbers by their names.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Create the file; raises WriteError."""
        self._path = None if path is None else path.resolve()
        self._draft = None if self._path is None else self._path.with_name(f".{self._path.name}.tmp")
        try:
            self._file = (
                None if self._draft is None else self._draft.open("w", encoding="utf-8", errors="surrogatepass")
            )
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {error}") from error
        self.rows = 0

    def __bool__(self) -> bool:
        return self._file is not None

    def add(
        self,
        split: Split,
        batch: Mapping[str, Any],
        *,
        references: Sequence[Any] | None = None,
        predictions: Sequence[Any] | None = None,
        scores: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Write the rows of a batch; each sequence has a value for each of its rows. Raises WriteError."""
        if self._file is None:
            return
        columns = {"reference": references, "prediction": predictions}
        inputs = _inputs(split, batch, self.rows)
        lines = []
        for number, (name, shown) in enumerate(inputs):
            line: dict[str, Any] = {"row": self.rows + number}
            line |= {} if name is None else {"id": name}
            line["input"] = shown
            line |= {key: values[number] for key, values in columns.items() if values is not None}
            if scores:
                line["score"] = {key: _number(values[number]) for key, values in scores.items()}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        self.rows += len(lines)
        try:
            self._file.writelines(lines)
            self._file.flush()
        except OSError as error:
            raise WriteError(f"{self._path} cannot be written: {error}") from error

    def finish(self) -> None:
        """Put the file in its place; raises WriteError."""
        if self._file is None or self._draft is None or self._path is None:
            return
        try:
            self._file.close()
            self._draft.replace(self._path)
        except OSError as error:
            raise WriteError(f"{self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """Close the file, and remove what is not finished."""
        if self._file is not None and self._draft is not None:
            self._file.close()
            self._draft.unlink(missing_ok=True)


def _number(value: Any) -> Any:
    """Return a number of JSON; None for one that is not finite."""
    found = value.item() if hasattr(value, "item") else value
    return found if np.isfinite(found) else None


def _inputs(split: Split, batch: Mapping[str, Any], first: int) -> list[tuple[str | None, Any]]:
    """Return the id and the input of each row of a batch, which begins at row `first` of the split."""
    for side, mask in (("source", "source_mask"), ("input", "attention_mask")):
        if f"{side}_ids" not in batch:
            continue
        texts = batch.get(f"{side}_text")
        tokenizer = split.run.tokenizer
        if not texts and tokenizer is not None:
            real = real_tokens(batch, f"{side}_ids", mask)
            rows = zip(batch[f"{side}_ids"].cpu(), real.cpu(), strict=True)
            texts = [tokenizer.decode(ids[kept].tolist()) for ids, kept in rows]
        return [(None, text) for text in texts or [None] * len(batch[f"{side}_ids"])]
    count = len(batch["noise"].place)
    if split.rows.table is not None:
        return [(None, None)] * count
    cuts = split.rows.items[first : first + count]
    return [(str(cut.id), _audio(cut)) for cut in cuts]


def _audio(cut: Any) -> str | None:
    """Return the audio files of a cut."""
    sources = getattr(getattr(cut, "recording", None), "sources", None)
    return ", ".join(str(source.source) for source in sources) if sources else None
