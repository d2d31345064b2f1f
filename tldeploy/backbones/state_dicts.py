"""A single file of tensors to a backbone: the architecture is recognised by the names and shapes of the tensors.

VGG and ResNet as torchvision writes them, and EfficientNet-Lite0 as its PyTorch port does. Layers that give classes are
dropped. PyTorch's own format is read with weights_only=True, so nothing in a file is run.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.backbones.checkpoints import check_complete, check_finite, register_families
from tldeploy.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Tensors = Mapping[str, "Tensor"]
SUFFIXES = (".safetensors", ".pth", ".pt")
# Where training scripts keep the weights among other things.
_NESTED = ("state_dict", "model", "model_state_dict")


def load_state_dict(file: Path, asked: str) -> PreTrainedModel:
    """The backbone whose weights lie in `file`, in fp32 on the CPU, in evaluation mode.

    Raises ArtifactError when the file is no sound file of tensors, or of none of the architectures that are known.
    """
    tensors = read_tensors(file, asked)
    register_families()
    for recognise in (_vgg, _resnet, _efficientnet_lite):
        if found := recognise(tensors, asked):
            model, renamed = found
            return _filled(model, renamed, asked)
    some = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3])
    found_there = f"its {len(tensors)} tensors are of no architecture that is known here; the first are {some}"
    fix = "use torchvision's VGG or ResNet, EfficientNet-Lite0, or a folder with config.json and model.safetensors"
    raise ArtifactError(asked, found_there, fix)


def read_tensors(file: Path, asked: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file by their names. Raises ArtifactError when it is no such file."""
    import torch
    from safetensors.torch import load_file

    if file.suffix not in SUFFIXES:
        raise ArtifactError(asked, f"it ends in {file.suffix or 'nothing'}", f"give one of {', '.join(SUFFIXES)}")
    content: Any
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load talks of pickle protocols before it refuses
            content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = f"it is damaged, or holds objects besides tensors, which are never run ({str(error).splitlines()[0]})"
        raise ArtifactError(asked, found, "save the state dict alone, best as .safetensors") from error
    except Exception as error:  # a damaged file fails in whichever layer of the format it breaks
        found = f"its weights are corrupt ({' '.join(str(error).split())[:200]})"
        raise ArtifactError(asked, found, "the file is damaged or cut off: get it again") from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(value) for value in content.values()):
        raise ArtifactError(asked, "it holds no state dict", "save what model.state_dict() gives, and nothing else")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}  # DataParallel's prefix


def _filled(model: PreTrainedModel, tensors: Tensors, asked: str) -> PreTrainedModel:
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ArtifactError(asked, lines[-1].strip(), "use a whole checkpoint of this architecture") from error
    # Files of before 2018 do not count the batches that a norm has seen; evaluation does not need that.
    check_complete({name for name in missing if not name.endswith("num_batches_tracked")}, asked)
    if unexpected:
        found = f"{len(unexpected)} tensors have no place in a {model.config.model_type}, {unexpected[0]} first"
        raise ArtifactError(asked, found, "this is a variant of the architecture that is not known here")
    check_finite(model, asked)
    model.float()  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _vgg(tensors: Tensors, asked: str) -> tuple[PreTrainedModel, Tensors] | None:
    """Stages are told apart by the numbers that ReLU, norm and max-pool take between two convolutions."""
    from tldeploy.backbones.vgg import VGGConfig, VGGModel

    convolutions = {
        int(match[1]): tensor
        for name, tensor in tensors.items()
        if (match := re.fullmatch(r"features\.(\d+)\.weight", name)) and tensor.ndim == 4
    }
    if 0 not in convolutions or any(tuple(tensor.shape[2:]) != (3, 3) for tensor in convolutions.values()):
        return None
    batch_norm = "features.1.running_mean" in tensors
    depths, widths, last = [0], [0], 0
    for number in sorted(convolutions):
        if number - last == (4 if batch_norm else 3):
            depths.append(0)
            widths.append(0)
        depths[-1] += 1
        widths[-1] = int(convolutions[number].shape[0])
        last = number
    dense = tensors.get("classifier.0.weight")
    config = VGGConfig(
        depths=depths,
        hidden_sizes=widths,
        batch_norm=batch_norm,
        classifier=dense is not None,
        classifier_size=4096 if dense is None else int(dense.shape[0]),
        num_channels=int(convolutions[0].shape[1]),
    )
    return VGGModel(config), {name: tensor for name, tensor in tensors.items() if "classifier.6." not in name}


def _resnet(tensors: Tensors, asked: str) -> tuple[PreTrainedModel, Tensors] | None:
    """torchvision's ResNet strides in the 3×3 convolution of a bottleneck, which is what transformers' does too."""
    from transformers import ResNetConfig, ResNetModel

    if not {"conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"} <= set(tensors):
        return None
    blocks = sorted({(int(m[1]), int(m[2])) for name in tensors if (m := re.match(r"layer(\d+)\.(\d+)\.", name))})
    stages = sorted({stage for stage, _ in blocks})
    last = "conv3" if "layer1.0.conv3.weight" in tensors else "conv2"
    widths = [int(tensors[f"layer{stage}.0.{last}.weight"].shape[0]) for stage in stages]
    middle = tensors["layer1.0.conv2.weight"]
    if middle.shape[0] != middle.shape[1] or (last == "conv3" and 4 * middle.shape[0] != widths[0]):
        found = (
            f"it is a ResNeXt or wide ResNet (layer1.0.conv2.weight is {list(middle.shape)}), which is not known here"
        )
        raise ArtifactError(asked, found, "use a plain ResNet: 18, 34, 50, 101 or 152")
    config = ResNetConfig(
        num_channels=int(tensors["conv1.weight"].shape[1]),
        embedding_size=int(tensors["conv1.weight"].shape[0]),
        hidden_sizes=widths,
        depths=[sum(1 for stage, _ in blocks if stage == wanted) for wanted in stages],
        layer_type="bottleneck" if last == "conv3" else "basic",
    )
    renamed = {_resnet_name(name): tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    return ResNetModel(config), renamed


def _resnet_name(name: str) -> str:
    """torchvision's name of a tensor to transformers' name of it."""
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    name = re.sub(r"^layer(\d+)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name)
    name = name.replace("downsample.0.", "shortcut.convolution.").replace("downsample.1.", "shortcut.normalization.")
    name = re.sub(r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution.", name)
    return re.sub(r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization.", name)


# The port's name of each part, inside a block and outside, to transformers'.
_LITE_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_LITE = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}


def _efficientnet_lite(tensors: Tensors, asked: str) -> tuple[PreTrainedModel, Tensors] | None:
    from tldeploy.backbones.variants import EfficientNetLiteConfig, EfficientNetLiteModel

    if "_conv_stem.weight" not in tensors or "_blocks.0._depthwise_conv.weight" not in tensors:
        return None
    if any("_se_reduce" in name for name in tensors):
        found = "it is an EfficientNet with squeeze-and-excitation in the names of another library"
        raise ArtifactError(asked, found, "use the same network as a folder that transformers wrote")
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("_blocks.")})
    if blocks != 16 or tensors["_blocks.15._project_conv.weight"].shape[0] != 320:
        found = f"it is an EfficientNet-Lite of {blocks} blocks; only Lite0, with 16, is known here"
        raise ArtifactError(asked, found, "use EfficientNet-Lite0")
    config = EfficientNetLiteConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=224, hidden_act="relu6"
    )
    renamed = {_lite_name(name): tensor for name, tensor in tensors.items() if not name.startswith("_fc.")}
    return EfficientNetLiteModel(config), renamed


def _lite_name(name: str) -> str:
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        return f"encoder.blocks.{match[1]}.{_LITE_BLOCK.get(match[2], match[2])}.{match[3]}"
    part, _, rest = name.partition(".")
    return f"{_LITE.get(part, part)}.{rest}"
