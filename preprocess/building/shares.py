"""The flags --split_by and --split: what is divided, and which share of the records or memes each split gets."""

from util import InputError

SPLIT_BY = ("record", "topic", "template")


def check_shares(shares):
    """Raise InputError unless the three shares are above 0 and sum to 1."""
    if not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        found = " ".join(f"{share:g}" for share in shares)
        raise InputError(f"--split: found {found}, expected three numbers above 0 with the sum 1")
