"""With what organisations sign in at services outside: sealed here, stored in the database.

The format, which the edge functions read too: AES-256-GCM; nonce (12 bytes), ciphertext, tag (16
bytes); additional data `<org_id>/<provider>`, so that a row copied to another organisation does not
open; inside, a JSON object of texts. The keys are those of NESSOS_ENCRYPTION_KEYS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from nessos import settings, target
from nessos.db import translated
from nessos.errors import CredentialsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

    from nessos.jobs.entrypoint import Pool

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_MAKE_ONE: Final = "openssl rand -base64 32"
_READ: Final = (
    "select ciphertext, key_id from public.integration_credentials"
    " where org_id = %s and provider = %s"
)
STORE: Final = "select app.store_credentials(%s, %s, %s, %s)"
"""Organisation, provider, ciphertext, id of the key."""
_UNDER_OTHER_KEYS: Final = """
select c.org_id, c.provider, c.ciphertext, c.key_id
from public.integration_credentials as c
where c.key_id <> %s and (c.org_id, c.provider) > (%s, %s)
order by c.org_id, c.provider limit 100
"""
_ROTATE: Final = "select app.rotate_credentials(%s, %s, %s, %s, %s)"


def _like(pattern: str, meaning: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {meaning}")
        return value

    return AfterValidator(check)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line of printable characters")
    return value


Text = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_printable)]
Address = Annotated[Text, _like(r"https?://[^\s/?#@]+(/[^\s?#]*)?", "an address: https://…")]


class Fields(BaseModel):
    """What a provider asks of an organisation that connects it.

    Attributes:
        secret: The fields that nobody may see while they are typed.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, hide_input_in_errors=True)
    secret: ClassVar[frozenset[str]]


class Omie(Fields):
    """An application of Omie (developer.omie.com.br)."""

    secret = frozenset({"app_secret"})
    app_key: Annotated[Text, _like(r"\d+", "a number")]
    app_secret: Text


class Resend(Fields):
    """An account of Resend; the secret of its webhook tells what became of messages."""

    secret = frozenset({"api_key", "webhook_secret"})
    api_key: Text
    sender: Annotated[
        Text,
        Field(alias="from"),
        _like(r"[^<>@]+ <[^\s<>@]+@[^\s<>@]+>|[^\s<>@]+@[^\s<>@]+", "address, or Name <address>"),
    ]
    webhook_secret: Annotated[Text, _like(r"whsec_.+", "Resend's: whsec_…")] | None = None


class Twilio(Fields):
    """An account of Twilio, and the number or messaging service it sends from."""

    secret = frozenset({"auth_token"})
    account_sid: Annotated[Text, _like(r"AC\w+", "Twilio's: AC…")]
    auth_token: Text
    sender: Annotated[
        Text,
        Field(alias="from"),
        _like(r"\+[1-9]\d{6,14}|MG\w+", "a number as +5511…, or a messaging service: MG…"),
    ]
    status_callback: Address | None = None


class Evolution(Fields):
    """An instance of an Evolution server, through which WhatsApp messages go."""

    secret = frozenset({"api_key", "webhook_jwt_key", "webhook_secret"})
    url: Address
    api_key: Text
    instance: Text
    webhook_jwt_key: Text | None = None
    webhook_secret: Text | None = None


class Github(Fields):
    """The secret of a webhook of a repository or an organisation."""

    secret = frozenset({"webhook_secret"})
    webhook_secret: Text


PROVIDERS: Final[Mapping[str, type[Fields]]] = {
    "evolution": Evolution,
    "github": Github,
    "omie": Omie,
    "resend": Resend,
    "twilio": Twilio,
}
"""What to ask for; the same providers as `app.integration_providers` has with credentials."""


@dataclass(frozen=True)
class KeyRing:
    """The keys of an installation.

    Attributes:
        keys: Key by its id, in the order given: the first encrypts, all decrypt.
    """

    keys: Mapping[str, AESGCM]

    @staticmethod
    def parse(text: SecretStr | None) -> KeyRing:
        """Read the keys.

        Args:
            text: As in NESSOS_ENCRYPTION_KEYS.

        Returns:
            The ring.

        Raises:
            UsageError: There is none, or one is not 32 bytes in base64.
        """
        given = (text.get_secret_value() if text else "").strip()
        if not given:
            raise UsageError("NESSOS_ENCRYPTION_KEYS is not set", f"set it to {_MAKE_ONE}")
        keys = {}
        for number, encoded in enumerate(given.split(","), start=1):
            try:
                key = base64.b64decode(encoded.strip(), validate=True)
            except binascii.Error:
                key = b""
            if len(key) != _KEY_BYTES:
                raise UsageError(
                    f"key {number} of NESSOS_ENCRYPTION_KEYS is not base64 of {_KEY_BYTES} bytes",
                    f"make one: {_MAKE_ONE}",
                )
            keys[hashlib.sha256(key).hexdigest()[:8]] = AESGCM(key)
        return KeyRing(keys)

    @property
    def first(self) -> str:
        """The id of the key that encrypts."""
        return next(iter(self.keys))

    def seal(self, *, org_id: UUID, provider: str, values: Mapping[str, str]) -> tuple[bytes, str]:
        """Encrypt credentials with the first key.

        Args:
            org_id: Whose they are.
            provider: Of which service.
            values: Field by name.

        Returns:
            The ciphertext and the id of the key.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = json.dumps(dict(values), ensure_ascii=False).encode()
        sealed = self.keys[self.first].encrypt(nonce, plain, _bound_to(org_id, provider))
        return nonce + sealed, self.first

    def open(
        self, *, org_id: UUID, provider: str, ciphertext: bytes, key_id: str
    ) -> dict[str, str]:
        """Decrypt credentials.

        Args:
            org_id: Whose row it is.
            provider: Of which service.
            ciphertext: What `seal` gave.
            key_id: The id of its key.

        Returns:
            Field by name.

        Raises:
            CredentialsError: The key is not in the ring, or the row was changed or moved here.
        """
        if key_id not in self.keys:
            raise CredentialsError(
                f"the credentials of {org_id} for {provider} are under the key {key_id},"
                " which is not in NESSOS_ENCRYPTION_KEYS",
                "add the key, or store the credentials again: nessos integrations set",
            )
        nonce, sealed = ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:]
        try:
            plain = self.keys[key_id].decrypt(nonce, sealed, _bound_to(org_id, provider))
        except (InvalidTag, ValueError):
            raise CredentialsError(
                f"the credentials of {org_id} for {provider} were changed or come from elsewhere",
                "look into audit_log, then store them again: nessos integrations set",
            ) from None
        values: dict[str, str] = json.loads(plain)
        return values


def key_ring() -> KeyRing:
    """Give the keys of this process: of the environment, or of the local stack.

    Returns:
        The ring.

    Raises:
        UsageError: There is none, or it is malformed.
    """
    loaded = settings.load()
    return KeyRing.parse(loaded.encryption_keys or target.resolve(loaded).encryption_keys)


def check(*, provider: str, values: Mapping[str, str | SecretStr]) -> dict[str, str]:
    """Check what is given for a provider.

    Args:
        provider: The service.
        values: Field by name; empty ones count as left out.

    Returns:
        The fields, trimmed.

    Raises:
        UsageError: The provider is unknown, or a field is missing, unknown or malformed; no value
            is quoted.
    """
    if provider not in PROVIDERS:
        raise UsageError(
            f"{provider} is not connected with credentials", f"one of {', '.join(PROVIDERS)}"
        )
    plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in values.items()}
    try:
        fields = PROVIDERS[provider].model_validate({k: v for k, v in plain.items() if v != ""})
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_input=False, include_url=False)
        ]
        raise UsageError(f"{provider}: {'; '.join(wrong)}") from None
    return fields.model_dump(by_alias=True, exclude_none=True)


async def read(pool: Pool, *, org_id: UUID, provider: str) -> dict[str, SecretStr] | None:
    """Give an organisation's credentials for a provider.

    Args:
        pool: Connections to the database.
        org_id: Whose.
        provider: Of which service.

    Returns:
        Field by name; None when it is not connected.

    Raises:
        CredentialsError: They cannot be opened.
        DatabaseError: The database does not answer.
        UsageError: This process has no key ring.
    """
    with translated():
        async with pool.connection() as connection:
            row = await (await connection.execute(_READ, (org_id, provider))).fetchone()
    if row is None:
        return None
    opened = key_ring().open(
        org_id=org_id, provider=provider, ciphertext=row["ciphertext"], key_id=row["key_id"]
    )
    return {name: SecretStr(value) for name, value in opened.items()}


async def store(
    pool: Pool, *, org_id: UUID, provider: str, values: Mapping[str, str | SecretStr]
) -> None:
    """Connect a provider for an organisation, or replace its credentials.

    Args:
        pool: Connections to the database.
        org_id: Whose.
        provider: Of which service.
        values: Field by name.

    Raises:
        UsageError: A field is missing, unknown or malformed, or this process has no key ring.
        DatabaseError: The database refused or does not answer.
    """
    fields = check(provider=provider, values=values)
    sealed = key_ring().seal(org_id=org_id, provider=provider, values=fields)
    with translated():
        async with pool.connection() as connection:
            await connection.execute(STORE, (org_id, provider, *sealed))


@dataclass(frozen=True)
class Rotated:
    """One row that a rotation came by.

    Attributes:
        org_id: Whose.
        provider: Of which service.
        error: Why it was left as it is; None when it is under the first key now.
    """

    org_id: UUID
    provider: str
    error: str | None


def rotate(
    connection: psycopg.Connection[dict[str, Any]], ring: KeyRing, *, dry_run: bool = False
) -> Iterator[Rotated]:
    """Put all credentials under the first key. Each row is its own act: it may stop at any point.

    Args:
        connection: The database, autocommit.
        ring: The keys.
        dry_run: Open and seal, change nothing.

    Yields:
        Every row that was under another key.

    Raises:
        DatabaseError: The database does not answer.
    """
    place: tuple[UUID, str] = (UUID(int=0), "")
    while True:
        with translated():
            rows = connection.execute(_UNDER_OTHER_KEYS, (ring.first, *place)).fetchall()
        if not rows:
            return
        for row in rows:
            place = (row["org_id"], row["provider"])
            org_id, provider = place
            try:
                values = ring.open(**row)
            except CredentialsError as error:
                yield Rotated(org_id, provider, str(error))
                continue
            if not dry_run:
                # Changed or removed meanwhile: then it is under the first key already, or gone.
                sealed = ring.seal(org_id=org_id, provider=provider, values=values)
                with translated():
                    connection.execute(_ROTATE, (*place, row["ciphertext"], *sealed))
            yield Rotated(org_id, provider, None)


def _bound_to(org_id: UUID, provider: str) -> bytes:
    return f"{org_id}/{provider}".encode()
