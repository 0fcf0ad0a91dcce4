"""Files of certificate authorities: what is wrong with them, in words that OpenSSL does not have."""

from __future__ import annotations

HINT = "name a file with certificates in PEM; openssl x509 -inform der -in FILE makes one of DER"


def complaint(text: str) -> str | None:
    """Return why a text can't serve as certificates of authorities in PEM, as what follows its name."""
    # Costs 20 ms, and is only needed where such a file is named.
    import ssl

    if not text.strip():
        return "is empty"
    if "-----BEGIN " not in text:
        return "holds no certificate in PEM"
    if "CERTIFICATE-----" not in text:
        return "holds a key, but no certificate" if "KEY-----" in text else "holds no certificate"
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        return "holds a certificate that can't be read"
    return None


def why_not(path: str, error: OSError) -> str:
    """Return why a file of authorities could not be loaded, as what follows its name."""
    import ssl

    if not isinstance(error, ssl.SSLError):
        return f"can't be read: {error.strerror}"
    with open(path, "rb") as file:
        return complaint(file.read(1 << 20).decode("latin-1")) or "can't be read"
