"""What the tests' own processes need is done once here, in the process that they are forked from (processes.py)."""

import torch._dynamo  # noqa: F401  the first step of an optimiser imports it

import main_task_retrieval  # noqa: F401
from engine import final_fit, test_record, train_loop  # noqa: F401
from modules.backbones.openai import clip_tokenizer
from tests import tiny_community  # noqa: F401

clip_tokenizer()
