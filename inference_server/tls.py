"""The TLS context from PEM texts. Python reads key and certificate from files only: the file lives for that moment."""

import ssl
import tempfile

from inference_server.config import ConfigError


def server_context(key_pem: str, certificate_pem: str) -> ssl.SSLContext:
    """Raises: ConfigError, without anything of the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8") as file:  # 0600, gone at the end
            file.write(f"{key_pem.strip()}\n{certificate_pem.strip()}\n")
            file.flush()
            # The empty password keeps OpenSSL from asking on the terminal for an encrypted key's.
            context.load_cert_chain(file.name, password="")
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"tls_key and tls_certificate cannot be used ({type(exc).__name__}): both must be PEM texts, and the key "
            "the certificate's own, without a password."
        ) from None
    return context
