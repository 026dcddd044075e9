"""Tiny random models of the transformers library, in folders as its own are: nothing is fetched."""

import json
import string

import pytest
import torch

from modules.tokenizer import byte_characters
from modules.torchvision_ops import import_torchvision

CHINESE = "今天不加班的时候我表情老板说哈喝水红绿蓝黄紫白黑橙色梗图给人看笑生气开心"
WORDS = ("meme", "memes", "the", "angry", "happy", "sad", "red", "green", "blue", "yellow", "white", "black", "for")
TEXTS = [
    "memes for the angry boss",
    "今天不加班",
    "a",
    "",
    "red. Green, blue! unbelievable 😂 and a longer text of which not every word is known",
]
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
WIDTH, SIZE, PATCH, CONTEXT = 32, 16, 8, 24
KINDS = ("clip", "metaclip_2", "chinese_clip", "altclip", "siglip", "siglip2_tokenizer")


def import_transformers():
    import_torchvision()
    return pytest.importorskip("transformers")


def bert_tokenizer():
    """WordPiece with Chinese characters one by one, as Chinese-CLIP has it."""
    transformers = import_transformers()
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    symbols = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *CHINESE, *WORDS]
    symbols += [f"##{letter}" for letter in string.ascii_lowercase] + ["##lie", "##vable"]
    return transformers.BertTokenizer(vocab={symbol: number for number, symbol in enumerate(symbols)})


def clip_tokenizer():
    """Bytes that stand for themselves and a few merges, a word's end marked."""
    transformers = import_transformers()
    symbols = sorted(byte_characters())
    symbols += [letter + "</w>" for letter in symbols]
    merges = [("m", "e"), ("t", "h"), ("th", "e</w>"), ("me", "me"), ("meme", "s</w>"), ("r", "e"), ("re", "d</w>")]
    symbols += [left + right for left, right in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=merges)


def roberta_tokenizer():
    """Bytes again, a word's start marked."""
    transformers = import_transformers()
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(byte_characters()), "Ġt", "Ġth", "Ġthe"]
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
    return transformers.RobertaTokenizer(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=merges)


def xlm_tokenizer():
    """SentencePiece's pieces, without bytes: what it does not know is unknown."""
    transformers = import_transformers()
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS] + [(letter, -6.0) for letter in string.ascii_letters + CHINESE]
    pieces += [("不加班", -4.0), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=pieces)


def gemma_tokenizer():
    """SentencePiece's pieces, with bytes for what it does not know, as SigLIP 2's."""
    transformers = import_transformers()
    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    symbols += [*string.ascii_lowercase, "▁t", "th", "▁th", "▁the"]
    merges = [("▁", "t"), ("▁t", "h"), ("t", "h"), ("▁th", "e")]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def siglip_tokenizer(folder):
    """A SentencePiece model of a few words, which the library runs in Python."""
    sentencepiece = pytest.importorskip("sentencepiece")
    transformers = import_transformers()
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*WORDS, *TEXTS, string.ascii_lowercase] * 3),
        model_prefix=str(folder / "spiece"),
        vocab_size=110,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=CONTEXT)


def tokenizer_of(kind, folder):
    if kind == "siglip":
        return siglip_tokenizer(folder)
    makers = {
        "clip": clip_tokenizer,
        "chinese_clip": bert_tokenizer,
        "siglip2_tokenizer": gemma_tokenizer,
        "roberta": roberta_tokenizer,
    }
    return makers.get(kind, xlm_tokenizer)()


def write_model(folder, kind, seed=0, dropout=0.0, image_size=SIZE, **preprocessor):
    """Write a tiny model of a kind with its tokenizer; returns the library's model, in eval mode."""
    transformers = import_transformers()
    tokenizer = tokenizer_of(kind, folder)
    tokenizer.save_pretrained(folder)
    kind = "siglip" if kind == "siglip2_tokenizer" else kind
    layers = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = layers | {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "attention_dropout": dropout}
    image = layers | {"image_size": image_size, "patch_size": PATCH, "attention_dropout": dropout}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text |= {"pad_token_id": tokenizer.pad_token_id}
    if kind in ("chinese_clip", "altclip"):
        text |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "type_vocab_size": 2}
        text |= {"max_position_embeddings": 40}
    if kind == "altclip":
        text |= {"project_dim": 20}
    if kind == "siglip":
        text |= {"projection_size": WIDTH}
    names = {
        "clip": "CLIP",
        "metaclip_2": "MetaClip2",
        "chinese_clip": "ChineseCLIP",
        "altclip": "AltCLIP",
        "siglip": "Siglip",
    }
    config = getattr(transformers, names[kind] + "Config")(text_config=text, vision_config=image, projection_dim=24)
    torch.manual_seed(seed)
    model = getattr(transformers, names[kind] + "Model")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # nothing that starts at zero or one may hide what it does
            if name not in ("logit_scale", "logit_bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)
    halves = kind == "siglip"
    written = {
        "size": {"height": image_size, "width": image_size} if halves else {"shortest_edge": image_size},
        "image_mean": [0.5] * 3 if halves else CLIP_MEAN,
        "image_std": [0.5] * 3 if halves else CLIP_STD,
        "resample": 3,
    }
    if not halves:
        written |= {"do_center_crop": True, "crop_size": {"height": image_size, "width": image_size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(written | preprocessor))
    return model
