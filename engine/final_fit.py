"""The fit on val with the best epoch's towers: the scalar α of staged training, a network of `--fusion query`."""

from engine import checkpoint, distributed
from engine.train_loop import Trainer
from evaluation.eval_loop import encode_split
from evaluation.fitted_weights import QueryFit, fit_alpha, part_scores


def fit_at_the_end(trainer: Trainer) -> None:
    """Fit the weights on val, in the first process; every process and checkpoint_best.pt get them. The log says how."""
    args, fusion = trainer.args, trainer.model.fusion
    assert fusion is not None  # it is of both branches
    shown = distributed.is_main()
    encoded = encode_split(trainer.model, trainer.val_data, args, trainer.device, shown, trainer.val_features)
    with part_scores(trainer.model, encoded, args) as scores:
        if scores is not None:  # in the first process
            fusion.fitted = fit_alpha(scores, encoded.relevance)
            if args.fusion == "query":
                fit = QueryFit(encoded.queries["sentence"], scores, encoded.relevance, args.seed, args.fusion_lr)
                trainer.logger.info(_choose_network(trainer, fit))
            else:
                trainer.logger.info(f"staged training, step 3: α = {fusion.fitted:.3f}, fitted on val")
    fusion.fitted = distributed.from_main(fusion.fitted)
    distributed.copy_from_main(fusion)
    if distributed.is_main():
        path = trainer.folder / "checkpoint_best.pt"
        checkpoint.save(path, checkpoint.load(path) | checkpoint.model_state(trainer.model, args))


def _choose_network(trainer: Trainer, fit: QueryFit) -> str:
    """Take a network in the place of the scalar α where it is better on held-out queries; a line that says so."""
    fusion, found = trainer.model.fusion, fit.compare()
    assert fusion is not None
    if found is None:
        return "--fusion query: val has too few queries to hold some out, so that one α serves all"
    how = (
        f"--fusion query: on held-out queries of val the loss of a network is {found.network:.4f}, of one α "
        f"{found.scalar:.4f}; the difference is {found.gain:+.4f}, its standard error {found.error:.4f}: "
    )
    if not found.network_wins:
        return f"{how}one α serves all queries"
    fusion.load_state_dict(fit.train_on_all().state_dict())
    fusion.fitted = None
    return f"{how}the network is used"
