"""OpenAI's Batch API, and that of servers that speak it: a file of chat completions' requests, each with an id."""

import contextlib

from preprocess.annotation.answer import Failure
from preprocess.annotation.openai_compatible import KEY_NAMES, OpenAICompatible, message_of, to_reply
from preprocess.annotation.server_errors import no_answer, plain, retry_after, status_error
from util import InputError

URL = "/v1/chat/completions"
STATES = {"completed": "done", "expired": "done", "cancelled": "done", "failed": "failed"}  # others are under way
FULL = "token_limit_exceeded"  # by those that are under way


class OpenAIBatch(OpenAICompatible):
    """What `batches.Batches` asks for; see OpenAICompatible for the arguments. `timeout` is a whole transfer's."""

    most_bytes, most_requests = 190 * 10**6, 50_000  # OpenAI takes 200 MB
    most_answer_bytes = 2**31

    def line(self, key, pictures, prompt):
        """The line of a request, as a dict."""
        body = self._request(pictures, prompt, self.refused)
        return {"custom_id": key, "method": "POST", "url": URL, "body": body}

    @contextlib.contextmanager
    def _errors_named(self):
        try:
            yield
        except self.sdk.APIStatusError as error:
            said, wait = plain(message_of(error), self.secret), retry_after(error.response.headers)
            raise status_error(error.status_code, said, self.model, KEY_NAMES, wait) from None
        except self.sdk.APIConnectionError as error:
            raise no_answer(error.__cause__ or error, self.timeout, self.secret) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise Failure("unavailable", f"the server's answer is not in OpenAI's format: {error}") from None

    def submit(self, path, label):
        """Upload the file of lines and begin its batch: (the batch's id, the file's)."""
        with self._errors_named():
            with open(path, "rb") as lines:
                file = self.client.files.create(file=(f"{label}.jsonl", lines), purpose="batch")
            job = self.client.batches.create(
                input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"label": label}
            )
            return job.id, file.id

    def find(self, label):
        """The id of the batch with this label, "" if there is none."""
        with self._errors_named():
            jobs = self.client.batches.list()
            return next((job.id for job in jobs if (job.metadata or {}).get("label") == label), "")

    def look(self, job):
        """("working", "done", "failed", or "full" where too much is under way; why)."""
        with self._errors_named():
            found = self.client.batches.retrieve(job)
            errors = (found.errors and found.errors.data) or []
            state = STATES.get(found.status, "working")
            if state == "failed" and any(error.code == FULL for error in errors):
                state = "full"
            reason = "; ".join(str(error.message) for error in errors) or found.status
            return state, plain(reason, self.secret)

    def results(self, job):
        """The ids of the files of a batch that is done: answers, and errors."""
        with self._errors_named():
            found = self.client.batches.retrieve(job)
            return [name for name in (found.output_file_id, found.error_file_id) if name]

    def download(self, name, file):
        with self._errors_named():
            file.write(self.client.files.content(name).content)

    def forget(self, job, file):
        """Remove the uploaded file and the results, which would stay."""
        with contextlib.suppress(Failure, InputError):
            for name in filter(None, [file, *self.results(job)]):
                with self._errors_named():
                    self.client.files.delete(name)

    @staticmethod
    def key(value):
        return value["custom_id"]

    def reply(self, value):
        """The Reply in a line of the results. Raises Failure or InputError."""
        response = value.get("response") or {}
        body, code = response.get("body") or {}, response.get("status_code", 500)
        if value.get("error") or code != 200:
            error = body.get("error") or value.get("error") or {}
            said = plain(error.get("message") or error, self.secret)
            if error.get("code") == "batch_expired":
                raise LookupError(said)  # not answered: it may be asked again
            raise status_error(code, said, self.model, KEY_NAMES)
        return to_reply(self.sdk.types.chat.ChatCompletion.construct(**body), self.secret)
