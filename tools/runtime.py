#!/usr/bin/env python3
"""Run runc without the limits that podman asks for, as its runtime.

Podman raises RLIMIT_NPROC and RLIMIT_NOFILE for every container, and has no setting to leave them
alone; root without CAP_SYS_RESOURCE (in a virtual machine or a container of CI) may not raise them.
"""

import json
import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Take the limits out of the bundle or of the process, and become runc."""
    for option, name in (("--bundle", "config.json"), ("--process", "")):
        if option in arguments:
            file = Path(arguments[arguments.index(option) + 1], name)
            content = json.loads(file.read_text())
            content.get("process", content).pop("rlimits", None)
            file.write_text(json.dumps(content))
    os.execvp("runc", ["runc", *arguments])  # noqa: S606, S607 -- the runtime on PATH


if __name__ == "__main__":
    main(sys.argv[1:])
