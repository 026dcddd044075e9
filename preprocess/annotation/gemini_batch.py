"""Gemini's Batch API, through Google's SDK: a file of generateContent requests, each with a key."""

import contextlib
import re

from preprocess.annotation.answer import ANSWER_SCHEMA, Failure
from preprocess.annotation.gemini import KEY_NAMES, Gemini, to_reply
from preprocess.annotation.server_errors import no_answer, plain, status_error
from util import InputError

STATES = {  # by the end of their names, BATCH_STATE_… or JOB_STATE_…; all others are under way
    "SUCCEEDED": "done",
    "PARTIALLY_SUCCEEDED": "done",
    "EXPIRED": "done",  # without answers
    "FAILED": "failed",
    "CANCELLED": "failed",
}
HTTP = {3: 400, 5: 404, 7: 403, 8: 429, 13: 500, 14: 503, 16: 401}  # of Google's own codes, in results


class GeminiBatch(Gemini):
    """What `batches.Batches` asks for; see Gemini for the arguments. `timeout` is that of a whole transfer."""

    most_bytes, most_requests = 10**9, 50_000  # of a file; Google takes 2 GB
    most_answer_bytes = 2**31

    def line(self, key, pictures, prompt):
        """The line of a request, as a dict."""
        content = self._contents(pictures, prompt)[0]
        schema = self.config.response_schema.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            "key": key,
            "request": {
                "contents": [content.model_dump(mode="json", by_alias=True, exclude_none=True)],
                "generationConfig": {
                    "temperature": self.config.temperature,
                    "responseMimeType": self.config.response_mime_type,
                    "responseSchema": schema | {"propertyOrdering": list(ANSWER_SCHEMA["properties"])},
                },
            },
        }

    @contextlib.contextmanager
    def _errors_named(self):
        try:
            yield
        except self.errors.APIError as error:
            raise self._meaning(error) from None
        except self.connection_errors as error:
            raise no_answer(error, self.timeout, self.secret) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise Failure("unavailable", f"the server's answer is not in Gemini's format: {error}") from None

    def submit(self, path, label):
        """Upload the file of lines and begin its batch: (the batch's name, the file's)."""
        with self._errors_named():
            file = self.client.files.upload(file=path, config={"display_name": label, "mime_type": "jsonl"})
            job = self.client.batches.create(model=self.model, src=file.name, config={"display_name": label})
            return job.name, file.name

    def find(self, label):
        """The name of the batch with this label, "" if there is none."""
        with self._errors_named():
            return next((job.name for job in self.client.batches.list() if job.display_name == label), "")

    def look(self, job):
        """("working", "done" or "failed"; why)."""
        with self._errors_named():
            found = self.client.batches.get(name=job)
            name = re.sub("^(JOB|BATCH)_STATE_", "", str(getattr(found.state, "name", found.state)))
            reason = getattr(found.error, "message", None) or name
            return STATES.get(name, "working"), plain(reason, self.secret)

    def results(self, job):
        """The names of the files of a batch that is done."""
        with self._errors_named():
            dest = self.client.batches.get(name=job).dest
            return [dest.file_name] if dest is not None and dest.file_name else []

    def download(self, name, file):
        with self._errors_named():
            file.write(self.client.files.download(file=name))

    def forget(self, job, file):
        """Remove the uploaded file, of which the project's room is limited; it goes by itself after two days."""
        with contextlib.suppress(Failure, InputError), self._errors_named():
            self.client.files.delete(name=file)

    @staticmethod
    def key(value):
        return value["key"]

    def reply(self, value):
        """The Reply in a line of the results. Raises Failure or InputError."""
        error = value.get("error") or value.get("status")
        if error and "response" not in value:
            code = error.get("code", 3)
            raise status_error(HTTP.get(code, code), plain(error.get("message"), self.secret), self.model, KEY_NAMES)
        return to_reply(Loose(value["response"]))


class Loose:
    """An answer's JSON with the SDK's names: `usage_metadata` is what stands under usageMetadata; None if nothing."""

    def __init__(self, value):
        self._value = value

    def __getattr__(self, name):
        return loose(self._value.get(re.sub("_(.)", lambda match: match[1].upper(), name)))


def loose(value):
    if isinstance(value, list):
        return [loose(each) for each in value]
    return Loose(value) if isinstance(value, dict) else value
