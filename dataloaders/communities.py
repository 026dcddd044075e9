"""The communities: the six of the benchmark, the embedded demo, and any folder in the same format."""

import os
from dataclasses import dataclass

SPLITS = ("train", "val", "test")
FOLDER = """\
  <folder>/train.csv  val.csv  test.csv
  <folder>/images/    the image files that the CSVs name"""


@dataclass(frozen=True)
class Community:
    """A community. language: `zh`, `en` or `any`; link: its official link, None where none is published."""

    slug: str
    name: str
    language: str
    link: str | None = None

    @property
    def source(self) -> str:
        """One sentence for users: where this community's data come from."""
        if self.slug == "demo":
            return "It is drawn on this machine: `sh co_train_demo.sh` makes it."
        if self.slug == "custom":
            return "It is your own folder."
        if self.link is None:
            return "No official link is published for it; its files have to come from the benchmark's authors."
        return f"Its official link is {self.link}."


COMMUNITIES = {
    community.slug: community
    for community in (
        Community("douban_memers", "Douban MEMERS", "zh"),
        Community("english_memes", "English Memes", "en"),
        Community("nobody_gets_my_memes", "Nobody Gets My Memes", "en"),
        Community("humans_love_memes", "Humans Love Memes", "en"),
        Community("recent_popular_memes", "Recent Popular Memes", "en"),
        Community("lets_exchange_memes", "Let's exchange Memes", "en"),
        Community("demo", "Demo", "en"),
        Community("custom", "Custom", "any"),
    )
}
BENCHMARK = tuple(slug for slug in COMMUNITIES if slug not in ("demo", "custom"))


def missing_data_message(community: Community, path: str | os.PathLike[str]) -> str:
    """What to tell a user when `path`, a folder or a CSV of `community`, does not exist."""
    return f"""\
{path} does not exist.
It belongs to the community {community.name} ({community.slug}). {community.source}
A community is one folder:
{FOLDER}
Give that folder as --data_path (in the shell scripts: DATA_PATH=<folder>); files that lie elsewhere are
given with --train_csv, --val_csv, --test_csv and --features_path. docs/DATA.md describes the format."""
