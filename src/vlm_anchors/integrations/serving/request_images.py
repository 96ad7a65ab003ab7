"""Images of a request: data URLs, and http(s) addresses only where the server may fetch them.

No request can read a file of this machine, and none can reach a private address: a host is resolved once, every address it
resolves to must be public, and the connection goes to that address, so that a second look-up cannot change it.
"""

import http.client
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import BadImage
from ...inputs.images import inline_bytes, read_image
from .problems import RequestProblem

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 10
"""For one image from another host, connection and transfer together, each read."""


@dataclass(frozen=True)
class ImageReader:
    """Reads the images of requests.

    Args:
        remote: Whether http(s) addresses are fetched.
        max_bytes: Largest image file, encoded, in bytes.
        max_pixels: Largest image, width times height: decoded, it waits in memory until its turn.
    """

    remote: bool = False
    max_bytes: int = 20 * 2**20
    max_pixels: int = 25_000_000

    def __call__(self, url: object) -> "Image.Image":
        """The image of an `image_url` part. Raises `RequestProblem`."""
        if not isinstance(url, str) or not url.strip():
            raise _problem("Expected an image as a data URL (data:image/png;base64,...); found nothing.")
        scheme = url.split(":", 1)[0].strip().lower() if ":" in url[:16] else ""
        try:
            return read_image(self._bytes(url, scheme), self.max_pixels)
        except BadImage as error:
            raise _problem(str(error)) from error

    def _bytes(self, url: str, scheme: str) -> bytes:
        if scheme == "data":
            return inline_bytes(url, self.max_bytes)
        if scheme in ("http", "https") and self.remote:
            return self._fetched(url)
        if scheme in ("http", "https"):
            raise _problem("This server does not fetch images from other hosts. Send the image as a data URL.")
        raise _problem(f"Expected an image as a data URL (data:image/png;base64,...); found {url[:40]!r}.")

    def _fetched(self, url: str) -> bytes:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise _problem(f"The image's address has no valid host or port: {url[:80]!r}.") from error
        host = parts.hostname
        if not host:
            raise _problem(f"The image's address has no host: {url[:80]!r}.")
        address = public_address(host, port)
        connection: Any = http.client.HTTPConnection(host, port, timeout=SECONDS)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=ssl.create_default_context())
        # The name stays what TLS and the Host header see; the socket goes to the address that was checked.
        connection._create_connection = lambda _, *rest, **named: socket.create_connection(
            (address, port), *rest, **named
        )
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", path, headers={"User-Agent": "vlm-anchors", "Accept": "image/*"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise _problem(
                    f"{host} answered {reply.status} for the image. Redirects are not followed; send the file."
                )
            content = reply.read(self.max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _problem(f"The image could not be fetched from {host}: {type(error).__name__}.") from error
        finally:
            connection.close()
        if len(content) > self.max_bytes:
            raise self._too_large()
        return content

    def _too_large(self) -> RequestProblem:
        return _problem(f"The image is larger than {self.max_bytes // 2**20} MiB, which is the most this server reads.")


def public_address(host: str, port: int) -> str:
    """The first address of a host, if all its addresses are public; raises `RequestProblem` otherwise."""
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise _problem(f"The image's host {host!r} is not known.") from error
    for one in found:
        plain = ipaddress.ip_address(one.partition("%")[0])
        mapped = getattr(plain, "ipv4_mapped", None)
        if not (mapped or plain).is_global or plain.is_multicast:
            raise _problem(f"The image's host {host!r} has a private address, which this server never reaches.")
    return sorted(found)[0]


def _problem(message: str) -> RequestProblem:
    return RequestProblem(message, 400, "invalid_image", "messages")
