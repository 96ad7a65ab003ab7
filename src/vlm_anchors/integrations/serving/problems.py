"""What can be wrong with a request, in the shape OpenAI's clients expect."""

from typing import Any

MAX_MESSAGE = 1000
"""Characters of a message."""


class RequestProblem(Exception):
    """A request that cannot be answered.

    Args:
        message: One or two sentences: what was expected, what was found, what to do.
        status: HTTP status.
        code: A word for programs, such as "model_not_found".
        param: The field at fault, if it is one.
        retry_after: Seconds after which the same request may be answered.
    """

    def __init__(
        self, message: str, status: int = 400, code: str | None = None, param: str | None = None, retry_after: int = 0
    ):
        # What a client sent may stand in a message: no half characters, and not megabytes of it.
        message = message[:MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
        super().__init__(message)
        self.message, self.status, self.code, self.param, self.retry_after = message, status, code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
