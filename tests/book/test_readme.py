"""The README does what it says, in an environment that has torch alone."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from making import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_ten_lines_run_after_the_readmes_own_install_line(fresh, tmp_path):
    """Installed from a copy, as setuptools would leave a folder in the repository."""
    clone = tmp_path / "clone"
    leave = shutil.ignore_patterns(".*", "_build", "tests", "__pycache__", "runs")
    shutil.copytree(ROOT, clone, ignore=leave)
    (line,) = re.findall(r"the library alone \| in a clone: `pip (install [^`]*)`", README)
    command = [fresh, "-m", "pip", "-q", *shlex.split(line)]
    subprocess.run(command, check=True, cwd=clone, capture_output=True)
    (tmp_path / "empty").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path / "empty")
    done = subprocess.run(
        [fresh, "-m", "doctest", "README.md"],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_readme_promises_no_address():
    assert not re.search(r"https?://", README)
