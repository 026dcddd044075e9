"""Times an epoch of training on frozen towers whose features are kept, and one that asks the towers for each batch.

`python -m benchmarks.frozen_towers --data_path data/demo`, with the towers `small` (requirements-small.txt), without
emotions. Both epochs take the same steps on the same batches; images are decoded before.
"""

import logging
import tempfile
import time

import torch

from benchmarks.machine import Figure, describe, options_of, peak_memory, show, synchroniser
from util import Parser, program, set_seed


def prepared(options, folder):
    """(arguments, train split, model) as a run has them before its first step."""
    from engine.arguments import parse_arguments
    from engine.build_model import complete_arguments
    from main_task_retrieval import prepare, read_data

    argv = ["--do_train", "--data_path", options.data_path, "--output_dir", folder, "--datatype", options.datatype]
    argv += ["--pretrained_clip_name", options.towers, "--emotion_fusion", "none"]
    args, given = parse_arguments([*argv, "--batch_size", str(options.batch_size)])
    complete_arguments(args)
    set_seed(args.seed)
    logger = logging.Logger("benchmark", logging.ERROR)
    _, splits, lines = read_data(args)
    data, _, model = prepare(args, given, torch.device(options.device), None, splits, lines, logger)
    return args, data["train"], model


def seconds_of_epoch(args, features, model, device):
    """One epoch's steps, from its loader's first batch on."""
    from dataloaders.batch_plan import BatchPlan
    from dataloaders.data_dataloaders import train_loader
    from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate
    from engine.training_step import TrainingStep
    from evaluation.eval_loop import to_device

    split = features.data.split
    plan = BatchPlan.of(args, split, 1)
    keys = torch.from_numpy(split.record_topic * len(split.memes) + split.record_meme).unique().to(device)
    step = TrainingStep(model.train(), args.loss_weights, keys, len(split.memes))
    optimizer = make_optimizer(parameter_groups(model, args.lr, args.coef_lr, args.fusion_lr, args.weight_decay))
    loader = train_loader(args, features.data, plan, 0, 0, plan.steps_per_epoch, device.type == "cuda")
    synchronise = synchroniser(device)
    synchronise()
    started = time.perf_counter()
    for number, batch in enumerate(loader):
        set_learning_rate(optimizer, number, plan.steps_per_epoch, args.warmup_proportion)
        step(to_device(features.join(batch), device))[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronise()
    return time.perf_counter() - started


def measure(options):
    """The benchmark's Figures."""
    from engine.host_memory import keep_freed_memory
    from evaluation.frozen_features import FrozenFeatures

    keep_freed_memory()  # as in a run
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        args, data, model = prepared(options, folder)
        started = time.perf_counter()
        kept = FrozenFeatures.of(model, data, args, device)
        once = time.perf_counter() - started
        size = sum(int(line.split()[1].replace(",", "")) for line in kept.lines())
        asked = FrozenFeatures(data, kept.dtype)
        seconds_of_epoch(args, kept, model, device)  # not counted: the first steps of a process take longer
        seconds = [seconds_of_epoch(args, features, model, device) for features in (kept, asked)]
    name = f"epoch of {len(data.split):,} records, {options.towers}, frozen, batch {options.batch_size}"
    yield Figure(
        name,
        f"{seconds[0]:.2f} s on kept features",
        f"{seconds[1]:.2f} s where each batch asks the towers",
        f"{seconds[1] / seconds[0]:.1f} times as fast",
    )
    yield Figure("encoding once", f"{once:.2f} s for {size:,} texts and memes")
    yield Figure("peak memory", peak_memory(device))


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", required=True, metavar="DIR", help="a community's folder")
    parser.add_argument("--datatype", default="custom")
    parser.add_argument("--towers", default="small", help="a --pretrained_clip_name whose towers are frozen")
    parser.add_argument("--batch_size", type=int, default=64)
    options = options_of(parser, argv)
    show(describe(options.device), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
