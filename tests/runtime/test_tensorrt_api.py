"""What we ask of TensorRT's Python module is there in the releases that we say we run on, and in TensorRT-RTX."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pgn_edge.runtime.cuda import Cuda
from tests.runtime.tensorrt_stand_in import plan_bytes, stand_in, toy

ROOT = Path(__file__).parents[2]
MODULE = ""  # stands where the name of a class would

Members = dict[str, list[str] | None]  # None, or the parameters of each overload


def releases() -> dict[str, dict[str, Members]]:
    """Classes, and the module as one of them, with their members, by release, oldest first."""
    found = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())["releases"]
    return {version: {MODULE: release["module"], **release["classes"]} for version, release in found.items()}


RELEASES = releases()
CLASSES = {name for release in RELEASES.values() for name in release} | {"ComputeCapability"}

# What TensorRT's objects are called, file by file: a variable, an attribute of ours, or a function that returns one.
OBJECTS = {
    "pgn_edge/backends.py": {"module": MODULE, "members": "ComputeCapability"},
    "export/build_child.py": {"trt": MODULE, "load_backend": MODULE},
    "export/builders.py": {
        "trt": MODULE,
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "timing_cache": "ITimingCache",
        "tensor": "ITensor",
        "one": "ITensor",
    },
    "runtime/engines/tensorrt.py": {
        "trt": MODULE,
        "_trt": MODULE,
        "module": MODULE,
        "_runtime": "Runtime",
        "_engine": "ICudaEngine",
        "context": "IExecutionContext",
    },
    "runtime/engines/tensorrt_rtx.py": {
        "_trt": MODULE,
        "module": MODULE,
        "_engine": "ICudaEngine",
        "_config": "IRuntimeConfig",
        "_cache": "IRuntimeCache",
    },
}

# Variables that hold something of Python or of ours, where the file itself does not say so.
PYTHON = {
    "pgn_edge/backends.py": {"TEGRA_RELEASE"},
    "export/build_child.py": {"exc", "request"},
    "export/builders.py": {"path", "value", "target"},
    "runtime/engines/tensorrt.py": {"_reasons", "array", "host"},
    "runtime/engines/tensorrt_rtx.py": {"cuda"},
}

# Asked for behind a check, or by an option alone, since a release lacks it.
LACKING = {
    (MODULE, "ComputeCapability"): "TensorRT-RTX alone builds for GPUs that are not there",
    ("ComputeCapability", "__members__"): "likewise",
    ("IBuilderConfig", "num_compute_capabilities"): "likewise",
    ("IBuilderConfig", "set_compute_capability"): "likewise",
    ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"): "younger than 10.3",
}

# Methods whose answer is asked for more without a variable between.
RETURNS = {("IBuilderConfig", "create_timing_cache"): "ITimingCache"}


@dataclass(frozen=True)
class Use:
    """One name that a file asks a TensorRT object for.

    Args:
        owner: its class, or MODULE.
        name: the name.
        line: where.
        call: positional arguments and keywords, where it is called with a known number of them.
        overrides: parameters of our method in its place, where we derive from the class.
    """

    owner: str
    name: str
    line: int
    call: tuple[int, frozenset[str]] | None = None
    overrides: str | None = None


@dataclass
class Reader:
    """Finds every name that a file asks TensorRT's objects for; what it cannot decide is a failure, never passed over.

    Args:
        file: path below the root, with an entry in `OBJECTS` and `PYTHON`.
    """

    file: str
    uses: list[Use] = field(default_factory=list)

    def read(self, source: str) -> list[Use]:
        tree = ast.parse(source)
        self.objects, self.python = OBJECTS.get(self.file, {}), PYTHON.get(self.file, set()) | set(dir(builtins))
        self.python |= {"self", "cls", "super"} | set(declared(tree))
        self.calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                self._attribute(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                self._by_name(node, node.func.id)
            elif isinstance(node, ast.ClassDef):
                self._class(node)
        return self.uses

    def _attribute(self, node: ast.Attribute) -> None:
        owner = self._kind(node.value)
        if owner is not None and node.attr != "__name__":
            call = self.calls.get(id(node))
            given = arguments(call) if call else None
            if given and node.attr == "__init__":
                given = given[0] - 1, given[1]  # called on the class, with self
            self.uses.append(Use(owner, node.attr, node.lineno, given))

    def _by_name(self, node: ast.Call, function: str) -> None:
        """`getattr`, `hasattr`, and the builders' own `_need`, which take names as text."""
        if function not in ("getattr", "hasattr", "_need"):
            return
        owner, name = self._kind(node.args[0]), node.args[1]
        text = name.values[0] if isinstance(name, ast.JoinedStr) else name
        if owner is not None:
            assert isinstance(text, ast.Constant), f"{self.file}:{node.lineno}: a name that is computed"
            for part in filter(None, str(text.value).split(".")):
                self.uses.append(Use(owner, part, node.lineno))
                owner = part

    def _class(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            owner = self._kind(base)
            for method in filter(lambda one: isinstance(one, ast.FunctionDef) and one.name != "__init__", node.body):
                if owner is not None and isinstance(method, ast.FunctionDef):
                    names = ", ".join(argument.arg for argument in method.args.args[1:])
                    self.uses.append(Use(owner, method.name, method.lineno, overrides=names))

    def _kind(self, node: ast.expr) -> str | None:
        """The class of a TensorRT object, None for one of Python."""
        match node:
            case ast.Name(id=name) if name in self.objects or name in self.python:
                return self.objects.get(name)
            case ast.Attribute(value=value, attr=name):
                return self._kind_of_attribute(node, self._kind(value), name)
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if (owner := self._kind(value)) is not None:
                return name if owner == MODULE and name in CLASSES else RETURNS.get((owner, name))
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(name)), *_]):
                return self._kind(ast.Attribute(value, name, lineno=node.lineno))
            case ast.Call(func=inner) | ast.Subscript(value=inner):
                return self._kind(inner)
            case ast.Constant() | ast.JoinedStr():
                return None
        raise AssertionError(self._undecided(node))

    def _kind_of_attribute(self, node: ast.Attribute, owner: str | None, name: str) -> str | None:
        if owner is not None:
            return name if owner == MODULE and name in CLASSES else None
        own = isinstance(node.value, ast.Name) and node.value.id == "self"
        assert not own or name in self.objects or name in self.python, self._undecided(node)
        return self.objects.get(name)

    def _undecided(self, node: ast.expr) -> str:
        return f"{self.file}:{node.lineno}: say in OBJECTS or PYTHON of this test what {ast.unparse(node)} is"


def declared(tree: ast.AST) -> Iterator[str]:
    """Names that a file imports or defines, but for those that it says hold `Any`, or says nothing of."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name).split(".")[0] for alias in names)
            case ast.ClassDef(name=name):
                yield name
            case ast.FunctionDef(name=name, returns=kind) | ast.arg(arg=name, annotation=kind) if known(kind):
                yield name
            case ast.AnnAssign(target=target, annotation=kind) if known(kind):
                yield ast.unparse(target).removeprefix("self.")


def known(annotation: ast.expr | None) -> bool:
    return annotation is not None and not ast.unparse(annotation).startswith(("Any", "tuple[Any"))


def arguments(call: ast.Call) -> tuple[int, frozenset[str]] | None:
    if any(isinstance(one, ast.Starred) for one in call.args):
        return None
    return len(call.args), frozenset(str(keyword.arg) for keyword in call.keywords)


def fits(call: tuple[int, frozenset[str]], overload: str) -> bool:
    """Whether a call with so many positional arguments, and these keywords, is one of an overload."""
    count, keywords = call
    names = overload.split(", ") if overload else []
    left = names[count:]
    must = {name for name in left if not name.endswith("=")}
    return count <= len(names) and must <= keywords <= {name.rstrip("=") for name in left}


def fitting(use: Use, overloads: list[str] | None) -> list[str | None]:
    """The overloads that a use is of; None is one where nothing is called."""
    if use.overrides is not None:
        return [one for one in overloads or () if one == use.overrides]
    if use.call is None:
        return [*(overloads or [None])]
    return [one for one in overloads or () if fits(use.call, one)]


def used(file: str) -> list[Use]:
    return Reader(file).read((ROOT / file).read_text())


COMMON = [file for file in OBJECTS if not file.endswith("_rtx.py")]  # what runs on TensorRT itself


def test_every_file_that_uses_tensorrt_is_read():
    adapters = {path.relative_to(ROOT).as_posix() for path in (ROOT / "runtime/engines").glob("tensorrt*.py")}
    assert adapters <= OBJECTS.keys()
    assert OBJECTS.keys() == PYTHON.keys()
    assert all(used(file) for file in OBJECTS)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("file", COMMON)
def test_every_name_is_in_the_release(file: str, release: str):
    classes = RELEASES[release]
    for use in used(file):
        members = classes.get(use.owner, {})
        if (use.owner, use.name) in LACKING and use.name not in members:
            continue
        assert use.name in members, f"{file}:{use.line}: {release} has no {use.owner}.{use.name}"
        constructor = classes.get(use.name, {}).get("__init__") if use.owner == MODULE else None
        overloads = constructor or members[use.name]
        assert fitting(use, overloads), f"{file}:{use.line}: {release} has {use.name} with {overloads}"


def test_what_a_release_lacks_is_used_and_lacking():
    uses = {(use.owner, use.name) for file in COMMON for use in used(file)}
    names = [{(owner, name) for owner in release for name in release[owner]} for release in RELEASES.values()]
    assert LACKING.keys() <= uses
    assert not LACKING.keys() & set.intersection(*names)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("trt.Bulder(1)", "Bulder", id="a class that is not there"),
        pytest.param("trt.Builder()", "Builder with", id="a constructor without its logger"),
        pytest.param("trt.BuilderFlag.FP15", "FP15", id="a value that is not there"),
        pytest.param("context.execute_async_v4(1)", "execute_async_v4", id="a method that is not there"),
        pytest.param("context.execute_async_v3()", "execute_async_v3 with", id="an argument too few"),
        pytest.param("context.execute_async_v3(1, 2)", "execute_async_v3 with", id="an argument too many"),
        pytest.param("context.execute_async_v3(stream=1)", "execute_async_v3 with", id="another keyword"),
        pytest.param("self._engine.max_batch_size", "max_batch_size", id="gone since version 10"),
        pytest.param(
            "self._unknown.execute_async_v3(1)", "self._unknown", id="an attribute of ours that is not listed"
        ),
        pytest.param("made = make(); made.name", "made", id="a variable that is not listed"),
        pytest.param("getattr(trt, 'Bulder', None)", "Bulder", id="a misspelt name as text"),
        pytest.param("getattr(trt, computed, None)", "computed", id="a name that is computed"),
        pytest.param("class Mine(trt.ILogger):\n  def log(self, text): ...", "log with", id="another override"),
    ],
)
def test_a_wrong_use_is_seen(line: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = "runtime/engines/tensorrt.py"
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"from somewhere import make\n{line}\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=says):
        test_every_name_is_in_the_release(file, "10.3.0")


# TensorRT-RTX, whose module is there to ask.


def overloads_of(owner: Any, name: str) -> list[str] | None:
    """As in the JSON, of a function of Python or from the text that pybind11 writes; None for what is not called."""
    found = getattr(owner, name)
    if isinstance(found, type) and name != "__init__":
        return overloads_of(found, "__init__")
    if inspect.isfunction(found):
        return [", ".join(inspect.signature(found).parameters)]
    signatures = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> ", inspect.getdoc(found) or "", re.MULTILINE)
    parts = [[part for part in re.split(r", (?=\w+: )", one) if ":" in part][1:] for one in signatures]
    return [", ".join(part.split(":")[0] + "=" * (" = " in part) for part in one) for one in parts] or None


@pytest.mark.parametrize("file", OBJECTS)
def test_every_name_is_in_tensorrt_rtx_under_the_same_parameters(file: str):
    rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'pgn-edge[rtx]'")
    newest = list(RELEASES.values())[-1]
    for use in used(file):
        owner = rtx if use.owner == MODULE else getattr(rtx, use.owner)
        assert hasattr(owner, use.name), f"{file}:{use.line}: {rtx.__version__} has no {use.owner}.{use.name}"
        here = overloads_of(owner, use.name)
        assert fitting(use, here), f"{file}:{use.line}: {rtx.__version__} has {use.name} with {here}"
        constructor = newest.get(use.name, {}).get("__init__") if use.owner == MODULE else None
        there = constructor or newest.get(use.owner, {}).get(use.name)
        if there is not None:
            assert set(fitting(use, here)) & set(fitting(use, there)), f"{use.name}: {here} here, {there} in TensorRT"


# The stand-in: what runs on it uses nothing that a release lacks.


def public(value: Any) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def stand_in_objects(library: str, rtx: bool) -> dict[str, Any]:
    """The module, and one object of each of its classes by the name of the class; needs a current CUDA context."""
    trt = stand_in(library, rtx)
    logger = trt.Logger()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan_bytes(toy()))
    found = {MODULE: trt, "Logger": logger, "Runtime": runtime, "ICudaEngine": engine}
    found |= {"IExecutionContext": engine.create_execution_context(), "ILogger": trt.ILogger, "Dims": trt.Dims((1,))}
    found |= {"DataType": trt.DataType, "TensorIOMode": trt.TensorIOMode}
    if rtx:
        config = engine.create_runtime_config()
        found |= {"IRuntimeConfig": config, "IRuntimeCache": config.create_runtime_cache()}
    return found


def allowed(parameters: str, overloads: list[str] | None) -> bool:
    """Whether a function with these parameters takes no call that an overload refuses: the rest may be left out."""
    ours = [name.rstrip("=") for name in parameters.split(", ") if name]
    for overload in overloads or ():
        theirs = [name for name in overload.split(", ") if name]
        same = [name.rstrip("=") for name in theirs[: len(ours)]] == ours
        if same and all(name.endswith("=") for name in theirs[len(ours) :]):
            return True
    return False


def check_stand_in(found: dict[str, Any], members_of: Callable[[str], set[str]], overloads: Callable[..., Any]) -> None:
    for owner, value in found.items():
        assert public(value) <= members_of(owner), owner
        for name in filter(lambda name: inspect.isroutine(getattr(value, name)), public(value)):
            parameters = ", ".join(inspect.signature(getattr(value, name)).parameters)
            parameters = parameters.removeprefix("self, ") if owner == "ILogger" else parameters
            assert allowed(parameters, overloads(owner, name)), f"{owner}.{name}({parameters})"


@pytest.mark.parametrize("release", RELEASES)
def test_the_stand_in_has_nothing_that_the_release_lacks(cuda: Cuda, cuda_library: str, release: str):
    classes, found = RELEASES[release], stand_in_objects(cuda_library, rtx=False)
    assert public(found[MODULE]) <= found.keys() | {"nptype"}
    check_stand_in(found, lambda owner: set(classes[owner]), lambda owner, name: classes[owner][name])


def test_the_stand_in_for_rtx_has_nothing_that_rtx_lacks(cuda: Cuda, cuda_library: str):
    rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'pgn-edge[rtx]'")
    found = stand_in_objects(cuda_library, rtx=True)
    assert public(found[MODULE]) <= found.keys() | {"nptype"}
    real = {owner: getattr(rtx, owner) if owner else rtx for owner in found}
    check_stand_in(found, lambda owner: set(dir(real[owner])), lambda owner, name: overloads_of(real[owner], name))


@pytest.mark.parametrize("name", ["DataType", "TensorIOMode", "Severity"])
def test_the_values_of_the_stand_in_are_the_real_ones(cuda_library: str, name: str):
    rtx, trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'pgn-edge[rtx]'"), stand_in(cuda_library)
    ours, real = (getattr(module.ILogger if name == "Severity" else module, name) for module in (trt, rtx))
    for member in ours:
        assert getattr(real, member.name).value == member.value
        if name == "DataType" and member is not ours.BF16:
            assert trt.nptype(member) is rtx.nptype(getattr(rtx.DataType, member.name))
    if name == "DataType":
        for module in (trt, rtx):
            with pytest.raises(TypeError):
                module.nptype(module.DataType.BF16)
