"""Every error a user can cause. Each message says what was expected, what was found, and what to do.

The command line turns a `UserError` into one or two sentences on stderr and exit code 2.
"""


class UserError(Exception):
    """The input is at fault, not the program. Subclasses say which kind of input."""


class UnknownName(UserError):
    """A method, decoding, parameter, family or model that does not exist. The message lists what does."""


class BadParameter(UserError):
    """A parameter outside its range or of the wrong type."""


class UnknownParameter(BadParameter, TypeError):
    """A keyword that a method, decoding or function does not have."""


class BadSetting(UserError):
    """A setting of a run that is no parameter: device, dtype, batch size, number of tokens, an output folder."""


class BadImage(UserError):
    """An image or a video that cannot be read, or should not be."""


class BadQuestion(UserError):
    """A question that cannot be asked: empty, or too long."""


class BadMessages(BadQuestion):
    """A conversation that is not in the chat format.

    Args:
        message: What was expected, what was found.
        where: Its place, such as `messages[0].role`.
    """

    def __init__(self, message: str, where: str = "messages"):
        super().__init__(message)
        self.where = where


class BadModel(UserError):
    """A folder or id that is no model, or a model that is no vision-language model."""


class BadData(UserError):
    """A file of questions, annotations, records or conversations that is not what is needed."""


class BadRun(UserError):
    """A folder of answers that holds something else, or is in use."""


class MissingPackage(UserError):
    """Something optional is asked for that is not installed."""


class CannotAct(UserError):
    """The method cannot do its work on this model, prompt or setting, and would silently do nothing."""


class AnchorsWarning(UserWarning):
    """Something works, but not as the user probably expects (a method that cannot act, an assumption made)."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a sentence: its first line, or its class where it says nothing."""
    return next(
        (line.strip().rstrip(".")[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
