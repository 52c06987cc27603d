"""Whether a training was asked to end. models.process.signals sets it; the training loop reads it after each step.

Apart from `task`, since the command line, which hears signals too, starts without torch.
"""


class Interrupted(KeyboardInterrupt):
    """The training has written its checkpoint and ends, since its process was asked to."""


class StopRequest:
    """Whether the process was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal = ""

    def __bool__(self) -> bool:
        return bool(self.signal)

    def check(self) -> None:
        """For places at which nothing is lost. Errors: Interrupted."""
        if self.signal:
            raise Interrupted(f"The training process got {self.signal}.")
