"""Which device a model runs on, and the ways there and back."""

from contextlib import AbstractContextManager, nullcontext

import structlog
import torch
from torch import Tensor

from cutaway_server.models.model import NotServable

log = structlog.get_logger()


def pick_device(asked: str) -> torch.device:
    """The device meant by auto, cpu, cuda or cuda:N; auto is the first GPU where PyTorch can use one.

    Raises:
        NotServable: there is no such device.
    """
    if asked == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if asked == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise NotServable(f"device {asked}: this PyTorch sees no CUDA device")
    device = torch.device(asked if ":" in asked else "cuda:0")
    if device.index >= torch.cuda.device_count():
        raise NotServable(f"device {asked}: there are {torch.cuda.device_count()}, from cuda:0")
    return device


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """Work given while it is open waits for nothing that others gave the device. For one thread, again and again."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()  # type: ignore[no-untyped-call]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device. By pinned memory, which PyTorch keeps for the next time, so nobody waits for it."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A tensor's values on the host. Waits for what this stream was given, and for no other."""
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    copied.synchronize()
    return host


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of a GPU or of the host."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(chain):
            return True
        chain = chain.__cause__
    return False


def free_cache(device: torch.device) -> None:
    """Gives the memory that PyTorch keeps for later back to the device, unless kernels are being recorded there. Never raises."""
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            log.warning("no memory could be given back to the device", device=str(device), reason=str(error))
