"""Every setting once, with its unit and default. Flags, environment and file all come from here."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from cutaway_server.models.engine_choice import EngineName
from cutaway_server.models.threads import available_cpus


def split_address(address: str) -> tuple[str, int]:
    """HOST and PORT of "HOST:PORT"; an IPv6 host stands in brackets.

    Raises:
        ValueError: it is no such thing.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    return host.strip("[]"), int(port)


def _checked_address(address: str) -> str:
    split_address(address)
    return address


def _split_by(sign: str) -> Any:
    """How an environment variable, or a flag's one value, stands for several."""

    def split(given: Any) -> Any:
        return tuple(part for part in given.split(sign) if part) if isinstance(given, str) else given

    return BeforeValidator(split)


Folders = Annotated[tuple[Path, ...], NoDecode, _split_by(os.pathsep)]  # as PATH
Names = Annotated[tuple[str, ...], NoDecode, _split_by(",")]
Address = Annotated[str, AfterValidator(_checked_address)]


def _engine_cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutaway" / "engines")


class Settings(BaseSettings):
    """Settings of the server. A flag wins over an environment variable (CUTAWAY_…), that over the file, that over the default."""

    model_config = SettingsConfigDict(env_prefix="CUTAWAY_", extra="forbid", frozen=True)

    models: Folders = Field((), description="A folder of models, NAME/VERSION/model.yaml, instead of the built-in ones.")
    allow_code: bool = Field(
        False,
        description="Let model folders bring programs: module.py, torch.export archives, TorchScript.",
    )
    allow_factory: Names = Field(
        (),
        description="A callable, PACKAGE.MODULE:NAME, that a model.yaml may name as its factory, beyond torchvision's and timm's.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="What models run on: auto, cpu, cuda or cuda:N; auto is a GPU if there is one.",
    )
    engine: EngineName = Field(
        "auto",
        description="What runs Predict: eager, onnxruntime, openvino, cudagraphs, or auto, the fastest that gives the same.",
    )
    engine_cache: str = Field(
        default_factory=_engine_cache,
        description="A folder that keeps what engines run from one start to the next; empty keeps nothing. "
        "[default: cutaway in the user's cache folder]",
    )
    lazy: bool = Field(False, description="Load models of the folder when they are first asked for.")
    model_memory_mib: int = Field(
        0,
        ge=0,
        description="MiB that the weights of all models in memory may take; idle ones are parked beyond that. 0 is no limit.",
    )
    load_timeout: float = Field(
        120,
        gt=0,
        description="Seconds that a model of the folder may take to load and run when it is tried, and again when it is loaded.",
    )
    poll: float = Field(0, ge=0, description="Seconds between looks at the folders of models; 0 looks at SIGHUP only.")
    admin: bool = Field(
        False,
        description="Serve cutaway.v1.AdminService, and let callers load and park models by the Open Inference Protocol.",
    )
    listen: Address = Field("127.0.0.1:50051", description="Address of gRPC, HOST:PORT; port 0 takes a free one.")
    metrics: Address = Field("127.0.0.1:9464", description="Address of the Prometheus metrics, HOST:PORT; port 0 takes a free one.")
    threads: int = Field(
        default_factory=available_cpus,
        ge=1,
        description="CPU threads that one forward pass of Predict uses. [default: the CPUs there are for us]",
    )
    lane_threads: int = Field(1, ge=1, description="CPU threads that the forward pass of one introspection uses.")
    lane_batch: int = Field(8, ge=1, description="Samples of one run of the network, for maps that take many runs.")
    max_batch: int = Field(32, ge=1, description="Samples that are joined into one batch of Predict at most; 1 joins none.")
    batch_delay: float = Field(
        0, ge=0, description="Milliseconds that a prediction waits at most for others to join its batch; 0 joins what waits anyway."
    )
    max_waiting: int = Field(256, ge=1, description="Predictions of a model that may wait for a batch.")
    lanes: int = Field(2, ge=1, description="Introspections of a model that run at the same time.")
    max_waiting_introspections: int = Field(64, ge=0, description="Introspections of a model that may wait for a lane.")
    stream_buffer_mib: int = Field(
        32, ge=1, description="MiB that an introspection holds for a slow reader before its network waits."
    )
    max_buffer_mib: int = Field(
        256, ge=1, description="MiB that all introspections together hold for slow readers; each gets its lane's share at most."
    )
    max_message_mib: int = Field(64, ge=2, le=2047, description="MiB of one message, in or out.")
    max_input_mib: int = Field(256, ge=1, description="MiB of model-ready input of one call, after photographs are decoded.")
    max_pixels: int = Field(50_000_000, ge=1, le=178_000_000, description="Pixels of all photographs of one call.")
    max_passes: int = Field(
        16384, ge=0, description="Runs of the network on one sample that the maps of one introspection may take beyond its first."
    )
    call_timeout: float = Field(60, gt=0, description="Seconds that a call may take; a client's own deadline may be shorter.")
    stall_timeout: float = Field(30, gt=0, description="Seconds that the reader of a stream may stand still.")
    drain: float = Field(10, ge=0, description="Seconds that running calls have to finish when the server is told to stop.")
    fast_path: Literal["auto", "off"] = Field(
        "auto", description="Answer Predict on the thread on which gRPC polls, where that works: auto, or off."
    )
    reflection: bool = Field(True, description="Serve gRPC reflection, by which tools list the methods.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field("auto", description="Form of the log; auto is console on a terminal.")
    log_requests: bool = Field(False, description="Log a line for each call that went well, too.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come as arguments to the constructor."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(flags: dict[str, Any], file: Path | None = None) -> Settings:
    """Settings from flags, environment and a TOML file, if one is named.

    Raises:
        pydantic.ValidationError: names each setting that does not go, and why.
        OSError, tomllib.TOMLDecodeError: the file cannot be read.
    """
    if file is None:
        return Settings(**flags)
    with file.open("rb") as opened:
        tomllib.load(opened)  # a file that is missing or no TOML is an error here; below it would be passed over

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    return FromFile(**flags)
