# ruff: noqa: INP001 -- a script, run by tools/audit.sh
"""Ask PyPI whether any pinned package has a known weakness, and do not trust silence.

pip-audit ends with 0 when its service knows none of the packages, as with some mirrors, and with 1
without a network. So this script reads its report, and asks about a package with known weaknesses
too: a service that does not know those knows nothing.

Exit status: 0: no package has one; 1: some have; 75: it could not be found out.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

CLEAN: Final = 0
WEAK: Final = 1
UNKNOWN: Final = 75  # EX_TEMPFAIL of sysexits.h

CONTROL: Final = "requests==2.19.0"  # CVE-2018-18074, and others since

Report = list[dict[str, Any]]


class AuditUnavailableError(Exception):
    """The advisory service does not answer, or not about what was asked."""


def ask_pip_audit(requirements: Path) -> Report:
    """Return what pip-audit says of each package.

    Raises:
        AuditUnavailableError: it says nothing.
    """
    done = subprocess.run(  # noqa: S603 -- our own arguments
        [
            *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"),
            *("--progress-spinner", "off", "--format", "json", "--requirement", str(requirements)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError) as err:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise AuditUnavailableError(f"pip-audit gave no report: {last}") from err


def audit(requirements: Path, ask: Callable[[Path], Report] = ask_pip_audit) -> tuple[int, str]:
    """Return the exit status, and a text for people."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            control = Path(directory) / "control.txt"
            control.write_text(f"{CONTROL}\n")
            if not any(package.get("vulns") for package in ask(control)):
                return UNKNOWN, f"could not run: the service knows no weakness of {CONTROL}"
        report = ask(requirements)
    except AuditUnavailableError as err:
        return UNKNOWN, f"could not run: {err}"
    weak = [
        f"{package['name']} {package['version']}: {weakness['id']}, "
        f"fixed in {', '.join(weakness['fix_versions']) or 'no version yet'}"
        for package in report
        for weakness in package.get("vulns", ())
    ]
    unknown = [package["name"] for package in report if "vulns" not in package]
    if weak:
        return WEAK, "\n".join(["known weaknesses:", *weak])
    if unknown or not report:
        names = ", ".join(unknown) or "any package"
        return UNKNOWN, f"could not run for all: the service does not know {names}"
    return CLEAN, f"none of {len(report)} packages has a known weakness"


if __name__ == "__main__":
    status, text = audit(Path(sys.argv[1]))
    sys.stdout.write(f"audit: {text}\n")
    sys.exit(status)
