"""The figure that the published code of an imported model prints, beside our bound of the same rows.

The published codes print the diffusion part alone, in nats per token, with times t = low + (high - low) u for uniform u.
"""

from typing import NamedTuple

from model_factory.training.errors import RunFolderError
from model_factory.training.run.folder import RunFolder
from model_factory.yaml_config.schema_version import parse_json, remove_version


class PublishedTimes(NamedTuple):
    """Range of the times of a published evaluation."""

    family: str
    low: float
    high: float

    @property
    def note(self) -> str:
        """Difference of the published figure from our bound, for the report."""
        return (
            f"published is what the code of {self.family} estimates: the diffusion part alone, at times from {self.low:g} to "
            f"{self.high:g}; it leaves out the prior and reconstruction parts, so it is no bound of the NLL, while "
            "bits_per_token, with all parts at all times, is one"
        )


_CLIPPED = 1e-3
_RANGES = dict.fromkeys(("sedd", "mdlm", "bd3lm", "udlm", "duo"), (_CLIPPED, 1.0)) | {"gidd": (1e-4, 1 - 1e-4)}


def published_times(run: RunFolder) -> PublishedTimes | None:
    """Return the times at which the published code evaluates an imported model; None for a run that was trained here.

    Raises RunFolderError for a damaged imported.json.
    """
    if not run.imported.is_file():
        return None
    try:
        content = remove_version(parse_json(run.imported.read_text(encoding="utf-8")), run.imported)
        family = content["family"]
    except (OSError, ValueError, LookupError) as error:
        raise RunFolderError(f"{run.imported} cannot be read: {error}") from error
    return PublishedTimes(family, *_RANGES[family]) if family in _RANGES else None
