"""The folders of the communities, and the versions of the data in them."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from dataloaders.communities import BENCHMARK, COMMUNITIES, SPLITS
from util import InputError

PATHS = tuple(f"{split}_csv" for split in SPLITS) + ("features_path",)


@dataclass(frozen=True)
class Community:
    """name: of its folder in --data_root; datatype: --datatype of its runs."""

    name: str
    folder: Path
    datatype: str


def find_communities(names, data_root):
    """([Community], {name of a community of the benchmark without a folder: the reason, as a sentence}).

    Raises InputError for any other name without a folder.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise InputError(f"--data_root {root}: no such folder")
    found, absent = [], {}
    for name in dict.fromkeys(names):
        folder = root / name
        known = name in COMMUNITIES and name != "custom"
        if Path(name).name == name and folder.is_dir():
            found.append(Community(name, folder, name if known else "custom"))
        elif known:
            absent[name] = f"no folder {folder}. {COMMUNITIES[name].source}"
        else:
            folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            raise InputError(
                f"--communities {name}: no folder of this name in {root}, which has {', '.join(folders) or 'none'}; "
                f"the communities of the benchmark are {', '.join(BENCHMARK)}"
            )
    return found, absent


def data_versions(communities, runs, common):
    """{name: dataloaders.data_version of its splits}; all CSVs are read and checked.

    common: the namespace of the flags that all runs share, for the paths that they give. Raises one InputError with
    what is wrong in any community.
    """
    versions, errors = {}, []
    for community in communities:
        its_runs = [run for run in runs if run.community == community.name]
        try:
            versions[community.name] = _read(community, its_runs, common)
        except InputError as error:
            errors.append(f"{community.name}: {error}")
    if errors:
        raise InputError("\n".join(errors))
    return versions


def _read(community, runs, common):
    from dataloaders import data_dataloaders as loaders
    from dataloaders.data_version import data_version

    args = Namespace(
        datatype=community.datatype,
        data_path=str(community.folder),
        branches="qi" if any(run.reads_images for run in runs) else "qc",
        **{name: getattr(common, name, None) for name in PATHS},
    )
    names = _splits_of(runs)
    splits, _ = loaders.read_community(args, names, captions_needed=False)
    for source in sorted({run.captions for run in runs} - {None}):
        args.caption_source = source
        readers = [run for run in runs if run.captions == source]
        loaders.read_community(args, _splits_of(readers), captions_needed=True)
    return data_version(loaders.csv_paths(args, names), splits, loaders.features_folder(args))


def _splits_of(runs):
    """The splits that these runs read."""
    return SPLITS if any(run.method.trained for run in runs) else ("test",)
