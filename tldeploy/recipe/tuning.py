"""The sections of what is tuned, and how: the backbone, the methods and their settings, the search over them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tldeploy.recipe.values import Count, Section, Seed, no_repeats

Method = Literal["feature-extraction", "fine-tuning", "lora", "few-shot", "distillation", "from-scratch"]
Keep = Literal["best", Method]
TrainedOn = Literal["auto", "cpu", "cuda"]


class Backbone(Section):
    """The pretrained network: a hub id, a folder with a checkpoint, or (images) a state-dict file.

    pooling: how token vectors become one vector: the mean over tokens, or the first token's.
    max_length: tokens kept of each text.
    image_size: pixels of each side that an image is brought to; by default what the checkpoint was trained with.
    resize: cut the middle out, squash both sides, or pad the shorter one; by default as the checkpoint was trained.
    """

    source: str
    revision: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = Field(default=128, ge=8, le=8192)
    image_size: int | None = Field(default=None, ge=16, le=1024)
    resize: Literal["crop", "squash", "pad"] | None = None


class Lora(Section):
    """Low-rank adapters (Hu et al., 2021), merged into the weights before export.

    targets: ends of the names of the linear layers that get one; by default all of the backbone's.
    """

    rank: Count = 8
    alpha: Count = 16
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: list[str] = Field(default=[])


class FewShot(Section):
    """Learning from pairs (as SetFit, Tunstall et al., 2022), for a handful of rows a class.

    rows_per_class: how many training rows of each class are used; by default all.
    pairs: drawn for each row with rows of its own class, and as many with rows of others.
    """

    rows_per_class: int | None = Field(default=None, ge=2)
    pairs: Count = 10
    epochs: Count = 1
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)


class Distillation(Section):
    """A smaller student learns from a tuned teacher's probabilities as well as from the labels (Hinton et al., 2015).

    teacher: the folder of another model's recipe, tuned before. layers: how many of the backbone's layers the student
    keeps, taken evenly; by default all. weight: the teacher's share of the loss.
    """

    teacher: str
    layers: Count | None = None
    temperature: float = Field(default=2.0, gt=0)
    weight: float = Field(default=0.7, ge=0, le=1)


class Range(Section):
    """Numbers between low and high, on a logarithmic scale if `log`, in steps if `step`."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}, expected low below high")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("a logarithmic range starts above 0 and has no step")
        return self


# Settings of `tune` that no trial of a search may change.
NOT_SEARCHED = {
    *("methods", "keep", "lora", "few_shot", "distillation", "search", "trackers", "quantization_aware"),
    *("device", "compile"),
}
# Methods that train every layer of the network that is exported, and so can let it learn under rounding.
QUANTIZABLE: set[Method] = {"fine-tuning", "distillation", "from-scratch"}


class Search(Section):
    """Hyper-parameter search by Optuna over the settings of fine-tuning; the best trial becomes a recipe of its own.

    space: a setting of `tune` to the values to choose among, or to a range {low, high, log, step}.
    """

    space: dict[str, list[Any] | Range] = Field(min_length=1)
    method: Literal["fine-tuning", "lora"] = "fine-tuning"
    sampler: Literal["tpe", "grid", "random"] = "tpe"
    pruner: Literal["none", "median", "hyperband"] = "median"
    trials: Count = 20

    @field_validator("space")
    @classmethod
    def _names_settings_of_tune(cls, space: dict[str, list[Any] | Range]) -> dict[str, list[Any] | Range]:
        known = sorted(set(Tune.model_fields) - NOT_SEARCHED)
        for name, values in space.items():
            if name not in known:
                raise ValueError(f"found {name!r}, expected settings of tune: {', '.join(known)}")
            if values == []:
                raise ValueError(f"{name}: expected values to choose among")
        return space

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Search:
        endless = [name for name, values in self.space.items() if isinstance(values, Range) and not values.step]
        if self.sampler == "grid" and endless:
            raise ValueError(f"sampler: a grid needs values or a step for {', '.join(endless)}")
        return self


class Tune(Section):
    """Transfer learning. `methods` are all run and reported; `keep` is the one that is exported.

    freeze: groups of the backbone's layer map, or patterns of groups or parameters, that do not learn.
    gradual_unfreezing: epochs after which the next group from the top begins to learn (Howard & Ruder, 2018).
    layer_decay: factor of the learning rate from each group to the one below it. rates: factors by group or pattern.
    warmup: share of all steps. early_stopping: epochs without a better validation metric before training ends.
    averaging: of weights, over steps (ema) or over the epochs of the second half (swa).
    batch_norm: whether running statistics stay as pretrained, which small batches need.
    device: auto is a GPU where PyTorch has one. precision: of the products, weights are fp32. compile: by
    torch.compile, which takes minutes before the first step, and again for each new shape; not heeded by feature
    extraction, few-shot and adaptation.
    quantization_aware: in training, weights and activations are rounded as int8 will round them.
    """

    methods: list[Method] = Field(default=["feature-extraction", "fine-tuning"], min_length=1)
    keep: Keep = "best"
    epochs: Count = 3
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    batch_size: Count = 16
    accumulation: Count = 1
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["linear", "cosine", "constant", "polynomial", "inverse-sqrt"] = "linear"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    freeze: list[str] = Field(default=[])
    gradual_unfreezing: Count | None = None
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    rates: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    early_stopping: Count | None = None
    class_weights: bool = False
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    averaging: Literal["none", "ema", "swa"] = "none"
    batch_norm: Literal["frozen", "train"] = "frozen"
    augmentation: Literal["none", "light", "strong"] = "light"
    mirroring: bool = True
    device: TrainedOn = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    quantization_aware: bool = False
    calibration: bool = True
    trackers: list[Literal["tensorboard", "mlflow"]] = Field(default=[])
    seed: Seed = 0
    lora: Lora = Lora()
    few_shot: FewShot = FewShot()
    distillation: Distillation | None = None
    search: Search | None = None

    _methods_once = field_validator("methods")(no_repeats)

    @model_validator(mode="after")
    def _fits_together(self) -> Tune:
        if self.keep != "best" and self.keep not in self.methods:
            raise ValueError(f"keep: {self.keep} is not among methods: {', '.join(self.methods)}")
        if "distillation" in self.methods and self.distillation is None:
            raise ValueError("methods: distillation needs the section tune.distillation, with its teacher")
        if self.quantization_aware and QUANTIZABLE.isdisjoint(self.methods):
            raise ValueError(f"quantization_aware: expected one of {', '.join(sorted(QUANTIZABLE))} among methods")
        if self.quantization_aware and self.search is not None and self.search.method not in QUANTIZABLE:
            raise ValueError(f"quantization_aware: {self.search.method}, which search.method names, cannot do it")
        return self
