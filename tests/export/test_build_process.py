"""A build is a process of its own: it may die in any way, and its parent too, and nothing is left half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgn_edge.errors import EngineError, OutputError
from pgn_edge.export import build_process
from pgn_edge.export.build_process import run_build
from pgn_edge.export.builders import BuildRequest
from pgn_edge.export.compile import compile_plan

REQUEST = BuildRequest("tensorrt-rtx", (1, 1, 4))
READ = """
import json, os, signal, sys, time
header = json.loads(sys.stdin.buffer.readline())
data = sys.stdin.buffer.read(header["onnx_size"])
def send(**message):
    print(json.dumps(message), flush=True)
"""
PATIENCE_S = 60.0

Child = Callable[[str], None]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    """Put this program in the place of the one that builds."""
    return lambda body: monkeypatch.setattr(build_process, "COMMAND", (sys.executable, "-c", READ + body))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_what_goes_in_and_what_comes_out(child: Child, tmp_path: Path):
    child("""
open(header["plan"], "wb").write(data[::-1])
send(progress=["step", 1, 3, "inside"])
print("a library's own word", file=sys.stderr)
print("no JSON at all", flush=True)
send(version=header["request"]["backend"] + " 1.2.3")
""")
    told, lines = [], []
    data = bytes(range(256)) * 1000  # more than a pipe holds
    version = run_build(REQUEST, data, tmp_path / "x.plan", lambda *at, note="": told.append((*at, note)), lines.append)
    assert version == "tensorrt-rtx 1.2.3"
    assert (tmp_path / "x.plan").read_bytes() == data[::-1]
    assert told[0][:3] == ("step", 1, 3)
    assert sorted(lines) == ["a library's own word", "no JSON at all"]


def test_a_build_runs_in_an_empty_folder_of_its_own(child: Child, tmp_path: Path):
    child("""
send(progress=[os.getcwd(), 1, 1, oct(os.stat(".").st_mode & 0o777) + str(os.listdir("."))])
open("scratch", "w").write("left behind by a library")
open(header["plan"], "wb").write(data)
send(version="1")
""")
    told: list[tuple[str, str]] = []
    run_build(REQUEST, b"graph", tmp_path / "x.plan", lambda step, done, total, note="": told.append((step, note)))
    (folder, found) = next((step, note) for step, note in told if note.startswith("0o"))
    assert found == "0o700[]"
    assert Path(folder) not in (Path("/"), Path.cwd(), tmp_path)
    assert not Path(folder).exists()


def test_out_of_memory_is_said_with_figures(child: Child, tiny_pair, tmp_path: Path):
    child("""
open(header["plan"], "wb").write(b"half a pl")
send(progress=["step", 1, 3, ""])
os.kill(os.getpid(), signal.SIGKILL)
""")
    with pytest.raises(EngineError) as caught:
        compile_plan(tiny_pair.task, tmp_path / "x.plan")
    said = str(caught.value)
    assert "SIGKILL, as the system sends when memory runs out; available before the build: " in said
    assert said.count(" MB") == 2
    assert "smaller --max-batch or --workspace" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", id="a crash"),
        pytest.param("sys.exit('no libnvinfer')", "exit status 1: no libnvinfer", id="a last word"),
        pytest.param("sys.exit(3)", "exit status 3: without a word", id="none"),
        pytest.param("sys.exit(0)", "exit status 0", id="no version"),
        pytest.param("send(version='1'); sys.exit(4)", "exit status 4", id="a version, and then a failure"),
        pytest.param("sys.stdout.close(); sys.stderr.close(); os._exit(5)", "exit status 5", id="closed early"),
    ],
)
def test_other_ends(child: Child, tmp_path: Path, body: str, says: str):
    child(body)
    with pytest.raises(EngineError, match=says):
        run_build(REQUEST, b"onnx", tmp_path / "x.plan")


def test_an_end_before_the_question_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(build_process, "COMMAND", (sys.executable, "-c", "raise SystemExit('not today')"))
    with pytest.raises(EngineError, match="exit status 1: not today"):
        run_build(REQUEST, bytes(1 << 20), tmp_path / "x.plan")


def test_a_program_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(build_process, "COMMAND", (str(tmp_path / "missing"),))
    with pytest.raises(EngineError, match="expected a process for it, got No such file"):
        run_build(REQUEST, b"onnx", tmp_path / "x.plan")


@pytest.mark.parametrize(("kind", "error"), [("EngineError", EngineError), ("OutputError", OutputError)])
def test_an_error_of_ours_is_raised_here(child: Child, tmp_path: Path, kind: str, error: type[Exception]):
    words = {"kind": kind, "subject": "x", "expected": "a", "got": "b", "do": "c"}
    child(f"send(error=json.loads({json.dumps(words)!r}))")
    with pytest.raises(error, match=r"^x: expected a, got b; c$"):
        run_build(REQUEST, b"onnx", tmp_path / "x.plan")


def test_a_silent_build_is_still_heard_of(child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build_process, "HEARTBEAT_S", 0.05)
    child("send(progress=['step', 1, 3, '']); time.sleep(0.5); send(version='1')")
    told: list[tuple[str, str]] = []
    run_build(REQUEST, b"onnx", tmp_path / "x.plan", lambda *at, note="": told.append((at[0], at[3] or note)))
    assert [note for step, note in told if step == "step" and note.endswith(" s")]
    assert len(told) > 3


def test_who_inherits_the_pipes_does_not_hold_the_build_up(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build_process, "HEARTBEAT_S", 0.05)
    child("""
import subprocess
heir = subprocess.Popen(["sleep", "600"], start_new_session=True)
open(header["plan"], "w").write(str(heir.pid))
send(version="1")
""")
    assert run_build(REQUEST, b"onnx", tmp_path / "pid") == "1"
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


# The parent's own end.

PARENT = """
import signal, sys
from pgn_edge.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
from pgn_edge.export import build_process
build_process.COMMAND = (sys.executable, "-c", {stub!r})
sys.argv = ["pgn-edge", "compile", {source!r}, "-o", {plan!r}, "--no-cache"]
main()
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["a polite kill", "Ctrl-C"]
)
def test_the_child_ends_with_its_parent_and_leaves_nothing(
    tiny_pair, tmp_path: Path, number: signal.Signals, status: int
):
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")
    pid = tmp_path / "pid"
    stub = READ + f"open({str(pid)!r} + '.new', 'w').write(str(os.getpid()))\n"
    stub += f"open(header['plan'], 'w').write('half')\nos.rename({str(pid)!r} + '.new', {str(pid)!r})\ntime.sleep(600)"
    code = PARENT.format(stub=stub, source=str(tiny_pair.task), plan=str(tmp_path / "x.plan"))
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as parent:
        wait_for(lambda: pid.exists() or parent.poll() is not None)
        try:
            builder = int(pid.read_text())
            parent.send_signal(number)
            _, said = parent.communicate(timeout=PATIENCE_S)
        finally:
            parent.kill()  # one that goes on would hold up the whole run
    assert parent.returncode == status, said
    assert "Traceback" not in said
    wait_for(lambda: gone(builder))
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_the_child_ends_when_its_parent_is_killed():
    code = "import time; from pgn_edge.export import build_child as b; b._build = lambda *a: time.sleep(600); b.main()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"onnx_size": 0}\n')
        process.stdin.close()  # as the system does for a process that has gone
        assert process.wait(timeout=PATIENCE_S) == 1


def test_what_a_library_prints_is_kept_from_the_answers():
    code = """
import os
from pgn_edge.export import build_child
def build(*ignored):
    print("from Python")
    os.system("echo from C")
    raise ZeroDivisionError("of a library")
build_child._build = build
build_child.main()
"""
    question = b'{"onnx_size": 0, "request": {"backend": "tensorrt-rtx"}}\n'
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(question)
        process.stdin.flush()
        answer, said = process.stdout.read(), process.stderr.read()
    assert json.loads(answer)["error"]["got"] == "ZeroDivisionError: of a library"
    assert said == b"from Python\nfrom C\n"
