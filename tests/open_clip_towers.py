"""Tiny towers of open_clip's families in files, with random weights: what `open_clip:ARCH@FILE` names."""

import copy
import json
from pathlib import Path

import pytest
import torch

WORDS = "a the red green blue yellow purple white black orange picture memes for when life is and nothing helps with "
WORDS += "grey ball angry happy sad none we ! ' s 0 1 2 我 们 周 一"
CLIP_TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2}
CLIP = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": CLIP_TEXT}


def timm_tower(name, pool, proj=None, **more):
    return {"image_size": 160, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj, **more}


ENCODER_TEXT = {"hf_model_name": "encoder", "hf_tokenizer_name": "tokenizer", "context_length": 20}
BERT = {"hf_model_name": "bert", "hf_tokenizer_name": "bert"}
# The library's families, by what of each is its own.
ARCHITECTURES = {
    "CLIP": CLIP,
    "CLIP, layer scale, dropped patches": CLIP
    | {"quick_gelu": False, "vision_cfg": VIT | {"ls_init_value": 0.1, "patch_dropout": 0.5, "image_size": 48}},
    "ResNet": CLIP | {"vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None}},
    "CLIPA": CLIP
    | {
        "vision_cfg": VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": CLIP_TEXT
        | {"vocab_size": 60, "hf_tokenizer_name": "bert", "tokenizer_kwargs": {"strip_sep_token": True}}
        | {"pool_type": "last", "no_causal_mask": True},
    },
    "SigLIP": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": timm_tower("test_vit3", "map", "none"),
        "text_cfg": CLIP_TEXT
        | {"vocab_size": 60, "hf_tokenizer_name": "tokenizer", "tokenizer_kwargs": {"clean": "canonicalize"}}
        | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
    },
    "worldwide": CLIP
    | {"text_cfg": CLIP_TEXT | {"vocab_size": 60, "hf_tokenizer_name": "tokenizer", "pool_type": "eos", "eos_id": 2}},
    "EVA": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm_tower("test_vit", "token"),
        "text_cfg": CLIP_TEXT,
    },
    "MobileCLIP": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm_tower("test_efficientnet", "avg", timm_drop=0.3, timm_drop_path=0.3),
        "text_cfg": CLIP_TEXT | {"no_causal_mask": True},
    },
    "ConvNeXt": CLIP | {"vision_cfg": timm_tower("test_convnext", "", "linear", timm_drop=0.1)},
    "gap": CLIP | {"vision_cfg": timm_tower("test_vit4", "avg", "mlp")},
    "xlm-roberta": CLIP | {"text_cfg": ENCODER_TEXT | {"hf_pooler_type": "mean_pooler"}},
    "bert": CLIP | {"text_cfg": ENCODER_TEXT | BERT | {"hf_pooler_type": "cls_pooler"}},
    "mt5": CLIP | {"text_cfg": ENCODER_TEXT | {"hf_model_name": "mt5", "hf_proj_type": "linear"}},
    "m2m": CLIP | {"text_cfg": ENCODER_TEXT | {"hf_model_name": "m2m", "hf_proj_type": "linear"}},
}
ENCODERS = {
    "encoder": {
        **{"model_type": "xlm-roberta", "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40, "type_vocab_size": 1},
        **{"pad_token_id": 1, "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3},
    },
    "bert": {
        **{"model_type": "bert", "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0},
        **{"num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40},
    },
    "mt5": {
        **{"model_type": "mt5", "vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2},
        **{"num_heads": 2, "pad_token_id": 1, "is_encoder_decoder": True},
    },
    "m2m": {
        **{"model_type": "m2m_100", "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
        **{"max_position_embeddings": 40, "pad_token_id": 1, "is_encoder_decoder": True},
    },
}


def import_open_clip():
    """The library, or a skip."""
    from modules.torchvision_ops import import_torchvision

    import_torchvision()
    return pytest.importorskip("open_clip")


def write_tokenizer(folder):
    """A tokenizer of whole words: <s> words </s>, padded with 1, as XLM-R's; in `bert`: [CLS] words [SEP], with 0."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bert = Path(folder).name == "bert"
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if bert else ["<s>", "<pad>", "</s>", "<unk>"]
    pad, start, end, unknown = specials if bert else (specials[i] for i in (1, 0, 2, 3))
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    around = [(start, vocabulary[start]), (end, vocabulary[end])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=around)
    names = {"pad_token": pad, "cls_token": start, "sep_token": end, "unk_token": unknown}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def architecture(kind, folder):
    """A family's configuration, the files that it names written into `folder`."""
    model = copy.deepcopy(ARCHITECTURES[kind])
    text = model["text_cfg"]
    if name := text.get("hf_model_name"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(ENCODERS[name]))
        text["hf_model_name"] = str(folder / name)
    if name := text.get("hf_tokenizer_name"):
        write_tokenizer(folder / name)
        text["hf_tokenizer_name"] = str(folder / name)
    return model


def write_towers(folder, kind, seed=0, half=False, preprocessing=None):
    """Files of a family's towers in `folder`: (configuration, weights, their name for the program)."""
    from safetensors.torch import save_file

    library = import_open_clip()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = architecture(kind, folder)
    config, weights = folder / "towers.json", folder / "weights.safetensors"
    content = {"model_cfg": model} | ({"preprocess_cfg": preprocessing} if preprocessing else {})
    config.write_text(json.dumps(content), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {name: value for name, value in copy.deepcopy(model).items() if name != "custom_text"}
        custom = model.get("custom_text") or "hf_model_name" in model["text_cfg"]
        settings["text_cfg"]["hf_model_pretrained"] = False
        towers = (library.CustomTextCLIP if custom else library.CLIP)(**settings)
        for name, tensor in towers.state_dict().items():
            if tensor.is_floating_point() and "logit" not in name:
                tensor.add_(0.1 * torch.randn(tensor.shape))
        for module in towers.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics are those of the images below: else all images look the same
        size = model["vision_cfg"]["image_size"]
        towers.train().visual(torch.randn(4, 3, size, size))
    state = {name: tensor.contiguous().clone() for name, tensor in towers.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(state, weights)
    return config, weights, f"open_clip:{config}@{weights}"


def theirs(config, weights):
    """The library's own model of the files, and its tokenizer."""
    library = import_open_clip()
    folder = config.parent / "known to the library"
    folder.mkdir(exist_ok=True)
    name = f"{config.parent.name} {config.stem}"
    (folder / f"{name}.json").write_text(json.dumps(json.loads(config.read_text())["model_cfg"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.factory, "_MODEL_CONFIGS", {})
        patch.setattr(library.factory, "_MODEL_CONFIG_PATHS", [])
        library.add_model_config(folder)
        return library.create_model(name, pretrained=str(weights)).eval(), library.get_tokenizer(name)
