"""
Loads saved folders as a machine does that has only torch, transformers and pillow, and predicts.

    python load_without_this_library.py IMAGE VISIBLE_IMAGE FOLDER ...

The ids of FOLDER are written to FOLDER.npy.
"""

import importlib.util
import sys
from unittest.mock import patch

import numpy as np
from huggingface_hub import HfApi
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    pipeline,
)


assert importlib.util.find_spec("unip_hf") is None, "this machine has the library"
image, visible, *folders = sys.argv[1:]
for folder in folders:
    model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    is_of_pairs = model.config.fusion is not None
    inputs = processor(image, auxiliary_images=visible if is_of_pairs else None, return_tensors="pt")
    ids = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(48, 64)])[0]
    np.save(f"{folder}.npy", ids.numpy())
    for loaded in (model, processor):
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded)
    if is_of_pairs:
        continue  # its encoder is none of one image

    # AutoBackbone asks the Hub whether the repository exists before it looks at the name, and so refuses every local
    # folder, of any model; here the answer is given for the Hub.
    with patch.object(HfApi, "repo_exists", return_value=True):
        backbone = AutoBackbone.from_pretrained(folder, trust_remote_code=True, out_features=["stage1", "stage3"])
    assert [tuple(m.shape[:2]) for m in backbone(**inputs).feature_maps] == [(1, 32), (1, 32)]
    assert bool((backbone.embeddings.cls_token == model.unip.embeddings.cls_token).all())
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert encoder(**inputs).pooler_output.shape == (1, 32)

    # The stock pipeline makes every input 8-bit, so it gets an 8-bit image.
    eight_bit = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8))
    segment = pipeline("image-segmentation", model=folder, trust_remote_code=True)
    assert segment(eight_bit)[0]["mask"].size == (64, 48)

    # What was loaded this way is saved as completely as it came.
    backbone.save_pretrained(f"{folder}-again")
    processor.save_pretrained(f"{folder}-again")
    config = AutoConfig.from_pretrained(f"{folder}-again", trust_remote_code=True)
    assert AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=True)(**inputs).logits.shape[1] == 5
    assert AutoImageProcessor.from_pretrained(f"{folder}-again", trust_remote_code=True)
    for loaded in (backbone, encoder, config):
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded)
print("torchvision" in sys.modules and sys.modules["torchvision"] is not None)
