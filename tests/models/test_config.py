import dataclasses

import pytest

from models.config import (
    LATER,
    TrainConfig,
    build_config,
    difference,
    parse_settings,
    settings_page,
    settings_table,
)
from tests.conftest import PROJECT


def test_words_become_typed_fields():
    settings = parse_settings(["epochs=3", "learning_rate=1e-3", "image_size=none", "backbone=resnet34"])
    assert settings == {"epochs": 3, "learning_rate": 1e-3, "image_size": None, "backbone": "resnet34"}


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match=r"'epoch'. Did you mean 'epochs'\?.*Known: backbone"):
        parse_settings(["epoch=3"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs", "name=value"),
        ("epochs=three", "expected an int"),
        ("epochs=0", "at least 1"),
        ("batch_size=1", "at least 2"),
        ("loss=hinge", "not one of: bce, focal"),
        ("positive_weight=heavy", "none, balanced or a number"),
        ("dropout=2", "between 0 and 1"),
        ("learning_rate=nan", "too small"),
        ("epoch_choice=middle", "not one of: best, last"),
        ("branch_epoch=12", "of 12 epochs: at least one must be left"),
        ("others_weight=1.5", "between 0 and 1"),
        ("pooling=mean", "not one of: avg, max, lse, attention"),
        ("output_stride=4", "not one of: 8, 16, 32, none"),
    ],
)
def test_a_bad_value_is_a_sentence(word, message):
    with pytest.raises(ValueError, match=message):
        build_config(parse_settings([word]))


def test_later_layers_win_and_are_converted():
    config = build_config({"epochs": 5, "pretrained": True, "dropout": 0}, {"epochs": 7})
    assert (config.epochs, config.pretrained, config.dropout) == (7, "true", 0.0)
    assert isinstance(config.dropout, float)
    with pytest.raises(ValueError, match="expected int"):
        build_config({"epochs": 2.5})


def test_the_digest_follows_what_shapes_the_weights():
    config = TrainConfig()
    assert dataclasses.replace(config, checkpoint_minutes=9).digest() == config.digest()
    for field in dataclasses.fields(TrainConfig):
        if field.name in ("checkpoint_minutes",) or not isinstance(field.default, int) or field.name == "image_size":
            continue
        changed = dataclasses.replace(config, **{field.name: field.default + 1})
        assert changed.digest() != config.digest(), field.name


def test_a_later_field_at_its_default_leaves_the_digest_alone():
    """Otherwise the finished networks of a run would count as another training's after an update."""
    config = TrainConfig()
    assert config.digest() == "b6f7233d8d5ad494", "what finished runs have in their plan"
    others = {"snapshots": 3, "standardise": "film", "recipe_version": 2, "epoch_choice": "last", "branch_epoch": 3}
    others |= {"pooling": "max", "output_stride": 16}
    for name in LATER:
        assert dataclasses.replace(config, **{name: others.get(name, 0.25)}).digest() != config.digest(), name


def test_a_training_to_the_last_epoch_has_no_patience():
    with pytest.raises(ValueError, match="patience=2 must be 0"):
        TrainConfig(epoch_choice="last", patience=2)


def test_config_survives_its_dict():
    config = TrainConfig(epochs=3, image_size=64)
    assert TrainConfig(**config.to_dict()) == config


def test_difference_names_the_fields():
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == "b: 2 -> 3, c: None -> 4"


def test_every_field_is_documented():
    table = settings_table()
    assert [name for name, _, _ in table] == [field.name for field in dataclasses.fields(TrainConfig)]
    assert all(len(text) > 10 for _, _, text in table)


def test_switches_are_true_or_false():
    assert build_config(parse_settings(["compile=true"])).compile is True
    with pytest.raises(ValueError, match="true or false"):
        parse_settings(["compile=maybe"])


def test_the_page_of_settings_is_up_to_date():
    page = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "make it again: hilum settings --markdown > docs/settings.md"
