"""The fast form of methods that one run of an engine answers: on the serving thread, what came together in one batch."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from cutaway_server.errors import DeadlinePassed, Refusal
from cutaway_server.prediction.batcher import Batcher, Outcome, Prediction
from cutaway_server.rpc.calls import Calls, OpenCall
from cutaway_server.rpc.engine_method import EngineMethod, answer
from cutaway_server.rpc.engine_method import opened as open_request
from cutaway_server.rpc.errors import status_of
from cutaway_server.rpc.served import Held, Models, Served
from cutaway_server.rpc.serving_thread import RawCall, ServingThread

QUICK_BYTES = 4 << 20  # of a request: a larger one is decoded by another thread, so that others need not wait for that


class FastPath:
    """Answers calls on the serving thread where nothing takes long, and has other threads do the rest.

    Requests whose tensors are not at hand, as those with photographs, large ones, and those for a model that is not in memory go to
    the pool, where the ordinary steps are taken. Of the others those whose engine is short run on the serving thread itself; the
    batcher of the model answers the rest.

    Args:
        most: calls that are received before what came runs. With as many as may wait the rest would queue in gRPC, unseen.
    """

    def __init__(self, methods: Sequence[EngineMethod], models: Models, calls: Calls, pool: ThreadPoolExecutor, most: int) -> None:
        self._most = most
        self._methods = {method.path: method for method in methods}
        self._models = models
        self._calls = calls
        self._pool = pool
        self._held: dict[tuple[str, str], Held] = {}  # models in use, by what calls asked for, in this round
        self._waiting: dict[Batcher, deque[Prediction]] = {}
        self._elsewhere: set[Prediction] = set()

    def attach(self, server: grpc.Server) -> None:
        """Takes the methods of a server over that has not started yet."""
        ServingThread(server, list(self._methods), received=self._received, between=self._run, most=self._most)

    def _received(self, raw: RawCall) -> None:
        method = self._methods[raw.path]
        call = self._calls.begin(method.name, raw.metadata, raw.deadline - time.time(), _never)
        opened = _Open(raw, method, call, self._calls)
        try:
            if not self._start(opened):
                given_up = _GivenUp()
                call.on_cancel = given_up.then
                raw.watch(given_up.tell)
                self._pool.submit(self._answer_apart, opened)
        except Refusal as refusal:
            opened.end(refusal)
        except Exception:
            opened.fail()

    def _start(self, opened: "_Open") -> bool:
        """Whether the call is on its way; nothing was done where it needs a thread that may wait."""
        raw, method, call = opened.raw, opened.method, opened.call
        if len(raw.data) > QUICK_BYTES:
            return False
        request, named = open_request(method, raw.data, self._models, call)
        opened.request = request
        held = self._held.get(named) or self._models.take(*named)
        if held is None:
            return False
        self._held[named] = held
        batcher = held.served.batcher
        if len(self._waiting.get(batcher, ())) >= batcher.max_waiting:  # before work is put into it
            raise batcher.full
        arguments = method.at_hand(request, held.served.model)
        if arguments is None:
            return False
        call.found, opened.served = True, held.served
        prediction = Prediction(arguments, call.deadline, call.request_id, opened.end)
        raw.data = b""
        self._submit(prediction, held, opened)
        return True

    def _submit(self, prediction: Prediction, held: Held, opened: "_Open") -> None:
        batcher = held.served.batcher
        if not batcher.runs_at_once or prediction.samples > batcher.max_batch:
            opened.held = held.use()  # for longer than this round
            opened.raw.watch(prediction.cancel)
            try:
                batcher.submit(prediction)
            except Refusal as refusal:
                prediction.end(refusal)  # not past it: who gives up now would end it once more
            else:
                self._elsewhere.add(prediction)
            return
        self._waiting.setdefault(batcher, deque()).append(prediction)

    def _run(self) -> None:
        """What came, now that nothing else is there to be received."""
        if not self._held and not self._elsewhere:  # gRPC told of something else
            return
        waiting, self._waiting = self._waiting, {}
        held, self._held = self._held, {}
        try:
            for batcher, predictions in waiting.items():
                batcher.run(predictions)
        finally:
            for one in held.values():
                one.give_back()
        if self._elsewhere:
            now = time.monotonic()
            self._elsewhere = {prediction for prediction in self._elsewhere if not prediction.ended}
            for prediction in self._elsewhere:
                if prediction.deadline <= now:
                    prediction.end(DeadlinePassed("before the prediction was made"))

    def _answer_apart(self, opened: "_Open") -> None:
        try:
            data = answer(opened.method, opened.raw.data, self._models, opened.call)
        except Refusal as refusal:
            opened.end(refusal)
        except Exception:
            opened.fail()
        else:
            opened.reply(data)


def _never(act: Callable[[], None]) -> None:
    """For calls whose client is not watched: they last too short for that."""


class _GivenUp:
    """Whether the client has given a call up, and what is to be done then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = False
        self._then: list[Callable[[], None]] = []

    def then(self, act: Callable[[], None]) -> None:
        """Does that when it is given up, or now, if it was."""
        with self._lock:
            if not self._told:
                self._then.append(act)
                return
        act()

    def tell(self) -> None:
        """It is given up."""
        with self._lock:
            self._told = True
        for act in self._then:
            act()


class _Open:
    """A call that is answered once, from any thread, with its account. Nothing here raises."""

    __slots__ = ("_calls", "_trailing", "_unanswered", "call", "held", "method", "raw", "request", "served")

    def __init__(self, raw: RawCall, method: EngineMethod, call: OpenCall, calls: Calls) -> None:
        self.raw = raw
        self.method = method
        self.call = call
        self.request: Any = None
        self.held: Held | None = None
        self.served: Served | None = None
        self._calls = calls
        self._trailing = ("x-request-id", call.request_id)
        self._unanswered = [True]

    def end(self, outcome: Outcome) -> None:
        """Answers with scores, or with why there are none."""
        try:
            if isinstance(outcome, Refusal):
                self._refuse(outcome)
            else:
                assert self.served is not None
                self.reply(self.method.encode_within_limits(self.request, self.served.model, outcome))
        except Refusal as refusal:
            self._refuse(refusal)
        except Exception:
            self.fail()

    def reply(self, data: bytes) -> None:
        """Answers."""
        if not self._is_first():
            return
        self.give_back()
        self._calls.answered(self.call)
        self.raw.reply(data, (self._trailing,))

    def fail(self) -> None:
        """For the exception that is being handled: answers with INTERNAL."""
        if not self._is_first():
            return
        self.give_back()
        self._tell(self._calls.failed(self.call))

    def _refuse(self, refusal: Refusal) -> None:
        if not self._is_first():
            return
        self.give_back()
        self._tell(self._calls.refused(self.call, refusal))

    def _is_first(self) -> bool:
        """Whether nobody has answered yet; whoever asks does now."""
        try:
            return self._unanswered.pop()  # one thread alone gets it
        except IndexError:
            return False

    def _tell(self, refusal: Refusal) -> None:
        code, details = status_of(refusal)
        self.raw.refuse(code, str(refusal), (self._trailing, details))

    def give_back(self) -> None:
        """The model is used no longer."""
        held, self.held = self.held, None
        if held:
            held.give_back()
