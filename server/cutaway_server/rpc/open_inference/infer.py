"""ModelStreamInfer, and what both it and ModelInfer answer from inside a network: decode, call, encode."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from cutaway_server.errors import AnswerTooLarge, Refusal
from cutaway_server.introspection.call import Call
from cutaway_server.models.arrays import to_array, to_tensor
from cutaway_server.rpc.calls import Calls, OpenCall
from cutaway_server.rpc.decode import Decoded
from cutaway_server.rpc.engine_method import run_engine
from cutaway_server.rpc.errors import abort, code_of
from cutaway_server.rpc.introspections import Introspections
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.decode import decode_inputs, is_typed, timeout_of
from cutaway_server.rpc.open_inference.encode import Output, encode_answer, scores_output
from cutaway_server.rpc.open_inference.inside import Gathered, check_bytes, check_size, gather, in_our_words, plan_inside
from cutaway_server.rpc.open_inference.outputs import Wanted, decode_outputs
from cutaway_server.rpc.open_inference.streams import OpenStream, Streams, tell
from cutaway_server.rpc.served import Models, Served, check_named
from cutaway_server.rpc.stall_watch import StallWatch

log = structlog.get_logger()
_FINAL = "triton_final_response"
_EMPTY_FINAL = "triton_enable_empty_final_response"


@dataclass(frozen=True)
class _Asked:
    """One request, decoded, since when, and who answers it."""

    request: messages.ModelInferRequest
    served: Served
    decoded: Decoded
    wanted: Wanted
    began: float
    call: OpenCall

    def answer(self, *outputs: Output) -> messages.ModelInferResponse:
        """With these outputs."""
        return encode_answer(self.served.model, self.request.id, outputs, typed=is_typed(self.request))


class Inferences:
    """Answers the requests of streams, and those that come alone and ask for layers or maps."""

    def __init__(self, models: Models, *, limits: Limits, calls: Calls, introspections: Introspections, watch: StallWatch) -> None:
        self._models = models
        self._limits = limits
        self._calls = calls
        self._introspections = introspections
        self._watch = watch
        self._streams = Streams()

    def close(self) -> None:
        """Ends streams, each after the request that it is at."""
        self._streams.close()

    def stream(
        self, requests: Iterator[messages.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[messages.ModelStreamInferResponse]:
        """One request after the other. What is refused is an answer; layers and maps have one each."""
        try:
            with self._streams.open(context) as stream:
                for request in stream.requests(requests):
                    yield from self._answers(request, context, stream)
        except Refusal as refusal:
            log.info("the stream ended", method="ModelStreamInfer", code=code_of(refusal).name, reason=str(refusal))
            abort(context, refusal)

    @contextmanager
    def _asked(self, request: messages.ModelInferRequest, call: OpenCall) -> Iterator[_Asked]:
        check_named(self._models, request.model_name, "model_name")
        if (seconds := timeout_of(request)) is not None:
            call.deadline = min(call.deadline, call.began + seconds)
        with self._models.use(request.model_name, request.model_version, call.deadline) as served:
            began = time.monotonic()
            wanted = decode_outputs(served.model, request.outputs)
            yield _Asked(request, served, decode_inputs(served.model, request, self._limits), wanted, began, call)

    def inside(self, request: messages.ModelInferRequest, served: Served, call: OpenCall) -> messages.ModelInferResponse:
        """Everything that is asked for in one answer, layers and maps among it.

        Raises:
            Refusal: whatever ended it.
        """
        began = time.monotonic()
        wanted = decode_outputs(served.model, request.outputs)
        asked = _Asked(request, served, decode_inputs(served.model, request, self._limits), wanted, began, call)
        answer = asked.answer(*self._inside(asked))
        check_bytes(answer.ByteSize(), self._limits, streamed=False)
        return answer

    def _inside(self, asked: _Asked) -> list[Output]:
        """In the order in which they were asked for."""
        planned = plan_inside(self._introspections, asked.served.model, asked.decoded, asked.wanted, asked.began)
        check_size(planned.plan, self._limits, streamed=False)
        outputs: list[tuple[int, Output]] = []
        size = 0
        with in_our_words(asked.wanted), self._introspections.run(asked.served, planned, asked.call, _nothing) as (running, _):
            for place, output in self._gather(asked, running):
                if isinstance(output, Refusal):
                    raise output
                size += len(output.data)
                check_bytes(size, self._limits, streamed=False)
                outputs.append((place, output))
        return [output for _, output in sorted(outputs, key=lambda one: one[0])]

    def _gather(self, asked: _Asked, running: Call) -> Iterator[Gathered]:
        return gather(running.events(), asked.served.model, asked.wanted, self._limits)

    def _answers(
        self, request: Any, context: grpc.ServicerContext, stream: OpenStream
    ) -> Iterator[messages.ModelStreamInferResponse]:
        try:
            with (
                self._calls.open("ModelStreamInfer", request, context, refuse=tell, on_cancel=stream.on_cancel) as call,
                self._asked(request, call) as asked,
                self._watch.watching(call, stream.cancel) as watched,
            ):
                for answer in self._inside_each(asked, stream) if asked.wanted.inside else self._scores_alone(asked):
                    with watched.sending():
                        yield answer
        except Refusal as refusal:
            yield _error(getattr(request, "id", ""), refusal)

    def _scores_alone(self, asked: _Asked) -> Iterator[messages.ModelStreamInferResponse]:
        model = asked.served.model
        scores = run_engine(asked.served, tuple(map(to_array, asked.decoded.arguments)), asked.call)
        output = scores_output(model, to_tensor(scores, model.scores_dtype), asked.wanted.best or 0)
        part = _part(asked.answer(output), final=True)
        self._limits.check_answer(part.ByteSize())
        yield part

    def _inside_each(self, asked: _Asked, stream: OpenStream) -> Iterator[messages.ModelStreamInferResponse]:
        """An answer for each output, when it is there, and an empty last one where the request wants that."""
        planned = plan_inside(self._introspections, asked.served.model, asked.decoded, asked.wanted, asked.began)
        check_size(planned.plan, self._limits, streamed=True)
        with in_our_words(asked.wanted), self._introspections.run(asked.served, planned, asked.call, stream.cancel) as (running, _):
            for _, output in self._gather(asked, running):
                yield self._told(asked, output)
        if _EMPTY_FINAL in asked.request.parameters and asked.request.parameters[_EMPTY_FINAL].bool_param:
            yield _part(asked.answer(), final=True)

    def _told(self, asked: _Asked, output: Output | Refusal) -> messages.ModelStreamInferResponse:
        """One output, or why it cannot be had."""
        if isinstance(output, Refusal):
            return _error(asked.request.id, output)
        part = _part(asked.answer(output), final=False)
        try:
            check_bytes(part.ByteSize(), self._limits, streamed=True)
        except AnswerTooLarge as refusal:
            return _error(asked.request.id, refusal)
        return part


def _nothing() -> None:
    """For answers that no reader can hold up."""


def _part(answer: messages.ModelInferResponse, *, final: bool) -> messages.ModelStreamInferResponse:
    answer.parameters[_FINAL].bool_param = final
    return messages.ModelStreamInferResponse(infer_response=answer)


def _error(request_id: str, refusal: Refusal) -> messages.ModelStreamInferResponse:
    return messages.ModelStreamInferResponse(error_message=str(refusal), infer_response=messages.ModelInferResponse(id=request_id))
