"""Secrets of addresses: users, passwords and signatures of URLs, kept apart from the URLs.

`public` takes them out of a URL where it comes in: the command line, settings, a data set file, a cell of a table.
All other code prints, stores and compares the public URL. A new password or signature therefore names the same file.
`opened` gives them back to whatever opens the place. `masked` removes them from the text of a library.
They are held in this process, and reach other processes over pipes or in pickles, never as arguments.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

Access = tuple[tuple[str, str], ...]  # public URLs, each with the URL that opens it

_ADDRESS = re.compile(
    r"(?P<head>(?:[A-Za-z].*::|[a-z]+:(?=[A-Za-z][\w+.-]*:))?)(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)",
    re.DOTALL,
)
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`|]+")
_USER = re.compile(r"[^/?#]*@")
_ODD_USER = re.compile(r"[^/@:?#\[]*:(?!\d+(?:[/?#]|$)).+@", re.DOTALL)  # a password with a slash that is not quoted
_DATABASES = {"mariadb", "mssql", "mysql", "oracle", "postgresql", "redis"}
# Before the @ stands a container or a repository.
_NAMED_BY_USER = {"abfs", "abfss", "adl", "az", "wasb", "wasbs", "github", "gist"}
_WITHOUT = {"tar", "zip", "file", "local"}  # what follows is a path

_SIGNED = re.compile(r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|sig|key-pair-id|hmac", re.IGNORECASE)
# Parameters beside a secret: the user, and what is signed with a signature of Azure, CloudFront or S3.
_BESIDE = re.compile(
    r"user|username|uid|expires|policy|s[vtepri]|spr|sip|ss|srt|sdd|sk[a-z]{1,3}|[sc]uoid|saoid|scid", re.IGNORECASE
)
_SECRET = re.compile(r".*(pass|pwd|secret|token|credential|api[-_]?key|access[-_]?key|subscription[-_]key).*", re.I)
_MAY_BE_SECRET = re.compile(r"auth|key|code", re.IGNORECASE)
_NAMES_A_FILE = re.compile(r"\d{0,6}|.*([./]|%2f).*", re.IGNORECASE)
# Replaced wherever it stands in a text; a password like `train` is not, which would spoil every line.
_RARE = re.compile(r"(?=.*[^a-z]).{6,}|.{12,}", re.DOTALL)

_exact: dict[str, str] = {}  # public URL -> the URL that opens it
# Public URL of a file, folder or server -> the path that was given, and its user with the @.
_users: dict[str, tuple[str, str]] = {}
_words: dict[str, None] = {}  # secrets, to be found in the text of libraries


def public(place: str) -> str:
    """Return a place without its secrets, which this process remembers; a path stays as it is."""
    if "://" not in place or not (found := _taken_out(place)):
        return place
    head, shown, whole, user = found
    if shown != whole:
        _exact[shown] = whole
        _words.update(dict.fromkeys(_secrets_of(whole, user)))
    if user:
        scheme, _, rest = shown.partition("://")
        path = rest.partition("?")[0].rstrip("/")
        _users[f"{scheme}://{path}"] = path, user
        # Also of files beside a manifest, and of the server, as in .netrc, unless another address says more.
        for key in (path.rpartition("/")[0], path.partition("/")[0]):
            if key and _users.get(f"{scheme}://{key}", (path, ""))[0] == path:
                _users[f"{scheme}://{key}"] = path, user
    return head + shown


def opened(place: str) -> str:
    """Return the place with the secrets that open it."""
    if not (_exact or _users) or not (match := _ADDRESS.fullmatch(place)):
        return place
    url = place[len(match["head"]) :]
    if url in _exact:
        return match["head"] + _exact[url]
    key = _user_key(url)
    return f"{match['head']}{match['scheme']}://{_users[key][1]}{match['rest']}" if key else place


def _user_key(url: str) -> str:
    """Return the closest place above a URL whose user is known, or an empty text."""
    if _USER.match(url.partition("://")[2]):
        return ""
    key = url.partition("?")[0].rstrip("/")
    while not key.endswith(":/"):
        if key in _users:
            return key
        key = key.rpartition("/")[0]
    return ""


def access_to(places: Iterable[str]) -> Access:
    """Return what another process has to remember to open these places. Never print or store it."""
    needed: dict[str, str] = {}
    if _exact or _users:
        for place in places:
            if match := _ADDRESS.fullmatch(place):
                url = place[len(match["head"]) :]
                if url in _exact:
                    needed[url] = _exact[url]
                elif key := _user_key(url):
                    scheme, _, rest = key.partition("://")
                    needed[key] = f"{scheme}://{_users[key][1]}{rest}"
    return tuple(needed.items())


def remember(access: Access) -> None:
    """Remember what `access_to` has returned in another process."""
    for _, whole in access:
        public(whole)


def forget() -> None:
    """Forget every secret."""
    for known in (_exact, _users, _words):
        known.clear()


def masked(text: str) -> str:
    """Return a text, such as a library's message, without the secrets of URLs in it and without known secrets."""
    if "://" in text:
        text = _IN_TEXT.sub(lambda match: _shown(match[0]), text)
    for word in _words:
        if word in text:
            text = text.replace(word, "***")
    return text


def _shown(address: str) -> str:
    found = _taken_out(address)
    return found[0] + found[1] if found else address


def _taken_out(place: str) -> tuple[str, str, str, str] | None:
    """Return what stands before the URL, the public URL, the whole URL, and its user with the @. None for a path."""
    match = _ADDRESS.fullmatch(place)
    if not match or match["scheme"].lower() in _WITHOUT:
        return None
    scheme, rest, user = match["scheme"], match["rest"], ""
    kinds = (_ODD_USER, _USER) if scheme.partition("+")[0].lower() in _DATABASES else (_USER, _ODD_USER)
    named = None if scheme.lower() in _NAMED_BY_USER else kinds[0].match(rest) or kinds[1].match(rest)
    if named:
        user, rest = named[0], rest[named.end() :]
    path, mark, query = rest.partition("?")
    if mark:
        query, hash_mark, fragment = query.partition("#")
        rest = path + _public_query(query) + hash_mark + fragment
    return match["head"], f"{scheme}://{rest}", place[len(match["head"]) :], user


def _public_query(query: str) -> str:
    """Return the query without secrets, and with its question mark unless nothing is left."""
    parts = query.split("&")
    secret = ["=" in part and _is_secret(*part.split("=", 1)) for part in parts]
    beside = [any(secret) and "=" in part and _BESIDE.fullmatch(part.partition("=")[0]) for part in parts]
    kept = [part for part, *taken in zip(parts, secret, beside, strict=True) if not any(taken)]
    return "?" + "&".join(kept) if kept else ""


def _is_secret(name: str, value: str) -> bool:
    """Return whether a parameter is a secret; `key=cats/1.png` names a file."""
    if _SIGNED.fullmatch(name) or _SECRET.fullmatch(name):
        return True
    return bool(_MAY_BE_SECRET.fullmatch(name)) and not _NAMES_A_FILE.fullmatch(value)


def _secrets_of(whole: str, user: str) -> Iterable[str]:
    """Yield the secrets of a URL as they may stand in a message: as they are, decoded, and encoded."""
    parts = (part.partition("=") for part in re.split("[&#]", whole.partition("?")[2]))
    values = [value for name, _, value in parts if re.search("sig|cred|token|pass|pwd|secret|key", name, re.I)]
    password = user[:-1].partition(":")[2]
    for value in (password, *values):
        for form in (value, unquote(value), quote(value, safe="")):
            if _RARE.fullmatch(form):
                yield form
