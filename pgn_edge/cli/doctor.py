"""`pgn-edge doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgn_edge.cli.console import json_option, print_json, print_table, printable

if TYPE_CHECKING:
    from pgn_edge.runtime.doctor import Diagnosis
    from pgn_edge.runtime.probes import Finding

TITLES = {"machine": "Machine", "gpu": "GPU", "jetson": "Jetson", "packages": "Packages", "libraries": "Libraries"}


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Show what this machine can do, and what is missing.

    Each missing part has its pip line.

    The exit status is 1 where something is at fault; what is optional and missing is no fault.
    """
    from pgn_edge.runtime.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_json())
    else:
        _print_diagnosis(diagnosis)
    context.exit(1 if diagnosis.faults else 0)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    for name, findings in diagnosis.sections.items():
        rows = [(one.name, one.state, one.do if one.state == "missing" and one.do else one.value) for one in findings]
        if rows:
            print_table(TITLES[name], (), rows)
    jobs = [(job.name, "ready" if job.ready else f"needs {job.needs}") for job in diagnosis.jobs]
    print_table("What this machine can do", (), jobs)
    for fault in diagnosis.faults:
        click.echo(_fault(fault))


def _fault(finding: Finding) -> str:
    blocks = f" (blocks {'; '.join(finding.blocks)})" if finding.blocks else ""
    return printable(f"fault: {finding.name}: {finding.value}{blocks}; {finding.do}")


COMMANDS = (doctor,)
