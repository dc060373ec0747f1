"""PEM files that the endpoint's TLS needs, looked at before anything is sent."""

import ssl
from pathlib import Path


def check_authorities(path: str) -> str:
    """
    The path, if it is a file of certificates to trust.

    Raises:
        ValueError: it is not; the text says why.
    """
    try:
        Path(path).read_bytes()
        ssl.create_default_context(cafile=path)
    except OSError as error:  # an SSLError is one
        raise ValueError(f"{path}: {error.strerror or error}; it must be a file of PEM certificates") from None
    return path


def check_pair(certificate: str, key: str | None) -> None:
    """
    Check a client certificate and its key; one file may hold both.

    Raises:
        ValueError: they cannot be read, or do not belong to each other; the text says why.
    """
    try:
        # The password is asked for at the terminal, if nobody answers.
        ssl.create_default_context().load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        files = f"{certificate} and {key}" if key else certificate
        raise ValueError(
            f"{files}: {error.strerror or error}; they must be PEM files of a certificate and its key, not encrypted"
        ) from None
