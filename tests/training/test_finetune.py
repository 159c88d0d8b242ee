import pytest
import torch
from transformers import TrainingArguments

import conditional_adapters as ca
from conditional_adapters.training import TrainingSettings
from conditional_adapters.training.trainer import ConditionalTrainer
from tests.helpers.tiny_models import TINY_MODELS


def trainer_for(tmp_path, router_learning_rate):
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"), ca.ConditionalAdapterConfig(adapter_dim=4))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1, report_to=[]
    )
    return ConditionalTrainer(
        model=model, args=arguments, router_learning_rate=router_learning_rate
    )


def test_routers_get_their_own_learning_rate_and_every_parameter_one_group(tmp_path) -> None:
    trainer = trainer_for(tmp_path, 0.5)
    optimizer = trainer.create_optimizer()
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    trainable = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(grouped) == len(trainable) == len(rates)
    for name, parameter in trainable.items():
        assert rates[id(parameter)] == (0.5 if ".router." in name else 1e-3), name


def test_the_schedule_scales_both_learning_rates(tmp_path) -> None:
    trainer = trainer_for(tmp_path, 0.5)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    for _ in range(5):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rates = sorted({group["lr"] for group in trainer.optimizer.param_groups})
    assert rates == pytest.approx([0.5e-3, 0.25])


def test_only_trainable_parameters_are_optimised(tmp_path) -> None:
    trainer = trainer_for(tmp_path, None)
    frozen = {n: p.clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    optimizer = trainer.create_optimizer()
    trainer.model(**TINY_MODELS["bert"].inputs(), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("epochs", 0, "epochs must be above 0, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("learning_rate", -1.0, "learning_rate must be above 0, got -1.0"),
        ("warmup", 1.0, r"warmup must be in \[0, 1\), got 1.0"),
        ("weight_decay", -0.1, "weight_decay must be at least 0, got -0.1"),
    ],
)
def test_bad_settings_are_refused(field, value, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        TrainingSettings(**{field: value})
