"""The notebooks hold no results, their commands and links are right, and they run from the first cell to the last."""

import json
import re
import signal
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

from ..conftest import PATIENCE
from ..test_docs import commands, run


EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_a_notebook_is_valid_and_holds_no_results(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.metadata, cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, f"Clear the outputs of the cell {cell.id!r}."


def test_links_and_commands_of_a_notebook_are_right(notebook: nbformat.NotebookNode) -> None:
    found = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source):
                assert target.startswith("https://") or (EXAMPLES / target).exists(), target
        for line in re.findall(r"^!(unip \w.*)", cell.source.replace("\\\n", " "), re.MULTILINE):
            run(*commands(line), is_run=False)
            found += 1
    assert found >= 6


@pytest.mark.slow
def test_your_camera_runs_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kernel_spec(tmp_path / "jupyter" / "kernels" / "python3")  # the Python of these tests
    for name in ("JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(EXAMPLES / "your_camera.ipynb", as_version=4)
    handler = signal.getsignal(signal.SIGINT)
    NotebookClient(
        notebook, timeout=3 * PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    ).execute()
    signal.signal(signal.SIGINT, handler)  # the client leaves Python's own where another one was

    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    texts = {name: "".join(output.get("text", "") for output in shown) for name, shown in outputs.items()}
    for name, text in texts.items():  # a command that fails does not stop a notebook
        assert not re.search(r"^error: |command not found", text, re.MULTILINE), f"{name}: {text}"
    pictures = [output.data for shown in outputs.values() for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    results = json.loads((work / "outputs" / "small" / "best" / "evaluation" / "results.json").read_text())
    assert results["mean_iou"] > 0.4  # one class everywhere gives less than 0.03
    assert f"mean IoU: {results['mean_iou']:.4f}" in texts["classes"]
    assert f"| mean IoU | {results['mean_iou']:.4f} |" in (work / "card" / "README.md").read_text()
    assert (work / "prediction" / "masks" / "new.png").exists() and "sky" in texts["predict"]
