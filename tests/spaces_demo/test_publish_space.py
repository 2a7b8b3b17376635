"""The folder of a Space: complete, valid, and works where this project is not installed."""

import configparser
import sys
from pathlib import Path

import gradio_client
import numpy as np
import pytest
from huggingface_hub import SpaceCard
from PIL import Image

from unip_hf.data import draw_scene
from unip_hf.inference import InferenceSettings, load_segmentation_model, segment_image
from unip_hf.scripts import cli, demo, publish_space

from .conftest import start_server, stop_server


ROOT = Path(__file__).parents[2]
# Python as on a machine that has what this project requires, but not the project.
ELSEWHERE = """
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path[:] = [folder for folder in sys.path if folder not in ("", sys.argv[1])]
sys.path.insert(0, sys.argv[2])
import unip_hf
assert unip_hf.__file__.startswith(sys.argv[2]), unip_hf.__file__
sys.argv = [sys.argv[2] + "/app.py"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_space_is_complete_and_answers(demo_model: Path, tmp_path: Path) -> None:
    space = tmp_path / "space"
    assert cli.run(publish_space.main, ["me/demo", "--model", "me/tiny", "--dry_run", str(space)]) == 0
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"README.md", "app.py", "requirements.txt", "unip_hf/spaces_demo/style.css"} < names
    assert {"unip_hf/modeling/modeling_unip.py", "unip_hf/scripts/demo.py", "unip_hf/hub/model_card.py"} < names
    assert not [name for name in names if "__pycache__" in name]
    text = (space / "README.md").read_text()
    data = SpaceCard(text).data
    assert (data.sdk, data.app_file, data.models) == ("gradio", "app.py", ["me/tiny"])
    assert data.license == "apache-2.0" and len(data.short_description) <= 60

    # A Space reads its models from the Hub; here, where there is no network, they lie in a folder.
    (space / "README.md").write_text(text.replace("- me/tiny", f"- {demo_model}"))
    server = start_server([sys.executable, "-c", ELSEWHERE, str(ROOT), str(space)], tmp_path / "server")
    try:
        image, _ = draw_scene(2, 100, 130)
        Image.fromarray(image).save(tmp_path / "scene.png")
        client = gradio_client.Client(server.url, verbose=False, download_files=tmp_path / "answer")
        file = gradio_client.handle_file(tmp_path / "scene.png")
        mask = client.predict(str(demo_model), [file], 50, api_name="/segment")[5]
        client.close()
        model, processor = load_segmentation_model(demo_model)
        expected = segment_image(model, processor, image, InferenceSettings.for_model(model)).argmax(dim=0)
        np.testing.assert_array_equal(np.asarray(Image.open(mask["value"])), expected)
        assert list(server.temporary.glob("unip-demo-*"))
    finally:
        stop_server(server)
    assert not list(server.temporary.glob("unip-demo-*")), "what a server that was stopped left"


def test_only_files_of_the_library_go_into_a_space(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    names = ["app.py", "requirements.txt", "templates", ".env", ".git", "token.txt", "a.safetensors", "__pycache__"]
    assert publish_space.not_of_the_library(str(tmp_path), names) == names[3:]


def test_requirements_are_those_of_the_project() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    assert (ROOT / "spaces_demo" / "requirements.txt").read_text().split() == required


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["me/demo", "--model", "model"], "Publish its checkpoint first, with unip publish CHECKPOINT USER/NAME"),
        (["me/demo", "--model", "exported"], "'exported' is a folder on this machine, where a Space cannot read it"),
        (["demo", "--model", "me/tiny"], "'demo' is not a name on the Hub"),
        (["me/demo", "--model", "tiny"], "'tiny' is not a name on the Hub"),
        (["me/demo", "--model", "me/tiny", "--dry_run", "model"], "'model' is not an empty folder"),
    ],
)
def test_wrong_arguments_of_publish_space(
    arguments: list[str],
    reason: str,
    demo_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(demo_model)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.onnx").touch()
    assert cli.run(publish_space.main, arguments) == 2
    assert reason in capsys.readouterr().err


def test_the_demo_says_which_model_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(demo.main, []) == 2
    assert "Run `unip quickstart` first" in capsys.readouterr().err
    assert cli.run(demo.main, ["--model", "nowhere"]) == 2
    assert "There is no checkpoint folder 'nowhere'" in capsys.readouterr().err
    assert cli.run(demo.main, ["--model", "nowhere", "--port", "70000"]) == 2
    assert "--port must be a number from 1 to 65535" in capsys.readouterr().err


def test_a_publication_may_lie_here_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "tiny").mkdir(parents=True)
    (tmp_path / "me" / "tiny" / "README.md").write_text('model = AutoModel.from_pretrained("me/tiny")')
    assert cli.run(publish_space.main, ["me/demo", "--model", "me/tiny", "--dry_run", "space"]) == 0
    assert "models:\n- me/tiny" in (tmp_path / "space" / "README.md").read_text()
