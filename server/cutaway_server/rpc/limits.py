"""What one call may ask for. Checked at start-up; each has its flag."""

from dataclasses import dataclass

from cutaway_server.errors import AnswerTooLarge

_FEWER = "send fewer samples in one call; the operator of the server may raise --max-message-mib"


@dataclass(frozen=True)
class Limits:
    """Limits of a call.

    Attributes:
        message_bytes: of one message, in or out.
        pixels: of all photographs and uint8 pictures of a call, before they are decoded.
        input_bytes: of all model-ready inputs of a call.
        call_seconds: that a call without a deadline may take, and at most one with.
        stall_seconds: that the reader of a stream may stand still.
        passes: runs of the network on one sample that the maps of a call may take.
        buffer_bytes: that an introspection holds for its reader.
        all_buffers_bytes: that all of them hold together: each lane of all models has its share.
    """

    message_bytes: int
    pixels: int
    input_bytes: int
    call_seconds: float
    stall_seconds: float
    passes: int
    buffer_bytes: int
    all_buffers_bytes: int

    def check_answer(self, size: int, instead: str = _FEWER) -> None:
        """Raises AnswerTooLarge for more bytes than one message may have, with what would work."""
        if size > self.message_bytes:
            raise AnswerTooLarge(size, self.message_bytes, instead)
