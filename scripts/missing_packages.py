"""Print the lines of a requirements file whose packages this interpreter lacks.

    python scripts/missing_packages.py requirements.txt [constraints.txt]

With a constraints file, a package of another version than the one pinned there counts as missing too. Without
one, installed packages are not to be touched: one that is older than a line allows is an error. Only the forms
of lines which our files use are read: `name[extra]>=1.2`, `name==1.2 ; python_version >= "3.11"`, `-r file`.
Standard library only: this runs before anything is installed.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

LINE = re.compile(
    r"(?P<name>[\w.-]+)(\[\w+\])?((?P<bound>[>=]=)(?P<version>\d[\w.]*))?(;python_version>=\"(?P<python>[\d.]+)\")?"
)
# Each provides cv2, and each overwrites what another one has installed
OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


def read_lines(path):
    """(line, match) of each requirement that holds for this Python, those of `-r` files included."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].replace(" ", "")
        if line.startswith("-r"):
            yield from read_lines(Path(path).parent / line[2:])
        elif line:
            match = LINE.fullmatch(line)
            if not match:
                sys.exit(f"{path}: cannot read the line {line!r}")
            if not match["python"] or sys.version_info >= release(match["python"]):
                yield line, match


def normalized(name):
    return re.sub("[-_.]+", "-", name).lower()


def release(version):
    """The numbers of a version, without zeros at the end: '2.4.0a0+cu121' -> (2, 4)."""
    numbers = [int(number) for number in re.match(r"[\d.]*\d", version)[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def installed_version(name):
    """The version of an installed package, None if there is none (or its installation was cut off)."""
    for alternative in OPENCV if name in OPENCV else (name,):
        try:
            return metadata.version(alternative)
        except (metadata.PackageNotFoundError, KeyError):
            continue
    return None


def missing(requirements, constraints=None):
    """The lines to install; without constraints also a sentence for each installed package that is too old."""
    pinned = read_lines(constraints) if constraints else ()
    pins = {normalized(match["name"]): match["version"] for _, match in pinned}
    lines, too_old = [], []
    for line, match in read_lines(requirements):
        name, version = match["name"], installed_version(match["name"])
        pin = pins.get(normalized(name))
        if version is None or (pin and release(version) != release(pin)):
            lines.append(line)
        elif match["bound"] and release(version) < release(match["version"]):
            if constraints:
                lines.append(line)
            else:
                too_old.append(f"{name} {version} is installed, but {line} is needed")
    return lines, too_old


if __name__ == "__main__":
    lines, too_old = missing(*sys.argv[1:])
    print("\n".join(lines))
    if too_old:
        sys.exit("\n".join(too_old))
