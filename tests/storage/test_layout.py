from service.storage import layout


def test_paths_are_the_ones_of_the_readme():
    assert layout.commit(42) == "commits/00000042.json"
    assert layout.logs(1, "train") == "logs/train"
    assert layout.logs(2, "validation") == "stages/02/logs/validation"
    assert [layout.history_json(), layout.history_csv(3)] == ["history.json", "stages/03/history.csv"]
    assert [layout.model(), layout.model_json(2)] == ["model.keras", "stages/02/model.json"]


def test_names_are_read_back_and_nothing_else_is():
    assert layout.number_of(layout.commit(42)) == 42
    assert layout.attempt_of(layout.shard("a1", "0" * 32, "f" * 64)) == "a1"
    for path in (
        "commits/42.json",
        "commits/00000000.json",
        "commits/00000001.json\n",
        "../commits/00000001.json",
        "commits/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661.json",
    ):
        assert layout.number_of(path) is None
    for path in ("shards/a1", "shards/../x", "shards/a/1-00000000-" + "f" * 32 + ".safetensors", "x" * 99):
        assert layout.attempt_of(path) is None
