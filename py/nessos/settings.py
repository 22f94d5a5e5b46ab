"""What the environment says. This module is the only reader of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: where `supabase/`, `node_modules/` and `.nessos/` are."""


class Settings(BaseSettings):
    """Settings of one process; `.env.example` documents each.

    Attributes:
        database_url: The database to work on; the local stack's when empty.
        supabase_url: The project's address; the local gateway's when empty.
        supabase_publishable_key: The key a frontend uses.
        supabase_secret_key: The key that passes row level security. Servers only.
        home: Where the local stack keeps its data, keys and logs.
        postgres_port: TCP port of the embedded Postgres.
        gateway_port: TCP port of REST, Auth and functions.
        functions_port: TCP port of the functions server behind the gateway.
        start_timeout_s: How long each part may take to become healthy.
        body_limit_mb: The largest request body the gateway takes.
        public_url: The address under which others reach the project, where it is not its own.
        webhook_limit_mb: The largest webhook that is taken.
        worker_concurrency: Jobs one worker runs at the same time.
        worker_grace_s: How long a worker's jobs may finish after it was asked to stop.
        worker_heartbeat_s: After how long without a sign of life a worker's jobs run elsewhere.
        worker_host: Where the worker answers probes.
        worker_port: The port for it; None for not at all.
        encryption_keys: What credentials of organisations are encrypted with: base64 of 32 bytes,
            several with commas between; the first encrypts, all decrypt.
        omie_url: Where Omie's API is.
        bcb_sgs_url: Where the series of the Banco Central are.
        bcb_ptax_url: Where its exchange rates are.
        resend_url: Where Resend's API is.
        twilio_url: Where Twilio's API is.
        app_url: Address of the frontend; links in messages are paths of it.
        openai_api_key: The key of OpenAI; None for not at all, as of the others.
        openai_url: Where its API is.
        anthropic_api_key: The key of Anthropic.
        anthropic_url: Where its API is that is compatible with OpenAI's.
        gemini_api_key: The key of Gemini.
        gemini_url: Where its API is that is compatible with OpenAI's.
        compatible_url: Where another server is that is compatible with OpenAI's API; asked first.
        compatible_api_key: Its key, if it wants one.
        compatible_model: The model it answers with.
        compatible_embedding_model: The model it embeds with; None: it is not asked to.
        ai_requests_per_minute: What a provider takes of one model.
        ai_timeout_s: After how many seconds an answer that is not complete is given up.
        ai_silence_s: After how many seconds without a byte a stream is given up.
        webhook_allowed_networks: Networks that webhooks are sent to although they are not public.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env", env_ignore_empty=True, env_prefix="NESSOS_", extra="ignore"
    )

    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    supabase_url: str | None = Field(default=None, validation_alias="SUPABASE_URL")
    supabase_publishable_key: SecretStr | None = Field(
        default=None, validation_alias="SUPABASE_PUBLISHABLE_KEY"
    )
    supabase_secret_key: SecretStr | None = Field(
        default=None, validation_alias="SUPABASE_SECRET_KEY"
    )
    home: Path = ROOT / ".nessos"
    postgres_port: int = Field(default=54322, ge=1, le=65535)
    gateway_port: int = Field(default=54321, ge=1, le=65535)
    functions_port: int = Field(default=54323, ge=1, le=65535)
    start_timeout_s: float = Field(default=60.0, gt=0)
    body_limit_mb: int = Field(default=10, ge=1)
    public_url: str | None = None
    webhook_limit_mb: int = Field(default=5, ge=1, le=25)
    worker_concurrency: int = Field(default=10, ge=1)
    worker_grace_s: float = Field(default=25.0, ge=0)
    worker_heartbeat_s: float = Field(default=30.0, ge=1)
    worker_host: str = "127.0.0.1"
    worker_port: int | None = Field(default=None, ge=0, le=65535)
    encryption_keys: SecretStr | None = None
    omie_url: str = "https://app.omie.com.br/api/v1"
    bcb_sgs_url: str = "https://api.bcb.gov.br"
    bcb_ptax_url: str = "https://olinda.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata"
    resend_url: str = "https://api.resend.com"
    twilio_url: str = "https://api.twilio.com"
    app_url: str | None = None
    openai_api_key: SecretStr | None = None
    openai_url: str = "https://api.openai.com/v1"
    anthropic_api_key: SecretStr | None = None
    anthropic_url: str = "https://api.anthropic.com/v1"
    gemini_api_key: SecretStr | None = None
    gemini_url: str = "https://generativelanguage.googleapis.com/v1beta/openai"
    compatible_url: str | None = None
    compatible_api_key: SecretStr | None = None
    compatible_model: str | None = None
    compatible_embedding_model: str | None = None
    ai_requests_per_minute: int = Field(default=500, ge=1)
    ai_timeout_s: float = Field(default=120.0, gt=0)
    ai_silence_s: float = Field(default=30.0, gt=0)
    webhook_allowed_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = ()

    @field_validator("webhook_allowed_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value


@cache
def load() -> Settings:
    """Read the environment once per process.

    Returns:
        The settings.
    """
    return Settings()
