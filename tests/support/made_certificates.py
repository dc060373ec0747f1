# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests of TLS: an authority, what it signed, and what has gone wrong with them."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: str
    key: str


class Authority:
    """
    Signs certificates for localhost.

    Args:
        folder: for the files.
        name: its own, and of its file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        made = self._builder(self._name, self._key.public_key(), _now() + DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.certificate = _written(folder / f"{name}.pem", made.sign(self._key, hashes.SHA256()))

    def sign(self, name: str, *, expired: bool = False, password: bytes | None = None) -> Pair:
        """A certificate for localhost; one that has expired yesterday, or one whose key is encrypted."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        until = _now() + (-DAY if expired else DAY)
        made = self._builder(_named(name), key.public_key(), until).add_extension(
            x509.SubjectAlternativeName(hosts), critical=False
        )
        certificate = _written(self._folder / f"{name}.pem", made.sign(self._key, hashes.SHA256()))
        path = self._folder / f"{name}.key"
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        return Pair(certificate, str(path))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime.datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        return builder.not_valid_before(_now() - 10 * DAY).not_valid_after(until)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _written(path: Path, certificate: x509.Certificate) -> str:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return str(path)
