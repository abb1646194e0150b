"""A shell script that compiles on the device, for whoever copies an ONNX there and wants no questions asked."""

from __future__ import annotations

import shlex
from pathlib import Path

from pgn_edge.errors import EngineError
from pgn_edge.export.compile import CompileOptions
from pgn_edge.files import atomic_write
from pgn_edge.fingerprint import sha256_file

# Names stand in the variables alone, quoted: in a comment, a line break in a name would begin a command.
TEMPLATE = """#!/bin/sh
# Compiles an engine on the device that will run it. Written by `pgn-edge compile --script`.
# The source lies beside this script; the plan and its sidecar are written there too.
# PYTHON names another interpreter than python3.
set -eu
cd -- "$(dirname -- "$0")"

source={source}
plan={plan}
sha256={sha256}
python=${{PYTHON:-python3}}

refuse() {{
    printf 'build: %s\\n' "$1" >&2
    exit 1
}}

# What must be installed.
command -v "$python" >/dev/null || refuse "no $python; install Python 3.10 or later, or name one with PYTHON"
"$python" -c 'import pgn_edge' || refuse "pgn-edge is missing; run: $python -m pip install '.[compile]', in its source"
"$python" -c 'import click, rich' || refuse "click is missing; run: $python -m pip install click rich"
"$python" -c 'import onnx' || refuse "onnx is missing; run: $python -m pip install onnx"
"$python" -c 'import {module}' || refuse "{module} is missing; {install}"

# The file must be the one that this script was written for.
[ -f "$source" ] || refuse "$source is not beside this script; copy it here"
found=$(sha256sum <"$source")
found=${{found%% *}}
[ "$found" = "$sha256" ] || refuse "$source has sha256 $found, not $sha256; copy it again"

exec "$python" -m pgn_edge compile "$source" {options} -o "$plan"
"""


def write_build_script(source: str | Path, script: str | Path, plan: str | Path, options: CompileOptions) -> None:
    """Write a POSIX shell script that checks the device and the source, and compiles there.

    Args:
        source: `vit.onnx` or `task.pgn`; the script looks for a file of this name beside itself.
        script: to write, executable.
        plan: its name is the plan's, beside the script.
        options: as for `compile_plan`; the plan cache is left to the device.

    Raises:
        EngineError: the source cannot be read, or the options do not fit.
        OutputError: the script cannot be written.
    """
    options.check()
    module, install = {
        "tensorrt": (
            "tensorrt",
            "on a Jetson run: sudo apt-get install python3-libnvinfer, and make the venv with --system-site-packages; "
            "elsewhere run: $python -m pip install tensorrt",
        ),
        "tensorrt-rtx": ("tensorrt_rtx", "run: $python -m pip install tensorrt-rtx"),
    }[options.backend]
    try:
        digest = sha256_file(source)
    except OSError as exc:
        raise EngineError(
            str(source), expected="an ONNX file or a bundle", got=exc.strerror or str(exc), do="check the path"
        ) from exc
    targets = [word for target in options.targets for word in ("--target", target)]
    text = TEMPLATE.format(
        source=shlex.quote(f"./{Path(source).name}"),  # ./ keeps a name that begins with a dash from being an option
        plan=shlex.quote(f"./{Path(plan).name}"),
        sha256=digest,
        module=module,
        install=install,
        options=shlex.join(["--backend", options.backend, *targets, *options.arguments()]),
    )
    with atomic_write(script) as temporary:
        temporary.write_text(text)
        temporary.chmod(0o755)
