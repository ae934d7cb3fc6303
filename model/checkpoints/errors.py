"""Error of published checkpoints, with the exit code of the command line."""

from model_factory.yaml_config.exit_codes import UNREADABLE


class PublishedError(ValueError):
    """A published checkpoint that cannot be read, or that no network of ours fits; the message names the file."""

    exit_code = UNREADABLE
