"""The backbones by name, and the spaces that can be made from them, available without torch.

`torchvision.json` and `timm.json` next to this file are written by `python -m imagekin_worker.network.catalog` from the
registries of these libraries; networks of one's own are files (`own`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imagekin import errors
from imagekin.catalog import files, hub, own
from imagekin.enums import Colors, Fit, Library, Precision

DEFAULT_BACKBONE = "efficientnet_lite0"
FAKE_BACKBONE = "fake"
DEFAULT_WEIGHTS = "DEFAULT"
TORCHVISION_PATH = Path(__file__).with_name("torchvision.json")
TIMM_PATH = Path(__file__).with_name("timm.json")

# How the names of timm's networks begin, so that no name means two networks.
TIMM = "timm/"

# And those of one's own; the layer of these is their output, or one of several: `output.NAME`.
OWN = own.OWN
OUTPUT = "output"

# Licenses of weights that allow no commercial use, by timm's names for them.
NON_COMMERCIAL = frozenset({"apple-amlr", "cc-by-nc-4.0", "fair-noncommercial-research-license", "seer-license"})

# How the fingerprint of a space begins that labels made of another one.
ADAPTED = "adapted-"

_FINGERPRINT_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pixels become the network's input: resized as `fit` says, middle `crop`, (value / 255 - mean) / std.

    `resize` is where a picture's shorter side (`crop`), its longer side (`pad`) or both (`squash`) come to; it and
    `crop` are pixels, or (height, width) for a network whose input is not square. `colors` and `fit` are newer than the
    rest: without them, colors are taken as they are stored, and pictures are cropped.
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    antialias: bool = True
    colors: Colors = Colors.STORED
    fit: Fit = Fit.CROP

    @property
    def scale(self) -> tuple[int, int]:
        """`resize` as (height, width)."""
        return _pair(self.resize)

    @property
    def shape(self) -> tuple[int, int]:
        """The network's input in pixels, (height, width)."""
        return _pair(self.crop)

    def fitted(self, fit: Fit | None) -> Preprocess:
        """Return it with another fit, the whole picture for `pad` and `squash`; None and its own change nothing."""
        if fit is None or fit is self.fit:
            return self
        return replace(self, fit=fit, resize=self.resize if fit is Fit.CROP else self.crop)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocess:
        """Build it from the result of `to_json`."""
        tuples = {name: tuple(each) for name, each in value.items() if isinstance(each, list)}
        colors, fit = Colors(value.get("colors", Colors.STORED)), Fit(value.get("fit", Fit.CROP))
        return cls(**{**value, **tuples, "colors": colors, "fit": fit})

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; steps that it does not have are left out, so that fingerprints do not change."""
        described = {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(self).items()}
        newer = {
            "colors": None if self.colors is Colors.STORED else self.colors.value,
            "fit": None if self.fit is Fit.CROP else self.fit.value,
        }
        return {name: each for name, each in (described | newer).items() if each is not None}


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


FALLBACK_PREPROCESS = Preprocess(224, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""For weights without transforms: Resize 224, ToTensor, ImageNet's mean and std, and a crop so that they can be
batched."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Named weights of a backbone: `digest` begins the SHA-256 of the file, `url` is None if a package ships it.

    Of weights in a repository of the hub (`hub`) the digest is known once the file is here or the hub was asked: it is
    empty. `license`: as its publisher names it; None if it is not known.
    """

    name: str
    url: str | None
    digest: str
    preprocess: Preprocess
    license: str | None = None
    hub: str | None = None


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network without its head: its embedding, `dim` numbers, is the input of the module named in `layer`.

    `source` is the library that has the network.
    """

    name: str
    dim: int
    layer: str
    weights: Mapping[str, Weights]
    default_weights: str | None
    hidden: bool = False
    source: Library = Library.TORCHVISION

    @property
    def license(self) -> str | None:
        """The license of the default weights; None if there are no weights or it is not known."""
        return None if self.default_weights is None else self.weights[self.default_weights].license

    @property
    def preprocess(self) -> Preprocess:
        """What the default weights want, for weights of one's own."""
        return FALLBACK_PREPROCESS if self.default_weights is None else self.weights[self.default_weights].preprocess


@dataclass(frozen=True, slots=True)
class Space:
    """Everything that determines what an embedding's numbers mean; vectors of different spaces are never mixed.

    `projection` names what labels added to the network (an adapted space); its `dim` is that of the vectors behind it,
    and `network_dim` that of a network which is not in the catalog.
    """

    backbone: str
    weights: str
    weights_digest: str
    layer: str
    preprocess: Preprocess
    dim: int
    precision: Precision
    projection: str | None = None
    network_dim: int | None = None

    @property
    def fingerprint(self) -> str:
        """Return 32 hex characters that name the space; weights count by their content, not by their name."""
        meaning = {key: value for key, value in self.to_json().items() if key != "weights"}
        canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return (digest if self.projection is None else ADAPTED + digest)[:_FINGERPRINT_CHARACTERS]

    @property
    def base(self) -> Space:
        """The space that the network itself embeds into."""
        if self.projection is None:
            return self
        dim = self.network_dim or backbones()[self.backbone].dim
        return replace(self, projection=None, dim=dim, network_dim=None)

    def adapted(self, projection: str, dim: int) -> Space:
        """Return the space that a projection makes of this one, with vectors of `dim` numbers."""
        network_dim = None if self.backbone in backbones() else self.base.dim
        return replace(self, projection=projection, dim=dim, network_dim=network_dim)

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        described = asdict(self) | {"preprocess": self.preprocess.to_json(), "precision": self.precision.value}
        newer = ("projection", "network_dim")
        return {name: each for name, each in described.items() if each is not None or name not in newer}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Space:
        """Build the space from the result of `to_json`."""
        preprocess, precision = Preprocess.from_json(value["preprocess"]), Precision(value["precision"])
        return cls(**{**value, "preprocess": preprocess, "precision": precision})


def is_adapted(fingerprint: str) -> bool:
    """Return whether a space is the network's own with a learned projection."""
    return fingerprint.startswith(ADAPTED)


@functools.cache
def backbones() -> Mapping[str, Backbone]:
    """Return the libraries' backbones by name; those marked `hidden` are for tests and not listed."""
    torchvision = (_backbone(entry) for entry in json.loads(TORCHVISION_PATH.read_text())["backbones"])
    timm = (_timm(entry) for entry in json.loads(TIMM_PATH.read_text())["backbones"])
    return MappingProxyType({each.name: each for each in (*torchvision, *timm)})


@functools.cache
def _timm_defaults() -> Mapping[str, str]:
    """Return what a name without a tag means, as in timm."""
    entries = json.loads(TIMM_PATH.read_text())["backbones"]
    return {TIMM + entry["name"].partition(".")[0]: TIMM + entry["name"] for entry in entries if entry.get("default")}


def own_backbones(weights_dir: Path) -> list[Backbone]:
    """Return the networks of one's own by name, without the digests of their files; those with faults are left out."""
    found = []
    for name in own.names(weights_dir):
        with contextlib.suppress(errors.UnknownBackbone):
            found.append(_own(name, own.find(name, weights_dir)))
    return found


def find(name: str) -> Backbone:
    """Return a library's backbone by its name; one of timm may be named without a tag, which means timm's default.

    Raises UnknownBackbone, which names the nearest.
    """
    known = backbones()
    full = _timm_defaults().get(name, name)
    if full in known:
        return known[full]
    listed = [each.name for each in known.values() if not each.hidden]
    raise errors.UnknownBackbone(
        f"There is no backbone {name!r}.{_nearest(name, listed)} GET /v1/backbones lists all {len(listed)}."
    )


def license_of(backbone: str, weights: str) -> str | None:
    """Return the license of weights by their name; None if it is not known, as of a file of one's own."""
    known = backbones().get(backbone)
    named = known and known.weights.get(weights)
    return named.license if named else None


def resolve_space(
    backbone: str | None,
    weights: str | None,
    precision: Precision,
    weights_dir: Path,
    colors: Colors = Colors.SRGB,
    fit: Fit | None = None,
) -> Space:
    """Make a space from a caller's choices.

    `backbone`: a name, by default DEFAULT_BACKBONE, or that of a network below `weights_dir`, `own/NAME`. `weights`:
    `DEFAULT`, a name such as `IMAGENET1K_V2` or `ResNet50_Weights.IMAGENET1K_V2`, or the path of a file relative to
    `weights_dir`. `fit`: by default the weights' own.
    Raises UnknownBackbone and UnknownWeights.
    """
    name = backbone or DEFAULT_BACKBONE
    chosen = _own(name, own.find(name, weights_dir)) if name.startswith(OWN) else find(name)
    found = _find_weights(chosen, weights or DEFAULT_WEIGHTS, weights_dir)
    preprocess = replace(found.preprocess, colors=colors).fitted(fit)
    return Space(chosen.name, found.name, found.digest, chosen.layer, preprocess, chosen.dim, precision)


def _find_weights(backbone: Backbone, name: str, weights_dir: Path) -> Weights:
    short = _short_name(backbone, name)
    if short == DEFAULT_WEIGHTS and backbone.default_weights is not None:
        short = backbone.default_weights
    if short in backbone.weights:
        found = backbone.weights[short]
        if backbone.source is Library.OWN:
            return replace(found, digest=files.digest(own.find(backbone.name, weights_dir).path))
        return replace(found, digest=hub.digest(backbone.name, found.hub, weights_dir)) if found.hub else found
    if backbone.source is Library.OWN:
        raise errors.UnknownWeights(
            f"{backbone.name} has the weights that are in its file, {backbone.default_weights}, and no others."
        )
    path = files.below(weights_dir, name)
    if path is None:
        has = f"It has {', '.join(sorted(backbone.weights))}." if backbone.weights else "Name a file: it has no others."
        raise errors.UnknownWeights(
            f"{backbone.name} has no weights {name!r}, and IMAGEKIN_WEIGHTS_DIR has no file of that name."
            f"{_nearest(short, backbone.weights)} {has}"
        )
    return Weights(name, None, files.digest(path), backbone.preprocess)


def _short_name(backbone: Backbone, name: str) -> str:
    """Return a weights' name without torchvision's enum: `ResNet50_Weights.IMAGENET1K_V2` becomes IMAGENET1K_V2."""
    enum, dot, short = name.partition(".")
    own = enum.replace("_", "").lower() == backbone.name.replace("_", "") + "weights"
    return short if dot and own else name


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {', '.join(near)}?" if near else ""


def _backbone(entry: Mapping[str, Any]) -> Backbone:
    weights = {
        each["name"]: Weights(**{**each, "preprocess": Preprocess.from_json(each["preprocess"])})
        for each in entry["weights"]
    }
    return Backbone(**{**entry, "weights": MappingProxyType(weights), "source": Library(entry["source"])})


def _timm(entry: Mapping[str, Any]) -> Backbone:
    name, described = entry["name"], {key: entry[key] for key in ("resize", "crop", "interpolation")}
    usual = {"mean": FALLBACK_PREPROCESS.mean, "std": FALLBACK_PREPROCESS.std}
    described |= {key: list(entry.get(key, each)) for key, each in usual.items()}
    preprocess = Preprocess.from_json({**described, "fit": entry.get("fit", Fit.CROP)})
    tag = name.partition(".")[2] or DEFAULT_WEIGHTS
    weights = Weights(tag, None, "", preprocess, entry.get("license"), entry["hub"])
    return Backbone(
        TIMM + name, entry["dim"], entry["layer"], MappingProxyType({tag: weights}), tag, source=Library.TIMM
    )


def _own(name: str, network: own.Network) -> Backbone:
    said = network.description
    size = own.sides(said.input)
    resize = size if said.resize is None else own.sides(said.resize)
    preprocess = Preprocess(resize, size, said.interpolation, said.mean, said.std, fit=said.fit)
    weights = Weights(network.path.name, None, "", preprocess)
    layer = OUTPUT if said.output is None else f"{OUTPUT}.{said.output}"
    return Backbone(name, said.dim, layer, MappingProxyType({weights.name: weights}), weights.name, source=Library.OWN)
