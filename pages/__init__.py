"""What the HTML pages have in common: the report (scripts.report) and the search page (recommend)."""
