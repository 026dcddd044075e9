"""The interactions and the emotion encoders: a name each, and the function that it stands for.

Nothing heavy is imported here: the command line reads the names.
"""

from typing import NamedTuple


class Interaction(NamedTuple):
    """A value of --interaction.

    function: its name in interaction.py; None: the sentence and the mean token are compared, whatever the others are.
    weighted: whether small networks weigh words and tokens (--wti_arch), else all weigh the same.
    """

    function: str | None
    weighted: bool = False


INTERACTIONS = {
    "dp": Interaction(None),
    "ti": Interaction("token_interaction"),
    "wti": Interaction("token_interaction", weighted=True),
}
# The values of --emotion_encoder: functions of emotion_encoder.py, which get the words, the towers and --bert_name;
# None: a table that is trained
EMOTION_ENCODERS = {
    "bert": "bert_vectors",
    "clip": "clip_vectors",
    "learned": None,
}
