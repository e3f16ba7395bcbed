"""TLS on this machine, without the network's help: a CA, a Flora behind its certificate, and a proxy on the way."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.api.scripted_flora import LoopbackServer, Reply, ScriptedFlora

NAMES = ("localhost", "flora.example")


class Authority:
    """An unknown CA, and a certificate of it for :data:`NAMES` and 127.0.0.1.

    ``bundle`` is a file with the CA, ``folder`` one that OpenSSL can look CAs up in.
    """

    def __init__(self, name: str, place: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        ) | {"encipher_only": False, "decipher_only": False}
        ca = (
            _certificate(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        server_key = ec.generate_private_key(ec.SECP256R1())
        server = (
            _certificate(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), subject, server_key.public_key()
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [*map(x509.DNSName, NAMES), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = ca.public_bytes(serialization.Encoding.PEM)
        place.mkdir()
        self.bundle = place / "ca.pem"
        self.bundle.write_bytes(pem)
        self.folder = place / "cas"
        self.folder.mkdir()
        (self.folder / f"{_openssl_hash(subject)}.0").write_bytes(pem)
        chain = place / "server.pem"
        chain.write_bytes(
            server.public_bytes(serialization.Encoding.PEM)
            + server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(chain)


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _openssl_hash(name: x509.Name) -> str:
    """Return what OpenSSL calls the file of a CA, for a name of one lower-case word."""
    without_sequence = name.public_bytes()[2:]
    return hashlib.sha1(without_sequence).digest()[3::-1].hex()


class TlsFlora(ScriptedFlora):
    """A Flora that answers over TLS only."""

    def __init__(self, authority: Authority, *replies: Reply) -> None:
        super().__init__(*replies)
        self._tls = authority.server
        self.origin = f"https://localhost:{self.port}"
        self.base_url = f"{self.origin}/api/v1"

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection = self._tls.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()  # who does not trust the certificate hangs up
            return
        super()._serve(connection)


class Tunnel(LoopbackServer):
    """A proxy that takes CONNECT for any host, and connects it with one port of this machine.

    ``asked_for`` are the hosts and ports of the requests, ``headers`` what came with the last one, ``answer`` what
    it says to CONNECT.
    """

    def __init__(self, port: int, authority: Authority | None = None) -> None:
        super().__init__()
        self._port = port
        self._tls = authority.server if authority else None
        self.address = f"127.0.0.1:{self.port}"
        self.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        self.asked_for: list[str] = []
        self.headers: dict[str, str] = {}

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            self._open.append(client)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            first, *lines = head.decode().strip().split("\r\n")
            method, self.headers = first.split(" ")[0], dict(line.lower().split(": ", 1) for line in lines)
            self.asked_for.append(first.split(" ")[1])
            if method != "CONNECT":
                client.sendall(b"HTTP/1.1 405 Not Allowed\r\ncontent-length: 0\r\n\r\n")
                client.close()
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._open.append(server)
            client.sendall(self.answer)
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            _pump(client, server)
        except OSError:
            pass  # one side has gone


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
