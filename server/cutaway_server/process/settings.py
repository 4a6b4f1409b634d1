"""Every setting once, with its unit and default. Flags, environment and file all come from here."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


def available_cpus() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


Address = Annotated[str, AfterValidator(_checked_address)]


class Settings(BaseSettings):
    """Settings of the server. A flag wins over an environment variable (CUTAWAY_…), that over the file, that over the default."""

    model_config = SettingsConfigDict(env_prefix="CUTAWAY_", extra="forbid", frozen=True)

    listen: Address = Field("127.0.0.1:50051", description="Address of gRPC, HOST:PORT; port 0 takes a free one.")
    metrics: Address = Field("127.0.0.1:9464", description="Address of the Prometheus metrics, HOST:PORT; port 0 takes a free one.")
    threads: int = Field(
        default_factory=available_cpus,
        ge=1,
        description="CPU threads that one forward pass of Predict uses. [default: the CPUs there are]",
    )
    lane_threads: int = Field(1, ge=1, description="CPU threads that the forward pass of one introspection uses.")
    lane_batch: int = Field(8, ge=1, description="Samples of one run of the network, for maps that take many runs.")
    max_batch: int = Field(32, ge=1, description="Samples that are joined into one batch of Predict at most; 1 joins none.")
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
