"""Wheel: its content, and commands run from any folder, with a custom plugin package."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_manager", "model", "model_factory")


def pip(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


OPTIONS = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of all that a checkout tracks for building: the code, the tools and the scripts too, which must stay out."""
    copy = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "configs", "examples", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.py"), *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))):
        shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", *OPTIONS, "--wheel-dir", folder, source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the project and the example plugin installed by pip, without dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    for package in (wheel, source / "examples" / "plugin"):
        pip("install", *OPTIONS, "--target", folder, package)
    return folder


def test_wheel_holds_four_names_all_modules_and_the_configs(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, "parse_args.py"}
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules <= names
    configs = {
        str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*") if path.suffix in (".yml", ".json")
    }
    assert {f"model_factory/{name}" for name in configs} <= names
    assert "model_factory/pages/page.html" in names


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
