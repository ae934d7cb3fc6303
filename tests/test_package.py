"""Wheel: its content, and commands run from any folder, with a custom plugin package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_manager", "model", "model_factory")


def pip(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the project and the example plugin installed by pip, without dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    copy = folder / "source"
    for name in (*PACKAGES, "configs", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "parse_args.py"):
        shutil.copy(ROOT / name, copy / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    for source in (copy, copy / "examples" / "plugin"):
        pip("install", *options, "--target", folder / "site", source)
    return folder / "site"


def run_command(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `model-factory ...` in a folder, without importing from the checkout."""
    script = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); from model_factory.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-I", "-c", script, *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_packaged_configs_are_found_from_any_folder(installed: Path, tmp_path: Path) -> None:
    for config in sorted((ROOT / "configs").rglob("*.yml")):
        name = config.relative_to(ROOT)
        assert (installed / "model_factory" / name).is_file()
    done = run_command(installed, tmp_path, "validate", "--config", "configs/latent/performer.yml")
    assert done.returncode == 0
    assert "good: model 'multi30k_performers'" in done.stdout
    assert done.stderr.startswith("note: ")  # its corpus is missing here
    assert done.stderr.count("\n") == 1
    done = run_command(installed, tmp_path, "validate", "--config", "configs/latent/perfomer.yml")
    assert done.returncode == 3


def test_packaged_config_path_cannot_leave_folder(installed: Path, tmp_path: Path) -> None:
    done = run_command(installed, tmp_path, "validate", "--config", "configs/../parse_args.py")
    assert done.returncode == 3
    assert "no such file" in done.stderr


def test_installed_plugin_is_found_and_trains(installed: Path, tmp_path: Path) -> None:
    for file in (ROOT / "examples" / "plugin").glob("*.yml"):
        shutil.copy(file, tmp_path)
        done = run_command(installed, tmp_path, "validate", "--config", file.name)
        assert done.returncode == 0, done.stderr
    done = run_command(installed, tmp_path, "validate", "--config", "experiment.yml", "--set", "model.backbone.widht=3")
    assert done.returncode == 1
    assert "did you mean 'width'?" in done.stderr
    done = run_command(installed, tmp_path, "train", "--config", "experiment.yml", "--output", "run")
    assert done.returncode == 0, done.stderr
    done = run_command(installed, tmp_path, "generate", "--run", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert '"ok": true' in done.stdout


def test_installed_entry_points_and_extras(installed: Path) -> None:
    text = (installed / "model_factory-0.1.0.dist-info" / "entry_points.txt").read_text()
    assert "model-factory = model_factory.cli.main:main" in text
    metadata = (installed / "model_factory-0.1.0.dist-info" / "METADATA").read_text()
    for extra in ("speech", "chem", "logging", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    assert "Requires-Dist: torch" in metadata
