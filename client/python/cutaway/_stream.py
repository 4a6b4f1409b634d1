"""From the messages of an Introspect stream to events: a state machine that touches no network."""

from dataclasses import dataclass, field

import numpy as np

from cutaway import _answers
from cutaway._errors import BrokenAnswer
from cutaway._events import Event, Prediction, Progress, Started
from cutaway._tensors import Array, byte_count, decode
from cutaway._words import word
from cutaway.v1 import introspect_pb2, model_pb2, tensor_pb2


@dataclass
class _Item:
    """One capture, scores, map or picture whose chunks still come. The buffer grows with what came, not to what was claimed."""

    header: introspect_pb2.ChunkHeader
    data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        match self.header.encoding:
            case introspect_pb2.ENCODING_RAW | introspect_pb2.ENCODING_AFFINE8:
                self._check_tensor()
            case introspect_pb2.ENCODING_PNG:
                self._check_file()
            case unknown:
                raise BrokenAnswer(f"an item came in encoding {unknown}, which this client does not know")

    def _check_tensor(self) -> None:
        expected = byte_count(self._wire_dtype, self.header.shape)
        if self.header.total_bytes != expected:
            raise BrokenAnswer(
                f"a tensor of shape {tuple(self.header.shape)} was announced with {self.header.total_bytes} bytes"
                f" instead of {expected}"
            )

    def _check_file(self) -> None:
        if not self.header.HasField("cam"):
            raise BrokenAnswer(f"{self.header.WhichOneof('subject')} came as a PNG file")
        if self.header.dtype or self.header.shape:
            raise BrokenAnswer("a PNG file was announced with the data type or the shape of a tensor")
        if self.header.total_bytes < 1:
            raise BrokenAnswer(f"a PNG file was announced with {self.header.total_bytes} bytes")

    def add(self, offset: int, data: bytes) -> None:
        if offset != len(self.data):
            raise BrokenAnswer(f"a chunk came for offset {offset} where {len(self.data)} was next")
        if offset + len(data) > self.header.total_bytes:
            raise BrokenAnswer(f"chunks came past the {self.header.total_bytes} bytes of their item")
        self.data += data

    @property
    def complete(self) -> bool:
        return len(self.data) == self.header.total_bytes

    @property
    def is_file(self) -> bool:
        return self.header.encoding == introspect_pb2.ENCODING_PNG

    def array(self) -> Array:
        array = decode(self._wire_dtype, self.header.shape, self.data)
        return from_affine8(array, self.header.affine8) if self.header.encoding == introspect_pb2.ENCODING_AFFINE8 else array

    @property
    def _wire_dtype(self) -> tensor_pb2.DataType:
        affine8 = self.header.encoding == introspect_pb2.ENCODING_AFFINE8
        return tensor_pb2.DATA_TYPE_UINT8 if affine8 else self.header.dtype


class Assembler:
    """Takes the responses of one stream in order, gives their events, and refuses a stream that breaks the contract."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._finished = False
        self._prediction: introspect_pb2.Prediction | None = None
        self._open: dict[int, _Item] = {}
        self._unknown: set[int] = set()

    def feed(self, response: introspect_pb2.IntrospectResponse) -> Event | None:
        """The event that the response completes; None for a piece of a larger one, or for what a newer server added.

        Raises:
            BrokenAnswer: it does not fit what came before.
        """
        kind = response.WhichOneof("event")
        if self._finished:
            raise BrokenAnswer("the stream went on after its end")
        if kind is not None and (kind == "started") == (self._started is not None):
            raise BrokenAnswer("the stream did not begin with one Started")
        match kind:
            case "started":
                self._started = _answers.started(response.started)
                return self._started
            case "chunk":
                return self._chunk(response.chunk)
            case "prediction":
                self._prediction = response.prediction
            case "progress":
                return Progress(response.progress.what, response.progress.done, response.progress.total)
            case "item_failed":
                return _answers.failure(response.item_failed)
            case "faithfulness":
                return _answers.faithfulness(response.faithfulness)
            case "finished":
                self._must_be_complete()
                self._finished = True
                return _answers.finished(response.finished)
        return None

    def end(self) -> None:
        """To be called when the stream ended with status OK.

        Raises:
            BrokenAnswer: it ended without Finished.
        """
        if not self._finished:
            raise BrokenAnswer("the stream ended before it was complete")

    def _chunk(self, chunk: introspect_pb2.Chunk) -> Event | None:
        if chunk.HasField("header"):
            if chunk.item in self._open:
                raise BrokenAnswer(f"item {chunk.item} began twice")
            if chunk.header.WhichOneof("subject") is None:  # a sort of item that a newer server added
                self._unknown.add(chunk.item)
            else:
                self._open[chunk.item] = _Item(chunk.header)
        if chunk.item in self._unknown:
            return None
        if (item := self._open.get(chunk.item)) is None:
            raise BrokenAnswer(f"a chunk came for item {chunk.item}, which is not open")
        item.add(chunk.offset, chunk.data)
        if not item.complete:
            return None
        del self._open[chunk.item]
        return self._event(chunk.item, item)

    def _event(self, number: int, item: _Item) -> Event:
        match item.header.WhichOneof("subject"):
            case "capture":
                return _answers.captured(item.header.capture, item.array())
            case "cam" if item.is_file:
                return _answers.cam_picture(item.header.cam, bytes(item.data))
            case "cam":
                return _answers.cam_map(item.header.cam, item.array())
            case _:
                return self._scored(number, item)

    def _scored(self, number: int, item: _Item) -> Prediction:
        message, self._prediction = self._prediction, None
        if message is None or message.scores_item != number:
            raise BrokenAnswer(f"item {number} holds scores that no prediction announced")
        assert self._started is not None  # feed lets nothing pass before it
        return Prediction(
            model=self._started.model,
            version=self._started.version,
            engine=message.engine,
            scores=item.array(),
            scores_kind=word(model_pb2.ScoresKind, message.scores_kind),
            top=_answers.top_classes(message.top),
        )

    def _must_be_complete(self) -> None:
        if self._open:
            raise BrokenAnswer(f"the stream finished with {len(self._open)} items incomplete")
        if self._prediction is not None:
            raise BrokenAnswer("the stream finished without the scores of its prediction")


def from_affine8(array: Array, affine8: introspect_pb2.Affine8) -> Array:
    """float32: scale * (byte - zero point), one of each for all, or for each along the first axis."""
    count = len(affine8.scales)
    if len(affine8.zero_points) != count or count not in {1, len(array) if array.ndim else 1}:
        raise BrokenAnswer(f"{count} scales came with an array of shape {array.shape}")
    shape = (count, *[1] * (array.ndim - 1)) if array.ndim else ()
    scales = np.array(affine8.scales, np.float32).reshape(shape)
    return scales * (array.astype(np.float32) - np.array(affine8.zero_points, np.float32).reshape(shape))
