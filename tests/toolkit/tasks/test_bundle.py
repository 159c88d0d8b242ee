"""What is written beside an adapter says which task it is for."""

import json

import pytest

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.toolkit.tasks.bundle import (
    load_trained_classifier,
    load_trained_task,
    read_task,
    save_task,
)
from conditional_adapters.toolkit.tasks.kinds import TASKS, find_task
from conditional_adapters.toolkit.tasks.models import Classifier
from tests.helpers.tiny_text import write_bert


def saved(tmp_path, name, labels):
    base = str(write_bert(tmp_path / "base"))
    task = find_task(name).load(base, labels, max_length=20)
    ca.attach(task.model, ca.ConditionalAdapterConfig(reduction_factor=2, adapter_dim=3))
    return save_task(task, tmp_path / "adapter", base_model=base)


def test_a_record_from_before_there_were_tasks_still_loads(tmp_path) -> None:
    directory = saved(tmp_path, "text-classification", ["x", "y"])
    old = {
        "base_model": str(tmp_path / "base"),
        "modality": "text",
        "labels": ["x", "y"],
        "max_length": 20,
    }
    (directory / "task.json").write_text(json.dumps(old))
    assert read_task(directory).task == "text-classification"
    classifier = load_trained_classifier(directory)
    assert isinstance(classifier, Classifier)
    assert (classifier.labels, classifier.modality) == (("x", "y"), "text")


@pytest.mark.parametrize("name", ["token-classification", "question-answering"])
def test_a_trained_task_comes_back_as_it_was(tmp_path, name) -> None:
    labels = ["x", "y"] if name == "token-classification" else []
    directory = saved(tmp_path, name, labels)
    task = load_trained_task(directory, reduction_factor=4)
    assert (task.name, task.labels, task.max_length) == (name, tuple(labels), 20)
    layers = conditional_layers(task.model)
    assert {layer.coda_part("default").reduction_factor for layer in layers} == {4.0}
    with pytest.raises(ca.CheckpointError, match=f"an adapter for {name}, not a classifier"):
        load_trained_classifier(directory)


def test_an_unknown_task_is_refused(tmp_path) -> None:
    directory = saved(tmp_path, "text-classification", ["x", "y"])
    record = json.loads((directory / "task.json").read_text())
    (directory / "task.json").write_text(json.dumps(record | {"task": "translation"}))
    with pytest.raises(ca.CheckpointError, match=r"the task 'translation'.*It supports text-cl"):
        read_task(directory)
    with pytest.raises(ca.ConfigError, match="no task 'translation'"):
        find_task("translation")


def test_a_model_of_texts_does_not_classify_images(tmp_path) -> None:
    with pytest.raises(ca.UnsupportedArchitectureError, match="--task text-classification"):
        TASKS["image-classification"].load(str(write_bert(tmp_path)), ["x", "y"])
