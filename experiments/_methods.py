"""How each method of a comparison changes a pretrained model before it is trained."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from conditional_adapters import ConditionalAdapterConfig, attach, count_parameters
from conditional_adapters.checkpoint.save_load import attach_pretrained
from conditional_adapters.model.structure import find_sites, head_names
from conditional_adapters.toolkit.assets import find_adapter
from conditional_adapters.toolkit.tasks.task import Task

from ._config import OWN, Experiment, Row


def build_task(experiment: Experiment, row: Row, labels: Sequence[str], workspace: Path) -> Task:
    """Load the model of an experiment and prepare it as a row says.

    Args:
        experiment: The experiment.
        row: One of its rows.
        labels: The class names of the data set; none where nothing is classified.
        workspace: Where pretrainings left what they made.

    Returns:
        The task, with what the method trains trainable and all else frozen.

    Raises:
        SystemExit: If the pretraining that the row starts from has not been run.
    """
    max_length = row.max_length or experiment.max_length
    name, init = _start(experiment, row, workspace)
    task = experiment.kind.load(name, labels, max_length=max_length)
    if row.num_layers is not None:
        _keep_layers(task, row.num_layers)
    model = task.model
    if row.method == "adapter":
        config = ConditionalAdapterConfig.from_dict(row.adapter)
        if init is None:
            attach(model, config)
        else:
            attach_pretrained(model, init, config)
    elif row.method == "full":
        model.requires_grad_(True)
    else:
        model.requires_grad_(False)
        for head in _heads(task):
            head.requires_grad_(True)
        if row.method == "lora":
            _add_lora(task, row.rank)
    return task


def _start(experiment: Experiment, row: Row, workspace: Path) -> tuple[str, Path | None]:
    """Model name and adapter folder that a row starts from."""
    if row.pretraining is not None:
        return pretrained(row.pretraining, experiment.model, workspace)
    init = None if row.init is None else find_adapter(row.init)
    return model_name(experiment.model, workspace), init


def pretrained(name: str, model: str, workspace: Path) -> tuple[str, Path]:
    """Model and adapter of a pretraining.

    Args:
        name: Of the pretraining.
        model: The dense model that it started from.
        workspace: Where pretrainings leave what they make.

    Returns:
        The model, which is another if all of it was trained, and the folder of the adapter.

    Raises:
        SystemExit: If the pretraining has not been run.
    """
    folder = workspace / name
    if not (folder / "adapter").is_dir():
        raise SystemExit(
            f"{folder} has no adapter. Run `python -m experiments pretrain {name}` first."
        )
    own = folder / "model"
    return str(own) if own.is_dir() else model_name(model, workspace), folder / "adapter"


def model_name(model: str, workspace: Path) -> str:
    """Path or name of the model of an experiment or pretraining.

    Args:
        model: A packaged model, or one of our own.
        workspace: Where those are.

    Returns:
        The name that the library knows, or a folder.

    Raises:
        SystemExit: If a model of our own has not been made.
    """
    if not model.startswith(OWN):
        return model
    name = model.removeprefix(OWN)
    folder = workspace / name / "model"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing. Run `python -m experiments scratch {name}` first.")
    return str(folder)


def count_new_parameters(task: Task, method: str) -> tuple[int, int]:
    """New parameters of a method, without the task head, and parameters of the model.

    Args:
        task: From `build_task`.
        method: The method of its row.

    Returns:
        New parameters and those of the pretrained model. All parameters of a fully fine-tuned
        model are new, because a copy of them has to be kept for each task.
    """
    if method == "adapter":
        counts = count_parameters(task.model)
        return counts.new, counts.total - counts.new
    heads = {id(p) for head in _heads(task) for p in head.parameters()}
    body = [(name, p) for name, p in task.model.named_parameters() if id(p) not in heads]
    new = sum(p.numel() for name, p in body if p.requires_grad)
    lora = sum(p.numel() for name, p in body if ".lora_" in name)
    return new, sum(p.numel() for p in task.model.parameters()) - lora


def _heads(task: Task) -> list[nn.Module]:
    """The head that conditional adapters train, so that all methods train the same head."""
    sites = find_sites(task.model)
    return [task.model.get_submodule(path) for path in head_names(sites, None)]


def _add_lora(task: Task, rank: int) -> None:
    """Put LoRA into the projections of queries and values, PEFT's usual places."""
    from peft import LoraConfig, inject_adapter_in_model

    trained = [p for p in task.model.parameters() if p.requires_grad]
    config = LoraConfig(r=rank, lora_alpha=2 * rank)
    inject_adapter_in_model(config, task.model)
    for parameter in trained:
        parameter.requires_grad_(True)


def _keep_layers(task: Task, num_layers: int) -> None:
    """Drop layers of the encoder, evenly, the last one kept."""
    layers = find_sites(task.model).encoder_layers
    step = len(layers) / num_layers
    kept = [layers[round((index + 1) * step) - 1] for index in range(num_layers)]
    del layers[num_layers:]
    for index, layer in enumerate(kept):
        layers[index] = layer
    task.model.config.num_hidden_layers = num_layers
