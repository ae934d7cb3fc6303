"""Errors inside a user's own code: where they were raised, in words instead of a traceback."""

import sysconfig
import traceback
from pathlib import Path

_OURS = tuple(Path(__file__).resolve().parents[2] / name for name in ("model", "model_factory", "data_manager"))
_LIBRARIES = {
    *[
        "torch",
        "transformers",
        "accelerate",
        "datasets",
        "peft",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "lhotse",
        "numpy",
        "pydantic",
    ],
    *[
        "pydantic_core",
        "performer_pytorch",
        "rdkit",
        "einops",
        "axial_positional_embedding",
        "tqdm",
        "pyarrow",
        "pandas",
        "fsspec",
        "dill",
    ],
    *["multiprocess", "scipy", "soundfile", "sacrebleu", "jiwer", "yaml"],
}
"""Packages that an error only passes through."""


def describe_error(error: BaseException) -> str:
    """Return an error's message; of one inside custom code, also its file, line, function and type."""
    place = find_custom_place(error)
    text = str(error)
    return text if place is None else f"{place}: {type(error).__name__}{': ' if text else ''}{text}"


def find_custom_place(error: BaseException) -> str | None:
    """Return `file:line, in function` of the innermost frame that is neither ours nor a library's; None without one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_custom(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else None


def _is_custom(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    if any(path.is_relative_to(folder) for folder in _OURS):
        return False
    paths = sysconfig.get_paths()
    for key in ("purelib", "platlib"):
        if path.is_relative_to(folder := Path(paths[key]).resolve()):  # an installed plugin is custom code too
            return path.relative_to(folder).parts[0].removesuffix(".py") not in _LIBRARIES
    return not path.is_relative_to(Path(paths["stdlib"]).resolve())
