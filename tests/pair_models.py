"""Tiny random towers for `pair:`, in files as timm's and transformers' own are: nothing is fetched."""

import json
import string

import pytest
import torch

from tests.model_parts import import_transformers

WIDTH, CONTEXT = 32, 24
WORDS = ("meme", "memes", "the", "angry", "happy", "sad", "red", "green", "blue", "yellow", "white", "black", "for")
TEXTS = ["memes for the angry boss", "a", "red. Green, blue! unbelievable and a longer text of which not all is known"]
IMAGE = "test_vit"  # timm has four networks for tests: these read 160 pixels
IMAGES = ("test_vit", "test_efficientnet", "test_resnet", "test_convnext")


def import_timm():
    from modules.torchvision_ops import import_torchvision

    import_torchvision()
    return pytest.importorskip("timm")


def random_network(name, seed=0, **options):
    """A network of timm none of whose tensors hides what it does: norms and their statistics are random too."""
    timm = import_timm()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=10, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor_name, tensor in network.state_dict().items():
            if tensor_name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return network


def write_image(path, name=IMAGE, seed=0):
    """Write a network's weights as safetensors; returns the network."""
    from safetensors.torch import save_file

    network = random_network(name, seed)
    save_file(network.state_dict(), path)
    return network


def write_text(folder, kind="bert", seed=0, dropout=0.1, **more):
    """Write a tiny encoder with a WordPiece tokenizer; returns the library's model, in eval mode."""
    transformers = import_transformers()
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    symbols = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *WORDS]
    symbols += [f"##{letter}" for letter in string.ascii_lowercase]
    tokenizer = transformers.BertTokenizer(vocab={symbol: number for number, symbol in enumerate(symbols)})
    tokenizer.save_pretrained(folder)
    config = transformers.AutoConfig.for_model(
        kind,
        **{
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        | more,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def write_pooling(folder, mode, unit, more=(), **settings):
    """Beside an encoder, the files by which sentence-transformers pools its words."""
    names = ["Transformer", "Pooling", *more, *(["Normalize"] if unit else [])]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{name}" if number else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for number, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": WIDTH, mode: True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": CONTEXT} | settings))


def write_pair(folder, image=IMAGE, dropout=0.1):
    """Write both towers; returns the name of the pair."""
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "image.safetensors", image)
    write_text(folder / "text", dropout=dropout)
    write_pooling(folder / "text", "pooling_mode_mean_tokens", True)
    return f"pair:{image}@{folder / 'image.safetensors'}+{folder / 'text'}"


def padded(tokenizer, texts, length, more=0):
    """Token ids and mask (N, L) of texts, padded with 0 as the data path does, and by `more` places."""
    rows = [tokenizer.tokenize(text, length)[0] for text in texts]
    ids = torch.zeros(len(rows), max(map(len, rows)) + more, dtype=torch.long)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    return ids, mask
