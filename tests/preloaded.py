"""What the tests' own processes need is done once here, in the process that they are forked from (processes.py)."""

import torch._dynamo  # noqa: F401  the first step of an optimiser imports it

import main_task_retrieval  # noqa: F401
from engine import test_record, train_loop  # noqa: F401
from modules import tokenizer
from tests.tiny_community import read_vocabulary

tokenizer.read_vocabulary = read_vocabulary
read_vocabulary(tokenizer.VOCABULARY_FILE)
