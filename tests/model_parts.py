"""Small models, batches and weights files for the tests of the model's parts."""

import dataclasses
import importlib.metadata
import importlib.util
import warnings
from unittest import mock

import pytest
import torch
from torch import nn

from engine.arguments import parse_arguments
from engine.build_model import build_model
from modules.backbones import openai
from modules.backbones.openai import ClipSizes

torch.set_num_threads(1)  # small tensors: threads that wait for each other on a busy machine cost ten times the work

START, END = 58, 59  # the last ids of the small vocabulary, as in CLIP's
SMALL = ClipSizes(
    embed_dim=32,
    image_size=16,
    patch_size=8,
    vision_width=32,
    vision_layers=2,
    text_width=32,
    text_layers=2,
    context_length=20,
    vocab_size=60,
)
WORDS = ("angry", "happy", "sad")


class LetterTokenizer:
    """A stand-in whose ids fit the small vocabulary: one token per letter."""

    def tokenize(self, text, max_tokens):
        ids = [ord(letter) % START for letter in text]
        return [START, *ids[: max_tokens - 2], END], max(0, len(ids) + 2 - max_tokens)


def words_of(backbone, ids):
    """Word features (N, L, d) of texts of one length, ids (N, L)."""
    return backbone.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))[0]


def letters_for_tokens():
    """A context in which CLIPs are made with a LetterTokenizer."""
    return mock.patch.object(openai, "clip_tokenizer", LetterTokenizer)


def small_model_and_notes(*flags, sizes=SMALL, layers=2, seed=0):
    """IEF as the flags describe it, with a small CLIP from scratch, in eval mode: (model, arguments, notes)."""
    args, _ = parse_arguments(["--do_train", "--output_dir", "unused", "--pretrained_clip_name", "ViT-test", *flags])
    args.cross_num_hidden_layers = layers
    torch.manual_seed(seed)
    with mock.patch.dict(openai.FROM_SCRATCH, {"ViT-test": sizes}), letters_for_tokens():
        model, _, notes = build_model(args, WORDS)
    return model.eval(), args, notes


def small_model(*flags, **settings):
    """`small_model_and_notes` without the notes."""
    return small_model_and_notes(*flags, **settings)[:2]


def randomised(module, seed=0, std=0.1):
    """Shake all parameters, so that nothing that starts at zero can hide what it does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


@dataclasses.dataclass
class Record:
    """One record, unpadded. frames (F, 3, H, W) uint8; query and captions: token ids."""

    query: list
    frames: torch.Tensor
    captions: list
    emotions: list
    topic: int = 0
    meme: int = 0
    drawn: int | None = None


def random_text(generator, length):
    return [START, *torch.randint(START, (length - 2,), generator=generator).tolist(), END]


def random_records(frames=(1, 3, 2, 1, 3), captions=(2, 0, 3, 1, 1), seed=0, size=SMALL.image_size):
    """As many records as there are numbers of frames, each with its number of captions."""
    generator = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    return [
        Record(
            query=random_text(generator, number(3, 9)),
            frames=torch.randint(256, (F, 3, size, size), generator=generator, dtype=torch.uint8),
            captions=[random_text(generator, number(3, 9)) for _ in range(K)],
            emotions=[number(0, 2 + len(WORDS)) for _ in range(number(1, 4))],
            topic=i,
            meme=i,
        )
        for i, (F, K) in enumerate(zip(frames, captions, strict=True))
    ]


def padded_ids(rows, length, garbage):
    """Token ids (N, length) and mask; `garbage`: a generator of what stands at padding, None for zeros."""
    shape = (len(rows), length)
    ids = torch.zeros(shape, dtype=torch.long)
    if garbage is not None:
        ids = torch.randint(END + 1, shape, generator=garbage)
    mask = torch.zeros(shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids, mask


def batch_of(records, more=0, garbage=None):
    """Records -> a batch (the keys of dataloaders/meme_dataset.py). `more`: extra padding on every padded axis."""
    words = more + max(len(record.query) for record in records)
    caption_words = more + max([len(text) for record in records for text in record.captions], default=1)
    captions = more + max(1, *(len(record.captions) for record in records))
    frames = more + max(len(record.frames) for record in records)
    persons = more + max(len(record.emotions) for record in records)
    query_ids, query_mask = padded_ids([record.query for record in records], words, garbage)
    slots = [record.captions[k] if k < len(record.captions) else [] for record in records for k in range(captions)]
    caption_ids, caption_mask = padded_ids(slots, caption_words, garbage)
    shape = (len(records), captions, caption_words)
    batch = {
        "query_ids": query_ids,
        "query_mask": query_mask,
        "topic": torch.tensor([record.topic for record in records]),
        "meme": torch.tensor([record.meme for record in records]),
        "pixels": torch.cat([record.frames for record in records]),
        "frame_mask": torch.tensor([[f < len(record.frames) for f in range(frames)] for record in records]),
        "emotions": torch.tensor([(record.emotions + [-1] * persons)[:persons] for record in records]),
        "caption_ids": caption_ids.view(shape),
        "caption_mask": caption_mask.view(shape),
        "row_key": torch.arange(len(records)),
    }
    if records[0].drawn is not None:
        batch["drawn_caption"] = torch.tensor([record.drawn for record in records])
    return batch


def encoded(model, batch):
    """(query features, meme features) of a batch."""
    queries = model.encode_queries(batch["query_ids"], batch["query_mask"])
    return queries, model.encode_memes(batch)


def scores_of(model, batch):
    return model.similarities(*encoded(model, batch))


class _Published(nn.Module):
    """A module tree with given names, so that tracing writes an archive like OpenAI's."""

    def forward(self, x):
        return x + sum(parameter.float().sum() for parameter in self.parameters())


def write_archive(path, state, sizes, dtype=torch.float16):
    """A TorchScript archive in the published format: fp16 weights and the three entries beside them."""
    root = _Published()
    for name, tensor in state.items():
        *folders, leaf = name.split(".")
        place = root
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, nn.Module())
            place = getattr(place, folder)
        place.register_parameter(leaf, nn.Parameter(tensor.detach().to(dtype)))
    entries = {
        "input_resolution": sizes.image_size,
        "context_length": sizes.context_length,
        "vocab_size": sizes.vocab_size,
    }
    for name, value in entries.items():
        root.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # tracing is deprecated, the published files are what they are
        torch.jit.trace(root, torch.zeros(()), check_trace=False).save(str(path))


def openai_clip():
    """OpenAI's clip/model.py, loaded alone: the package around it imports torchvision."""
    try:
        file = importlib.metadata.distribution("clip-anytorch").locate_file("clip/model.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("clip-anytorch (OpenAI's code, a development requirement) is not installed")
    spec = importlib.util.spec_from_file_location("openai_clip_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def import_transformers():
    """The transformers module, or a skip. torchvision comes first: its CUDA wheel fails beside a CPU torch."""
    from modules.torchvision_ops import import_torchvision

    import_torchvision()
    return pytest.importorskip("transformers")
