"""Train and evaluate IEF. `python main_task_retrieval.py --help` lists the flags, docs/MODEL.md what they mean."""

import sys
import time

from engine.arguments import check_settings, parse_arguments
from util import STOPPED, InputError, NotFinite, NotWritten, first_line, make_logger, program, set_seed


@program
def main(argv=None):
    args, given = parse_arguments(argv)
    from dataloaders.loader_processes import losses_named
    from engine import distributed, stop_signals
    from engine.output_folder import OutputFolder

    folder, code = OutputFolder(args), 2
    try:
        with stop_signals.heeded():
            device = distributed.setup(chosen_device(args))
            with folder, losses_named():
                try:
                    run(args, given, device, folder)
                except RuntimeError as error:
                    if distributed.lost_another(error) and stop_signals.asked():  # the other one was told, too
                        stop_signals.stop()
                    raise
        code = 0
    except (InputError, OSError) as error:
        if distributed.is_first_here():
            print(f"error: {error}{folder.way_on(error)}", file=sys.stderr)
        elif trouble_of_one_process(error):
            print(f"error in process {distributed.rank()}: {error}{folder.way_on(error)}", file=sys.stderr)
    except RuntimeError as error:
        if not distributed.lost_another(error):
            raise
        reason = f"another process has ended or cannot be reached ({first_line(error)})"
        way_on = folder.way_on(error) or f"; {distributed.GO_ON}"  # the first process alone knows more
        print(f"error in process {distributed.rank()}: {reason}{way_on}", file=sys.stderr)
    except KeyboardInterrupt as stop:
        print(f"stopped{folder.way_on(stop)}", file=sys.stderr)
        code = 130
    except stop_signals.Stopped as stop:
        if distributed.is_first_here():
            print(f"stopped {stop}{folder.way_on(stop)}", file=sys.stderr)
        code = STOPPED
    finally:
        distributed.tear_down(code)
    return code


def trouble_of_one_process(error):
    """Whether the other processes may know nothing of it: a vanished image, a killed loader, a full disk, a NaN."""
    from dataloaders.image_transform import ImageError
    from dataloaders.loader_processes import LostWorker

    return isinstance(error, ImageError | LostWorker | NotFinite | NotWritten)


def chosen_device(args):
    """cpu, cuda or mps: --device, else cuda where there is one.

    InputError where it is asked for and absent, or has no TF32, which --precision asks for.
    """
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here")
    if args.device == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: torch sees no GPU of Apple's here")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.precision == "tf32" and (args.device != "cuda" or torch.cuda.get_device_capability() < (8, 0)):
        found = f"{torch.cuda.get_device_name()} has none" if args.device == "cuda" else f"this is {args.device}"
        raise InputError(f"--precision tf32 needs a GPU of Nvidia's from Ampere (A100) on: {found}; take fp32")
    return args.device


def run(args, given, device, folder):
    """Read and check the data, build the model, train it or load it, score the test split, write metrics.json."""
    from engine import checkpoint, distributed, published_model, run_record
    from engine.build_model import complete_arguments
    from engine.host_memory import keep_freed_memory

    started = time.monotonic()
    keep_freed_memory()
    distributed.call_in_main(folder.lock)
    saved = checkpoint.load(args.resume_model) if args.resume_model else None
    if args.init_model:
        distributed.call_in_main(pin_model, args)
        args.init_model, path = published_model.find(distributed.from_main(args.init_model))
        saved = published_model.load(path)
        checkpoint.adopt_arguments(args, given, saved, args.init_model)
        check_settings(args, given)
    if args.do_train:
        complete_arguments(args)
    if args.resume_model:
        checkpoint.check_resumable(args.resume_model, saved, args, given)
    if args.tensorboard:
        from engine.tensorboard_curves import check_package

        check_package()
    distributed.call_in_main(folder.take)
    logger = make_logger(quiet=not distributed.is_main())
    folder.keep_log(logger)
    logger.info(run_record.command_line())
    set_seed(args.seed)

    csv_paths, splits, lines = read_data(args)
    data, counts, model = prepare(args, given, device, saved, splits, lines, logger)
    distributed.call_in_main(folder.begin, logger)
    distributed.call_in_main(run_record.write_run, args, csv_paths, splits)
    trainer = None
    if args.do_train:
        trainer = train(args, data, model, device, saved, logger)
    evaluate(args, data, counts, model, device, logger, trainer, saved, started)


def pin_model(args):
    """Give --init_model hub:NAME the commit that it has now: the same one for all processes, and in args.json."""
    from engine import published_model

    args.init_model = published_model.find(args.init_model)[0]


def read_data(args):
    """The CSVs that the task needs, read and checked: ({name: path}, {name: Split}, lines to tell the user)."""
    from dataloaders import data_dataloaders as loaders
    from dataloaders.communities import SPLITS
    from engine.arguments import reads_captions

    names = SPLITS if args.do_train else ("test",)
    splits, lines = loaders.read_community(args, names, reads_captions(args))
    return loaders.csv_paths(args, names), splits, lines


def prepare(args, given, device, saved, splits, lines, logger):
    """Data and model: ({split name: SplitData}, counts for the record, IEF on the device).

    splits, lines: of `read_data`; the lines are written to the log, with those of what follows.
    """
    from dataloaders import data_dataloaders as loaders
    from dataloaders.batch_plan import BatchPlan
    from dataloaders.meme_records import emotion_vocabulary
    from engine import distributed
    from engine.arguments import reads_captions
    from engine.build_model import build_model, check_nothing_is_untrained, emotion_encoder_name

    captions_needed = reads_captions(args)
    words = emotion_vocabulary(splits["train"]) if args.do_train else []
    model, weights, notes = build_model(args, words, saved)
    if args.do_eval and saved is None:
        check_nothing_is_untrained(args, model)
    backbone, images = model.backbone, None
    lines += fit_lengths(args, given, backbone.context_length)
    if args.do_train:
        BatchPlan.of(args, splits["train"], distributed.world_size())  # its errors, before all images are decoded
    if args.branches != "qc":
        seen = backbone.image_input
        images, splits, more = loaders.check_images(
            args, splits, seen.size, distributed.is_main(), seen.interpolation, seen.mean_colour, logger.info
        )
        lines += more
    emotions = model.emotion_vectors.index_of if model.emotion_vectors is not None else {}
    data, counts = {}, {}
    for name, split in splits.items():
        data[name], counts[name] = loaders.tokenise(args, split, backbone.tokenizer, emotions, images, captions_needed)
    lines += loaders.worker_lines(args, data, distributed.world_size())
    for line in [*lines, *notes, *loaders.count_lines(counts, model.emotion_vectors is not None)]:
        logger.info(line)
    logger.info(describe_model(args, model, weights))
    if model.emotion_vectors is not None:
        logger.info(f"emotions: {len(model.emotion_vectors.words)} words, encoder {emotion_encoder_name(args)}")
    return data, counts, model.to(device)


def fit_lengths(args, given, context_length):
    """Set --max_words and --max_caption_words to what the text tower can read: lines to tell the user.

    InputError where a length that was given is more than that.
    """
    from engine.arguments import reads_captions

    lines = []
    for name in ("max_words", "max_caption_words"):
        limit = getattr(args, name)
        if limit <= context_length or (name == "max_caption_words" and not reads_captions(args)):
            continue
        if name in given:
            raise InputError(f"--{name} {limit} is more than the text tower's context of {context_length} tokens")
        setattr(args, name, context_length)
        lines.append(f"--{name} is {context_length}, the text tower's context")
    return lines


def describe_model(args, model, weights):
    """One line: where the towers' weights come from, and how large the model is."""
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    name = "" if weights.startswith(args.pretrained_clip_name) else f" {args.pretrained_clip_name}"
    return f"towers{name}: {weights}; the model has {parameters:.1f} million parameters"


def train(args, data, model, device, saved, logger):
    """All stages of --co_train; afterwards the model holds the best checkpoint's weights. Returns the Trainer."""
    from engine import distributed
    from engine.arguments import needs_final_fit
    from engine.compiled import compile_towers
    from engine.final_fit import fit_at_the_end
    from engine.train_loop import Trainer, stages

    if args.compile:
        logger.info(compile_towers(model, device))
    trainer = Trainer(args, model, data["train"], data["val"], device, logger)
    if args.resume_model:
        trainer.resume(saved)
    pieces = args.gradient_accumulation_steps
    if pieces > 1:
        logger.info(f"the loss sees {args.batch_size // pieces} records at a time: {pieces} pieces make a batch")
    logger.info(
        f"{distributed.world_size()} process(es) on {device.type}; {trainer.plan.steps_per_epoch} steps an epoch; "
        f"lr {args.lr:g}, the towers' own {args.lr * args.coef_lr:g} (coef_lr {args.coef_lr:g})"
    )
    for index, stage in enumerate(stages(args)):
        if index < trainer.progress.stage:
            continue
        if trainer.run_stage(index, stage):
            trainer.load_best()
        trainer.next_stage()
    if needs_final_fit(args):
        fit_at_the_end(trainer)
    return trainer


def evaluate(args, data, counts, model, device, logger, trainer, saved, started):
    """Score the test split once, print the table, write metrics.json."""
    from engine import distributed, test_record

    better_part = trainer.better_part if trainer is not None else (saved or {}).get("better_part")
    results = test_record.score_test(args, model, data["test"], device, better_part)
    if distributed.is_main():
        seconds = time.monotonic() - started + (trainer.seconds_before if trainer is not None else 0)
        test_record.write(args, model, counts, results, device, logger, trainer, seconds)
    distributed.barrier()


if __name__ == "__main__":
    sys.exit(main())
