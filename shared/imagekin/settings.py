"""Settings: built once from IMAGEKIN_* in an entry point and passed down; nothing reads the environment at import."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from imagekin import errors, left_out

# What fsspec calls the files of this machine.
LOCAL_PROTOCOLS = ("file", "local")
MEGABYTE = 1 << 20
GIGABYTE = 1 << 30
DAY_S = 24 * 3600
PREFIX = "IMAGEKIN_"
# As Standard Webhooks has it.
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64


class Settings(BaseSettings):
    """The settings of API, workers and command line; each field is the variable IMAGEKIN_<FIELD>."""

    # what is wrong with a setting is told without its value, which may be a secret
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    # --- where things are
    data_dir: Path = Field(
        default=Path("imagekin-data"), description="Folder of the embedded database, uploads and caches."
    )
    database_url: str = Field(default="", repr=False, description="SQLAlchemy URL; empty: SQLite in the data folder.")
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", repr=False, description="Redis that carries the doorbells."
    )
    storage_url: str = Field(default="", description="fsspec URL of uploads; empty: a folder in the data folder.")
    blob_url: str = Field(
        default="",
        description="fsspec URL, or a folder, of the vectors and thumbnails that are written from now on; empty: they "
        "are in the database.",
    )
    blob_read_only: bool = Field(
        default=False,
        description="Whether the storage of blobs is only read, and what is written goes into the database: before "
        "blobs move back there.",
    )
    cache_dir: str = Field(
        default="",
        description="Folder for files that workers can make again: matrices, calibrations, compiled networks, the "
        "vectors of a clustering; empty: `cache` in the data folder.",
    )
    spool_dir: str = Field(
        default="",
        description="Folder for large request bodies until they are complete (an upload is there twice for a moment), "
        "and for the lists of exports with pictures; empty: `spool` in the data folder.",
    )
    weights_dir: Path = Field(default=Path("weights"), description="The only folder that weights files are read from.")
    source_roots: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Folders or fsspec locations that jobs may read from, separated by commas; none by default.",
    )

    left_out: Annotated[tuple[str, ...], NoDecode] = Field(
        default=left_out.DEFAULT,
        description="Patterns of names of files and folders that folders, locations and archives are read without, "
        "separated by commas; empty: none.",
    )

    # --- who gets in
    auth: Literal["keys", "local"] = Field(
        default="keys", description="`keys`: a key per owner; `local`: this machine only."
    )
    first_key: str = Field(
        default="", repr=False, description="An API key (owner `admin`) that is valid without being in the database."
    )
    session_ttl_s: int = Field(
        default=DAY_S // 2, ge=60, description="How long a browser stays signed in to the web page, in mode `keys`."
    )
    rate_limit_per_s: float = Field(
        default=200,
        ge=0,
        description="Requests a second of one owner above which the API answers 429; 0: no limit.",
    )
    webhook_secret: str = Field(
        default="",
        repr=False,
        description="Secret (`whsec_...`) that webhooks are signed with; empty: `callback_url` is refused.",
    )
    webhook_previous_secret: str = Field(
        default="",
        repr=False,
        description="Secret that webhooks are signed with as well, while receivers change over to the new one.",
    )

    # --- the API
    host: str = Field(default="127.0.0.1", description="Address that the API listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port that the API listens on.")
    api_threads: int = Field(default=16, ge=2, description="Requests that the API answers at once.")
    max_upload_bytes: int = Field(default=20 * GIGABYTE, description="Largest upload; archives count after gunzip.")
    max_json_bytes: int = Field(default=32 * MEGABYTE, description="Largest JSON body.")
    max_backlog: int = Field(default=10_000, description="Unfinished jobs above which the API answers 503.")
    max_jobs_per_owner: int = Field(
        default=1_000, description="Unfinished jobs of one owner above which the API answers 429."
    )
    max_stored_upload_bytes_per_owner: int = Field(
        default=1024 * GIGABYTE,
        ge=0,
        description="Bytes of one owner's stored uploads above which the API answers 429; 0: no limit.",
    )

    # --- images are hostile input
    max_image_bytes: int = Field(default=100 * MEGABYTE, description="Largest image file.")
    max_image_pixels: int = Field(default=100_000_000, description="Most pixels of an image.")
    max_archive_members: int = Field(default=2_000_000, description="Most members of an archive.")
    max_archive_ratio: int = Field(default=200, description="Largest ratio of a member's size to its compressed size.")
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks, addresses and host names that are fetched from though they are not public; none by "
        "default.",
    )
    fetch_timeout_s: float = Field(
        default=15, gt=0, description="Longest fetch of one image; at most a quarter of the soft time limit counts."
    )
    fetch_stall_s: float = Field(
        default=10, gt=0, description="How long a server may take to connect, or be silent, in a fetch."
    )
    fetch_threads: int = Field(
        default=8, ge=1, description="Images that a worker process fetches at once from addresses and locations."
    )
    thumbnail_px: int = Field(
        default=256,
        ge=16,
        le=1024,
        description="Longest side of the thumbnails; those that are there stay as they are.",
    )

    # --- workers
    device: str = Field(default="auto", description="`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.")
    lanes: int = Field(default=0, ge=0, description="Decode-and-forward threads of a CPU worker; 0: one for each core.")
    batch_size: int = Field(
        default=0,
        ge=0,
        description="Images of one forward pass; 0: 64 on a GPU, on a CPU what a calibration found, 4 before it.",
    )
    calibrate_after_s: float = Field(
        default=10,
        ge=0,
        description="After this many seconds of a backbone's work a CPU worker tries for 4 s which batch size is best, "
        "once a machine; 0: never.",
    )
    compile_after_s: float = Field(
        default=20,
        ge=0,
        description="After this many seconds of a backbone's work a worker compiles it in the background, once a "
        "machine; 0: never, and compiled ones are not used.",
    )
    warm: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("efficientnet_lite0",), description="Backbones that a worker loads before it takes work."
    )
    model_memory_bytes: int = Field(
        default=4 * GIGABYTE,
        description="Memory for warm models; least recently used go first; work for those in memory is claimed first. "
        "A network whose copies, one for each lane, would be larger is not compiled.",
    )
    matrix_memory_bytes: int = Field(
        default=4 * GIGABYTE,
        description="Memory for resident matrices of collections, a GPU's where searches run on one; a collection "
        "beyond it is searched in its file.",
    )
    matrix_cache_bytes: int = Field(
        default=50 * GIGABYTE,
        ge=0,
        description="Disk space for these files; the oldest are removed first; 0: no files, and "
        "matrices of any size are held in memory.",
    )
    cluster_memory_bytes: int = Field(
        default=4 * GIGABYTE,
        ge=1,
        description="Bytes of vectors above which k-means uses mini-batches and other analyses work from files; also "
        "the memory for pairs of duplicates.",
    )
    chunk_images: int = Field(default=512, ge=1, description="Most images of a chunk.")
    index_memory_bytes: int = Field(
        default=GIGABYTE,
        ge=MEGABYTE,
        description="PostgreSQL's memory for building an index of vectors (its `maintenance_work_mem`): one that does "
        "not fit takes many times as long.",
    )
    chunk_target_s: float = Field(default=1.5, gt=0, description="How long a bulk chunk should take.")
    lease_s: float = Field(default=30, gt=0, description="How long a claim holds without being renewed.")
    renew_s: float = Field(default=10, gt=0, description="How often a claim is renewed; a third of the lease.")
    soft_time_limit_s: float = Field(default=60, gt=0, description="After this long a task is interrupted.")
    time_limit_s: float = Field(default=90, gt=0, description="After this long a task's process is killed.")
    sweep_s: float = Field(default=15, gt=0, description="How often lost rings and expired claims are looked for.")
    max_deaths: int = Field(default=2, ge=1, description="Deaths of its process after which a chunk is split.")
    max_attempts: int = Field(
        default=20, ge=2, description="Claims after which a chunk counts as poison, however they ended."
    )
    wait_for_database_s: float = Field(
        default=60, ge=0, description="How long a process waits for a migrated database."
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address that a worker serves /metrics on.")
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65534,
        description="Port that a worker serves /metrics on; 0: none; with `up`, bulk has the one after it.",
    )

    # --- lives
    upload_ttl_s: int = Field(default=DAY_S, description="How long an upload is kept that no job uses.")
    embed_ttl_s: int = Field(default=30 * DAY_S, description="How long an embed or import job and its ledger are kept.")
    search_ttl_s: int = Field(default=DAY_S, description="How long a search or assign job and its result live.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto`: console on a terminal, else json."
    )

    @field_validator("source_roots", "fetch_allow", "warm", "left_out", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("webhook_secret", "webhook_previous_secret")
    @classmethod
    def _check_secret(cls, value: str) -> str:
        if value:
            kind, _, encoded = value.partition("whsec_")
            try:
                size = 0 if kind else len(base64.b64decode(encoded, validate=True))
            except binascii.Error:
                size = 0
            if not MIN_SECRET_BYTES <= size <= MAX_SECRET_BYTES:
                raise ValueError(
                    f"must be whsec_ and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes in base64; "
                    'this makes one: echo "whsec_$(openssl rand -base64 32)"'
                )
        return value

    @field_validator("fetch_allow")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # one with a typing error would count as a host's name
        for network in value:
            if "/" in network:
                ipaddress.ip_network(network, strict=False)
        return value

    @property
    def database(self) -> str:
        """The database's URL, the embedded default included."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'imagekin.db'}"

    @property
    def cache_folder(self) -> Path:
        """The folder of what workers can make again."""
        return Path(self.cache_dir or self.data_dir / "cache").resolve()

    @property
    def spool_folder(self) -> Path:
        """The folder of what requests are taken in with, and answers made of."""
        return Path(self.spool_dir or self.data_dir / "spool").resolve()

    @property
    def storage(self) -> str:
        """The storage's fsspec URL, the embedded default included."""
        return self.storage_url or (self.data_dir.resolve() / "storage").as_uri()

    def check_host(self) -> None:
        """Raise InvalidRequest if a server in local mode would listen to other machines."""
        if self.auth == "local" and not _is_loopback(self.host):
            raise errors.InvalidRequest(
                f"IMAGEKIN_AUTH=local answers this machine only, so IMAGEKIN_HOST must be 127.0.0.1, not {self.host}; "
                "use IMAGEKIN_AUTH=keys to serve others."
            )


def complaints(error: ValidationError) -> list[str]:
    """Return a line for each setting that `Settings()` refused: its variable, and what is wrong with its value."""
    return [
        f"{PREFIX}{'_'.join(map(str, found['loc'])).upper()}: {found['msg']}"
        for found in error.errors(include_url=False)
    ]


def local_path(url: str) -> str | None:
    """Return the path that a file:// URL names, unquoted; None for any other URL and for a plain path."""
    protocol, found, rest = url.partition("://")
    if not found or protocol.lower() not in LOCAL_PROTOCOLS:
        return None
    return unquote(f"/{rest.removeprefix('localhost/')}" if rest.startswith("localhost/") else rest)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
