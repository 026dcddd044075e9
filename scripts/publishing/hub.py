"""A repository on the Hugging Face Hub as the place of a publication."""

from pathlib import Path

from engine.published_model import CONFIG, HUB, TOKENIZER, hub_asked, import_hub, parts_of, read_config
from util import InputError


class Repository:
    """`hub:OWNER/NAME`, asked before there is anything to upload: InputError where the model cannot go there.

    public: what --public says. Without it a repository is made private, and one that is public already is refused.
    """

    def __init__(self, name, public):
        self.name, self.public = name, public
        self.id, revision = parts_of(name)
        if revision is not None:
            raise InputError(f"--to {name}: found a revision, expected {HUB}{self.id}: what is published is the newest")
        self.hub = import_hub()
        if self.hub.get_token() is None:
            raise InputError(f"--to {name}: the hub wants a token, by `hf auth login` or in HF_TOKEN")
        self.api = self.hub.HfApi()
        with hub_asked(name):
            try:
                self.found = self.api.model_info(self.id)
            except self.hub.utils.RepositoryNotFoundError:  # not made yet
                self.found = None
            if self.found is not None:
                self._check_found()

    @property
    def title(self):
        return self.id.partition("/")[2]

    def upload(self, folder):
        """Commit the folder's files, all of them at once; returns the model's name with the commit, and its address."""
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        stale = [name for name in self._files() if name.startswith(f"{TOKENIZER}/") and name not in files]
        changes = [self.hub.CommitOperationAdd(name, str(folder / name)) for name in files]
        changes += [self.hub.CommitOperationDelete(name) for name in stale]
        with hub_asked(self.name):
            if self.found is None:
                self.api.create_repo(self.id, private=not self.public)
            head = self.found.sha if self.found is not None else None
            made = self.api.create_commit(self.id, changes, commit_message="Publish a model", parent_commit=head)
        return f"{HUB}{self.id}@{made.oid}", f"{self.api.endpoint}/{self.id}"

    def _files(self):
        return [each.rfilename for each in self.found.siblings or ()] if self.found is not None else []

    def _check_found(self):
        """InputError where the repository is not as private as is asked for, or holds something else than a model of
        this program.
        """
        if self.found.private and self.public:
            raise InputError(f"{self.name} is private: leave --public out, or make it public on its page on the hub")
        if not self.found.private and not self.public:
            raise InputError(f"{self.name} is public: give --public, or name a new repository, which is made private")
        files = [name for name in self._files() if name != ".gitattributes"]
        if files and CONFIG not in files:
            raise InputError(f"{self.name} holds {', '.join(files[:5])}, and no model of this program: name another")
        if files:
            read_config(Path(self.hub.hf_hub_download(self.id, CONFIG, revision=self.found.sha)).parent)
