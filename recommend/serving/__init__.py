"""The page and the JSON API over an index: `python -m recommend serve` (docs/USE.md). Needs requirements-serve.txt."""
