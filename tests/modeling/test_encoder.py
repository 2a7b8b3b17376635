"""What holds for the encoder alone: positions, blocks, initialisation, loading, training by others' loops."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, UperNetConfig, UperNetForSemanticSegmentation

from unip_hf import UnipBackbone, UnipConfig, UnipForPreTraining, UnipForSemanticSegmentation, UnipModel
from unip_hf.modeling.modeling_unip_layers import resize_position_embeddings, sine_cosine_position_embeddings


def test_every_token_gets_the_position_of_its_patch(make_config: Callable) -> None:
    """Against tables and patches made by hand, on images and tables that are not square."""
    for image_size in (64, (32, 96)):
        embeddings = UnipModel(make_config(image_size=image_size)).embeddings
        nn.init.normal_(embeddings.position_embeddings)
        image = torch.randn(1, 3, 32, 96)
        grid = (image_size, image_size) if isinstance(image_size, int) else image_size
        table = resize_position_embeddings(embeddings.position_embeddings, (grid[0] // 16, grid[1] // 16), (2, 6))
        tokens = embeddings(image)
        torch.testing.assert_close(tokens[:, :1], embeddings.cls_token + table[:, :1])
        for row, column in [(0, 0), (0, 5), (1, 2)]:
            patch = image[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            expected = embeddings.patch_embeddings(patch).flatten(1) + table[:, 1 + 6 * row + column]
            torch.testing.assert_close(tokens[:, 1 + 6 * row + column], expected, atol=1e-5, rtol=1e-5)
    first = sine_cosine_position_embeddings(8, (3, 5))[0, 1:].reshape(3, 5, 8)
    assert (first[:, 2, :4] == first[0, 2, :4]).all() and (first[1, :, 4:] == first[1, 0, 4:]).all()


def test_outputs_are_what_their_names_say(make_config: Callable) -> None:
    model = UnipModel(make_config()).eval()
    image = torch.randn(2, 3, 48, 64)
    outputs = model(image, output_hidden_states=True)
    states = outputs.hidden_states
    assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])
    assert torch.equal(states[0], model.embeddings(image)) and torch.equal(states[1], model.layers[0](states[0]))
    torch.testing.assert_close(model.layernorm(states[3]), outputs.last_hidden_state)
    maps = model.feature_maps(image, [0, 3, 1])
    for number, feature_map in zip([0, 3, 1], maps):
        torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), states[number][:, 1:])
    query, key = model.query_key(image, layer=2)
    expected = model.layers[1].attention.qkv(model.layers[1].layernorm_before(states[1])).reshape(2, 13, 3, 2, 16)
    torch.testing.assert_close(query, expected[:, :, 0].transpose(1, 2))
    torch.testing.assert_close(key, expected[:, :, 1].transpose(1, 2))
    with pytest.raises(ValueError, match="no block 4: this model has blocks 1 to 3"):
        model.query_key(image, layer=4)


def test_a_block_scales_and_drops_both_of_its_branches(make_config: Callable) -> None:
    layer = UnipModel(make_config(layer_scale_init_value=0.5, drop_path_rate=0.9)).layers[0]
    tokens = torch.randn(1, 5, 32)
    layer.eval()
    context = tokens + 0.5 * layer.attention(layer.layernorm_before(tokens))[0]
    torch.testing.assert_close(layer(tokens), context + 0.5 * layer.mlp(layer.layernorm_after(context)))
    layer.drop_path.rate = 1 - 1e-9
    assert torch.equal(layer.train()(tokens), tokens)
    assert UnipModel(make_config(qkv_bias=False)).layers[0].attention.qkv.bias is None
    assert UnipModel(make_config(mlp_ratio=2)).layers[0].mlp.fc1.out_features == 64


def test_pre_training_takes_both_of_a_teacher_s_tensors_or_none(make_config: Callable) -> None:
    model, image = UnipForPreTraining(make_config()), torch.randn(1, 3, 64, 64)
    outputs = model(image)
    assert outputs.loss is None and outputs.query.shape == (1, 4, 17, 8)
    with pytest.raises(ValueError, match="both teacher_query and teacher_key"):
        model(image, teacher_query=outputs.query)


def spread(model: nn.Module) -> dict[str, float]:
    return {name: p.float().std().item() for name, p in model.named_parameters() if p.ndim > 1}


def test_weights_start_as_they_should_whether_a_checkpoint_lacks_them_or_there_is_none(
    make_config: Callable, tmp_path: Path
) -> None:
    UnipForPreTraining(make_config()).save_pretrained(tmp_path)
    fresh = UnipForSemanticSegmentation(make_config())
    loaded = UnipForSemanticSegmentation.from_pretrained(tmp_path)
    grey = UnipModel.from_pretrained(tmp_path, num_channels=1, ignore_mismatched_sizes=True)
    for model in (fresh, loaded):
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:  # Kaiming, by the values that a filter gives
                expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
                assert 0.9 < module.weight.std() / expected < 1.1, module
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.eq(1).all() and module.running_var.eq(1).all() and not module.running_mean.any()
    assert spread(fresh).keys() == spread(loaded).keys()
    for name, value in spread(loaded).items():
        assert 0.7 < value / spread(fresh)[name] < 1.4, name
    assert 0.9 < grey.embeddings.patch_embeddings.weight.std() / (2 / (256 + 32)) ** 0.5 < 1.1


def test_a_fixed_position_table_stays_fixed_inside_other_models(make_config: Callable, tmp_path: Path) -> None:
    backbone = make_config(position_embedding_type="sincos", out_features=["stage3"])
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, num_labels=5, use_auxiliary_head=False)
    UperNetForSemanticSegmentation(config).save_pretrained(tmp_path)
    model = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    model(torch.randn(1, 3, 64, 64)).logits.sum().backward()
    assert model.backbone.embeddings.position_embeddings.grad is None
    assert model.backbone.embeddings.cls_token.grad is not None
    UnipModel(make_config()).save_pretrained(tmp_path / "encoder")
    _, report = UnipBackbone.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_a_table_too_small_for_a_patch_changes_nothing(make_config: Callable) -> None:
    model = UnipModel(make_config())
    with pytest.raises(ValueError, match="smaller than one patch"):
        model.resize_position_embeddings(8)
    assert model.config.image_size == 64 and model(torch.randn(1, 3, 64, 64)).last_hidden_state.shape == (1, 17, 32)


def test_labels_and_their_names_agree() -> None:
    config = UnipConfig(id2label={0: "sky", 1: "road"}, label2id={"x": 0})
    assert config.label2id == {"sky": 0, "road": 1} and config.num_labels == 2


def test_trainer_accumulates_gradients_to_the_same_step(make_config: Callable, tmp_path: Path) -> None:
    config = make_config(use_auxiliary_head=False, classifier_dropout_prob=0.0)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 5, (4, 32, 32))
    dataset = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]
    steps = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        model = UnipForSemanticSegmentation(config)
        # Batch norm would make the gradients depend on how the batch is split.
        model.train = lambda mode=True, model=model: nn.Module.train(model, False)  # type: ignore[method-assign]
        before = model.decode_head.classifier.weight.detach().clone()
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(accumulation)),
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            lr_scheduler_type="constant",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=dataset, eval_dataset=dataset)
        trainer.train()
        steps.append(model.decode_head.classifier.weight.detach() - before)
        assert trainer.predict(dataset).predictions.shape == (4, 5, 8, 8)  # one array, as compute_metrics expects
    assert steps[0].abs().max() > 0
    torch.testing.assert_close(steps[1], steps[0], atol=1e-6, rtol=1e-3)
