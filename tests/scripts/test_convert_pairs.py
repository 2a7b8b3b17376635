"""`unip convert` with the networks of methods for pairs of images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.hub import convert_checkpoint, to_published_state_dict
from unip_hf.scripts import cli


@pytest.mark.parametrize("fields", [
    {"fusion": "iv_tuning"},
    {"fusion": "iv_tuning", "use_cls_token": False, "prompt_channels": 64},  # the names of its detection network
    {"fusion": "unirgb_ir", "num_hidden_layers": 4, "use_cls_token": False, "use_final_norm": False},
], ids=["iv_tuning", "iv_tuning-detection", "unirgb_ir"])  # fmt: skip
def test_a_network_of_pairs_goes_to_a_published_file_and_back(
    fields: dict, make_config: Callable, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(**fields, main_modality="visible", num_attention_heads=4, last_layer_num_attention_heads=None)
    model = UnipForSemanticSegmentation(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # of UniRGB-IR: else the other image has no part yet
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "model")
    file, folder = str(tmp_path / "network.pth"), str(tmp_path / "again")
    assert cli.main(["convert", "--to_published", str(tmp_path / "model"), file]) == 0
    assert cli.main(["convert", file, folder, "--num_attention_heads", "4"]) == 0
    again = UnipForSemanticSegmentation.from_pretrained(folder).eval()
    images, others = torch.randn(2, 1, 3, 61, 83)
    expected = model(images, auxiliary_pixel_values=others).logits
    torch.testing.assert_close(again(images, auxiliary_pixel_values=others).logits, expected, atol=1e-5, rtol=0)
    assert UnipImageProcessor.from_pretrained(folder).main_modality == "visible"
    assert "swap the two images" not in caplog.text
    assert ("does not say how its images were normalised" in caplog.text) == (config.fusion == "iv_tuning")

    assert (
        cli.main(["convert", file, str(tmp_path / "encoder"), "--num_attention_heads", "4", "--model", "encoder"]) == 2
    )
    assert "--model must be a segmentation model" in capfd.readouterr().err


def test_a_network_with_the_infrared_image_in_front_says_so_in_a_published_file(
    make_config: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    model = UnipForSemanticSegmentation(make_config(fusion="iv_tuning", num_attention_heads=4))
    published = to_published_state_dict(model)
    assert "swap the two images there" in caplog.text
    fields = {"main_modality": "infrared", "num_attention_heads": 4}
    again = convert_checkpoint(published, UnipForSemanticSegmentation, **fields)
    assert again.config.main_modality == "infrared"
    assert torch.equal(again.unip.fusion.norm.weight, model.unip.fusion.norm.weight)


def test_a_table_without_cls_keeps_every_row_of_a_grid_that_is_not_square(make_config: Callable) -> None:
    size = {"image_size": (32, 80)}  # 2x5 patches: as many rows as 3x3 and CLS
    model = UnipForSemanticSegmentation(make_config(fusion="iv_tuning", use_cls_token=False, **size))
    torch.nn.init.normal_(model.unip.embeddings.position_embeddings)
    published = to_published_state_dict(model)
    table = model.unip.embeddings.position_embeddings
    assert published["backbone.pos_embed"].shape[1] == 11
    for row in (0, 1):  # with the row of CLS that is not read, and without
        tensors = {**published, "backbone.pos_embed": published["backbone.pos_embed"][:, row:]}
        fields = {"num_attention_heads": 2, "use_cls_token": False, **size}
        again = convert_checkpoint(tensors, UnipForSemanticSegmentation, **fields)
        assert torch.equal(again.unip.embeddings.position_embeddings, table)
