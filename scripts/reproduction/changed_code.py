"""What a user is told of finished runs that stay although the code has changed: which, and where it has."""

import re

from engine import run_record
from scripts.reproduction.plan import sources_of

NAMED = 3  # runs of which the same is told
FILES = 8  # of git's list of what has changed


def lines(runs, states):
    """[line]; none where the code is that of all finished runs. states: {run's name: State}."""
    by_commit = {}
    for run in runs:
        code = states[run.name].other_code
        if code is not None:
            by_commit.setdefault((code["commit"], sources_of(run.method.group)), []).append(run.name)
    if not by_commit:
        return []
    number = sum(map(len, by_commit.values()))
    was_made = "run was made. It stays" if number == 1 else "runs were made. They stay"
    found = [f"THE CODE HAS CHANGED since {number} finished {was_made}; --remake changed makes such runs again."]
    told = {}  # the same of a reference as of the others, unless files have changed that are a reference's alone
    for key, names in by_commit.items():
        told.setdefault(tuple(where(*key)), []).extend(names)
    for text, names in told.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        found += [f"  {', '.join(names[:NAMED])}{more}:", *(f"    {line}" for line in text)]
    return found


def where(commit, sources):
    """[line]: what git says has changed in the sources since a commit, or why it cannot say it."""
    if commit is None:
        return ["made outside a git repository: where it has changed is not known"]
    name = f"commit {commit[:12]}"
    paths = [source if source.endswith(".py") else f"{source}/*.py" for source in sources]
    left_out = f":(exclude){run_record.METHODS_TABLE}"
    known = re.fullmatch("[0-9a-f]{40,64}", commit)  # and no option for git
    changes = known and run_record.git("diff", "--no-color", f"--stat=90,60,{FILES}", commit, "--", *paths, left_out)
    if changes is None:
        return [f"made by {name}, which this repository has not: where it has changed is not known"]
    if not changes:
        return [f"made by {name} with changes that were not committed: where it has changed is not known"]
    return [f"since {name}:", *(line.strip() for line in changes.splitlines())]
