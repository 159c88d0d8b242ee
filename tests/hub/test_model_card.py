"""Model cards: what they say is in the files beside them, and their snippets run."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers as hf
from huggingface_hub import ModelCard
from PIL import Image

import conditional_adapters as ca
from conditional_adapters.checkpoint.save_load import set_saved_reduction_factor
from conditional_adapters.hub.measurements import Measurement, read_measurements
from conditional_adapters.hub.model_card import is_generated, record_measurements, write_model_card
from conditional_adapters.model.attachment import adapter_parameters
from tests.helpers.runner import run
from tests.helpers.tiny_classifiers import image_classifier, save_with_base, text_classifier
from tests.helpers.tiny_models._builder import ENCODER

FACT = {"command": "coda evaluate", "data": "x.csv", "rows": 8, "metrics": {"accuracy": 0.75}}


def snippet(directory: Path, language: str) -> str:
    text = (directory / "README.md").read_text()
    (code,) = re.findall(rf"```{language}\n(.*?)```", text.split("## Measured")[0], re.DOTALL)
    return code


def build(name: str, **fields):
    """A model of transformers with the base that it is loaded from."""
    model_class = getattr(hf, name)
    model_class(model_class.config_class(**ENCODER, vocab_size=20, **fields)).save_pretrained(
        "base"
    )
    return model_class.from_pretrained("base").eval()


@pytest.mark.parametrize(
    "name, task",
    [
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForSequenceClassification", "text-classification"),
        ("ElectraForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("BertModel", None),
    ],
)
def test_the_snippet_loads_an_adapter_without_a_task(name, task, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build(name, **({"num_labels": 5} if "Classification" in name else {}))
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=(3, 2), adapter_dim=4))
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, "default"):
            parameter.normal_(std=0.3)
    write_model_card(ca.save_adapter(model, "adapters/mine"))
    scope: dict = {}
    exec(snippet(Path("adapters/mine"), "python"), scope)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(scope["model"].eval()(ids)[0], model(ids)[0])
    data = ModelCard.load("adapters/mine/README.md").data
    assert data.get("pipeline_tag") == task
    assert (data.library_name, data.base_model, data.eval_results) == (
        *("conditional-adapters", None, None),  # "base" is a folder
    )


@pytest.mark.parametrize("make", [text_classifier, image_classifier])
def test_the_snippets_of_a_trained_task_predict(make, tmp_path, monkeypatch) -> None:
    classifier = make()
    directory = save_with_base(classifier, tmp_path)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 24), (200, 30, 90)).save("image.png")
    scope: dict = {}
    exec(snippet(directory, "python").replace("print(", "answers = ("), scope)
    assert {answer["label"] for answer in scope["answers"]} <= set(classifier.labels)
    if make is text_classifier:
        Path("rows.csv").write_text("text\nw1 w2\n")
        run(*snippet(directory, "bash").split()[1:])
        assert json.loads(Path("predictions.jsonl").read_text())["label"] in classifier.labels


def test_the_card_says_what_the_files_say(tmp_path) -> None:
    classifier = text_classifier((4, 2, 8), attention_mode="k_to_all")
    classifier.model.config.name_or_path = "some-one/base"
    directory = ca.save_adapter(classifier.model, tmp_path / "mine")
    write_model_card(directory)
    card = ModelCard.load(directory / "README.md")
    assert card.data.base_model == "some-one/base"
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert card.text.lstrip().startswith("# mine\n")
    new = ca.count_parameters(classifier.model).new
    for line in (
        "| r, tokens per processed token | 4; trained at 2, 4, 8 |",
        "| attention | k-to-all |",
        "| width of the adapter | 4 |",
        f"| new parameters | {new:,} |",
    ):
        assert line in card.text
    assert "Nothing yet" in card.text
    set_saved_reduction_factor(directory, 8)
    write_model_card(directory)
    assert (
        "| r, tokens per processed token | 8; trained at 2, 4, 8 |"
        in (directory / "README.md").read_text()
    )


def test_measured_figures_are_those_of_the_commands(tmp_path, monkeypatch) -> None:
    classifier = text_classifier((2, 4))
    directory = save_with_base(classifier, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = [f"w{index} w{index + 1} w{index % 7}" for index in range(12)]
    rows = [f"{text},{classifier.labels[i % 3]}" for i, text in enumerate(words)]
    Path("rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    arguments = ("--adapter", directory, "--data", "rows.csv")
    printed = json.loads(run("evaluate", *arguments, "-r", 3, "--json", "--write").stdout)
    timed = {"reference_factor": 2.0, "timed_batch": (2, 5)}
    pair = [
        Measurement(**FACT, **timed, reduction_factor=2, speed_up=1.0),
        Measurement(**FACT, **timed, reduction_factor=4, speed_up=1.618),
    ]
    record_measurements(directory, pair)  # as coda tune does

    results = ModelCard.load(directory / "README.md").data.eval_results
    found = {
        (r.dataset_name, r.metric_type, r.metric_args["reduction_factor"]): r.metric_value
        for r in results
    }
    assert found == {
        ("rows.csv", "accuracy", 3): printed["accuracy"],
        ("rows.csv", "macro_f1", 3): printed["macro_f1"],
        ("x.csv", "accuracy", 2): 0.75,
        ("x.csv", "accuracy", 4): 0.75,
        ("x.csv", "speed_up", 4): 1.62,
    }
    text = (directory / "README.md").read_text()
    command = f"coda evaluate --adapter {directory} --data rows.csv --reduction-factor 3.0"
    assert f"{command}\n# conditional-adapters {ca.__version__}, torch" in text
    assert f"| rows.csv | 12 | 3 | {printed['accuracy']:.2%} | {printed['macro_f1']:.2%} |" in text
    assert "| x.csv | 8 | 2 | 75.00% |  | reference |" in text
    assert "| x.csv | 8 | 4 | 75.00% |  | 1.62x over r = 2, batch 2 x 5 |" in text


def test_figures_are_forgotten_when_the_adapter_changes_and_only_then(tmp_path) -> None:
    model = text_classifier().model
    directory = ca.save_adapter(model, tmp_path / "mine")
    write_model_card(directory)
    first = Measurement(**FACT, reduction_factor=2)
    record_measurements(directory, [first, Measurement(**FACT, reduction_factor=4)])
    again = Measurement(**{**FACT, "metrics": {"accuracy": 0.5}}, reduction_factor=4)
    record_measurements(directory, [again])
    set_saved_reduction_factor(directory, 4)
    write_model_card(directory)
    write_model_card(ca.save_adapter(model, directory))
    assert read_measurements(directory) == (first, again)
    assert "| x.csv | 8 | 4 | 50.00% |" in (directory / "README.md").read_text()
    with torch.no_grad():
        next(p for _, p in adapter_parameters(model, "default")).add_(1)
    write_model_card(ca.save_adapter(model, directory))
    assert read_measurements(directory) == ()
    assert "Nothing yet" in (directory / "README.md").read_text()
    (directory / "measurements.json").write_text("{")
    with pytest.warns(UserWarning, match=r"measurements.json is damaged and ignored"):
        write_model_card(ca.save_adapter(model, directory))


def test_a_card_that_somebody_edited_is_left_alone(tmp_path) -> None:
    model = text_classifier().model
    directory = ca.save_adapter(model, tmp_path / "mine")
    write_model_card(directory)
    card = directory / "README.md"
    generated = card.read_text()
    assert is_generated(generated)
    card.write_bytes(generated.replace("\n", "\r\n").encode())  # as git may check it out
    assert write_model_card(directory)
    for edited in ("", "# Mine\n", generated.replace("# mine", "# Mine"), generated + "More.\n"):
        card.write_text(edited)
        write_model_card(ca.save_adapter(model, directory))
        assert card.read_text() == edited
    card.unlink()
    write_model_card(ca.save_adapter(model, directory))
    assert card.read_text() == generated
