"""The tests' own processes start with everything there: else each of some hundred imports torch anew, unnoticed."""

import sys

from modules.backbones.openai import clip_tokenizer
from tests.processes import finish, start_process


def say_what_is_there():
    print(clip_tokenizer.cache_info().currsize, {"engine.train_loop", "torch._dynamo"} <= sys.modules.keys())


def test_what_a_run_needs_is_there_when_a_process_starts(tmp_path):
    log = tmp_path / "log.txt"
    assert finish(start_process(say_what_is_there, log=log), log) == (0, "1 True\n")
