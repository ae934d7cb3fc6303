import pytest

from tests.evaluation.latent_runs import trained_run


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory):
    """Trained once for all that look at it; it is not changed."""
    return trained_run(tmp_path_factory.mktemp("latent"))
