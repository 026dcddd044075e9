"""The text on a picture, read by the OCR models that rapidocr's wheel carries: English and Chinese, no network."""

from pathlib import Path

from util import InputError

DETECTION, RECOGNITION = "PP-OCRv6_det_small", "PP-OCRv6_rec_small"
LONGEST_SIDE = 960  # pixels; a larger picture is shrunk before lines are looked for, a smaller one is not enlarged
# The recogniser misses spaces between narrow letters ("WHATIF I TOLD YOU"). How much likelier they are taken to be;
# between Chinese characters they stay unlikely.
SPACE_FACTOR = 100


class TextReader:
    """rapidocr, set up to read memes. May be used by several threads at once: each keeps one core busy."""

    def __init__(self):
        """Raises InputError if a package or its models are missing."""
        try:
            import onnxruntime  # noqa: F401  rapidocr would miss it only when it reads
            import rapidocr
        except ImportError as error:
            raise InputError(f"local needs {error.name}: pip install -r requirements-annotate.txt") from None
        models = Path(rapidocr.__file__).parent / "models"
        paths = {name: models / f"{name}.onnx" for name in (DETECTION, RECOGNITION)}
        for path in paths.values():
            if not path.is_file():
                raise InputError(f"this version of rapidocr has no file {path}: pip install rapidocr==3.10.0")
        settings = {
            "Global.log_level": "critical",
            "Global.use_cls": False,  # turns lines that are upside down
            "Det.model_path": str(paths[DETECTION]),  # a path is never downloaded
            "Rec.model_path": str(paths[RECOGNITION]),
            "Det.limit_type": "max",
            "Det.limit_side_len": LONGEST_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self.engine = rapidocr.RapidOCR(params=settings)
        recogniser = self.engine._load_rec_model()  # it would be loaded at the first line
        recogniser.postprocess_op = with_more_spaces(recogniser.postprocess_op)

    def lines(self, picture):
        """The lines of text on a picture, (H, W, 3) uint8 with blue first, in reading order."""
        found = self.engine(picture)
        if found.boxes is None:
            return []
        lines = [" ".join(text.split()) for text in found.txts]
        rectangles = [(*corners.min(axis=0), *corners.max(axis=0)) for corners in found.boxes]
        return [lines[i] for i in reading_order(rectangles)]


def with_more_spaces(decode):
    """rapidocr's CTC decoder, to which spaces are made SPACE_FACTOR times as likely as the recogniser says."""
    space = decode.character.index(" ")

    def decode_with_spaces(probabilities, *args, **named):
        probabilities[..., space] = (SPACE_FACTOR * probabilities[..., space]).clip(max=1)  # a line's score is a mean
        return decode(probabilities, *args, **named)

    return decode_with_spaces


def reading_order(rectangles):
    """Indices of the rectangles (left, top, right, bottom) in the order in which they are read.

    Rectangles less than a line's height apart are one block, such as a caption of several lines or one column.
    Blocks are read row by row, each row from left to right; and so are the rectangles of a block.
    """
    order = []
    members = blocks_of(rectangles)
    blocks = [[rectangles[i] for i in block] for block in members]
    for row in rows_of([around(block) for block in blocks]):
        for k in row:
            order += [members[k][i] for line in rows_of(blocks[k]) for i in line]
    return order


def blocks_of(rectangles):
    """Lists of the indices of rectangles that are near each other, directly or over others."""
    blocks = []
    for i, one in enumerate(rectangles):
        near = [block for block in blocks if any(are_near(one, rectangles[j]) for j in block)]
        blocks = [block for block in blocks if block not in near] + [sorted(sum(near, [i]))]
    return blocks


def are_near(one, other):
    height = min(one[3] - one[1], other[3] - other[1])
    across = max(one[0], other[0]) - min(one[2], other[2])
    down = max(one[1], other[1]) - min(one[3], other[3])
    return max(across, down) < height


def rows_of(rectangles):
    """Lists of the indices of rectangles side by side: rows from top to bottom, each from left to right."""
    rows = []
    for i in sorted(range(len(rectangles)), key=lambda i: rectangles[i][1] + rectangles[i][3]):
        if rows and are_level(rectangles[i], around([rectangles[j] for j in rows[-1]])):
            rows[-1].append(i)
        else:
            rows.append([i])
    return [sorted(row, key=lambda i: rectangles[i][0]) for row in rows]


def are_level(one, other):
    """Whether the lower of the two rectangles has at least half of its height beside the other."""
    common = min(one[3], other[3]) - max(one[1], other[1])
    return common >= min(one[3] - one[1], other[3] - other[1]) / 2


def around(rectangles):
    left, top, right, bottom = zip(*rectangles, strict=True)
    return min(left), min(top), max(right), max(bottom)
