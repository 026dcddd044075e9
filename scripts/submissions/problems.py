"""What is wrong with files that were handed in: all of it, errors apart from warnings."""

SHOWN = 20  # of one kind in a file


def counted(number, what):
    return f"{number:,} {what}{'s' * (number != 1)}"


class Problems:
    """Errors keep a run off the leaderboard; warnings say what counts against it.

    Of one kind in a file, as of thousands of lines with the same fault, the first SHOWN are kept, the others counted.
    """

    def __init__(self):
        self._kinds = {}  # {(whether they are errors, path, kind): [how many, the texts of the first]}

    def error(self, path, text, line=None, kind=None):
        """text: "found ..., expected ..."; kind: what this one has in common with others, if not the text."""
        self._add(True, path, text, line, kind)

    def warning(self, path, text, line=None, kind=None):
        self._add(False, path, text, line, kind)

    def _add(self, is_error, path, text, line, kind):
        where = str(path) if str(path).isprintable() else repr(str(path))
        found = self._kinds.setdefault((is_error, path, kind or text), [0, []])
        found[0] += 1
        if found[0] <= SHOWN:
            found[1].append(f"{where}{'' if line is None else f', line {line}'}: {text}")

    @property
    def errors(self):
        return sum(count for (is_error, *_), (count, _) in self._kinds.items() if is_error)

    @property
    def warnings(self):
        return sum(count for (is_error, *_), (count, _) in self._kinds.items() if not is_error)

    def is_bad(self, *paths):
        """Whether one of these files has an error."""
        return any(is_error and path in paths for is_error, path, _ in self._kinds)

    def lines(self):
        """A line for each problem, the errors first."""
        for (is_error, *_), (count, texts) in sorted(self._kinds.items(), key=lambda entry: not entry[0][0]):
            name = "error" if is_error else "warning"
            yield from (f"{name}: {text}" for text in texts)
            if count > SHOWN:
                yield f"{name}: and {count - SHOWN:,} more in this file like the one before"
