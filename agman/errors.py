"""Errors, split by what the caller does next.

```
AgmanError
├── InvalidInput         the user's mistake: one clear line, a job exits with status 2 (also a ValueError)
├── BadSample            one image refused: quarantined and counted, the run goes on
└── CheckpointMismatch   a model file does not fit the network or its own description: stop
```

All of them survive `pickle`, since they travel between processes.
"""


class AgmanError(Exception):
    """Root of every error raised on purpose."""


class InvalidInput(AgmanError, ValueError):
    """The caller asked for something that cannot be: the message is one line for a person."""


class BadSample(AgmanError):
    """One image cannot be used.

    Attributes:
        kind: short class for counting: "empty", "not_an_image", "truncated", "too_large", "too_small",
            "unsupported" or "undecodable".
        message: what is wrong, with the figures.
    """

    def __init__(self, kind: str, message: str) -> None:
        """Keep both parts in `args`, which is what pickle hands back to this constructor."""
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        """Return the kind and the message on one line."""
        return f"{self.kind}: {self.message}"


class CheckpointMismatch(AgmanError):
    """Stored weights do not fit: the message names the first wrong tensor, expected and found."""
