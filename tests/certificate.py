"""A certificate of our own for localhost."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Certificate:
    """Both ends of TLS."""

    server: grpc.ServerCredentials
    trusted: grpc.ChannelCredentials


def make_certificate(folder: Path) -> Certificate:
    """Signed by itself, good for two days."""
    files = [folder / "key.pem", folder / "cert.pem"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
    subprocess.run(["openssl", "req", "-x509", *subject, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    key, certificate = (file.read_bytes() for file in files)
    return Certificate(grpc.ssl_server_credentials([(key, certificate)]), grpc.ssl_channel_credentials(certificate))
