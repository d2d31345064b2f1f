"""What a recipe asks for and its network cannot take: found before anything is trained, whoever would meet it."""

from __future__ import annotations

from tldeploy.tuning import precision
from tldeploy.tuning.distillation import make_student
from tldeploy.tuning.few_shot import draw_rows
from tldeploy.tuning.freezing import learners
from tldeploy.tuning.job import Job
from tldeploy.tuning.lora import add_adapters


def refuse_misfits(job: Job) -> None:
    """Raises RecipeError for a setting of `tune` that does not fit the job's network, or the one that a method makes.

    Those are patterns that match nothing, settings that leave nothing to learn, gradient checkpointing, the layers that
    LoRA or a student asks for, and a teacher of other classes. Raises ArtifactError for a teacher that is not tuned
    yet, DataError for a class with too few rows for few-shot.
    """
    settings = job.settings
    with learners(job.network, settings), precision.checkpointed(job.network, settings):
        pass
    if "lora" in settings.methods:
        network = job.network.fresh_copy(settings.seed)
        add_adapters(network, settings.lora, settings.seed)
        with learners(network, settings):
            pass
    if "distillation" in settings.methods:
        with learners(make_student(job).network, settings):
            pass
    if "few-shot" in settings.methods:
        draw_rows(job.train, settings.few_shot.rows_per_class, job.task.labels, settings.seed)
