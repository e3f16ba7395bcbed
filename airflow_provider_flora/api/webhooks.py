"""Flora's webhooks: whether a delivery is Flora's, and what it tells. No I/O.

Flora signs ``{t}.{body}`` with the workspace's secret and sends ``Flora-Signature: t=SECONDS,v1=HEX``. While a
secret is rotated there is a ``v1`` of each. What is not signed (the other headers, the URL) says nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from airflow_provider_flora.api.lenient import parse
from airflow_provider_flora.api.models import Webhook

SIGNATURE_HEADER = "Flora-Signature"
TOLERANCE = 300
"""Seconds that a signature's time may differ from now."""
LONGEST_SIGNATURE = 2000
"""Characters of the header: more than twenty ``v1``, of which a rotation needs two."""
_SECONDS = re.compile(r"[0-9]{1,12}")


def read_webhook(body: bytes) -> Webhook:
    """Read the body of a delivery. Check its signature before.

    :raises ValidationError: it is no webhook.
    """
    return parse(body, Webhook)


def refusal(body: bytes, signature: str, secret: str, now: float) -> str | None:
    """Return why a delivery is not to be believed, or ``None`` if Flora has sent it just now.

    The comparison takes the same time for any signature.

    :param body: the bytes as they were received.
    :param signature: the value of ``Flora-Signature``.
    :param secret: ``whsec_…``
    :param now: Unix time in seconds.
    """
    if len(signature) > LONGEST_SIGNATURE:
        return f"The Flora-Signature header has more than {LONGEST_SIGNATURE:,} characters."
    fields = [tuple(map(str.strip, part.partition("=")[::2])) for part in signature.split(",")]
    times = [value for name, value in fields if name == "t"]
    if len(times) != 1 or not _SECONDS.fullmatch(times[0]):
        return "The Flora-Signature header is not t=SECONDS,v1=HEX."
    expected = hmac.new(secret.encode(), f"{times[0]}.".encode() + body, hashlib.sha256).hexdigest().encode()
    equal = [hmac.compare_digest(value.encode(), expected) for name, value in fields if name == "v1"]
    if not any(equal):
        return "No v1 of the Flora-Signature header is that of this body with this secret."
    if abs(now - int(times[0])) > TOLERANCE:
        return f"The signature's time differs by more than {TOLERANCE} seconds from this server's."
    return None
