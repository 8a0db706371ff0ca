"""The errors of this package.

FairServerError
├── ConfigError     a file, an option or the environment is wrong: the server does not start (exit status 2)
├── ApiError        a request is refused: an HTTP status and `{"error": {"code", "message"}}`
└── CannotStart     a program could not be started: a failure of that program, never of the HTTP call
"""

EXIT_NOT_STARTED = 125  # Docker's code for "the container could not be started"
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class FairServerError(Exception):
    """Root of all that this package raises on purpose."""


class ConfigError(FairServerError):
    """What the server was started with is wrong; the message is one line that names the wrong thing."""


class ApiError(FairServerError):
    """A request is refused with `status`; `code` is for programs, `message` for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class CannotStart(FairServerError):
    """A program could not be started; it ends with `exit_code`, and `message` is the last line of its `#stderr`."""

    def __init__(self, message: str, exit_code: int = EXIT_NOT_STARTED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
