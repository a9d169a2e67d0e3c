"""What the rows are measured with: a folder, sizes, pictures, and a service that runs while one of them needs it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from imagekin import catalog
from imagekin.catalog import Space
from imagekin.enums import Precision
from imagekin.settings import DAY_S, Settings
from imagekin_worker.bench import pictures, weights
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.service import Service
from imagekin_worker.bench.sizes import Sizes

DEFAULT = catalog.DEFAULT_BACKBONE
RESNET = weights.BACKBONE
SEED = 2026
# What the user's settings say of these is about the user's service, which a measurement must not touch.
_NOT_TAKEN = {
    "data_dir", "database_url", "redis_url", "storage_url", "weights_dir", "source_roots", "auth", "first_key",
    "rate_limit_per_s", "webhook_secret", "host", "port", "metrics_host", "metrics_port", "device", "warm",
    "calibrate_after_s", "compile_after_s", "cache_dir",
}  # fmt: skip


class _OwnSettings(Settings):
    """Settings of what is given alone: the environment names the user's own database."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class Workbench:
    """Everything that the rows of one device share; what is made is made once, where it is first asked for."""

    def __init__(self, folder: Path, sizes: Sizes, user: Settings, device: str, asked: Iterable[str]) -> None:
        self.folder = folder
        self.sizes = sizes
        self.on_gpu = device == "cuda"
        self.device = device
        self.precision = Precision.FAST if self.on_gpu else Precision.EXACT
        self.asked = frozenset(asked)
        self.notes: list[str] = []
        self.interrupted = False
        self._user = user
        self._made: dict[Hashable, Any] = {}
        self._open = ExitStack()
        kept = {name: getattr(user, name) for name in user.model_fields_set - _NOT_TAKEN}
        self.settings: Settings = _OwnSettings(
            **kept,
            data_dir=folder / "data",
            weights_dir=folder / "weights",
            source_roots=(str(folder),),
            device=device,
            port=0,
            rate_limit_per_s=0,
            # what a worker tries once a machine comes before anything is timed
            calibrate_after_s=0.05,
            # on a CPU prepared and compiled networks are held against each other
            compile_after_s=0.05 if self.on_gpu else 0,
        )
        self.compiled_settings = self.settings.model_copy(
            update={"data_dir": folder / "compiled", "cache_dir": str(self.settings.cache_folder)}
            | {"compile_after_s": DAY_S}
        )
        """Those of a second service, which uses the networks that were compiled for it and compiles none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` returned the first time; raises NotMeasured again if it did."""
        if name not in self._made:
            try:
                self._made[name] = make()
            except NotMeasured as error:
                self._made[name] = error
        if isinstance(made := self._made[name], NotMeasured):
            raise made
        return made

    def service(self, *, compiled: bool = False) -> Service:
        """Return the running service, or the one that has `compiled` networks.

        Raises NotMeasured if its packages or a Redis are missing.
        """
        settings = self.compiled_settings if compiled else self.settings
        return self.once(("service", compiled), lambda: self._open.enter_context(Service(settings)))

    def space(self, backbone: str, precision: Precision | None = None) -> Space:
        """Return the space that a backbone's pictures are embedded in; `precision` is by default that of the device."""
        return catalog.resolve_space(
            backbone, self.weights(backbone), precision or self.precision, self.settings.weights_dir
        )

    def weights(self, backbone: str) -> str:
        """Name the weights of a backbone: those that come with it, or a file that was put into the weights' folder."""
        return self.once("weights", self._place_weights) if backbone == RESNET else catalog.DEFAULT_WEIGHTS

    def pictures(self, backbone: str) -> Path:
        """Return the folder with the pictures for a backbone, fewer for the slow one."""
        count = self.sizes.slow_pictures if backbone == RESNET else self.sizes.pictures
        return self.drawn(f"pictures-{backbone}", count, pictures.ORDINARY)

    def drawn(self, name: str, count: int, size: tuple[int, int], drawn: int | None = None) -> Path:
        """Return a folder of pictures by its name."""
        folder = self.folder / name
        self.once(folder, lambda: pictures.draw(folder, count, size, SEED, drawn))
        return folder

    def _place_weights(self) -> str:
        name, real = weights.place(self.settings.weights_dir, self._user)
        if not real:
            self.notes.append(
                f"{RESNET}: its weights are not on this machine, so seeded ones were read from a file; speed does not "
                "depend on their values"
            )
        return name
