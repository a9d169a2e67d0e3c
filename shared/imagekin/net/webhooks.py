"""Sending webhooks, signed as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import http
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version

import httpcore2
from standardwebhooks import Webhook

from imagekin import errors
from imagekin.net import fetch
from imagekin.net.public_addresses import Backend, Policy, Resolve, resolve
from imagekin.settings import Settings

# All in all, from looking the name up to the answer's first line.
TIMEOUT_S = 15.0
NO_SECRET = (
    "This server signs no webhooks: its operator must set IMAGEKIN_WEBHOOK_SECRET, on the API and on the workers. "
    "Leave callback_url out and poll the job instead."
)


class SendFailed(errors.ImagekinError):
    """The receiver could not be reached."""

    code = "send_failed"


def check(url: str, settings: Settings) -> None:
    """Raise InvalidRequest for an address that webhooks are not sent to.

    What a name resolves to is checked when the message is sent, and every time.
    """
    if not settings.webhook_secret:
        raise errors.InvalidRequest(NO_SECRET)
    try:
        host = fetch.parse(url).host
        if _is_address(host):
            Policy(settings.fetch_allow).addresses(host, 0, TIMEOUT_S)
    except errors.ItemError as error:
        raise errors.InvalidRequest(error.detail) from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Sender:
    """Sends messages; several threads may at once. Addresses are checked as those of images are."""

    def __init__(self, settings: Settings, resolve: Resolve = resolve) -> None:
        secrets = (settings.webhook_secret, settings.webhook_previous_secret)
        self._signers = [Webhook(secret) for secret in secrets if secret]
        self._backend = Backend(Policy(settings.fetch_allow, resolve))
        self._pool = httpcore2.ConnectionPool(
            network_backend=self._backend, max_connections=None, max_keepalive_connections=0
        )

    def send(self, url: str, message_id: str, body: str, sent_at: float) -> int:
        """Post a message and return the status of the answer; its body is not read and redirects are not followed.

        Raises SendFailed with the reason where no answer came.
        """
        with self._backend.within(TIMEOUT_S), _failures():
            # an address that was fine when the job came may be refused by another version or setting
            target = fetch.parse(url)
            content = body.encode()
            request = httpcore2.Request(
                "POST",
                httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path),
                headers={
                    "Host": target.netloc.decode("ascii"),
                    "User-Agent": f"imagekin/{version('imagekin')}",
                    "Content-Type": "application/json",
                    "Content-Length": str(len(content)),
                    **self._signature(message_id, body, sent_at),
                },
                content=content,
            )
            response = self._pool.handle_request(request)
            response.close()
            return response.status

    def close(self) -> None:
        """Close what is still open."""
        self._pool.close()

    def _signature(self, message_id: str, body: str, sent_at: float) -> dict[str, str]:
        moment = datetime.fromtimestamp(int(sent_at), UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(sent_at)),
            # a receiver accepts a message of which one signature is right, whichever secret it has
            "webhook-signature": " ".join(signer.sign(message_id, moment, body) for signer in self._signers),
        }


def verdict(status_code: int) -> str | None:
    """Return why an answer with this status is a failure; None for a success."""
    if 200 <= status_code < 300:
        return None
    try:
        phrase = f" {http.HTTPStatus(status_code).phrase}"
    except ValueError:
        phrase = ""
    redirect = "; redirects are not followed" if 300 <= status_code < 400 else ""
    return f"The receiver answered {status_code}{phrase}{redirect}."


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except errors.ItemTimeout:
        raise SendFailed("The receiver took too long to answer.") from None
    except errors.ItemError as error:
        raise SendFailed(error.detail) from None
    except httpcore2.TimeoutException:
        raise SendFailed("The receiver took too long to answer.") from None
    except httpcore2.ConnectError as error:
        tls = isinstance(error.__cause__, ssl.SSLError)
        raise SendFailed("The receiver's certificate is not valid." if tls else SendFailed().detail) from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise SendFailed("The connection broke before the receiver answered.") from error
