import util  # noqa: F401  says what to run where a package is missing; first of all
