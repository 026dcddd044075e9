"""A clone made with core.autocrlf, as Git for Windows sets it up: used by a shell of WSL or a container, and read."""

import re
import subprocess

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The commit that this folder is of, checked out with core.autocrlf=true, and the .gitattributes that are here."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository: nothing is cloned from here")
    folder = tmp_path_factory.mktemp("windows") / "repository"
    git = ["git", "-c", "core.autocrlf=true", "-c", "advice.detachedHead=false"]
    subprocess.run([*git, "clone", "--quiet", "--no-checkout", ROOT, folder], check=True)
    (folder / ".git" / "info" / "attributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    subprocess.run([*git, "-C", folder, "checkout", "--quiet", "--detach", head.strip()], check=True)
    return folder


def test_every_text_has_the_line_ends_that_were_committed(checkout):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    different = [
        name
        for name in names.split("\0")[:-1]
        if (ROOT / name).is_file()
        and b"\r" not in (ROOT / name).read_bytes()
        and b"\r" in (checkout / name).read_bytes()
    ]
    assert not different


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page):
    """A page's headings, as GitHub names them in addresses."""
    found = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found}


def test_every_link_of_a_page_leads_to_a_file_that_is_committed_and_a_heading_of_it(checkout):
    links = 0
    for page in [checkout / "README.md", *checkout.glob("docs/**/*.md")]:
        for link in re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", prose(page)):
            path, _, heading = "".join(link).partition("#")
            if "://" not in path:
                target = page.parent / path if path else page
                assert target.exists(), f"{page.name}: {path} is not there"
                assert not heading or heading in headings(target), f"{page.name}: {path} has no heading {heading}"
                links += 1
    assert links > 100


def test_the_shell_scripts_can_be_read_and_find_each_other(checkout):
    scripts = sorted([*checkout.glob("*.sh"), *checkout.glob("scripts/*.sh")])
    assert len(scripts) > 8
    for script in scripts:
        subprocess.run(["sh", "-n", script], check=True)
    (checkout / "python").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    (checkout / "python").chmod(0o755)
    done = subprocess.run(
        ["sh", "scripts/set_up.sh"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(checkout / "python")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ready: {checkout / 'python'}\n", "")
