"""From tensors to pieces for the reader, with the accounts of what they cost."""

import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from cutaway_server.errors import NotHookable, NotReducible
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import (
    PIECE_BYTES,
    CamSubject,
    CaptureSubject,
    Failed,
    Header,
    LayerCost,
    Piece,
    ScoresSubject,
)
from cutaway_server.introspection.reduce import CannotReduce, Reduced, Reduction
from cutaway_server.metrics import Metrics
from cutaway_server.models.device import to_host
from cutaway_server.models.tensor_bytes import flat_bytes, is_sendable


class Sender:
    """Hands the tensors of one call on, piece by piece.

    Attributes:
        bytes_sent: of all pieces so far.
        blocked: seconds spent waiting for the reader so far.
        to_host: seconds that tensors took from their device so far.
        costs: of each captured layer, by name, in order of execution.
    """

    def __init__(self, call: Call, metrics: Metrics) -> None:
        self.bytes_sent = 0
        self.blocked = 0.0
        self.to_host = 0.0
        self.costs: dict[str, LayerCost] = {}
        self._call = call
        self._items = 0
        self._autocast = call.plan.model.autocast is not None
        name = call.plan.model.name
        self._capture_seconds = metrics.hook_capture_seconds.labels(name)
        self._reduce_seconds = metrics.reduce_seconds.labels(name)
        self._to_host_seconds = metrics.device_to_host_seconds.labels(name)
        self._captured_bytes = metrics.captured_bytes.labels(name)

    def next_item(self) -> int:
        """The number of the item that is sent next."""
        return self._items + 1

    def capture(self, subject: CaptureSubject, tensor: Tensor, reduction: Reduction, completed_after: float | None) -> None:
        """Reduces a tensor and copies what is left as it is now: the network waits, so what it does next does not show."""
        if not is_sendable(tensor):
            what = NotHookable(f"captures[{subject.index}]", subject.layer, f"{_words(tensor)} tensors do not travel")
            self._call.put(Failed(subject, what))
            return
        began = time.monotonic()
        try:
            with torch.autocast(tensor.device.type, enabled=False) if self._autocast else nullcontext():  # the network's alone
                reduced = reduction.apply(tensor, subject.batch_first)
        except CannotReduce as error:
            self._call.put(Failed(subject, NotReducible(f"captures[{subject.index}]", subject.layer, str(error))))
            return
        reducing = time.monotonic() - began
        blocked, sent, to_host = self.blocked, self.bytes_sent, self.to_host
        self._captured_bytes.inc(tensor.nbytes)
        self.send(_reduced_subject(subject, reduced), reduced.tensor, reduced)
        copying = time.monotonic() - began - reducing - (self.blocked - blocked) - (self.to_host - to_host)
        self._capture_seconds.observe(copying)
        if reduction != Reduction():
            self._reduce_seconds.observe(reducing)
        before = self.costs.get(subject.layer, LayerCost(subject.layer, completed_after))
        self.costs[subject.layer] = replace(
            before,
            completed_after=completed_after if completed_after is not None else before.completed_after,
            capture=before.capture + copying,
            reduce=before.reduce + reducing,
            bytes=before.bytes + self.bytes_sent - sent,
        )

    def send(
        self,
        subject: CaptureSubject | ScoresSubject | CamSubject,
        tensor: Tensor,
        reduced: Reduced | None = None,
    ) -> None:
        """Sends one item."""
        data = self._on_host(tensor)
        dtype, affine8 = (reduced.dtype, reduced.affine8) if reduced else (tensor.dtype, None)
        self._send(Header(subject, dtype, tuple(tensor.shape), len(data), affine8), data)

    def send_file(self, subject: CamSubject, file: bytes) -> None:
        """Sends one item that is a file."""
        self._send(Header(subject, None, (), len(file)), torch.frombuffer(bytearray(file), dtype=torch.uint8))

    def _send(self, header: Header | None, data: Tensor) -> None:
        self._items += 1
        for offset in range(0, max(1, len(data)), PIECE_BYTES):
            piece = data[offset : offset + PIECE_BYTES].clone()  # by PyTorch, which lets other threads of Python run meanwhile
            self.blocked += self._call.put(Piece(self._items, header, offset, piece.numpy().data))
            self.bytes_sent += len(piece)
            header = None

    def _on_host(self, tensor: Tensor) -> Tensor:
        began = time.monotonic()
        data = flat_bytes(to_host(tensor.detach().contiguous()))
        if tensor.device.type != "cpu":
            seconds = time.monotonic() - began
            self.to_host += seconds
            self._to_host_seconds.observe(seconds)
        return data


def _reduced_subject(subject: CaptureSubject, reduced: Reduced) -> CaptureSubject:
    if reduced.shrink is None:
        return subject
    kept = None if reduced.kept is None else reduced.kept.tolist()
    return replace(subject, shrink=reduced.shrink, kept=kept)


def _words(tensor: Tensor) -> str:
    return " ".join(str(what).removeprefix("torch.") for what in (tensor.dtype, tensor.layout) if what is not torch.strided)
