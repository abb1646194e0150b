"""The rooms, the wheel and the imports are as the design says; the linters agree."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pgn_edge.labels import DATASETS

ROOT = Path(__file__).parents[1]
ROOMS = {"pgn_edge": "pgn_edge", "train": "pgn_edge.train", "export": "pgn_edge.export", "runtime": "pgn_edge.runtime"}
BIN = Path(sys.executable).parent
PAGE = {".html", ".css", ".js"}


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)


def sources() -> dict[str, Path]:
    """Every Python file of the four rooms by the path that it is installed under."""
    files = {}
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            files[str(Path(*package.split(".")) / path.relative_to(ROOT / folder))] = path
    return files


def test_the_list_of_packages_is_the_tree():
    tomllib = pytest.importorskip("tomllib", reason="came with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {str(Path(name).parent).replace(os.sep, ".") for name in sources()}
    assert sorted(settings["packages"]) == sorted(packages)
    assert settings["package-dir"] == {package: folder for folder, package in ROOMS.items()}


def test_every_package_is_a_package():
    folders = {path.parent for path in sources().values()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


# The wheel, and the copy that is installed from it.


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source archive, made from a copy of the tree, and of the wheel, made from that archive."""
    for package in ("setuptools", "build", "twine"):
        pytest.importorskip(package, reason="builds the packages; isolation would need a network")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("packages")
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    child = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree, cwd=out)
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    return out


def tracked() -> list[str]:
    """Files of the repository; those that are new and not ignored belong to it as well."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git says which files belong to the repository")
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `pip install` would fill: import-linter does not see the mapped rooms of an editable install."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_module_and_no_other(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        modules = {name for name in archive.namelist() if name.endswith(".py")}
    assert modules == set(sources())


def test_the_wheel_holds_the_data_too(wheel: Path):
    weights = {"pgn_edge/nn/builtin.safetensors", "pgn_edge/nn/builtin.json"}
    labels = {f"pgn_edge/labels/{name}.txt" for name in DATASETS}
    page = {f"pgn_edge/runtime/web/{path.name}" for path in (ROOT / "runtime/web").iterdir() if path.suffix in PAGE}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert (len(labels), len(page)) == (12, 6)
    assert names >= weights | labels | page | {"pgn_edge/py.typed"}
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_source_archive_is_the_whole_repository(built: Path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked()) - names == set()
    strangers = {name for name in names if "__pycache__" in name or name.endswith((".pyc", ".so"))}
    assert strangers == set()


def test_the_package_page_is_accepted_and_has_no_link_into_the_repository(built: Path, wheel: Path):
    child = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()), cwd=built)
    assert child.returncode == 0, child.stdout
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
        about = email.message_from_bytes(archive.read(name))
    links = re.findall(r"\]\(([^)]*)\)", str(about.get_payload()))
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert "Programming Language :: Python :: 3.10" in about.get_all("Classifier", [])
    assert [url for url in about.get_all("Project-URL", []) if "arxiv.org" in url]


def test_the_core_requires_no_opencv_and_no_command_line(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
        lines = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    core = {re.split(r"[^\w-]", line)[0] for line in lines if "extra ==" not in line}
    assert core <= {"numpy", "Pillow", "msgspec"}


def test_no_page_promises_a_package_that_an_index_does_not_have():
    pages = [name for name in tracked() if name.endswith((".md", ".sh", ".Dockerfile"))]
    promise = re.compile(r"pip install (?:-\S+ )*'?pgn-edge")
    assert [name for name in pages if name != "CHANGELOG.md" and promise.search((ROOT / name).read_text())] == []


def test_make_demo_installs_nothing_of_the_developers_and_make_test_the_rest(tmp_path: Path):
    if shutil.which("make") is None:
        pytest.skip("make says what it would do")
    demo, test = (run("make", "-n", target, f"VENV={tmp_path / 'venv'}").stdout for target in ("demo", "test"))
    assert "-c constraints.txt -e '.[demo]'" in demo
    assert ".[dev]" not in demo
    assert test.index(".[demo]") < test.index("-c constraints.txt -e '.[dev]'")


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_has_one_version_of_each_package_and_the_demo_needs_no_other(python: str, wheel: Path):
    requirements = pytest.importorskip("packaging.requirements", reason="reads markers")
    here = {"python_version": python, "extra": ""}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [requirements.Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [pin.name.lower().replace("_", "-") for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
    assert [name for name in names if names.count(name) > 1] == []
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
        about = email.message_from_bytes(archive.read(name))
    needed, extras = set(), {"demo", "cli", "cpu", "cv", "plots", "rtx"}
    for requirement in map(requirements.Requirement, about.get_all("Requires-Dist", [])):
        wanted = (
            requirement.marker is None or requirement.marker.evaluate({**here, "extra": extra}) for extra in extras
        )
        if requirement.name != "pgn-edge" and any(wanted):
            needed.add(requirement.name.lower().replace("_", "-"))
    assert "torch" in needed
    assert needed - set(names) == set()
    assert not needed & {"transformers", "mypy", "pytest", "timm", "open-clip-torch"}


@pytest.mark.parametrize("name", ["docs/jetson.md", "docker/jetson.Dockerfile"])
def test_a_jetson_gets_the_systems_opencv_whose_gstreamer_opens_csi_cameras(name: str):
    text = (ROOT / name).read_text()
    assert "python3-opencv" in text
    extras = {extra for found in re.findall(r"pip install[^\n]*\[([\w,-]+)\]", text) for extra in found.split(",")}
    assert extras >= {"cli", "cpu", "compile"}, "compile brings onnx, which inspect vit.onnx needs"
    assert not extras & {"cv", "cv-headless", "export", "tensorrt"}
    assert set(re.findall(r"\b\w+\.pgn\b", text)) <= {"task.pgn"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(BIN / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache", cwd=folder)


def test_the_rooms_import_only_what_they_may(installed: Path):
    child = lint_imports(installed)
    assert child.returncode == 0, child.stdout
    assert "0 broken" in child.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        pytest.param("pgn_edge/runtime/result.py", "import torch", id="torch in the runtime"),
        pytest.param("pgn_edge/runtime/result.py", "import pgn_edge.nn.vit", id="nn in the runtime"),
        pytest.param("pgn_edge/geometry.py", "import torch", id="torch in the core"),
        pytest.param("pgn_edge/nn/attention.py", "import pgn_edge.export.graph", id="a room in nn"),
        pytest.param("pgn_edge/export/graph.py", "import pgn_edge.train.loop", id="train in export"),
        pytest.param("pgn_edge/train/loop.py", "import pgn_edge.cli", id="the command line in train"),
    ],
)
def test_an_import_that_breaks_the_contract_is_seen(installed: Path, module: str, line: str):
    path = installed / module
    before = path.read_text()
    path.write_text(
        before.replace("from __future__ import annotations\n", f"from __future__ import annotations\n{line}\n", 1)
    )
    assert path.read_text() != before
    try:
        child = lint_imports(installed)
    finally:
        path.write_text(before)
    assert child.returncode == 1, child.stdout
    assert "BROKEN" in child.stdout


# What an import pulls in, seen from a fresh interpreter.

CORE = {"numpy", "PIL", "msgspec", "typing_extensions"}  # the last where it is installed; msgspec looks for it
PULLED_IN = """
import importlib, json, sys
before = set(sys.modules)
importlib.import_module(sys.argv[1])
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("pgn_edge", set()),
        ("pgn_edge.cli", {"click"}),
        ("pgn_edge.bundle", CORE),
        ("pgn_edge.runtime", CORE),
        ("pgn_edge.runtime.app", CORE),
        ("pgn_edge.runtime.sinks", CORE),
    ],
)
def test_an_import_pulls_in_no_more_than_this(module: str, allowed: set[str]):
    child = run(sys.executable, "-I", "-c", PULLED_IN, module)
    assert child.returncode == 0, child.stderr
    assert set(json.loads(child.stdout)) <= allowed | {"pgn_edge"}


BLOCKED = """
import importlib, json, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "onnx", "onnxscript", "open_clip", "timm", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch is not blocked: this test proves nothing")

import pgn_edge, pgn_edge.cli, pgn_edge.runtime
for module in pkgutil.walk_packages(pgn_edge.runtime.__path__, "pgn_edge.runtime."):
    importlib.import_module(module.name)
for package in (pgn_edge, pgn_edge.cli):
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and module.name != "__main__":
            importlib.import_module(f"{package.__name__}.{module.name}")

from click.testing import CliRunner

results = {}
for name in ("", *pgn_edge.cli.cli.commands):
    result = CliRunner().invoke(pgn_edge.cli.cli, [*filter(None, [name]), "--help"])
    results[name] = [result.exit_code, result.output]
print(json.dumps(results))
"""


def test_without_torch_the_runtime_imports_and_every_command_has_help():
    child = run(sys.executable, "-c", BLOCKED)
    assert child.returncode == 0, child.stderr
    results = json.loads(child.stdout)
    assert set(results) == {
        *("", "train", "compare", "ablate", "import", "export", "export-vit", "compile"),
        *("predict", "run", "bench", "probe", "eval", "analyze", "inspect", "doctor", "triton-repo", "demo"),
    }
    for name, (status, text) in results.items():
        assert status == 0, (name, text)
        assert text.startswith(f"Usage: cli {name}".rstrip()), name
        assert "--help" in text


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("--version",), 0), (("--help",), 0), ((), 2), (("no-such-command",), 2), (("export", "missing.pt"), 1)],
    ids=["version", "help", "no command is wrong usage", "unknown command", "a refusal"],
)
def test_the_exit_status_says_what_happened(tmp_path: Path, arguments: tuple[str, ...], status: int):
    child = run(sys.executable, "-m", "pgn_edge", *arguments, cwd=tmp_path)
    assert child.returncode == status, child
    if status == 1:
        assert child.stdout == ""
        assert len(child.stderr.splitlines()) == 1
        assert "Traceback" not in child.stderr


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=["lint", "format"])
def test_ruff_agrees(command: tuple[str, ...]):
    child = run(sys.executable, "-m", "ruff", *command, ROOT)
    assert child.returncode == 0, child.stdout[-3000:]
