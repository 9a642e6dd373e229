"""The cluster's certificate authority and the certificates and kubeconfigs it hands out."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = timedelta(days=90)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Issues what is missing below one folder and leaves the rest as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        return self.folder / "ca.key"

    def ensure(self) -> None:
        """Make the authority, and the key pair that signs service-account tokens."""
        if self.certificate.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-localcluster")])
        builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        tokens = ec.generate_private_key(ec.SECP256R1())
        _write_key(self.folder / "sa.key", tokens)
        (self.folder / "sa.pub").write_bytes(
            tokens.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        _write_key(self.key, key)
        self.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, common_name: str, *, group: str = "", names: Sequence[str] = ()) -> Identity:
        """A certificate for client and server use; addresses among `names` are recognised as such."""
        identity = Identity(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if identity.certificate.exists():
            return identity
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if group:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        authority = serialization.load_pem_private_key(self.key.read_bytes(), password=None)
        assert isinstance(authority, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(x509.Name(attributes), issuer.subject, key)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        alternatives = [_general_name(name) for name in names or [file]]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        _write_key(identity.key, key)
        certificate = builder.sign(authority, hashes.SHA256())
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return identity

    def kubeconfig(self, identity: Identity, *, server: str, context: str) -> str:
        """Everything in one file, so that it can be copied anywhere."""
        return render_kubeconfig(
            server=server,
            context=context,
            authority=self.certificate.read_bytes(),
            certificate=identity.certificate.read_bytes(),
            key=identity.key.read_bytes(),
        )


def render_kubeconfig(*, server: str, context: str, authority: bytes, certificate: bytes, key: bytes) -> str:
    """One cluster, one user and one context, all of the same name."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": context, "cluster": {"server": server, "certificate-authority-data": encoded(authority)}}
        ],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    return yaml.safe_dump(config, sort_keys=False)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
