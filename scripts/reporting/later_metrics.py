"""Metrics that are newer than a run: computed from the ranks that it kept, so that nothing is trained again."""

from metrics import average, bootstrap_intervals, random_expectation


def complete(results, record, intervals=False):
    """Fill into a run's metrics.json, as read, the metrics that it lacks. record: its QueryRecord.

    intervals: whether to fill these too. A run keeps no ranks of meme to query: that direction gets the random
    ranking's metrics alone.
    """
    for score, directions in results["test"]["scores"].items():
        own, (names, values) = directions["query_to_meme"], record.values(score)
        own["metrics"] = average(names, values) | own["metrics"]
        lacking = [place for place, name in enumerate(names) if name not in own["intervals"]]
        if intervals and lacking:
            chosen = [names[place] for place in lacking]
            own["intervals"] |= bootstrap_intervals(chosen, values[:, lacking], seed=abs(results["seed"]))
    for direction, relevance in (("query_to_meme", record.relevance), ("meme_to_query", record.relevance.transposed())):
        own = results["test"]["random"][direction]
        own["metrics"] = random_expectation(relevance) | own["metrics"]
