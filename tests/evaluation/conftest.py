import pytest

from tests.evaluation.latent_runs import trained_run


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory):
    """Train a run once for all tests, which must not change it."""
    return trained_run(tmp_path_factory.mktemp("latent"))
