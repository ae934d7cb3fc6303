"""Processes of tests: waited for without a deadline, and ended with their test, also if it fails."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from tests.processes import MARK, _is_alive, _marked, children_of, results_of, wait_for

pytest_plugins = ["pytester"]
ROOT = os.path.dirname(os.path.dirname(__file__))

FAILING = """
import multiprocessing, signal, subprocess, sys
from tests.processes import no_process_is_left, processes_end_with_their_test

def test_fails_with_running_processes():
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    process = multiprocessing.get_context("fork").Process(target=signal.pause)
    process.start()
    open("pids", "w").write(f"{child.pid} {process.pid}")
    assert False
"""


@pytest.fixture
def path(monkeypatch):
    """The tests can be imported from any folder."""
    monkeypatch.setenv("PYTHONPATH", ROOT)


def test_processes_end_with_a_failing_test(pytester, path):
    pytester.makepyfile(FAILING)
    result = pytester.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(failed=1)
    pids = [int(pid) for pid in (pytester.path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(map(_is_alive, pids))


def test_detached_process_of_a_dead_parent_ends_with_its_test(pytester, path):
    code = "import subprocess, sys\\n"
    code += "print(subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True, "
    code += "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    pytester.makepyfile(
        f'''
import subprocess, sys
from tests.processes import no_process_is_left, processes_end_with_their_test

def test_leaves_an_orphan():
    open("pids", "w").write(subprocess.run([sys.executable, "-c", """{code}"""], capture_output=True, text=True).stdout)
'''
    )
    result = pytester.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(passed=1)
    assert not _is_alive(int((pytester.path / "pids").read_text()))


def test_processes_of_the_session_are_found_by_their_environment():
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    assert child.pid in set(_marked(os.environ[MARK]))
    assert not set(_marked("of another session"))


def test_wait_for_fails_when_the_process_has_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    with pytest.raises(AssertionError, match="ended without it"):
        wait_for(lambda: False, process)
    assert wait_for(lambda: 7, process) == 7


def _answer(number, queue):
    if number:
        queue.put(number)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("numbers", [(1, 2), (1, 0)])
def test_results_of_processes(numbers):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_answer, args=(number, queue)) for number in numbers]
    for process in processes:
        process.start()
    if all(numbers):
        assert sorted(results_of(processes, queue)) == [1, 2]
    else:
        with pytest.raises(AssertionError, match="ended without a result"):
            results_of(processes, queue)


def test_grandchildren_are_found():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; print(1, flush=True); signal.pause()'])"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"1\n"
    assert len(children_of(os.getpid()) & (children_of(child.pid) | {child.pid})) == 2
    assert os.environ[MARK]
