"""What every source of towers keeps to (modules/backbones/protocol.py), checked on towers that it made."""

import io

import torch

from modules.backbones.sources import empty_backbone, restore_backbone

TEXTS = ("a", "memes for the angry boss", "red, green and blue")


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def check_towers(backbone):
    """Both towers of a Backbone, in single precision: shapes, padding, emotions, what is frozen, the way back."""
    backbone.train()  # without effect
    features = check_texts(backbone), check_images(backbone)
    embeddings, towers = backbone.layers()
    own = {id(parameter) for parameter in backbone.parameters()}
    inside = [parameter for tower in towers for block in tower for parameter in block.parameters()]
    assert len(towers) == 2 and {id(parameter) for parameter in [*embeddings, *inside]} <= own
    check_checkpoint(backbone, features)


def check_texts(backbone):
    ids, cut = backbone.tokenizer.tokenize("word " * 600, 5)
    assert len(ids) == 5 and cut > 0
    rows = [backbone.tokenizer.tokenize(text, backbone.context_length)[0] for text in TEXTS]
    assert all("".join(text for text, _ in backbone.tokenizer.pieces(row)) for row in rows)
    assert all(0 <= backbone.tokenizer.unreadable(row) <= len(row) for row in rows)
    length = max(map(len, rows)) + 2
    mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    words, sentence = backbone.encode_text(ids, mask)
    assert words.shape == (len(TEXTS), length, backbone.embed_dim) and sentence.shape == (
        len(TEXTS),
        backbone.embed_dim,
    )
    assert words.dtype == sentence.dtype == torch.float32
    other_words, other = backbone.encode_text(ids.masked_fill(~mask, 1), mask)
    close(other, sentence)
    close(other_words[mask], words[mask])
    for number, row in enumerate(rows):
        close(
            backbone.encode_text(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))[1][0], sentence[number]
        )
    return sentence


def drawn(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def check_images(backbone):
    size = backbone.image_input.size
    pixels = backbone.normalise((64 * drawn((3, 3, size, size)) + 128).clamp(0, 255).to(torch.uint8))
    pooled, patches = backbone.encode_image(pixels)
    assert pooled.shape == (3, backbone.embed_dim) and pooled.dtype == torch.float32
    assert patches is None or patches.shape == (3, backbone.patches, backbone.embed_dim)
    assert (patches is not None) == bool(backbone.patches)
    close(backbone.encode_image(pixels[1:2])[0], pooled[1:2])
    if (first := backbone.first_convolution()) is not None:
        bias = drawn(first(pixels).shape)
        close(backbone.encode_image(pixels, 0 * bias)[0], pooled)
        assert (backbone.encode_image(pixels, bias)[0] - pooled).abs().max() > 1e-4
    if backbone.token_width is not None:
        with_token, places = backbone.encode_image(pixels, None, drawn((3, backbone.token_width)))
        assert (with_token - pooled).abs().max() > 1e-4
        assert (places is None) == (patches is None) and (patches is None or places.shape == patches.shape)
    return pooled


def check_checkpoint(backbone, features):
    """The recipe, as a checkpoint keeps it, makes the same towers again."""
    file = io.BytesIO()
    torch.save(backbone.recipe(), file)
    file.seek(0)
    recipe = torch.load(file, weights_only=True)
    state = backbone.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    assert {name: tensor.shape for name, tensor in empty_backbone(recipe).state_dict().items()} == shapes
    again = restore_backbone(recipe)
    again.load_state_dict(state)
    assert again.image_input == backbone.image_input and again.context_length == backbone.context_length
    assert torch.equal(check_texts(again), features[0]) and torch.equal(check_images(again), features[1])
    assert not hasattr(restore_backbone(recipe, vision=False), "visual")
