"""The command line of main_task_retrieval.py. Defaults are the project's; where one departs from the published
recipe its help says so. Nothing heavy is imported here, so that `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from dataloaders.communities import COMMUNITIES, SPLITS
from engine.foreign_flags import foreign_lines
from engine.methods import METHODS
from modules.backbones.names import SOURCES, source_of
from modules.backbones.published import PUBLISHED
from modules.choices import EMOTION_ENCODERS, INTERACTIONS
from util import InputError, Parser

SLUGS = tuple(COMMUNITIES)
METHOD_NAMES = tuple(name for name, method in METHODS.items() if method.group != "reference")

QI_ONLY = (
    "sim_header",
    "cross_num_hidden_layers",
    "interaction",
    "wti_arch",
    "emotion_fusion",
    "emotion_encoder",
    "bert_name",
    "visual_tokens",
    "linear_patch",
    "resize",
    "max_frames",
    "slice_framepos",
    "skip_bad_images",
    "image_cache",
    "caption_fusion",
    "caption_augmentation",
    "cdcr_lambda",
)
NOT_CHECKED_ON_RESUME = {  # flags that may differ between a run and its resumption
    "method",  # its flags are checked one by one
    "tensorboard",
    "resume_model",
    "init_model",
    "output_dir",
    "overwrite",
    "data_path",
    "train_csv",
    "val_csv",
    "test_csv",
    "features_path",
    "num_thread_reader",
    "memory_batch",
    "compile",
    "n_display",
    "save_steps",
    "image_cache",
    "feature_cache_gb",
    "save_similarity",
    "save_run",
    "do_eval",
    "device",
}
BY_THE_TOWER = {"max_words", "max_caption_words"}  # a run sets these lower where the text tower reads less
TRAINING_ONLY = {
    "train_csv",
    "val_csv",
    "fusion_data",
    "epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "memory_batch",
    "compile",
    "lr",
    "coef_lr",
    "fusion_lr",
    "weight_decay",
    "warmup_proportion",
    "max_grad_norm",
    "n_display",
    "save_steps",
    "freeze_layer_num",
    "tune_towers",
    "co_train",
    "loss_weights",
    "positives",
    "cdcr_lambda",
    "caption_augmentation",
    "select_metric",
    "tensorboard",
}


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def non_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def selecting_metric(text: str) -> str:
    """The name of a metric that is better where it is higher."""
    from metrics import METRICS  # needs NumPy

    possible = [name for name, metric in METRICS.items() if not metric.lower_is_better]
    if text not in possible:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(possible)}, not {text}")
    return text


class _Formatter(argparse.HelpFormatter):
    """Each help text ends with the default, where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return f"{action.help or ''} (default: %(default)s)".strip()


class _Parser(Parser):
    """A flag that another repository has and this one has not gets a line of its own."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if lines := foreign_lines(sys.argv[1:] if args is None else list(args)):
            self.error("\n  ".join(lines))
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="main_task_retrieval.py",
        description="Train and evaluate IEF. Starts as a plain command or under torchrun.",
        formatter_class=_Formatter,
        allow_abbrev=False,  # `with_method` looks for --method before the parser does
    )
    _add_task(parser)
    _add_data(parser)
    _add_clip(parser)
    _add_emotions(parser)
    _add_image_similarity(parser)
    _add_captions(parser)
    _add_fusion_and_loss(parser)
    _add_training(parser)
    _add_evaluation(parser)
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("task")
    group.add_argument("--do_train", action="store_true", help="train, choose the best epoch on val, score test once")
    group.add_argument(
        "--do_eval", action="store_true", help="score the test split with --init_model, or with the towers as they are"
    )
    group.add_argument(
        "--method",
        choices=METHOD_NAMES,
        metavar="NAME",
        help=f"the flags of a method (engine/methods.py), which further flags override: {', '.join(METHOD_NAMES)}",
    )
    group.add_argument("--output_dir", required=True, metavar="DIR", help="where the run writes everything")
    group.add_argument("--overwrite", action="store_true", help="start anew in an --output_dir that holds a run")
    group.add_argument(
        "--init_model",
        metavar="MODEL",
        help="checkpoint, folder of scripts.publish or hub:OWNER/NAME[@REVISION] whose model is the start, or is "
        "evaluated",
    )
    group.add_argument("--resume_model", metavar="FILE", help="checkpoint_last.pt of an interrupted run to go on with")
    group.add_argument("--seed", type=int, default=0, help="of weights, batches, dropout and intervals")
    group.add_argument(
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="the default is cuda where there is one, else cpu; mps (Apple's GPUs) is not tested",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data (docs/DATA.md)")
    group.add_argument("--datatype", choices=SLUGS, default="custom", help="which community it is")
    group.add_argument("--data_path", metavar="DIR", help="folder with train.csv, val.csv, test.csv")
    for split in SPLITS:
        group.add_argument(f"--{split}_csv", metavar="FILE", help=f"instead of <data_path>/{split}.csv")
    group.add_argument("--features_path", metavar="DIR", help="folder of the images, instead of <data_path>/images")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out records whose image is unusable")
    group.add_argument("--max_words", type=positive_int, default=32, help="tokens of a query, start and end included")
    group.add_argument("--max_caption_words", type=positive_int, default=77, help="tokens of a caption (published: 32)")
    group.add_argument("--max_captions", type=positive_int, default=30, help="captions of a meme; more: the first")
    group.add_argument("--max_frames", type=positive_int, default=6, help="frames of an animated meme")
    group.add_argument(
        "--slice_framepos", type=int, choices=(0, 1, 2), default=2, help="frames from head, tail, or uniform"
    )
    group.add_argument(
        "--resize",
        choices=("crop", "pad", "squash"),
        default="crop",
        help="crop is CLIP's; text stands at edges",
    )
    group.add_argument(
        "--num_thread_reader",
        type=int,
        default=2,
        help="loader processes of each process; fewer where /dev/shm is small",
    )
    group.add_argument(
        "--image_cache",
        metavar="DIR",
        help="keep decoded images in this folder, for all epochs, runs and processes (docs/TRAIN.md)",
    )


def _add_clip(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("towers (docs/TOWERS.md)")
    group.add_argument(
        "--pretrained_clip_name",
        default="ViT-B/32",
        help=f"{', '.join(PUBLISHED)} (files in modules/), ViT-tiny/8 (from scratch), a weights file, "
        f"{', '.join(SOURCES.values())}, or small",
    )
    group.add_argument(
        "--clip_activation",
        choices=("quick_gelu", "gelu"),
        help="of a weights file that is a plain state dict, which does not tell; OpenAI's files need none",
    )
    group.add_argument(
        "--clip_heads",
        type=positive_int,
        nargs=2,
        metavar=("IMAGE", "TEXT"),
        help="attention heads of the two towers, where --clip_activation is needed",
    )
    group.add_argument("--embed_dim", type=positive_int, default=512, help="common width of a pair's projections")
    group.add_argument("--tune_towers", action="store_true", help="train a pair's towers too, at lr * coef_lr")
    group.add_argument("--linear_patch", choices=("2d", "3d"), default="2d", help="3d mixes neighbouring frames")
    group.add_argument(
        "--freeze_layer_num",
        type=int,
        default=-1,
        metavar="N",
        help="-1 freezes nothing; N: embeddings and first N blocks of both towers (published: 0)",
    )
    group.add_argument("--visual_tokens", choices=("cls", "patch"), default="cls", help="what QI compares words with")


def _add_emotions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("emotions")
    group.add_argument(
        "--emotion_encoder",
        choices=tuple(EMOTION_ENCODERS),
        help="words to vectors; the default is clip, from scratch learned (published: bert)",
    )
    group.add_argument("--bert_name", default="bert-base-uncased", help="Hugging Face name or folder")
    group.add_argument(
        "--emotion_fusion",
        choices=("channel", "coarse_channel", "token", "token_or_channel", "none"),
        default="channel",
        help="a fourth image channel, the same with one value a patch, one more token, a token where the image tower "
        "takes one and else a channel, or no emotions",
    )


def _add_image_similarity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("QI: query and emotion-embedded image")
    group.add_argument(
        "--sim_header",
        choices=("meanP", "seqLSTM", "seqTransf", "tightTransf"),
        default="seqTransf",
        help="aggregator over frames",
    )
    group.add_argument(
        "--cross_num_hidden_layers", type=positive_int, default=4, help="layers of seqTransf and tightTransf"
    )
    group.add_argument("--interaction", choices=tuple(INTERACTIONS), default="wti", help="tokens to a score")
    group.add_argument("--wti_arch", type=int, choices=(1, 2, 3), default=2, help="linear layers of WTI's weights")


def _add_captions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("captions and QC")
    group.add_argument(
        "--caption_source", choices=("caption", "text", "both"), default="caption", help="which columns are captions"
    )
    group.add_argument(
        "--caption_fusion",
        choices=("co_attention", "none"),
        default="co_attention",
        help="visual tokens attend to the captions",
    )
    group.add_argument(
        "--text_pool_type",
        choices=("transf_avg", "avg", "clip_top1", "weight_l", "max"),
        default="transf_avg",
        help="a meme's captions in QC: one vector of them all, or the one nearest to the query (max)",
    )
    group.add_argument(
        "--caption_augmentation",
        action="store_true",
        help="one caption per meme is a further query of the QI loss",
    )


def _add_fusion_and_loss(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("weights of QI and QC, and losses (docs/MODEL.md)")
    group.add_argument("--branches", choices=("qi_qc", "qi", "qc"), default="qi_qc", help="what is built and trained")
    group.add_argument(
        "--fusion",
        choices=("learned", "query", "fixed"),
        default="learned",
        help="score = A * QI + (1 - A) * QC with a learned A, one per query, or a constant (published: fixed)",
    )
    group.add_argument(
        "--fusion_data",
        choices=("val", "train"),
        default="val",
        help="weights fitted on val after each epoch, with the towers as they are, or those trained on train",
    )
    group.add_argument("--fusion_weight", type=share, default=0.5, metavar="A", help="with --fusion fixed")
    group.add_argument(
        "--co_train",
        choices=("joint", "staged"),
        default="joint",
        help="all losses at once, or QI, then caption pooling, then the weight's fit on val (published: staged)",
    )
    group.add_argument(
        "--loss_weights",
        type=non_negative,
        nargs=3,
        default=[1.0, 1.0, 1.0],
        metavar=("FUSED", "QI", "QC"),
        help="of the three losses; what has 0 is not computed",
    )
    group.add_argument(
        "--positives",
        choices=("topic", "instance"),
        default="topic",
        help="all memes of a query's topic in the batch, or the record's own (published: instance)",
    )
    group.add_argument("--cdcr_lambda", type=non_negative, default=0.0, help="channel decorrelation (DRL), 0 = off")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, default=4, help="with --co_train staged: of each stage")
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=128,
        help="global: over all processes and accumulation steps",
    )
    group.add_argument("--gradient_accumulation_steps", type=positive_int, default=1, help="the loss sees one piece")
    group.add_argument(
        "--memory_batch",
        type=positive_int,
        metavar="N",
        help="towers run on N texts or memes at a time, twice: the whole batch's step in less memory, a third slower. "
        "For a batch that does not fit; accumulation gives that up for another, smaller loss",
    )
    group.add_argument("--lr", type=non_negative, default=1e-4, help="of the new parts")
    group.add_argument(
        "--coef_lr",
        type=non_negative,
        help="towers train at lr * coef_lr; the default is 1e-3, from scratch 1 (the published script left it out: 1)",
    )
    group.add_argument("--fusion_lr", type=non_negative, default=1e-2, help="of the weights of QI, QC and weight_l")
    group.add_argument(
        "--weight_decay", type=non_negative, default=0.2, help="AdamW's; not of biases, norms, logit scale, weights"
    )
    group.add_argument("--warmup_proportion", type=share, default=0.1, help="share of the steps, then cosine")
    group.add_argument("--max_grad_norm", type=non_negative, default=1.0, help="of all parameters together")
    group.add_argument(
        "--precision", choices=("fp32", "tf32", "bf16", "fp16"), default="fp32", help="of the two towers"
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="towers through torch.compile, which takes a minute or more: for long runs on a GPU",
    )
    group.add_argument("--n_display", type=positive_int, default=50, help="a line in the log every so many steps")
    group.add_argument(
        "--save_steps",
        type=int,
        default=0,
        help="checkpoint_last.pt every so many steps; 0: at each epoch's end",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="curves for TensorBoard too (requirements-tensorboard.txt)"
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation (docs/METRICS.md)")
    group.add_argument(
        "--batch_size_val",
        type=positive_int,
        default=128,
        help="queries or memes encoded at once, all processes together",
    )
    group.add_argument(
        "--select_metric",
        type=selecting_metric,
        default="mAP",
        metavar="METRIC",
        help="of query to meme on val, decides the best epoch: one of docs/METRICS.md of which more is better",
    )
    group.add_argument("--rerank_top", type=positive_int, default=100, help="memes per query that tightTransf scores")
    group.add_argument(
        "--feature_cache_gb",
        type=non_negative,
        default=4.0,
        help="memes' features above this go to disk, in half; so do those of frozen towers, in fp32",
    )
    group.add_argument("--save_similarity", action="store_true", help="also write qi.npy, qc.npy, fused.npy")
    group.add_argument(
        "--save_run", action="store_true", help="also write test.trec, a TREC run of each query's first 1,000 memes"
    )


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, set[str]]:
    """The command line, checked: (namespace, names of the flags that were given).

    A combination that makes no sense ends the program with a line that says why.
    """
    parser = build_parser()
    argv = with_method(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    given = given_flags(argv)
    try:
        check_task(args, given)
        if not args.init_model:
            check_settings(args, given)
    except InputError as error:
        parser.error(str(error))
    return args, given


def with_method(argv: Sequence[str]) -> list[str]:
    """The command line with the flags of its --method before its own, which override them."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    name = first.parse_known_args(argv)[0].method
    return [*METHODS[name].flags, *argv] if name in METHOD_NAMES else list(argv)


def given_values(argv: Sequence[str]) -> dict[str, Any]:
    """{flag: value} of the flags that stand on the command line; none has to."""
    parser = build_parser()
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    return vars(parser.parse_args(argv))


def given_flags(argv: Sequence[str]) -> set[str]:
    """The names of the flags that stand on the command line."""
    return set(given_values(argv))


def default_values() -> dict[str, Any]:
    """{flag: value} of a command line without any."""
    return vars(build_parser().parse_args(["--output_dir", "."]))


def refuse(condition: object, message: str) -> None:
    if condition:
        raise InputError(message)


def reads_captions(args: argparse.Namespace) -> bool:
    """Whether a setting reads captions at all."""
    return args.branches != "qi" or args.caption_fusion != "none" or args.caption_augmentation


def fits_each_epoch(args: argparse.Namespace) -> bool:
    """Whether the weights are fitted on val after each epoch."""
    joint = args.branches == "qi_qc" and args.co_train == "joint"
    return joint and args.fusion != "fixed" and args.fusion_data == "val"


def needs_final_fit(args: argparse.Namespace) -> bool:
    """Whether the weights are fitted on val with the best epoch's towers: staged training's, a network per query."""
    if args.branches != "qi_qc" or args.fusion == "fixed":
        return False
    return args.co_train == "staged" or (args.fusion == "query" and args.fusion_data == "val")


def check_task(args: argparse.Namespace, given: set[str]) -> None:
    """Raise InputError where the task or a number makes no sense; `given`: names of the flags that were given."""
    refuse(args.do_train == args.do_eval, "give one of --do_train and --do_eval")
    if args.method is not None and not METHODS[args.method].trained:
        refuse(args.do_train, f"--method {args.method} is not trained: it goes with --do_eval")
    elif args.method is not None and args.do_eval:
        refuse(not args.init_model, f"--method {args.method} is trained: --do_eval needs its checkpoint (--init_model)")
    refuse(
        args.method and args.do_eval and args.init_model,
        "--method has no effect with --do_eval --init_model: the checkpoint brings its flags",
    )
    refuse(args.do_eval and args.resume_model, "--resume_model goes with --do_train")
    for flag in sorted(given & TRAINING_ONLY):
        refuse(args.do_eval, f"--{flag} has no effect with --do_eval")
    refuse(args.init_model and args.resume_model, "--init_model and --resume_model exclude each other")
    refuse(
        args.resume_model and args.overwrite,
        "--overwrite would delete the run that --resume_model goes on with",
    )
    refuse(args.device == "mps" and args.precision != "fp32", "--device mps goes with --precision fp32")
    refuse(not 0 <= args.seed < 2**32, f"--seed {args.seed}: 0 to {2**32 - 1}")
    refuse(args.max_grad_norm == 0, "--max_grad_norm 0 leaves nothing of a gradient; a large number clips nothing")
    refuse(args.save_steps < 0, f"--save_steps {args.save_steps} is negative")
    refuse(args.num_thread_reader < 0, f"--num_thread_reader {args.num_thread_reader} is negative")
    refuse(args.freeze_layer_num < -1, f"--freeze_layer_num {args.freeze_layer_num}: -1, 0 or more")
    refuse(args.max_words < 3, "--max_words below 3 leaves no word between start and end token")
    refuse(args.max_caption_words < 3, "--max_caption_words below 3 leaves no word between start and end token")


def without_effect(args: argparse.Namespace, given: set[str]) -> Iterator[tuple[str, str]]:
    """The flags, of those `given`, that change nothing in these settings: yields (flag, why)."""

    def only_with(flag: str, condition: bool, needed: str) -> Iterator[tuple[str, str]]:
        if flag in given and not condition:
            yield flag, f"--{flag} has no effect without {needed}"

    two = args.branches == "qi_qc"
    image, caption = args.branches != "qc", args.branches != "qi"
    tight = args.sim_header == "tightTransf"
    staged = args.co_train == "staged"
    if args.do_eval:
        for flag in sorted(given & TRAINING_ONLY):
            yield flag, f"--{flag} has no effect with --do_eval"
    for flag in QI_ONLY:
        yield from only_with(flag, image, "the branch qi")
    source = source_of(args.pretrained_clip_name)
    for flag in ("embed_dim", "tune_towers"):
        yield from only_with(flag, source == "pair", "a pair of towers (--pretrained_clip_name pair:… or small)")
    for flag in ("clip_activation", "clip_heads"):
        yield from only_with(flag, source == "openai", "a weights file in OpenAI's layout")
    yield from only_with("text_pool_type", caption, "the branch qc")
    weighs_captions = caption and args.text_pool_type == "weight_l"  # its logits move at --fusion_lr, too
    for flag in ("fusion", "fusion_data", "loss_weights"):
        yield from only_with(flag, two, "both branches (--branches qi_qc)")
    yield from only_with(
        "fusion_lr", two or weighs_captions, "both branches (--branches qi_qc) or --text_pool_type weight_l"
    )
    for flag in ("caption_source", "max_caption_words", "max_captions"):
        yield from only_with(flag, reads_captions(args), "anything that reads captions")
    yield from only_with("fusion_data", args.fusion != "fixed", "--fusion learned or query")
    yield from only_with(
        "fusion_lr",
        args.fusion != "fixed" or weighs_captions,
        "--fusion learned or query, or --text_pool_type weight_l",
    )
    yield from only_with("fusion_weight", args.fusion == "fixed", "--fusion fixed")
    yield from only_with("bert_name", args.emotion_encoder == "bert", "--emotion_encoder bert")
    yield from only_with("emotion_encoder", args.emotion_fusion != "none", "an --emotion_fusion")
    weighted = [name for name, interaction in INTERACTIONS.items() if interaction.weighted]
    yield from only_with(
        "wti_arch", args.interaction in weighted and not tight, f"--interaction {' or '.join(weighted)}"
    )
    yield from only_with("rerank_top", tight, "--sim_header tightTransf")
    transformer = args.sim_header in ("seqTransf", "tightTransf")
    yield from only_with("cross_num_hidden_layers", transformer, "a transformer aggregator")
    if tight and "interaction" in given:
        yield "interaction", "--sim_header tightTransf replaces --interaction"
    if staged and "loss_weights" in given:
        yield "loss_weights", "--loss_weights belong to --co_train joint: staged trains one loss at a time"
    if staged and "fusion_lr" in given and not weighs_captions:
        yield "fusion_lr", "--fusion_lr belongs to --co_train joint: staged fits the weight on val"
    if staged and "fusion_data" in given:
        yield "fusion_data", "--fusion_data belongs to --co_train joint: staged fits the weight on val"


def check_settings(args: argparse.Namespace, given: set[str]) -> None:
    """Raise InputError where flags of the model or of training contradict each other, or one has no effect.

    A model that comes from a checkpoint brings its own flags: call this when they are taken over.
    """
    for _, why in without_effect(args, given):
        raise InputError(why)
    two = args.branches == "qi_qc"
    refuse(
        args.linear_patch == "3d" and source_of(args.pretrained_clip_name) != "openai",
        f"--linear_patch 3d is of OpenAI's towers; {args.pretrained_clip_name} has none such",
    )
    refuse(
        args.sim_header == "tightTransf" and args.visual_tokens == "patch",
        "--sim_header tightTransf needs --visual_tokens cls",
    )
    if args.co_train == "staged":
        refuse(not two, "--co_train staged trains both branches: it needs --branches qi_qc")
        refuse(
            args.fusion == "query",
            "--fusion query is trained through the fused loss: it needs --co_train joint",
        )
    elif two and args.do_train:
        refuse(not any(args.loss_weights), "--loss_weights: at least one must be above 0")
        refuse(
            args.caption_augmentation and not args.loss_weights[1], "--caption_augmentation: the QI loss's weight is 0"
        )
        refuse(args.cdcr_lambda and not any(args.loss_weights[:2]), "--cdcr_lambda: no loss reads the image")
        refuse(
            args.fusion != "fixed" and args.fusion_data == "train" and not args.loss_weights[0],
            f"--fusion {args.fusion} is trained through the fused loss, whose weight is 0",
        )
