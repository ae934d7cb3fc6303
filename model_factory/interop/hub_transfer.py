"""Upload of exported folders to the Hugging Face hub, and download of a pinned commit; offline, an error within seconds."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from model.hub import find_offline_reason
from model_factory.interop.new_folder import check_is_new, new_folder
from model_factory.training.errors import InputFileError, TrainingError, UnfitError

PRIVATE = (
    *("metrics.jsonl", "rows.json", "lengths.json", "environment.json", "history.json", "imported.json", "pulled.json"),
    *("curves.png", "samples.txt", "checkpoint-*/*", "config.yml"),
)
"""Files of a run folder that hold paths, host names or texts of the data; they are uploaded only if named."""
PULLED = (
    *("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.model", "README.md", "*.onnx", "*.onnx.data", "*.pt2"),
    *("config.yml", "vocabulary.json"),
)
"""Files that are downloaded: data, no code and no pickles."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHA = re.compile(r"[0-9a-f]{40}")


class TransferError(TrainingError):
    """Error of a hub that cannot be reached or refuses a request."""


@dataclass(frozen=True)
class Plan:
    """Plan of an upload: a folder, its target, the files with their sizes in bytes, and the files it leaves out."""

    folder: Path
    target: str
    files: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]
    is_private: bool

    def lines(self) -> Iterator[str]:
        """Yield lines for the terminal."""
        kind = "private" if self.is_private else "public"
        total = sum(size for _, size in self.files)
        yield f"to {self.target} ({kind} if it is new): {len(self.files)} files, {total / 1e6:,.1f} MB"
        yield from (f"  {name}  {size:,} bytes" for name, size in self.files)
        if self.left_out:
            yield f"left out, as they hold paths, host names or texts: {', '.join(self.left_out)} (--include NAME)"


def plan_push(folder: Path, target: str, *, include: Sequence[str] = (), public: bool = False) -> Plan:
    """Return what an upload of a folder would send; nothing is sent.

    Links and hidden files are never sent. Raises InputFileError for a folder that is missing or empty, UnfitError for a name
    that is not owner/name.
    """
    _check_name(target)
    if not folder.is_dir():
        raise InputFileError(f"{folder} is not a folder; give one that model-factory export wrote")
    files, left_out = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or path.is_symlink() or any(part.startswith(".") for part in name.parts):
            continue
        if any(fnmatch(str(name), pattern) for pattern in PRIVATE) and str(name) not in include:
            left_out.append(str(name))
        else:
            files.append((str(name), path.stat().st_size))
    if not files:
        raise InputFileError(f"{folder} has no file to upload")
    return Plan(folder, target, tuple(files), tuple(left_out), not public)


def push(plan: Plan) -> str:
    """Create the repository if it is missing, upload the files in one commit, and return the commit's SHA.

    The token is that of `hf auth login`. Raises TransferError within two seconds where the hub cannot be reached, UnfitError
    without a token.
    """
    _check_reachable(f"{plan.target} cannot be written")
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UnfitError("there is no token for the hub: log in by hf auth login, or set HF_TOKEN")
    api = HfApi()
    with _explained(plan.target):
        api.create_repo(plan.target, private=plan.is_private, exist_ok=True)
        names = [name for name, _ in plan.files]
        done = api.upload_folder(
            repo_id=plan.target,
            folder_path=str(plan.folder),
            allow_patterns=[re.sub(r"([\[*?])", r"[\1]", name) for name in names],
            commit_message="Upload by model-factory",
        )
    return str(done.oid)


@dataclass(frozen=True)
class Pull:
    """A downloaded folder, the commit it is of, and whether the user had named that commit."""

    folder: Path
    revision: str
    is_pinned: bool


def pull(source: str, output: Path) -> Pull:
    """Download `owner/name[@revision]` into a new folder with `pulled.json`, which holds the commit.

    A branch or tag is resolved to its commit once. Code and pickles are not downloaded. Raises TransferError within two
    seconds where the hub cannot be reached, FolderInUseError for an output that is not empty.
    """
    name, _, revision = source.partition("@")
    _check_name(name)
    check_is_new(output)
    _check_reachable(f"{source} cannot be downloaded")
    from huggingface_hub import HfApi, snapshot_download

    is_pinned = _SHA.fullmatch(revision) is not None
    with _explained(source), new_folder(output) as staging:
        commit = revision if is_pinned else str(HfApi().model_info(name, revision=revision or None).sha)
        snapshot_download(name, revision=commit, local_dir=str(staging), allow_patterns=list(PULLED))
        shutil.rmtree(staging / ".cache", ignore_errors=True)
        if not any(staging.iterdir()):
            raise UnfitError(f"{source} has no file of a model: {', '.join(PULLED)}")
        text = json.dumps({"from": name, "revision": commit}, indent=1)
        (staging / "pulled.json").write_text(text + "\n", encoding="utf-8")
    return Pull(output, commit, is_pinned)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UnfitError(f"{name!r} is no name on the hub; write owner/name")


def _check_reachable(what: str) -> None:
    reason = find_offline_reason()
    if reason is not None:
        raise TransferError(f"{what}: the hub cannot be reached ({reason})")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Convert errors of the hub's library, of many types and with long texts, to a TransferError of one line."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (HfHubHTTPError, httpx.HTTPError) as error:
        text = " ".join(str(error).split())[:300]
        raise TransferError(f"{name}: {type(error).__name__}: {text}") from error
