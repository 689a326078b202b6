"""Channels: where alerts go, by `GRAYLINE_ALERTS`. A URL of http or https is a webhook; Apprise takes all others."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from resnet_core.credentials import public
from resnet_core.errors import UserError
from resnet_core.policy import check_host, check_protocol, is_named
from tasks.access.modes import secret_lines
from tasks.settings import Settings

_WEBHOOK = ("http", "https")


@dataclass(frozen=True)
class Channel:
    """A place that alerts are sent to. url: with its secrets. place: scheme and host, for messages."""

    url: str
    place: str

    @property
    def is_webhook(self) -> bool:
        return urlsplit(self.url).scheme.lower() in _WEBHOOK

    @property
    def block(self) -> tuple[str, dict[str, Any]]:
        """Return the type of Prefect's block, and its content.

        Prefect has a block for Apprise without a name of its own: that of Slack passes other URLs on as they are.
        """
        if not self.is_webhook:
            return "slack-webhook", {"url": self.url}
        headers = {"Content-Type": "application/json"}
        private = is_named(urlsplit(self.url).hostname or "")
        return "webhook", {"url": self.url, "headers": headers, "allow_private_urls": private}


def channels(settings: Settings) -> list[Channel]:
    """Return the channels of the settings. Raises UserError for one that cannot be, or that the policy forbids."""
    given = settings.alerts.get_secret_value() if settings.alerts else ""
    found = [(f"GRAYLINE_ALERTS: URL {number}", url) for number, url in enumerate(given.split(), 1)]
    if settings.alerts_file:
        lines = secret_lines(settings.alerts_file, "GRAYLINE_ALERTS_FILE")
        found += [(f"GRAYLINE_ALERTS_FILE: line {number}", line) for number, line in lines]
    return [_channel(url, where) for where, url in found]


def _channel(url: str, where: str) -> Channel:
    public(url)  # from now on, messages of libraries do not show its password
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    if not scheme:
        raise UserError(
            f"{where} does not begin with a scheme. Write https://... for a webhook, or a URL of Apprise's."
        )
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        raise UserError(f"{where} cannot be read as a URL. Correct it.") from None
    channel = Channel(url, f"{scheme[0]}{host}" if scheme[1].lower() in _WEBHOOK else f"{scheme[0]}...")
    try:
        if channel.is_webhook:
            check_protocol(channel.place)
        else:
            _check_apprise(url, where)
        check_host(host)
    except PermissionError as error:
        raise UserError(f"{where}: {error}") from None
    return channel


def _check_apprise(url: str, where: str) -> None:
    from apprise import Apprise  # its 140 services take their time

    if Apprise.instantiate(url) is None:
        scheme = url.partition(":")[0]
        raise UserError(
            f"{where} is not a URL of Apprise's: {scheme}://... Its forms are on https://appriseit.com/services/, such "
            "as mailtos://USER:PASSWORD@HOST?to=ADDRESS."
        )


def deliver(channel: Channel, content: dict[str, str]) -> None:
    """Send it from this process, by Prefect's blocks: without a server, no automation does."""
    from prefect.blocks.notifications import SlackWebhook
    from prefect.blocks.webhook import Webhook
    from prefect.utilities.asyncutils import run_coro_as_sync

    _, block = channel.block
    if channel.is_webhook:
        answer: Any = run_coro_as_sync(Webhook(**block).call(dict(content)))
        answer.raise_for_status()
        return
    apprise = SlackWebhook(**block)
    with apprise.raise_on_failure():
        apprise.notify(body=content["text"], subject=content["subject"])
