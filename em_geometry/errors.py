"""The one error type that users see, and how it is shown."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LONGEST = 2000  # characters of one part: a file of one endless line must not fill the screen
SHORTEST = 8  # characters of a key; `none` and `EMPTY` stand for one where none is needed
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY")


def redacted(text: str) -> str:
    """`text` with the values of `SECRETS` replaced by the variables' names.

    Before it is cut to a length: a part of a key would no longer be found.
    """
    for name in SECRETS:
        value = os.environ.get(name, "").strip()
        if len(value) >= SHORTEST:
            text = text.replace(value, f"<{name}>")
    return text


class UserError(Exception):
    """Something the user can put right: bad params, bad files, a missing key.

    The command line prints it without a traceback and exits with status 2.

    Args:
        what: one sentence, what is wrong.
        where: file, key or argument, with a line number where there is one.
        found, expected: what stood there, and what should have stood there.
        hint: what to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what, self.found, self.expected, self.hint = what, found, expected, hint
        self.where = None if where is None else str(where)

    def __str__(self) -> str:
        parts = {"where": self.where, "found": self.found, "expected": self.expected}
        lines = [f"error: {_cut(self.what)}"]
        for label, value in (parts | {"try": self.hint}).items():
            if value is not None:
                lines.append(f"  {label + ':':<10}{_cut(str(value))}")
        return "\n".join(lines)


class UserErrors(UserError):
    """Several at once, shown one after the other."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        super().__init__(f"{len(errors)} things to put right")
        self.errors: list[UserError] = []
        for error in errors:
            self.errors += error.errors if isinstance(error, UserErrors) else [error]

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def together(errors: Sequence[UserError]) -> UserError:
    """One error as it is, several as one."""
    return errors[0] if len(errors) == 1 else UserErrors(errors)


class KeyFault(ValueError):
    """Keys that contradict each other, raised in a validator of pydantic; shown as a UserError.

    Args:
        key: the one at fault, with dots, below the section whose validator this is.
        what: what is wrong with it.
        found, expected: what stands there, and only that, and what should.
    """

    def __init__(self, key: str, what: str, found: object, expected: object) -> None:
        super().__init__(f"{key}: {what}")
        self.key, self.what, self.found, self.expected = key, what, found, expected


class KeyFaults(ValueError):
    """Several of them, raised in one validator."""

    def __init__(self, faults: Sequence[KeyFault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@contextmanager
def explained(
    what: str,
    where: object,
    expected: str,
    hint: str | None = None,
    kinds: tuple[type[BaseException], ...] = (Exception,),
) -> Iterator[None]:
    """Says in our words what a library raises inside, and quotes its first line."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        found = first_line(error)[:300]
        raise UserError(what, where=where, found=found, expected=expected, hint=hint) from None


def first_line(error: BaseException) -> str:
    """What a library's exception says, in one line; its type where it says nothing."""
    first, *others = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    text = " ".join([first, *others[:1]]) if first.endswith(":") else first
    return f"no key {text}" if isinstance(error, KeyError) else text


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"
