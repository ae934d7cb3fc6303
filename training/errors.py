"""What can go wrong with a training run, each with the exit code that the command line ends with."""

from yaml_config.report import BUILD_FAILED, INVALID, UNREADABLE, USAGE

FAILED = BUILD_FAILED


class TrainingError(ValueError):
    """A run that cannot be started or went wrong; the message says what to do."""

    exit_code = FAILED


class UnfitError(TrainingError):
    """Model, data, machine and `training` section do not go together."""

    exit_code = INVALID


class FolderInUseError(TrainingError):
    """The folder given for a run holds something else, or another process is writing to it."""

    exit_code = USAGE


class RunFolderError(TrainingError):
    """A run folder that lacks a file, or has a damaged one."""

    exit_code = UNREADABLE
