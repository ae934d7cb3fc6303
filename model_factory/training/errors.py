"""Errors of training runs, each with the exit code of the command line."""

from model_factory.yaml_config.exit_codes import FAILED, INVALID, UNREADABLE, USAGE


class TrainingError(ValueError):
    """Error of a run that cannot start or failed; the message says what to do."""

    exit_code = FAILED


_NO_MEMORY = (
    *("can't allocate memory", "out of memory", "Storage size calculation overflowed", "could not create a primitive"),
    *("std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for the errors of Python, torch and its libraries when memory runs out, of the machine or of a GPU."""
    is_runtime = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError) or is_runtime


class WriteError(TrainingError):
    """Error of a file that cannot be written, on a full disk for example."""


class NonFiniteError(TrainingError):
    """Error of a NaN or infinite loss or gradient."""


class UnfitError(TrainingError):
    """Error of a model, data, machine and `training` section that do not fit each other."""

    exit_code = INVALID


class FolderInUseError(TrainingError):
    """Error of a run folder that holds something else, or that another process is writing to."""

    exit_code = USAGE


class RunFolderError(TrainingError):
    """Error of a run folder with a missing or damaged file."""

    exit_code = UNREADABLE
