"""Speech robustness: damaged files and manifests, interruptions, concurrent processes, downloads, stale files."""

import io
import multiprocessing
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.speech import corpus as speech
from data_manager.speech import download
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.manifests import read_cuts, split_cuts, write_cuts
from tests.data_manager.corpora import librispeech_part, timit, yesno
from tests.data_manager.speech_cases import config_of, load
from tests.processes import results_of


@pytest.fixture
def corpus(tmp_path):
    """Folder with a LibriSpeech part of two utterances."""
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.2, "B": 0.3})
    return tmp_path / "data" / "librispeech"


def lengths(config):
    return {split: len(cuts) for split, cuts in load(config).items()}


@pytest.fixture
def preparations(monkeypatch):
    """Record calls of recipes."""
    calls = []
    original = speech.call_recipe

    def counted(*given):
        calls.append(given[0])
        return original(*given)

    monkeypatch.setattr(speech, "call_recipe", counted)
    return calls


def test_speech_manifests_are_cached(tmp_path, corpus, preparations):
    load(config_of(tmp_path))
    load(config_of(tmp_path, process_params={"num_jobs": 2}))
    load(config_of(tmp_path, features={"num_mel_bins": 40}, loading={"num_workers": 2}))
    assert preparations == ["librispeech"]


@pytest.mark.parametrize("change", ["parameter", "new file", "same size", "lhotse"])
def test_speech_manifests_rebuilt_when_inputs_change(tmp_path, corpus, preparations, monkeypatch, change):
    config = config_of(tmp_path)
    assert load(config)["dev-clean"][0].supervisions[0].text == "A"
    expected = "A"
    if change == "parameter":
        config, expected = config_of(tmp_path, process_params={"normalize_text": "lower"}), "a"
    elif change == "new file":
        librispeech_part(corpus, "dev-clean", {"Z": 0.2}, chapter="2")
    elif change == "same size":
        (transcript,) = corpus.rglob("*.trans.txt")
        transcript.write_text(transcript.read_text().replace(" A", " Q"))
        expected = "Q"
    else:
        monkeypatch.setattr("lhotse.__version__", "0.0")
    assert load(config)["dev-clean"][0].supervisions[0].text == expected
    assert preparations == ["librispeech"] * 2


def test_speech_output_dir_inside_corpus(tmp_path, corpus, preparations):
    config = config_of(tmp_path, shared={})
    inside = config.global_config.model_copy(update={"output_dir": str(tmp_path / "data")})
    config = config.model_copy(update={"global_config": inside})
    assert lengths(config) == lengths(config) == {"dev-clean": 2}
    assert preparations == ["librispeech"]


@pytest.mark.parametrize("damage", ["no stamp", "empty", "half", "other bytes", "gone"])
def test_damaged_speech_manifests_are_rebuilt(tmp_path, corpus, preparations, damage):
    config = config_of(tmp_path)
    load(config)
    (manifest,) = (tmp_path / "manifests").glob("librispeech/*/cuts_*.jsonl.gz")
    content = manifest.read_bytes()
    if damage == "no stamp":
        (manifest.parent / "inputs.json").unlink()
    elif damage == "gone":
        manifest.unlink()
    else:
        half = content[: len(content) // 2]
        manifest.write_bytes({"empty": b"", "half": half, "other bytes": b"x" * len(content)}[damage])
    assert lengths(config) == {"dev-clean": 2}
    assert preparations == ["librispeech"] * 2
    assert lengths(config) == {"dev-clean": 2}
    assert len(preparations) == 2


def test_interrupted_speech_preparation_is_redone(tmp_path, corpus, monkeypatch):
    config = config_of(tmp_path)

    def interrupted(folder, *given, **more):
        (folder / "cuts_half.jsonl.gz").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(speech, "write_cuts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(config)
    assert not list((tmp_path / "manifests").glob("*/*/*"))
    # files left by a killed process do no harm
    (folder,) = (tmp_path / "manifests").iterdir()
    key = next(folder.glob(".*.lock")).name.removesuffix(".lock")
    (folder / f"{key}.partial").mkdir()
    (folder / f"{key}.partial" / "cuts_half.jsonl.gz").write_bytes(b"half")
    assert lengths(config) == {"dev-clean": 2}
    assert not list(folder.glob("*.partial"))


def _prepare(folder, barrier, results):
    barrier.wait()
    calls = []
    original = speech.call_recipe
    speech.call_recipe = lambda *given: calls.append(given[0]) or original(*given)
    config = config_of(folder, features={"storage": "numpy"})
    results.put((lengths(config), len(calls)))


def test_two_processes_prepare_corpus_once(tmp_path, corpus):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    running = [context.Process(target=_prepare, args=(tmp_path, barrier, results)) for _ in range(2)]
    for process in running:
        process.start()
    found = results_of(running, results)
    for process in running:
        process.join()
    assert [splits for splits, _ in found] == [{"dev-clean": 2}] * 2
    assert sum(calls for _, calls in found) == 1


def test_invalid_audio_is_named_in_preparation(tmp_path, corpus):
    next(corpus.rglob("*-0001.flac")).write_bytes(b"not audio")
    with pytest.raises(DataError, match=r"(?s)prepare_librispeech.* failed: AudioLoadingError: .*84-1-0001\.flac"):
        load(config_of(tmp_path))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_audio_is_named_in_batch(tmp_path, corpus):
    _truncate(next(corpus.rglob("*-0001.flac")))
    config = config_of(tmp_path)
    loader = DatasetManager.create_dataloader(load(config)["dev-clean"], config, batch_size=2)
    with pytest.raises(DataError, match=r"audio of 84-1-0001 cannot be read from .*84-1-0001\.flac"):
        next(iter(loader))
    stored = config_of(tmp_path, features={"storage": "numpy"})
    with pytest.raises(DataError, match=r"84-1-0001\.flac"):
        load(stored)
    assert not list((tmp_path / "manifests").rglob("features-*"))


def _overwrite_audio(path):
    path.write_bytes(b"not audio")


@pytest.mark.parametrize("damage", [_truncate, _overwrite_audio])
def test_bad_audio_drop_logs_skipped_cuts(tmp_path, corpus, damage):
    damage(next(corpus.rglob("*-0001.flac")))
    config = config_of(tmp_path, loading={"bad_audio": "drop"})
    assert lengths(config) == {"dev-clean": 1}
    (note,) = get_speech_corpus(config).notes
    assert note.startswith("dev-clean: audio of 84-1-0001 cannot be read from ")
    assert "Exception" not in note
    assert lengths(config) == {"dev-clean": 1}
    assert get_speech_corpus(config).notes == [note]


def test_recipe_skip_warnings_are_logged(tmp_path, corpus, capfd):
    missing = next(corpus.rglob("*-0001.flac"))
    missing.unlink()
    config = config_of(tmp_path)
    assert lengths(config) == {"dev-clean": 1}
    assert get_speech_corpus(config).notes == [f"No such file: {missing}"]
    timit(tmp_path / "data" / "timit")
    transcript = tmp_path / "data" / "timit" / "data" / "TRAIN" / "DR1" / "FCJF0" / "SX1.TXT"
    transcript.unlink()
    config = config_of(tmp_path, name="timit")
    assert lengths(config) == {"DEV": 1, "TEST": 1, "TRAIN": 1}
    assert get_speech_corpus(config).notes == [f"No such file or directory: {transcript}"]
    assert "No such file" not in capfd.readouterr().err


def test_wrong_corpus_layout_raises_data_error(tmp_path):
    (tmp_path / "data" / "yesno").mkdir(parents=True)
    (tmp_path / "data" / "yesno" / "a.wav").touch()
    with pytest.raises(DataError, match=r"prepare_yesno\(.*failed: AssertionError: lhotse expects len"):
        load(config_of(tmp_path, name="yesno"))


def test_unwritable_speech_output_dir(tmp_path, corpus):
    (tmp_path / "manifests").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written to .*; set global_config\.output_dir"):
        load(config_of(tmp_path))


@contextmanager
def serving(archive):
    """Serve an archive, given as bytes; yield its URL and the requested paths."""
    requested = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, *given):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/waves_yesno.tar.gz", requested
    finally:
        running.shutdown()
        running.server_close()


def archive_of_yesno(folder, *more):
    """Pack the corpus in an archive, with further members: (member, content)."""
    yesno(folder / "original" / "waves_yesno")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(folder / "original" / "waves_yesno", "waves_yesno")
        for member, content in more:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.fixture
def patient(monkeypatch):
    """A server on this machine may take its time to answer."""
    monkeypatch.setattr("data_manager.text.hub.TIMEOUT", 3600)


@pytest.fixture
def server(tmp_path, patient):
    with serving(archive_of_yesno(tmp_path)) as found:
        yield found


def linked(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize("way", ["above", "absolute", "link", "relative link"])
def test_download_extraction_stays_inside_folder(way, tmp_path, patient):
    outside = tmp_path / "outside.txt"
    names = {"above": "../../outside.txt", "absolute": str(outside)}
    more = [(tarfile.TarInfo(names.get(way, "waves_yesno/out/outside.txt")), b"attacked")]
    if way.endswith("link"):
        more.insert(0, (linked("waves_yesno/out", str(tmp_path) if way == "link" else "../../../.."), b""))
    with serving(archive_of_yesno(tmp_path, *more)) as (url, _):
        config = config_of(tmp_path, name="yesno", download_params={"url": url})
        with pytest.raises(
            DataError, match=r"failed: \w+: (Attempted Path Traversal|.*is a link to an absolute path|.*would link to)"
        ):
            load(config)
    assert not outside.exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_download_corpus_once(tmp_path, server):
    url, requested = server
    config = config_of(tmp_path, name="yesno", download_params={"url": url})
    assert lengths(config) == lengths(config) == {"test": 30, "train": 30}
    assert len(requested) == 1
    assert not list((tmp_path / "data").rglob(".downloading"))


def test_interrupted_download_is_repeated(tmp_path, server, monkeypatch):
    url, _ = server
    folder = tmp_path / "data" / "yesno" / "waves_yesno"
    folder.mkdir(parents=True)
    (folder / "0_0_0_0_0_0_0_0.wav").write_bytes(b"half")
    (folder.parent / ".downloading").touch()
    config = config_of(tmp_path, name="yesno", download_params={"url": url})
    with monkeypatch.context() as patch:
        patch.setattr(download, "unreachable", lambda url: "no network")
        with pytest.raises(DataError, match=r"is incomplete, because its download was interrupted, and .*no network"):
            load(config)
    assert lengths(config) == {"test": 30, "train": 30}


def test_no_network_is_reported_before_download(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(download, "_download", lambda *given: tried.append(given))
    config = config_of(tmp_path, name="yesno", download_params={"url": "http://192.0.2.1/x"})
    with pytest.raises(DataError, match=r"yesno/waves_yesno\n(.|\n)*cannot be downloaded from http://192\.0\.2\.1/x"):
        load(config)
    assert not tried


def test_split_cuts_accepts_all_recipe_results(tmp_path, corpus):
    cuts = load(config_of(tmp_path))["dev-clean"]
    recordings, supervisions, _ = cuts.decompose()
    both = {"recordings": recordings, "supervisions": supervisions}
    forms = [both, (recordings, supervisions), cuts, {"cutset": cuts}, {**both, "cuts": cuts}]
    for form in forms:
        for nested, name in ((form, "all"), ({"a": {"b": form}}, "a-b")):
            ((split, found),) = split_cuts(nested, [])
            assert (split, [cut.id for cut in found]) == (name, [cut.id for cut in cuts])
    (_, (split, found)) = split_cuts({**both, "segments": cuts}, [])
    assert (split, len(found)) == ("segments", 2)
    ((_, silent),) = split_cuts({"recordings": recordings}, [])
    assert len(silent) == 2


def test_recipe_audio_paths_follow_moved_folder(tmp_path, corpus):
    (cut, other) = load(config_of(tmp_path))["dev-clean"]
    aside, final = tmp_path / ".x.partial", tmp_path / "x"
    (aside / "recipe").mkdir(parents=True)
    audio = aside / "recipe" / "a.flac"
    audio.write_bytes(next(corpus.rglob("*.flac")).read_bytes())
    cut.recording.sources[0].source = str(audio)
    assert write_cuts(aside, "train", [cut, other], final=final) == 2
    aside.rename(final)
    moved, same = read_cuts(final)["train"]
    assert moved.recording.sources[0].source == str(final / "recipe" / "a.flac")
    assert moved.load_audio().shape == (1, moved.num_samples)
    assert same.recording.sources[0].source == other.recording.sources[0].source


def test_recipe_results_besides_splits_are_logged():
    notes = []
    assert list(split_cuts({"a": {"recordings": []}, "lexicon": ["x"]}, notes)) == []
    assert notes == [
        "split a has no recordings and is skipped",
        "the recipe also returns lexicon (list), which is skipped",
    ]
