"""A certificate authority for tests, made by the ``openssl`` program; valid for two days."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from replicator_sandbox.rabbitmq import TlsFiles

_CA = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """``server`` is for localhost and 127.0.0.1, ``elsewhere`` for a host that does not exist."""

    ca: Certificate
    other_ca: Certificate
    server: Certificate
    elsewhere: Certificate
    client: Certificate

    def of_server(self, certificate: Certificate | None = None) -> TlsFiles:
        """What a server needs to show a certificate and to check those of its clients."""
        shown = certificate or self.server
        return TlsFiles(ca=self.ca.cert, cert=shown.cert, key=shown.key)


def make_certificates(directory: Path, client_name: str = "replicator") -> Certificates:
    ca = _make(directory, "ca", "Test CA", _CA)
    return Certificates(
        ca=ca,
        other_ca=_make(directory, "other-ca", "Another CA", _CA),
        server=_make(
            directory,
            "server",
            "localhost",
            f"{_LEAF}extendedKeyUsage = serverAuth\nsubjectAltName = DNS:localhost, IP:127.0.0.1\n",
            issuer=ca,
        ),
        elsewhere=_make(
            directory,
            "elsewhere",
            "elsewhere.invalid",
            f"{_LEAF}extendedKeyUsage = serverAuth\nsubjectAltName = DNS:elsewhere.invalid\n",
            issuer=ca,
        ),
        client=_make(
            directory,
            "client",
            client_name,
            f"{_LEAF}extendedKeyUsage = clientAuth\nsubjectAltName = DNS:{client_name}\n",
            issuer=ca,
        ),
    )


def _make(
    directory: Path, name: str, subject: str, extensions: str, issuer: Certificate | None = None
) -> Certificate:
    made = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
    config = directory / f"{name}.cnf"
    # A configuration of our own: those of different systems add different extensions.
    config.write_text(
        "[req]\nprompt = no\ndistinguished_name = subject\nx509_extensions = extensions\n"
        f"[subject]\nCN = {subject}\n[extensions]{extensions}"
    )
    command = ["openssl", "req", "-x509", "-config", str(config), "-days", "2", "-nodes"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(made.key), "-out", str(made.cert)]
    if issuer is not None:
        command += ["-CA", str(issuer.cert), "-CAkey", str(issuer.key)]
    subprocess.run(command, check=True, capture_output=True)
    return made
