"""The recipes against what is published, written down here once more, and docs/reproduce.md against both."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from unip_hf.data.labelled import BUILDERS
from unip_hf.data.transforms import RandomResize
from unip_hf.modeling.configuration_unip import UNIP_SIZES, UnipConfig
from unip_hf.scripts import distill, finetune, options
from unip_hf.scripts.cli import run
from unip_hf.scripts.image_options import make_image_processor, make_transform
from unip_hf.scripts.options import find_shipped
from unip_hf.training import polynomial_schedule


RECIPES = {path.stem: path for path in (Path(options.__file__).parent / "recipes").iterdir()}
GUIDE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()

# In the name: dataset, configuration, reported images, classes, updates, warm-up, updates between evaluations, crop.
# The longest edge and the stride are 2048 and 341 everywhere.
EXPERIMENTS = {
    "soda": ("soda", None, "test", 21, 14400, 1500, 800, 512),
    "mfnet": ("mfnet", None, "validation+test", 9, 9800, 1000, 700, 512),
    "scut-seg": ("scut-seg", None, "validation", 10, 16800, 1700, 800, 512),
    "mfnet-rgb": ("mfnet", "rgb", "validation+test", 9, 9800, 1000, 700, 512),
    "nyuv2-depth": ("nyuv2-depth", "depth", "test", 41, 9800, 1000, 700, 480),
    "sun-rgbd-depth": ("sun-rgbd-depth", "depth", "test", 38, 65000, 6000, 1000, 480),
    "ade20k": ("ade20k", None, "validation", 150, 75000, 1500, 1000, 512),
}
INFRARED = ("soda", "mfnet", "scut-seg")
LONG = {("soda", 200): (28800, 3000, 1600), ("mfnet", 300): (29400, 3000, 2100)}
# Teacher: block, heads.
TEACHERS = {"mae-large-18": (18, 16), "ibot-large-21": (21, 16), "dino-base-9": (9, 12)}
STUDENTS = ("tiny", "small", "base")

TRAINING_RECIPES = [
    *(f"fine-tuning-{size}-{data}" for size in UNIP_SIZES for data in INFRARED),
    *(f"fine-tuning-baseline-{size}-{data}" for size in STUDENTS for data in INFRARED),
    "fine-tuning-baseline-base-mfnet-rgb",
    *(f"linear-probing-{size}-{data}" for size in UNIP_SIZES for data in INFRARED),
    *(f"layerwise-probing-{data}" for data in EXPERIMENTS),
    *(f"fine-tuning-{epochs}-epochs-{size}-{data}" for data, epochs in LONG for size in STUDENTS),
]
# Pairs of images: data set, reported images, updates, pairs in each, PFLOP.
PAIR_RECIPES = {
    "unirgb-ir-base-mfnet": ("mfnet", "test", 80_000, 4, 80_000 * 4 * 1.725e-3),
    "iv-tuning-large-mfnet": ("mfnet", "test", 9_800, 8, 9_800 * 8 * 1.632e-3),
    "iv-tuning-large-msrs": ("msrs", "test", 13_500, 8, 13_500 * 8 * 1.632e-3),
}
DISTILLATION_RECIPES = [f"distillation-{size}-{teacher}" for size in STUDENTS for teacher in TEACHERS]

# Experiments that change one thing: the recipe that they are compared with, and what differs. `None`: is left out.
OF_MAE = {
    "objective": "mae", "mask_ratio": 0.75, "decoder_num_hidden_layers": 8, "decoder_hidden_size": 512,
    "decoder_num_attention_heads": 16, "drop_path_rate": 0.0, "students": None, "teacher_layer": None,
    "last_layer_num_attention_heads": None,
}  # fmt: skip
UNIP_SMALL = "distillation-small-mae-large-18"
ABLATIONS: dict[str, tuple[str, dict]] = {
    "distillation-features-small-mae-large-18": (
        UNIP_SMALL, {"objective": "features", "last_layer_num_attention_heads": None}
    ),
    "masked-pre-training-small": (UNIP_SMALL, OF_MAE),
    **{f"{UNIP_SMALL}-without-{part}": (UNIP_SMALL, {"leave_out": [part]})
       for part in ("infrared", "imagenet", "coco")},
    f"{UNIP_SMALL}-in-colour": (UNIP_SMALL, {"dataset": "folder", "keep_colour": True}),
    **{f"classic-pyramid-small-{data}": (f"fine-tuning-small-{data}", {"feature_layers": [4, 6, 8, 12]})
       for data in INFRARED},
}  # fmt: skip
# Images of InfMix without a part, from the table of its parts.
IMAGES = {"infrared": 859_375 - 541_088, "imagenet": 859_375 - 200_000, "coco": 859_375 - 118_287}

# Mean IoU in percent, average over three sets: fine-tuning of T, S, B, L; linear probing of T, S, B, L.
REPORTED = {
    "MAE": ((46.70, 55.39, 60.94, 64.35), (22.24, 31.15, 34.64, 42.36)),
    "CrossMAE": ((None, 57.16, 61.51, 63.90), (None, 32.43, 35.91, 43.79)),
    "DeiT": ((56.37, 60.05, 62.56, None), (32.01, 37.44, 46.21, None)),
    "DeiT III": ((None, 61.47, 63.63, 64.66), (None, 43.24, 47.44, 49.09)),
    "DINO": ((None, 61.76, 62.72, None), (None, 44.96, 47.14, None)),
    "iBOT": ((None, 62.09, 63.80, 64.97), (None, 45.60, 47.84, 49.51)),
    "UNIP (MAE-L)": ((60.27, 64.37, 65.28, None), (35.82, 44.04, 47.43, None)),
    "UNIP (iBOT-L)": ((60.57, 64.70, 65.07, None), (41.06, 48.37, 51.57, None)),
}
GIGA_MULTIPLY_ADDS = {"tiny": 41.5, "small": 155.9, "base": 603.3, "large": 1244.2}  # 512 px, 21 classes


def expected_options(name: str) -> dict:
    """What the words of a file name stand for."""
    words = re.fullmatch(
        r"(?P<task>[a-z]+-[a-z]+)(-(?P<epochs>\d+)-epochs)?(?P<baseline>-baseline)?"
        r"(-(?P<size>tiny|small|base|large))?-(?P<data>[a-z].+)",
        name,
    )
    assert words is not None
    dataset, config, split, _, num_steps, num_warmup_steps, evaluate_every, crop_size = EXPERIMENTS[words["data"]]
    if words["epochs"]:
        num_steps, num_warmup_steps, evaluate_every = LONG[words["data"], int(words["epochs"])]
    is_large, is_fine_tuning = words["size"] == "large", words["task"] == "fine-tuning"
    is_infrared = words["data"] in INFRARED
    is_baseline = is_large or words["baseline"] is not None  # there is no UNIP-L
    four_blocks = [8, 12, 16, 24] if is_large else [4, 6, 8, 12]
    layers = {
        "fine-tuning": four_blocks if is_baseline else [12],
        "linear-probing": four_blocks,
        "layerwise-probing": None,  # all
    }
    return {
        "dataset": dataset,
        "dataset_config": config,
        "train_split": "train",
        "validation_split": split,
        "linear_probe": words["task"] == "linear-probing",
        "layerwise_probe": words["task"] == "layerwise-probing",
        "feature_layers": layers[words["task"]],
        "last_layer_num_attention_heads": None,
        "drop_path_rate": (0.2 if is_large else 0.1) if is_fine_tuning else 0.0,
        "crop_size": crop_size,
        "shortest_edge": crop_size,
        "longest_edge": 2048,
        "ratio_range": [0.5, 2.0],
        "flip_probability": 0.5,
        "no_photometric_distortion": False,
        "no_antialias": True,
        "mask_interpolation": "nearest",
        "intensity_scaling": None if "depth" in name else "dtype_range",
        "image_mean": [pytest.approx(96.9255 / 255, abs=1e-6)] if is_infrared else [0.485, 0.456, 0.406],
        "image_std": [pytest.approx(47.8976 / 255, abs=1e-6)] if is_infrared else [0.229, 0.224, 0.225],
        "batch_size": 8,
        "num_steps": num_steps,
        "num_warmup_steps": num_warmup_steps,
        "learning_rate": 1e-4,
        "layer_decay": (0.65 if is_baseline else 0.85) if is_fine_tuning else 1.0,
        "weight_decay": 0.05,
        "loss_average": "all_pixels",
        "max_gradient_norm": None,
        "ema_decay": None,
        "freeze_batch_norm": False,
        "mixed_precision": "fp16",
        "seed": 0,
        "evaluate_every": evaluate_every,
        "window_size": crop_size,
        "stride": 341,
        "whole_image": False,
    }


def parsed(*arguments: str) -> dict:
    return vars(finetune.parse_arguments(["--model", "m", "--output_dir", "o", *arguments]))


def test_the_families_are_complete() -> None:
    assert len(TRAINING_RECIPES) == 12 + 10 + 12 + 7 + 6 and len(DISTILLATION_RECIPES) == 9
    assert set(RECIPES) == {*TRAINING_RECIPES, *PAIR_RECIPES, *DISTILLATION_RECIPES, *ABLATIONS}
    assert {path.suffix for path in RECIPES.values()} == {".yaml"}


@pytest.mark.parametrize("name", TRAINING_RECIPES)
def test_a_training_recipe_is_the_published_experiment(name: str) -> None:
    expected = expected_options(name)
    found = parsed("--config", name, "--data_dir", "d")
    assert {option: found[option] for option in expected} == expected
    # Written out, so that another default changes no experiment; what is off or left to the checkpoint cannot be.
    written = yaml.safe_load(RECIPES[name].read_text())
    off = {option for option, value in expected.items() if value is None or value is False}
    assert expected.keys() - off <= written.keys() <= expected.keys()
    size = re.search("-(tiny|small|base|large)-", name)
    title = RECIPES[name].read_text().splitlines()[0]
    assert title.startswith("# ") and f"{expected['num_steps']:,} updates" in title
    assert size is None or re.search(f"-{size[1][0].upper()}\\b", title)


def test_the_recipe_of_unirgb_ir_is_the_published_one() -> None:
    found = parsed("--config", "unirgb-ir-base-mfnet", "--data_dir", "d")
    mean = [56.49899560, 65.97552241, 58.65733689, 100.82957526]  # R, G, B, T of 0..255
    std = [58.10148818, 59.04825892, 60.30034803, 47.12476754]
    assert [255 * value for value in found["image_mean"] + found["auxiliary_image_mean"]] == pytest.approx(mean)
    assert [255 * value for value in found["image_std"] + found["auxiliary_image_std"]] == pytest.approx(std)
    weights = [1.51059098, 15.81630837, 30.08046375, 41.70549916, 38.33253736, 39.78383054, 46.98874852, 46.46856094]
    expected = {
        "fusion": "unirgb_ir",
        "main_modality": "visible",
        "dataset_config": "both",
        "task": "mla",
        "feature_layers": [3, 6, 9, 12],
        "decoder_channels": 256,
        "drop_path_rate": 0.3,
        "crop_size": 768,
        "resize_to": [768, 768],
        "shortest_edge": None,
        "ratio_range": [1.0, 1.0],
        "flip_probability": 0.5,
        "no_photometric_distortion": True,
        "no_antialias": True,
        "mask_interpolation": "nearest",
        "intensity_scaling": "dtype_range",
        "batch_size": 4,
        "num_steps": 80_000,
        "num_warmup_steps": 0,
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 0.01,
        "final_learning_rate": 1e-4,
        "decay_power": 0.9,
        "layer_decay": 1.0,
        "weight_decay": 5e-4,
        "decay_vectors": True,
        "class_weights": [*weights, 44.23738209],
        "loss_average": "all_pixels",
        "max_gradient_norm": None,
        "mixed_precision": "no",
        "evaluate_every": 1000,
        "whole_image": True,
        "unfreeze": False,
        "modality_dropout": None,
    }
    assert {name: found[name] for name in expected} == expected
    assert UnipConfig().auxiliary_loss_weight == 0.4  # of each of the four heads


@pytest.mark.parametrize("data", ["mfnet", "msrs"])
def test_the_recipes_of_iv_tuning_are_what_is_public_and_for_the_rest_unip_s(data: str) -> None:
    found, of_unip = (
        parsed("--config", name, "--data_dir", "d") for name in (f"iv-tuning-large-{data}", "fine-tuning-large-mfnet")
    )
    public = {
        "fusion": "iv_tuning",
        "main_modality": "visible",
        "dataset": data,
        "dataset_config": "both",
        "task": "segformer",
        "feature_layers": [10, 15, 20, 24],
        "drop_path_rate": 0.2,
    }
    assert {name: found[name] for name in public} == public
    alike = ("batch_size", "learning_rate", "weight_decay", "crop_size", "ratio_range", "window_size", "stride")
    assert {name: found[name] for name in alike} == {name: of_unip[name] for name in alike}
    epochs = found["num_steps"] * 8 / BUILDERS[data].NUM_EXAMPLES["train"]
    assert epochs == pytest.approx(100, abs=1.5) and found["num_steps"] % found["evaluate_every"] == 0


def test_the_guide_computes_the_cost_of_pairs() -> None:
    """Of forward and backward pass, through frozen blocks without the gradients of their weights."""
    rows = rows_of_guide(r"`(unirgb-ir|iv-tuning)-")
    assert [row[1] for row in rows] == list(PAIR_RECIPES)
    for row in rows:
        dataset, split, num_steps, batch_size, peta_flop = PAIR_RECIPES[row[1]]
        found = parsed("--config", row[1], "--data_dir", "d")
        expected = (dataset, split, num_steps, batch_size)
        assert (found["dataset"], found["validation_split"], found["num_steps"], found["batch_size"]) == expected
        assert {"train", split} <= BUILDERS[dataset].NUM_EXAMPLES.keys()
        assert (row[2], float(row[3])) == (f"{num_steps:,}", pytest.approx(peta_flop, rel=0.01))
        title = RECIPES[row[1]].read_text().splitlines()[0]
        assert f"{num_steps:,} updates of {batch_size} pairs" in title


@pytest.mark.parametrize("name", DISTILLATION_RECIPES)
def test_a_distillation_recipe_is_the_published_pre_training(name: str) -> None:
    _, size, teacher = name.split("-", 2)
    layer, heads = TEACHERS[teacher]
    found = yaml.safe_load(RECIPES[name].read_text())
    assert {**found, "learning_rate": float(found["learning_rate"])} == {  # YAML takes 2.4e-3 for a text
        "dataset": "infmix",
        "students": [size],
        "teacher_layer": layer,
        "last_layer_num_attention_heads": heads,
        "drop_path_rate": 0.1,
        "crop_size": 224,
        "crop_scale": [0.2, 1.0],
        "image_mean": 0.3801,
        "image_std": 0.1871,
        "batch_size": 4096,
        "num_epochs": 100,
        "num_warmup_epochs": 5,
        "learning_rate": 1.5e-4 * 4096 / 256,
        "weight_decay": 0.05,
        "adam_betas": [0.9, 0.95],
        "mixed_precision": "fp16",
        "seed": 0,
    }
    parsed = distill.parse_arguments(["--config", name, "--teacher", "teacher.pth", "--output_dir", "out"])
    assert parsed.teacher_layer == str(layer) and parsed.students == [size] and parsed.dataset == "infmix"
    assert (parsed.image_mean, parsed.image_std) == ([0.3801], [0.1871])
    assert distill.count_steps(parsed, 859_375) == (20_900, 20_900 / 20)
    defaults = distill.parse_arguments(["--teacher", "teacher.pth", "--output_dir", "out"])
    chosen = ("config", "dataset", "students", "teacher_layer", "last_layer_num_attention_heads", "mixed_precision")
    implied = {"learning_rate": 2.4e-3, "num_warmup_epochs": 5, "image_mean": [0.3801], "image_std": [0.1871]}
    for option, value in vars(defaults).items():  # everything else the recipes write down is the default
        if option not in chosen:
            assert getattr(parsed, option) == (implied.get(option) if value is None else value), option


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(name: str) -> None:
    compared, changes = ABLATIONS[name]
    found, before = (yaml.safe_load(RECIPES[recipe].read_text()) for recipe in (name, compared))
    kept = {option: value for option, value in {**before, **changes}.items() if value is not None}
    assert found == kept
    title, (row,) = RECIPES[name].read_text(), rows_of_guide(f"`{name}`")
    if name.startswith("classic"):
        num_steps = parsed("--config", name)["num_steps"]
    else:
        teacher = [] if "mae" in found.get("objective", "") else ["--teacher", "t"]
        options = distill.parse_arguments(["--config", name, *teacher, "--output_dir", "o"])
        images = IMAGES.get(name.rpartition("-without-")[2], 859_375)
        num_steps, _ = distill.count_steps(options, images)
        assert f"{images:,}" in title
    assert f"{num_steps:,}" in title.replace("\n# ", " ") and compared in title
    assert row[3:] == [f"{num_steps:,}", ""]


@pytest.mark.parametrize("key", EXPERIMENTS)
def test_the_datasets_have_what_the_recipes_ask_for(key: str) -> None:
    dataset, config, split, num_classes, num_steps, _, evaluate_every, _ = EXPERIMENTS[key]
    builder = BUILDERS[dataset]
    assert len(builder.CLASSES) == num_classes
    assert config is None or config in builder.builder_configs
    assert {"train", *split.split("+")} <= builder.NUM_EXAMPLES.keys()
    if key in INFRARED:
        assert num_steps * 8 / builder.NUM_EXAMPLES["train"] == pytest.approx(100, abs=1.5)  # epochs
        assert num_steps % evaluate_every == 0


def test_the_schedule_that_results() -> None:
    """The published warm-up multiplies the decaying rate: its highest value is a tenth below the learning rate."""
    recipe = parsed("--config", "fine-tuning-small-soda")

    def rate(step: int) -> float:
        factor = polynomial_schedule(step, recipe["num_steps"], recipe["num_warmup_steps"])
        return recipe["learning_rate"] * factor

    assert rate(0) == pytest.approx(1e-10) and rate(1500) == pytest.approx(1e-4 * 12900 / 14400)
    assert rate(750) == pytest.approx(0.5e-4 * 13650 / 14400, rel=1e-5)
    assert max(map(rate, range(14400))) == rate(1500) and rate(14399) == pytest.approx(1e-4 / 14400)


def test_recipes_are_found_by_name_and_files_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed("--config", "fine-tuning-tiny-mfnet", "--num_steps", "7")["num_steps"] == 7
    (tmp_path / "fine-tuning-tiny-mfnet").write_text("num_steps: 3\n")
    assert parsed("--config", "fine-tuning-tiny-mfnet")["num_steps"] == 3
    for given, alike in (("fine-tunning-tiny-soda", "fine-tuning-tiny-soda"), ("soda", "fine-tuning-tiny-soda")):
        assert run(finetune.main, ["--config", given, "--model", "tiny", "--output_dir", "o"]) == 2
        error = capsys.readouterr().err
        assert f"There is no recipe {given!r}" in error and alike in error
    with pytest.raises(FileNotFoundError):
        find_shipped(Path("."), "recipes", "recipe")


def test_mean_deviation_and_resizing_reach_the_processor() -> None:
    namespace = finetune.parse_arguments(["--model", "m", "--output_dir", "o", "--config", "fine-tuning-small-soda"])
    processor = make_image_processor(namespace, None)
    assert [255 * processor.image_mean[0], 255 * processor.image_std[0]] == pytest.approx([96.9255, 47.8976], abs=1e-3)
    assert processor.size == {"shortest_edge": 512, "longest_edge": 2048} and processor.do_normalize
    assert processor.antialias is False
    resize = next(step for step in make_transform(namespace, processor).transforms if isinstance(step, RandomResize))
    assert (resize.antialias, resize.mask_interpolation) == (False, "nearest")
    namespace.image_mean = namespace.image_std = None
    assert make_image_processor(namespace, None).image_std == [0.1871]  # pre-training's
    namespace.image_mean = [0.1, 0.2]
    with pytest.raises(ValueError, match="image_mean has 2 values"):
        make_image_processor(namespace, None)


def rows_of_guide(pattern: str) -> list[list[str]]:
    """Cells of the rows of its tables in which something is found."""
    lines = [line for line in GUIDE.splitlines() if line.startswith("|") and re.search(pattern, line)]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_guide_names_every_recipe() -> None:
    families = "fine-tuning|linear-probing|layerwise-probing|distillation|unirgb-ir|iv-tuning|masked|classic-pyramid"
    assert set(re.findall(rf"`((?:{families})-[\w-]+)`", GUIDE)) == set(RECIPES)


def test_the_guide_repeats_what_the_paper_reports() -> None:
    rows = rows_of_guide("`reproduce")
    assert {(row[0], row[1]): (float(row[3]), float(row[5])) for row in rows} == {
        (method, size[0].upper()): (fine_tuning, linear_probing)
        for method, by_task in REPORTED.items()
        for size, fine_tuning, linear_probing in zip(UNIP_SIZES, *by_task)
        if fine_tuning is not None
    }
    for row in rows:
        size, model = row[2].removeprefix("reproduce baseline-").removeprefix("reproduce ").split()
        assert size[0].upper() == row[1] and size in re.split("[-_]", model)


def test_the_guide_computes_the_cost() -> None:
    rows = rows_of_guide("`fine-tuning-")
    assert len(rows) == 12 + 6
    for row in rows:
        names = [cell for cell in row if cell.startswith("fine-tuning-")]
        name = names[0]
        size = next(size for size in UNIP_SIZES if f"-{size}-" in name)
        crops = 8 * expected_options(name)["num_steps"]
        peta_flop = crops * 3 * 2 * GIGA_MULTIPLY_ADDS[size] / 1e6
        assert float(row[-3 if len(row) == 7 else 3].replace(",", "")) == pytest.approx(peta_flop, rel=0.01)
        if len(row) == 7:  # the same for a baseline; linear probing beside it: the encoder, forward
            assert names == [name] if size == "large" else [name, name.replace("tuning", "tuning-baseline")]
            assert row[5] == name.replace("fine-tuning", "linear-probing")
            width, num_layers, _ = UNIP_SIZES[size]
            multiply_adds = num_layers * 1025 * width * (12 * width + 2 * 1025) + 1024 * 768 * width
            assert float(row[6]) == pytest.approx(crops * 2 * multiply_adds / 1e15, rel=0.01)


def test_the_commands_of_the_guide_run_every_row(tmp_path: Path) -> None:
    function = re.search(r"```bash\n(reproduce\(\).*?)```", GUIDE, re.DOTALL)
    assert function is not None
    calls = re.findall(r"`(reproduce [^`]+)`", GUIDE)
    script = "\n".join(['unip() { echo "unip $*"; }', function[1], *calls])
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = [line.split() for line in done.stdout.splitlines()]
    assert [command[1] for command in commands] == ([*["finetune"] * 6, "results"]) * len(calls) and len(calls) == 24
    commands += [line.split() for line in re.findall(r"^unip finetune .*$", GUIDE.replace("\\\n", ""), re.MULTILINE)]
    for command in commands:
        if command[1] == "finetune":
            found = vars(finetune.parse_arguments(command[2:]))
            assert Path(found["data_dir"]).name == found["dataset"] and found["config"].name in RECIPES
            is_baseline = not Path(found["model"]).name.startswith("unip")
            layers = found["feature_layers"]
            assert layers is None or len(layers) == (1 if not is_baseline and not found["linear_probe"] else 4)
            if not found["linear_probe"] and not found["layerwise_probe"] and not found["fusion"]:
                assert found["layer_decay"] == (0.65 if is_baseline else 0.85)
