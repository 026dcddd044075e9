"""One stage of training: epochs of steps, an evaluation after each, the best and the last checkpoint."""

import argparse
import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dataloaders.batch_plan import BatchPlan
from dataloaders.data_dataloaders import train_loader
from dataloaders.meme_dataset import SplitData
from dataloaders.meme_records import fingerprint
from engine import checkpoint, distributed, run_record, stop_signals
from engine.arguments import fits_each_epoch
from engine.earlier_names import renamed
from engine.memory_batch import TowersInPieces
from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate
from engine.output_folder import settle
from engine.step_clock import StepClock
from engine.tensorboard_curves import TensorBoardCurves
from engine.training_step import SCORES, TrainingStep
from evaluation.eval_loop import alpha_summary, encode_split, rank_split, summarise, to_device
from evaluation.fitted_weights import fit_and_rank
from evaluation.frozen_features import FrozenFeatures, frozen_towers
from modules.fusion import Fusion
from modules.ief_model import IEF
from modules.tf32 import tf32
from util import Bar, InputError, progress_bar, set_seed

QI_PARTS = (
    "backbone.visual.",
    "backbone.image_projection.",
    "emotion_vectors.",
    "emotion_fusion.",
    "caption_attention.",
    "aggregator.",
    "image_similarity.",
)
QC_PARTS = ("caption_pooling.",)
DROPOUT = "by row"  # how its masks are drawn: with a batch's row_key. Earlier checkpoints do not say


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage trains. weights: of the fused, QI and QC loss. select: the score whose metric chooses the best
    epoch. only: prefixes of the parameters that are trained; by default all that a loss reaches."""

    name: str
    weights: tuple[float, ...]
    select: str
    only: tuple[str, ...] = ("",)

    def trains(self, parameter_name: str) -> bool:
        fused, qi, qc = self.weights
        unreached: tuple[str, ...] = () if fused else ("fusion.",)
        unreached += () if fused or qi else QI_PARTS
        unreached += () if fused or qc else QC_PARTS
        return parameter_name.startswith(self.only) and not parameter_name.startswith(unreached)


def stages(args: argparse.Namespace) -> list[Stage]:
    """The stages of --co_train: one, or the first two of the published recipe (the third has no gradient)."""
    if args.branches != "qi_qc":
        return [Stage(args.branches, tuple(float(name == args.branches) for name in SCORES), "fused")]
    if args.co_train == "joint":
        return [Stage("joint", tuple(args.loss_weights), "fused")]
    return [Stage("qi", (0.0, 1.0, 0.0), "qi"), Stage("qc", (0.0, 0.0, 1.0), "qc", only=QC_PARTS)]


def trained_alpha(args: argparse.Namespace, fusion: Fusion | None) -> float | None:
    """The α of θ, where the fused loss trains it; None elsewhere."""
    trained = args.co_train == "joint" and args.loss_weights[0] > 0
    return fusion.theta_alpha if fusion is not None and trained else None


OF_THE_RUN = ("displayed", "history", "seconds", "evaluating", "records")


@dataclasses.dataclass
class Progress:
    """Where a run stands; all of it is in checkpoint_last.pt."""

    stage: int = 0
    step: int = 0  # optimisation steps of this stage that are done
    evaluated: int = 0  # epochs of this stage that are evaluated
    best_score: float = float("-inf")
    best_epoch: int = -1
    losses: dict[str, float] = dataclasses.field(default_factory=dict)  # of the last step that was displayed
    displayed: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # the lines of losses.jsonl
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # the lines of metrics.jsonl
    seconds: float = 0.0  # of training, evaluations on val included
    evaluating: float = 0.0  # of these, of the evaluations
    records: int = 0  # that were trained on, each as often as it was

    @classmethod
    def of_checkpoint(cls, saved: dict[str, Any], path: str) -> "Progress":
        """The progress that a checkpoint holds; InputError where a part of it is of another kind."""
        kinds = {field.name: type(getattr(cls(), field.name)) for field in dataclasses.fields(cls)}
        for name, value in saved.items():
            kind = (int, float) if kinds.get(name) is float else kinds.get(name, ())
            if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(v, dict) for v in value)):
                raise InputError(f"{path}: a damaged or altered checkpoint: its progress has {name!r} {value!r:.50}")
        return cls(**saved)

    @property
    def records_per_second(self) -> float:
        return self.records / max(self.seconds - self.evaluating, 1e-9)


class Trainer:
    """Joins a model, its data and the run's progress; `run_stage` is the loop."""

    def __init__(
        self,
        args: argparse.Namespace,
        model: IEF,
        train_data: SplitData,
        val_data: SplitData,
        device: torch.device,
        logger: logging.Logger,
    ) -> None:
        self.args, self.model, self.device, self.logger = args, model, device, logger
        self.train_data, self.val_data = train_data, val_data
        self.frozen = frozen_towers(model)  # now: a stage freezes more for its time
        self.in_memory = 0  # bytes that the frozen towers' features take
        self.folder = Path(args.output_dir)
        self.plan = BatchPlan.of(args, train_data.split, distributed.world_size())
        self.records = fingerprint(train_data.split)
        self.progress = Progress()
        self.best: dict[str, Any] | None = None  # stage, epoch and val metric of the weights that load_best took
        self.better_part: str | None = None  # QI or QC, by that metric with those weights
        self.pending: dict[str, Any] | None = None  # the optimiser's part of a checkpoint, until its stage is set up
        self.seconds_before = 0.0  # of an interrupted run that this one goes on with
        self.tensorboard: TensorBoardCurves | None = None
        if args.tensorboard and distributed.is_main():
            self.tensorboard = TensorBoardCurves(self.folder / "tensorboard")

    @functools.cached_property
    def train_features(self) -> FrozenFeatures:
        """What frozen towers give for the train split, computed when it is first asked for, by all processes."""
        return self._frozen(self.train_data)

    @functools.cached_property
    def val_features(self) -> FrozenFeatures:
        """The same of val."""
        return self._frozen(self.val_data)

    def _frozen(self, data: SplitData) -> FrozenFeatures:
        found = FrozenFeatures.of(
            self.model, data, self.args, self.device, distributed.is_main(), self.in_memory, self.frozen
        )
        self.in_memory = found.in_memory
        for line in found.lines():
            self.logger.info(line)
        return found

    @property
    def record_keys(self) -> torch.Tensor | None:
        """Sorted topic * memes + meme of all training records, or None for instance positives."""
        if self.args.positives == "instance":
            return None
        split = self.train_data.split
        keys = torch.from_numpy(split.record_topic * len(split.memes) + split.record_meme)
        return keys.unique().to(self.device)

    def resume(self, state: dict[str, Any]) -> None:
        """Take over the progress of a checkpoint; the model's weights are loaded already."""
        if state["records"] != self.records:
            raise InputError(
                f"{self.args.resume_model}: the train split is another than the one which the run began with"
            )
        if state.get("dropout") != DROPOUT and self.model.caption_attention is not None:
            self.logger.info(
                f"{self.args.resume_model}: was written when each process drew its own dropout masks; those of the "
                "steps from here on follow from the seed, the epoch and the record: the run ends as one of the same "
                "kind, not at the numbers that it would have had"
            )
        self.progress = Progress.of_checkpoint(renamed(state["progress"]), self.args.resume_model)
        self.seconds_before = self.progress.seconds
        self.pending = state
        if self.tensorboard is not None:
            for line in self.progress.displayed:
                self.tensorboard.add_losses(line)
            for line in self.progress.history:
                self.tensorboard.add_evaluation(line)

    def run_stage(self, index: int, stage: Stage) -> bool:
        """Train the stage from where the progress stands. True when it had parameters to train."""
        args, progress = self.args, self.progress
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in frozen and stage.trains(name))
        groups = parameter_groups(self.model, args.lr, args.coef_lr, args.fusion_lr, args.weight_decay)
        if not groups:
            self.logger.info(f"stage {stage.name}: nothing to train, skipped")
            self._unfreeze(frozen)
            return False
        optimizer = make_optimizer(groups)
        scaler = torch.amp.GradScaler(self.device.type, enabled=args.precision == "fp16")
        step_module = TrainingStep(
            self.model, stage.weights, self.record_keys, len(self.train_data.split.memes), args.cdcr_lambda
        )
        parallel: TrainingStep | distributed.DistributedDataParallel = step_module
        if args.memory_batch:  # many backward passes: the gradients are averaged when all are done
            distributed.copy_from_main(self.model)
        else:
            parallel = distributed.data_parallel(step_module, self.device)
        total_steps = self.plan.steps_per_epoch * args.epochs
        loader = train_loader(
            args,
            self.train_features.data,
            self.plan,
            distributed.rank(),
            progress.step,
            total_steps,
            pin_memory=self.device.type == "cuda",
        )
        batches = iter(loader)
        if self.pending is not None:
            checkpoint.take_over(args.resume_model, self.pending, optimizer, scaler, self.device)
            self.pending = None
        self._save_last = lambda: self._save_progress(index, optimizer, scaler)
        if progress.step == 0:
            # what a part draws by itself (dropout does not) depends on nothing that was built before
            set_seed(args.seed + distributed.rank())
            self._save_last()
        bar = progress_bar(
            total=total_steps,
            initial=progress.step,
            desc=f"training {stage.name}",
            unit="step",
            disable=not distributed.is_main(),
        )
        self.began = time.monotonic() - progress.seconds
        self.clock = StepClock(self.device)
        shown_at, shown_step = time.monotonic(), progress.step
        stopping = distributed.AnyProcess(self.device)
        with bar, stop_signals.waiting():
            self._evaluate_if_due(stage)
            while progress.step < total_steps:
                self.model.train()
                set_learning_rate(optimizer, progress.step, total_steps, args.warmup_proportion)
                tensors = self._step(parallel, optimizer, scaler, batches)
                progress.step += 1
                progress.records += args.batch_size
                progress.seconds = time.monotonic() - self.began
                bar.update()
                ends_epoch = progress.step % self.plan.steps_per_epoch == 0
                stops = stopping(stop_signals.asked())
                saves = ends_epoch or stops or (args.save_steps and progress.step % args.save_steps == 0)
                if progress.step % args.n_display == 0 or saves:
                    losses = self._checked(stage, tensors)
                if progress.step % args.n_display == 0 or ends_epoch:
                    now = time.monotonic()
                    rate = (progress.step - shown_step) * args.batch_size / (now - shown_at)
                    shown_at, shown_step = now, progress.step
                    self._display(bar, stage, total_steps, losses, optimizer, rate)
                if saves:
                    self._save_last()
                if stops:
                    stop_signals.stop()
                if ends_epoch:
                    self._evaluate_if_due(stage)
                    shown_at = time.monotonic()
        self._unfreeze(frozen)
        return True

    def _unfreeze(self, frozen: set[str]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in frozen)

    def _step(
        self,
        parallel: TrainingStep | distributed.DistributedDataParallel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        batches: Iterator[dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """One optimisation step: the losses of the global batch, not yet summed over the processes."""
        pieces = self.args.gradient_accumulation_steps
        self.clock.start()
        sums: dict[str, torch.Tensor] = {}
        for piece in range(pieces):
            last = piece == pieces - 1
            silent = contextlib.nullcontext() if last or isinstance(parallel, TrainingStep) else parallel.no_sync()
            batch = to_device(self.train_features.join(next(batches)), self.device)
            self.clock.end_of("data")
            towers = None
            if self.args.memory_batch:
                assert isinstance(parallel, TrainingStep)
                towers = TowersInPieces(parallel, batch, self.args.memory_batch)
                batch |= towers.features
            with silent:
                loss, losses = parallel(batch)
                with tf32(self.model.tower_tf32):
                    # gradients are averaged over the processes, while their shares of the loss add up
                    scaler.scale(loss * distributed.world_size() / pieces).backward()
                    if towers is not None:
                        towers.backward()
            self.clock.end_of("forward and backward")
            for name, value in {"total": loss.detach(), **losses}.items():
                sums[name] = sums.get(name, 0) + value / pieces
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.args.memory_batch:
            distributed.average_gradients(trained)
        scaler.unscale_(optimizer)
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(trained, self.args.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        self.model.backbone.clamp_logit_scale()
        self.clock.end_of("optimiser")
        return sums

    def _checked(self, stage: Stage, tensors: dict[str, torch.Tensor]) -> dict[str, float]:
        """The losses of the global batch, summed over the processes; InputError where one is not finite."""
        names = list(tensors)
        kind = torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        values = distributed.summed(torch.stack([tensors[name].to(kind) for name in names])).tolist()
        losses = dict(zip(names, values, strict=True))
        scaled = self.args.precision == "fp16"  # then a step whose gradient is not finite has been left out
        if not all(map(math.isfinite, values)) or not (scaled or math.isfinite(self.gradient_norm)):
            hint = ", or --precision bf16 or fp32" if scaled else ""
            raise InputError(
                f"the loss is {losses['total']}, the gradient's norm {self.gradient_norm.item():g} at step "
                f"{self.progress.step} of stage {stage.name}: try a smaller --lr{hint}"
            )
        return losses

    def _display(
        self,
        bar: Bar,
        stage: Stage,
        total_steps: int,
        losses: dict[str, float],
        optimizer: torch.optim.Optimizer,
        rate: float,
    ) -> None:
        """A line in the log and in losses.jsonl."""
        fusion = self.model.fusion
        trained = trained_alpha(self.args, fusion)
        alpha = {} if trained is None else {"alpha": trained}
        self.progress.losses = {name: round(value, 6) for name, value in losses.items()}
        bar.set_postfix({"loss": f"{losses['total']:.3f}"})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in {**losses, **alpha}.items())
        rates = {group["name"].split()[0]: group["lr"] for group in optimizer.param_groups}
        self._keep_displayed(stage, alpha.get("alpha"), rates, rate)
        shown_rates = ", ".join(f"{name} {value:.1e}" for name, value in rates.items())
        time_of = ", ".join(f"{part} {share:.0%}" for part, share in self.clock.shares().items())
        with tqdm.external_write_mode():
            self.logger.info(
                f"{stage.name} step {self.progress.step}/{total_steps}  {shown}  lr {shown_rates}  "
                f"{rate:.1f} records/s ({time_of})"
            )

    def _keep_displayed(self, stage: Stage, alpha: float | None, rates: dict[str, float], rate: float) -> None:
        progress = self.progress
        line = {
            "stage": stage.name,
            "epoch": round(progress.step / self.plan.steps_per_epoch, 4),
            "step": progress.step,
            "losses": progress.losses,
            "alpha": alpha,
            "lr": rates,
            "records_per_second": round(rate, 2),
        }
        progress.displayed.append(line)
        if distributed.is_main():
            run_record.write_lines(self.args, "losses.jsonl", progress.displayed)
        if self.tensorboard is not None:
            self.tensorboard.add_losses(line)

    @stop_signals.at_once()
    def _evaluate_if_due(self, stage: Stage) -> None:
        """Evaluate val where an epoch has ended since the last evaluation; keep the best model."""
        progress = self.progress
        epoch, within = divmod(progress.step, self.plan.steps_per_epoch)
        if within or epoch == progress.evaluated:
            return
        started = time.monotonic()
        fusion = self.model.fusion
        encoded = encode_split(
            self.model, self.val_data, self.args, self.device, distributed.is_main(), self.val_features
        )
        if fusion is not None and fits_each_epoch(self.args):
            alpha, ranks = fit_and_rank(self.model, encoded, self.args)
            fusion.fitted = distributed.from_main(alpha)
        else:
            ranks = rank_split(self.model, encoded, self.args)
        if distributed.is_main():
            result = summarise(ranks, encoded.relevance, self.args.seed, intervals=False)
            selected = {
                name: both["query_to_meme"]["metrics"][self.args.select_metric] for name, both in result.items()
            }
            score = selected[stage.select]
            line = {
                "split": "val",
                "stage": stage.name,
                "epoch": epoch,
                "step": progress.step,
                "losses": progress.losses,
                "alpha": alpha_summary(self.model, encoded),
                "trained_alpha": trained_alpha(self.args, fusion),
                "scores": result,
            }
            progress.history.append(line)
            run_record.write_lines(self.args, "metrics.jsonl", progress.history)
            if self.tensorboard is not None:
                self.tensorboard.add_evaluation(line)
            better = score > progress.best_score
            if better:
                progress.best_score, progress.best_epoch = score, epoch
                checkpoint.save(
                    self.folder / "checkpoint_best.pt",
                    checkpoint.model_state(self.model, self.args)
                    | {"stage": stage.name, "epoch": epoch, "val": {self.args.select_metric: score}}
                    | {"better_part": max(("qi", "qc"), key=selected.__getitem__) if fusion is not None else None},
                )
            own = result[stage.select]["query_to_meme"]["metrics"]
            with tqdm.external_write_mode():
                name = stage.select if self.args.branches == "qi_qc" else self.args.branches
                self.logger.info(
                    f"{stage.name} epoch {epoch}/{self.args.epochs}  val {name}: R@1 {own['R@1']:.2f}  "
                    f"R@5 {own['R@5']:.2f}  R@10 {own['R@10']:.2f}  MdR {own['MdR']:.1f}  mAP {own['mAP']:.2f}"
                    f"{'' if fusion is None or fusion.fitted is None else f'  α {fusion.fitted:.3f}'}"
                    f"{'  (best so far)' if better else ''}  validation {time.monotonic() - started:.1f} s"
                )
        progress.evaluated = epoch
        progress.evaluating += time.monotonic() - started
        progress.seconds = time.monotonic() - self.began
        self._save_last()

    @stop_signals.waiting()
    def _save_progress(self, index: int, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Write checkpoint_last.pt, in the first process; the others wait, as who leaves it alone ends it."""
        states = distributed.from_all(checkpoint.random_states(self.device))
        if distributed.is_main():
            self.progress.stage = index
            checkpoint.save(
                self.folder / "checkpoint_last.pt",
                checkpoint.model_state(self.model, self.args)
                | {
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                    "progress": dataclasses.asdict(self.progress),
                    "records": self.records,
                    "dropout": DROPOUT,
                    "random_states": states,
                },
            )
            settle(self.folder)
        distributed.barrier()

    def next_stage(self) -> None:
        """Begin the next stage's progress; what belongs to the run goes on."""
        run = {name: getattr(self.progress, name) for name in OF_THE_RUN}
        self.progress = Progress(stage=self.progress.stage + 1, **run)

    def load_best(self) -> None:
        """The best checkpoint's weights into the model of every process; the first one alone has the file."""
        fitted = None
        if distributed.is_main():
            state = checkpoint.load(self.folder / "checkpoint_best.pt")
            self.model.load_state_dict(state["model"])
            self.best = {"stage": state["stage"], "epoch": state["epoch"], "val": state["val"]}
            fitted, self.better_part = state.get("fitted_alpha"), state.get("better_part")
        distributed.copy_from_main(self.model)
        if self.model.fusion is not None:
            self.model.fusion.fitted = distributed.from_main(fitted)
        self.best = distributed.from_main(self.best)
