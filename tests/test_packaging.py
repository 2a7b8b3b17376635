"""The source distribution and the wheel that is built from it, used outside the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .conftest import PATIENCE


ROOT = Path(__file__).parents[1]
PACKAGES = {
    "unip_hf": "unip_hf",
    "modeling": "unip_hf/modeling",
    "scripts": "unip_hf/scripts",
    "spaces_demo": "unip_hf/spaces_demo",
}


def build(kind: str, source: Path, folder: Path) -> Path:
    """Builds with what is installed, as `pip` would after it had downloaded the same."""
    program = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, folder], cwd=source, check=True, timeout=PATIENCE)
    (built,) = folder.iterdir()
    return built


def shipped_files() -> set[str]:
    """Where a wheel has the files of the repository's packages."""
    files = set()
    for folder, package in PACKAGES.items():
        paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files |= {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in paths}
    return files


@pytest.mark.slow
def test_a_wheel_from_the_source_distribution_works_in_an_empty_folder(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns(".*", "outputs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "repository", ignore=ignore)
    with tarfile.open(build("sdist", tmp_path / "repository", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with zipfile.ZipFile(build("wheel", source, tmp_path / "wheel")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "installed")
    assert names == shipped_files()

    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    program = "import sys, unip_hf; print(unip_hf.__file__); from unip_hf.scripts import cli; sys.exit(cli.main())"
    command = [sys.executable, "-c", program, "quickstart", "--steps", "2"]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    page = Path("outputs/quickstart/evaluation/report.html")
    assert f"The page with numbers and pictures: {page}" in done.stdout and (empty / page).is_file()
    assert (empty / "outputs" / "quickstart" / "best" / "model.safetensors").is_file()
    assert {path.name for path in empty.iterdir()} == {"outputs"}
