"""Loading a pretrained backbone soundly, whatever it reads: text or images. Safetensors only.

1. `find_source` says what a recipe's backbone.source is: a folder or file beside the recipe, or a hub id.
2. `load_weights` loads it and refuses what is corrupt, incomplete or not finite.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.backbones import quiet_transformers
from tldeploy.errors import ArtifactError, MachineError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

POOLER = "pooler."


def register_families() -> None:
    """Make transformers' Auto classes know the architectures that are ours; again does no harm."""
    from transformers import AutoConfig, AutoModel

    from tldeploy.backbones.variants import (
        CaffeResNetConfig,
        CaffeResNetModel,
        EfficientNetLiteConfig,
        EfficientNetLiteModel,
    )
    from tldeploy.backbones.vgg import VGGConfig, VGGModel

    pairs: list[tuple[Any, Any]] = [
        (VGGConfig, VGGModel),
        (CaffeResNetConfig, CaffeResNetModel),
        (EfficientNetLiteConfig, EfficientNetLiteModel),
    ]
    for config, model in pairs:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)


def find_source(source: str, recipe_folder: Path) -> str:
    """The folder or file that the recipe names, if there is one; else the name is a hub id.

    Raises ArtifactError for what looks like a path and is not there.
    """
    place = recipe_folder / source
    if place.exists():
        return str(place)
    looks_like_path = source.startswith((".", "/", "~", "data/")) or source.count("/") > 1
    if looks_like_path:
        found = "there is no such folder or file"
        raise ArtifactError(f"load the backbone {source}", found, "check backbone.source; fetch first if it is fetched")
    return source


def load_config(source: str, revision: str | None, asked: str) -> Any:
    """The config.json of a folder or hub id. Raises ArtifactError or MachineError, as `load_weights`."""
    from transformers import AutoConfig

    quiet_transformers()
    register_families()
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except Exception as error:  # a config.json can be wrong in as many ways as there are architectures
        refuse_diffusers(source, asked)
        raise not_loaded(asked, source, error) from error


def refuse_diffusers(source: str, asked: str) -> None:
    """Raises ArtifactError for a folder with a checkpoint of diffusers, of which transformers says what it lacks."""
    from optimum.exporters.tasks import TasksManager

    if not Path(source).is_dir():
        return
    try:
        library = TasksManager.infer_library_from_model(source)
    except Exception:  # noqa: BLE001 — it is of no library that optimum knows, or damaged, in as many ways
        return
    if library == "diffusers":
        found = "it is a checkpoint of diffusers: a network that makes images, and no encoder"
        raise ArtifactError(asked, found, "use an encoder that transformers' AutoModel loads")


def load_weights(source: str, revision: str | None, asked: str) -> PreTrainedModel:
    """Load a backbone from a folder or the hub, in fp32 on the CPU, in evaluation mode.

    A pooler that the checkpoint lacks is left out of the model (its `pooler` is None): random weights would pass for
    pretrained ones. Raises ArtifactError for weights that are corrupt, incomplete or not finite, MachineError when the
    hub cannot be reached or a package is missing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    quiet_transformers()
    register_families()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what a checkpoint leaves out is drawn at random: the same each time
            model, loading = AutoModel.from_pretrained(
                source, revision=revision, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except SafetensorError as error:
        fix = "the file is damaged or cut off: get it again (for fetched weights: `tldeploy fetch --force`)"
        raise ArtifactError(asked, f"its weights are corrupt ({error})", fix) from error
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise not_loaded(asked, source, error) from error
    missing = set(loading["missing_keys"])
    check_complete(missing, asked)
    if missing:  # of the pooler, or they would have been refused
        model.pooler = None
    check_finite(model, asked)
    model.eval()
    return model  # type: ignore[no-any-return]  # from_pretrained is typed as a tuple of Any


def check_complete(missing: set[str], asked: str) -> None:
    """Raises ArtifactError when tensors other than a pooler's are missing."""
    if needed := sorted(name for name in missing if not name.startswith(POOLER)):
        found = f"{len(needed)} tensors are not in its weights, {needed[0]} first; they would be random"
        raise ArtifactError(asked, found, "use a whole checkpoint of this architecture")


def check_finite(model: nn.Module, asked: str) -> None:
    """Raises ArtifactError when a weight is NaN or infinite."""
    import torch

    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(asked, f"its tensor {name} holds NaN or infinity", "use sound weights")


def not_loaded(asked: str, source: str, error: Exception) -> ArtifactError | MachineError:
    """The error to raise for what transformers said about a source."""
    reason = " ".join(str(error).split())[:300]
    if "timm" in reason and isinstance(error, ImportError):
        found = "it is a checkpoint of timm, which is not installed"
        return MachineError(asked, found, "python -m pip install timm (it needs a torchvision that fits this torch)")
    if isinstance(error, ImportError):
        return MachineError(asked, reason, "install the package that is named above")
    if Path(source).exists():
        fix = "give a folder with config.json, model.safetensors and, for text, tokenizer.json"
        return ArtifactError(asked, reason, fix)
    fix = "check the name and the network, or download it and set backbone.source to its folder"
    return MachineError(asked, f"it is no folder, and the hub gave: {reason}", fix)
