"""README and documentation: every code block runs as written, in order, and the site is complete."""

import html
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig, ViTModel

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data import SCENE_CLASSES, draw_scene
from unip_hf.data.benchmarks import BENCHMARKS
from unip_hf.data.scenes import draw_scene_pair
from unip_hf.hub import to_published_state_dict
from unip_hf.scripts import cli
from unip_hf.scripts.options import with_recipe

from .conftest import PATIENCE, save_checkpoint, tiny_config
from .unip_hf.benchmark_archives import mfnet_files, soda_files, write_files
from .unip_hf.mask_folders import KINDS, save_masks


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)

# These commands are parsed but not run: they need a network, or serve a page. Tests of their own run the comparison
# and the quickstart, which take long.
ONLY_PARSED = ("compare-layers", "demo", "publish-space", "quickstart")
OTHER_PROGRAMS = ("accelerate", "export", "hf", "make", "pip", "python")
# Its commands need published files of many gigabytes; tests/scripts/test_recipes.py checks each of them.
NOT_RUN = ("reproduce.md",)
LONG = ("README", "analysis", "deploy", "fusion", "pretrain")

# Appended to each command, where the last option counts: small and short runs that overwrite earlier results.
SMALL = "--batch_size 2 --num_steps 1 --crop_size 32 --num_workers 0 --report_to none --mixed_precision no --overwrite"
SHORTER = {
    "analyze": "--num_images 4 --size 32 32 --batch_size 4 --overwrite --num_maps 1 --no_mean_iou",
    "check-dataset": "",
    "convert": "--num_attention_heads 2 --overwrite",
    "cost": "--no_speed",
    "distill": f"{SMALL} --students unip-small --num_sample_images 2",
    "evaluate": "--num_workers 0 --overwrite",
    "export": "--overwrite",
    "finetune": f"{SMALL} --shortest_edge 32 --window_size 32 --stride 32 --skip_check",
    "predict": "--overwrite",
    "publish": "--no_speed",
    "prepare-dataset": "--num_workers 1 --overwrite",
    "prepare-infmix": "--num_workers 1 --overwrite",
    "show-dataset": "--overwrite",
}


def write_images(folder: Path, seeds: range, dtype: type = np.uint16) -> None:
    folder.mkdir(parents=True)
    for seed in seeds:
        counts = draw_scene(seed, 96, 128)[0]
        values = counts if dtype is np.uint16 else ((counts - counts.min()) / np.ptp(counts) * 255).astype(dtype)
        Image.fromarray(values).save(folder / f"{seed}.png")


def small_quickstart() -> None:
    """Leaves the files of `unip quickstart`, with a smaller network and smaller images."""
    UnipForPreTraining(tiny_config(num_channels=1)).save_pretrained("outputs/quickstart/student")
    UnipImageProcessor(num_channels=1).save_pretrained("outputs/quickstart/student")
    Image.fromarray(draw_scene(3)[0]).save("outputs/quickstart/scene.png")
    finetune = f"finetune --model outputs/quickstart/student --dataset scenes {SHORTER['finetune']}"
    for command in (
        f"{finetune} --output_dir outputs/quickstart",
        "predict outputs/quickstart/best outputs/quickstart/scene.png -o outputs/quickstart/prediction",
        "evaluate outputs/quickstart/best --dataset scenes --split test --output_dir outputs/quickstart/evaluation",
    ):
        assert cli.main(shlex.split(command)) == 0
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def stand_ins(few_scenes: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files under the names that the pages use."""
    folder = tmp_path_factory.mktemp("stand-ins")
    drawn = {
        "my-images": (draw_scene, ("images/{}/{}.png", "masks/{}/{}.png")),
        "my-pairs": (draw_scene_pair, ("images/{}/{}.png", "visible/{}/{}.jpg", "masks/{}/{}.png")),
    }
    names = ", ".join(f'"{number}": "{name}"' for number, name in enumerate(SCENE_CLASSES))
    for data_dir, (draw, files) in drawn.items():
        for seed in range(5):
            for file, array in zip(files, draw(seed, 96, 128)):
                path = folder / data_dir / file.format("train" if seed < 3 else "validation", seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        (folder / data_dir / "id2label.json").write_text(f"{{{names}}}")
    shutil.copy(folder / "my-pairs" / "images" / "train" / "0.png", folder / "thermal.png")
    shutil.copy(folder / "my-pairs" / "visible" / "train" / "0.jpg", folder / "visible.jpg")
    shutil.copytree(folder / "my-images", folder / "my-labelled-images")
    save_masks(folder / "binary-masks", lambda ids: Image.fromarray(np.uint8(255) * (ids > 0)))
    (folder / "binary-masks" / "id2label.json").write_text('{"0": "background", "1": "person"}')
    KINDS["roboflow"](folder / "roboflow-export")
    write_images(folder / "new-images", range(5, 7))
    write_images(folder / "my-test-images", range(5, 7))
    write_images(folder / "my-drone-images", range(6, 12))  # one of them a test image
    write_images(folder / "imagenet" / "train" / "n01440764", range(12, 14), np.uint8)
    write_images(folder / "coco" / "train2017", range(14, 16), np.uint8)
    write_files(folder / "LLVIP.zip", {"LLVIP/infrared/1.png": (folder / "new-images" / "5.png").read_bytes()})
    write_files(folder / "InfraredSemanticLabel.zip", soda_files())
    write_files(folder / "ir_seg_dataset.zip", mfnet_files())
    with av.open(str(folder / "flight.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for seed in range(2):
            grey = np.full((96, 128), 80 * seed, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray8")))
        container.mux(stream.encode())

    torch.manual_seed(0)
    student = UnipForPreTraining(tiny_config(layer_scale_init_value=None, position_embedding_type="sincos"))
    student.save_pretrained(folder / "unip-small")
    UnipImageProcessor().save_pretrained(folder / "unip-small")
    plain = tiny_config(last_layer_num_attention_heads=None)
    torch.save(to_published_state_dict(UnipForPreTraining(plain)), folder / "unip_vit_small_by_mae_large.pth")
    segmentation = to_published_state_dict(UnipForSemanticSegmentation(plain))
    torch.save({"state_dict": segmentation, "meta": {"CLASSES": tuple("abcde")}}, folder / "iter_14400.pth")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(folder / "teacher")
    backbone = Dinov2WithRegistersConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=28)
    save_checkpoint(Dinov2WithRegistersModel(backbone), folder / "dinov2-small")

    mfnet = UnipForSemanticSegmentation(tiny_config(num_labels=9))
    mfnet.config.id2label = dict(enumerate(BENCHMARKS["mfnet"].CLASSES))
    mfnet.save_pretrained(folder / "outputs" / "mfnet" / "best")
    UnipImageProcessor(size=64).save_pretrained(folder / "outputs" / "mfnet" / "best")
    with pytest.MonkeyPatch.context() as monkeypatch, few_scenes():
        monkeypatch.chdir(folder)
        small_quickstart()
    shutil.copytree(folder / "outputs" / "quickstart", folder / "outputs" / "small")
    shutil.copytree(folder / "unip-small", folder / "outputs" / "small" / "last", dirs_exist_ok=True)
    return folder


@pytest.fixture
def workplace(
    stand_ins: Path, few_scenes: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    shutil.copytree(stand_ins, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    with few_scenes():
        yield tmp_path / "work"
    AcceleratorState._reset_state(reset_partial_state=True)


def commands(block: str) -> list[list[str]]:
    """The words of each line, without comments; a backslash at the end of a line joins it to the next."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], is_run: bool) -> None:
    if words[0] in OTHER_PROGRAMS:
        return
    assert words[0] == "unip", f"The test does not know the program {words[0]!r}."
    job, arguments = words[1], cli.with_underscores(words[2:])
    parser = importlib.import_module(f"unip_hf.scripts.{job.replace('-', '_')}").command_parser()
    parser.parse_args(with_recipe(arguments))
    is_upload = job == "publish" and "--dry_run" not in arguments
    # What timm and the Hub would download.
    is_download = any(word.startswith(("timm:", "facebook/")) for word in arguments)
    is_run = is_run and not (is_download and job in ("convert", "finetune"))
    if not is_run or job in ONLY_PARSED or is_upload or "--accelerate_config" in arguments:
        return
    arguments += ["--overwrite"] if "--to_published" in arguments else shlex.split(SHORTER.get(job, ""))
    if {"soda", "mfnet"} & {word.partition("=")[0] for word in with_recipe(arguments)}:
        arguments += ["--allow_partial"]
    if job == "distill" and "mae" not in arguments:  # which has no teacher
        arguments += ["--teacher", "teacher", "--teacher_layer", "1"]
    if job == "finetune" and "--config" in arguments:
        arguments += ["--feature_layers", "3"]  # unip-small has no more
    status = cli.main([job, *arguments])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0, f"unip {job} {' '.join(arguments)}"


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if page.stem in LONG else page for page in PAGES],
    ids=lambda page: page.stem,
)
def test_the_code_of_a_page_runs(page: Path, workplace: Path) -> None:
    names: dict[str, object] = {}
    for language, block in BLOCK.findall(page.read_text()):
        if language == "python" and page.name == "README.md":  # in a process of its own, as a new user does it
            subprocess.run([sys.executable, "-c", block], check=True, timeout=PATIENCE)
        elif language == "python":
            exec(compile(block, page.name, "exec"), names)
        elif "() {" not in block:
            for words in commands(block):
                run(words, is_run=page.name not in NOT_RUN)


def test_no_block_is_overlooked() -> None:
    for page in PAGES:
        labels = re.findall(r"^ *(?:```|~~~)(.*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(labels) <= {"bash", "python", "json", "yaml", "bibtex", ""}, page.name


def test_links_lead_to_files_of_the_repository() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert {page.stem for page in pages} >= {page.stem.lower() for page in PAGES[1:]}
    assert "//" not in re.sub(r"/\*.*?\*/", "", (ROOT / "docs" / "style.css").read_text(), flags=re.DOTALL)
    for page in pages:
        loaded = re.findall(r'<(?:script|img|iframe|link)[^>]* (?:src|href)="?([^" >]+)', page.read_text())
        assert loaded and not [source for source in loaded if re.match(r"(https?:)?//", source)]


def test_the_settings_page_lists_every_option(site: Path) -> None:
    sections = re.split(r'<h2 id="unip-', (site / "settings.html").read_text())[1:]
    assert [section.split('"')[0] for section in sections] == list(cli.JOBS)
    for job, section in zip(cli.JOBS, sections):
        parser = importlib.import_module(f"unip_hf.scripts.{job.replace('-', '_')}").command_parser()
        for action in parser._actions:
            for name in action.option_strings or [action.metavar or action.dest]:
                assert f"{name}</code>" in section or f"<code>{name}, " in section or name in ("-h", "--help"), name
            for choice in action.choices or ():
                assert f"<code>{html.escape(str(choice))}</code>" in section
        assert "%(" not in section
    rows = dict(re.findall(r"<td><code>(--\w+)</code></td>(.*?)</tr>", sections[1], re.DOTALL))
    assert list(cli.JOBS)[1] == "finetune" and "<td>required</td>" in rows["--output_dir"]
    assert "<code>8</code>" in rows["--batch_size"] and "<code>0.0001</code>" in rows["--learning_rate"]


def test_the_python_page_lists_the_interface(site: Path) -> None:
    page = (site / "api.html").read_text()
    found = set(re.findall(r'<h3 id="[\w.]+\.(\w+)"', page))
    assert found >= set(re.findall(r"^::: [\w.]+\.(\w+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    for name in ("UnipForSemanticSegmentation", "convert_checkpoint", "load_teacher", "attention_distillation_loss",
                 "select_layer", "normalized_mutual_information", "attention_distance", "MeanIoU",
                 "sliding_window_logits", "layer_decay_parameter_groups", "load_infrared_dataset"):  # fmt: skip
        assert name in found
    assert "<li><strong><code>window_size</code></strong>" in page.replace("<p>", "")  # "Args:" became a list
    assert not re.search(r"^\s*Args:", page, re.MULTILINE) and "[<code>Unip" not in page
