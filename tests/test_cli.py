"""The command line on runs that the storage holds, made without TensorFlow."""

import copy
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile

import fsspec
import numpy as np
import pytest

from service import __main__, cli, record
from service.run import Run
from service.storage import layout, pieces, receipts, retention, shards
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.buckets import gs_options

ROWS = 6  # the weights are 6 x 2 float32: 48 bytes, and the counter's int64 has 8


class Trained:
    """A run as training leaves it: 10 steps an epoch, a loss that halves from 8."""

    def __init__(self, place, name="vae-1", **options):
        self.store = Store(f"{place}/{name}", **options)
        run = Run(name=name, storage=str(place), workers=2, seed=7)
        record.begin(self.store, run, "jobs.digits_vae:train", {"epochs": 2}, "source")
        self.log = CommitLog.open(self.store, "a1", {"workers": 2})
        self.losses = []

    def epoch(self, final=False, stage=1):
        """Commits one more epoch, or what the stage leaves after the last one."""
        if not final:
            self.losses.append(8.0 / 2 ** len(self.losses))
        epoch = len(self.losses)
        tensors = {"weights": np.full((ROWS, 2), epoch, np.float32), "step": np.array(10 * epoch)}
        share = pieces.share({name: (value.size, value.itemsize) for name, value in tensors.items()}, 1)[0]
        newest = self.log.checkpoints()
        written = shards.write_shards(self.store, "a1", tensors, share, newest[0].body["shards"] if newest else ())
        history = {"class": "History", "state": {"epoch": [*range(epoch)], "history": {"loss": [*self.losses]}}}
        state = {"callbacks": [history], "stopping": False}
        body = {"stage": stage, "step": 10 * epoch, "epoch": epoch, "final": final, "state": state}
        return self.log.append("checkpoint", {**body, "shards": receipts.merge([written])})

    def finish(self):
        self.epoch(final=True)
        history = {"loss": self.losses}
        self.log.append("stage", {"stage": 1, "result": {"epochs": len(self.losses), "stopped": False, "history": history}})
        self.store.write(layout.model_json(), json.dumps({"keras": "3.15.1", "custom": [], "lacks": []}).encode())
        self.store.write(layout.model(), archive("3.15.1"))
        self.log.append("finished", {"options": {"epochs": 2}, "history": history, "metrics": {"loss": self.losses[-1]}})
        return self

    @property
    def url(self):
        return self.store.url


def archive(version, weights=b"weights"):
    """Returns what a .keras file is: a zip with its Keras's version in it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
        file.writestr("model.weights.h5", weights)
    return data.getvalue()


@pytest.fixture
def ask(capsys):
    """Runs the command 200 s from now, and returns its exit code and what it printed."""

    def ask(*words):
        code = cli.main(words, clock=lambda: time.time() + 200)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return ask


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    run = Trained(tmp_path_factory.mktemp("runs"))
    run.epoch()
    run.epoch()
    return run.finish()


@pytest.fixture
def finished(tmp_path, original):
    """A copy of a finished run of two epochs: a run may be moved."""
    shutil.copytree(original.url, tmp_path / "vae-1")
    run = copy.copy(original)
    run.store, run.losses = Store(str(tmp_path / "vae-1")), [*original.losses]
    run.log = CommitLog(run.store)
    run.log.refresh()
    return run


def flip(run, path, place=-1):
    data = bytearray(run.store.read(path))
    data[place] ^= 1
    run.store.write(path, bytes(data))


def file_of(entry):
    """Returns the file that only this checkpoint needs: every epoch changes all tensors."""
    (receipt,) = entry.body["shards"]
    return receipt["file"]


def test_runs_shows_each_run_with_its_state_and_last_commit(ask, tmp_path, finished):
    Trained(tmp_path, "vae-3")
    Trained(tmp_path, "vae-2").epoch()
    code, out, _ = ask("runs", str(tmp_path))
    # Two epochs of 10 steps, losses 8 and 4; one epoch, loss 8; none. 200 s are 3 min and 20 s.
    assert code == 0 and out.splitlines() == [
        "name   state         epochs  step  last commit  metrics",
        "vae-1  finished           2    20  3 min ago    loss 4",
        "vae-2  not finished       1    10  3 min ago    loss 8",
        "vae-3  new                0     0  -",
    ]


def test_runs_as_json_has_the_same_facts(ask, tmp_path, finished):
    code, out, _ = ask("runs", str(tmp_path), "--json")
    (run,) = json.loads(out)
    age = run["committed"].pop("age_seconds")
    # The log: opened, epoch 1, epoch 2, what the stage left.
    assert run["committed"].pop("number") == 4 and 200 <= age < 260
    assert run["committed"].pop("time").endswith("Z") and run.pop("committed") == {}
    place = {"name": "vae-1", "url": finished.url, "state": "finished", "stage": 1, "epochs": 2, "step": 20}
    assert code == 0 and run == {**place, "metrics": {"loss": 4.0}, "damaged_entries": {}}


def test_a_loss_that_is_no_number_stays_strict_json(ask, tmp_path):
    run = Trained(tmp_path)
    run.losses = [float("nan"), float("inf")]
    run.epoch()
    run.log.append("finished", {"options": {}, "metrics": {"loss": float("nan"), "best": float("-inf")}})
    _, out, _ = ask("runs", str(tmp_path), "--json")

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(out, parse_constant=refuse)[0]["metrics"] == {"loss": "NaN", "best": "-Infinity"}


def test_a_run_that_goes_on_after_its_end_is_not_finished(ask, tmp_path, finished):
    finished.log = CommitLog.open(finished.store, "a2", {"workers": 3})
    assert "vae-1  not finished       2    20" in ask("runs", str(tmp_path))[1]
    finished.epoch()
    # The third epoch's loss is 8 / 4.
    assert "vae-1  not finished       3    30  3 min ago    loss 2" in ask("runs", str(tmp_path))[1]
    assert "result (3 min ago, and the run was taken up again)\n  loss 4\n" in ask("show", finished.url)[1]


def test_a_damaged_last_entry_leaves_the_state_unknown(ask, tmp_path, finished):
    flip(finished, layout.commit(6))  # what said "finished"
    _, out, _ = ask("runs", str(tmp_path))
    assert "vae-1  unknown" in out
    assert "vae-1: 1 of its commit log's entries is damaged; see verify.\n" in out


def test_runs_in_deeper_folders_are_found_and_a_stage_shows_where_there_are_several(ask, tmp_path, finished):
    Trained(tmp_path / "old" / "2025", "gan").epoch(stage=2)
    _, out, _ = ask("runs", str(tmp_path))
    assert [line.split()[0] for line in out.splitlines()] == ["name", "old/2025/gan", "vae-1"]
    assert out.split()[:3] == ["name", "state", "stage"] and "old/2025/gan  not finished      2       1    10" in out


def test_a_runs_own_url_shows_its_one_line(ask, finished):
    assert ask("runs", finished.url)[1].splitlines()[1].startswith("vae-1  finished")


def test_an_empty_folder_has_no_runs(ask, tmp_path):
    assert ask("runs", str(tmp_path)) == (0, f"There are no runs in {tmp_path}.\n", "")
    assert ask("runs", str(tmp_path), "--json") == (0, "[]\n", "")


def test_a_folder_that_is_not_there_is_corrected(ask, tmp_path):
    (tmp_path / "runs").mkdir()
    code, out, err = ask("runs", str(tmp_path / "rnus"))
    assert (code, out) == (1, "") and f'there is no folder {tmp_path}/rnus. Did you mean "runs"?' in err


def test_show_tells_the_record_and_all_that_was_committed(ask, finished):
    code, out, _ = ask("show", finished.url)
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0 and lines[0] == f"vae-1  finished  {finished.url}"
    assert {"job         jobs.digits_vae:train", "options     epochs 2", "seed        7", "workers     2 (cpu)"} <= {*lines}
    assert "strategy    MultiWorkerMirroredStrategy: 2 processes with a device each sum over gRPC" in lines
    # A checkpoint is one file; what the stage left is the second epoch's, which is not written again.
    size = finished.store.size(file_of(finished.log.checkpoints()[0]))
    rows = [line.split() for line in lines]
    assert [row[:5] for row in rows if row[:1] in (["2"], ["3"], ["4"])] == [
        ["2", "1", "1", "10", str(size)],
        ["3", "1", "2", "20", str(size)],
        ["4", "1", "2", "20", str(size)],
    ]
    assert ["1", "a1", "2"] in [row[:3] for row in rows]
    assert ["1", "2", "to", "the", "end", "loss", "4"] in rows
    assert lines[-2:] == ["result (3 min ago)", "  loss 4"]


def test_show_as_json_has_the_record_without_the_source(ask, finished):
    about = json.loads(ask("show", "--json", finished.url)[1])
    assert about["record"]["seed"] == 7 and about["record"]["options"] == {"epochs": 2}
    assert about["record"]["source"].keys() == {"sha256"} and {"python", "keras"} <= about["record"]["versions"].keys()
    assert [(row["number"], row["epoch"], row["final"]) for row in about["checkpoints"]] == [
        (2, 1, False),
        (3, 2, False),
        (4, 2, True),
    ]
    assert about["stages"] == [{"stage": 1, "epochs": 2, "stopped_early": False, "metrics": {"loss": 4.0}}]
    assert about["result"]["metrics"] == {"loss": 4.0} and about["has_model"]
    assert about["attempts"][0]["attempt"] == "a1" and about["attempts"][0]["workers"] == 2


def test_show_names_a_file_that_is_missing_or_cut(ask, finished):
    *_, second, first = finished.log.checkpoints()
    path = file_of(second)
    finished.store.write(path, finished.store.read(path)[:-1])
    finished.store.delete(file_of(first))
    _, out, _ = ask("show", finished.url)
    size = second.body["shards"][0]["size"]
    assert f"2 is damaged: {file_of(first)} is missing.\n" in out
    assert f"3 is damaged: {path} has {size - 1} bytes, and {size} were committed.\n" in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith("DAMAGED")] == ["2", "3", "4"]


def test_show_of_a_run_that_never_committed_has_no_checkpoints(ask, tmp_path):
    code, out, _ = ask("show", Trained(tmp_path).url)
    assert code == 0 and out.startswith("vae-1  new  ") and "attempts" in out
    assert "checkpoints" not in out and "result" not in out


def test_show_tells_who_holds_the_lease_and_not_that_it_lives(ask, finished):
    finished.store.write(layout.LEASE, json.dumps({"owner": {"host": "node-3", "pid": 12}}).encode())
    assert "lease       host node-3  pid 12 (whether that driver lives, the file does not tell)" in ask("show", finished.url)[1]


def test_show_tells_what_is_wrong_with_the_record(ask, finished):
    finished.store.write(layout.RUN, b'{"job": null}')
    assert f"record      {finished.url}/run.json is damaged: it lacks its run.\n" in ask("show", finished.url)[1]
    finished.store.write(layout.RUN, b'{"run": 2, "job": null, "seed": 7, "options": {}}')
    assert f"record      {finished.url}/run.json is damaged: its run is 2.\n" in ask("show", finished.url)[1]
    finished.store.delete(layout.RUN)
    code, out, _ = ask("verify", finished.url)
    assert code == 1 and "WRONG  run.json       run.json is missing.\n" in out
    assert "record      run.json is missing.\n" in ask("show", finished.url)[1]


def test_verify_reads_a_whole_run_and_says_so(ask, finished):
    code, out, _ = ask("verify", finished.url)
    size = finished.store.size(file_of(finished.log.checkpoints()[0]))
    assert code == 0 and out.splitlines() == [
        "ok     run.json",
        "ok     commit log     6 entries",
        f"ok     checkpoint 2   stage 1, epoch 1, step 10: {size} bytes in 1 file",
        f"ok     checkpoint 3   stage 1, epoch 2, step 20: {size} bytes in 1 file",
        f"ok     checkpoint 4   stage 1, epoch 2, step 20: {size} bytes in 1 file",
        "ok     model.keras",
        "Every checkpoint is whole: 3 of 3.",
    ]


@pytest.mark.parametrize("place", [0, 9, -60, -1], ids=["length", "header", "weights", "last byte"])
def test_one_flipped_bit_is_found_and_its_checkpoint_and_file_are_named(ask, finished, place):
    first = finished.log.checkpoints()[-1]
    flip(finished, file_of(first), place)
    code, out, _ = ask("verify", finished.url)
    (wrong,) = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert code == 1 and wrong.startswith(f"WRONG  checkpoint 2   {file_of(first)} has sha256 ")
    assert out.splitlines()[-1] == (
        "1 of 3 checkpoints cannot be used; a run that goes on skips them. "
        "Whole: 3 (stage 1, epoch 2, step 20), 4 (stage 1, epoch 2, step 20, what the stage left)."
    )


def test_every_file_that_is_wrong_is_named(ask, tmp_path):
    run = Trained(tmp_path)
    tensors = {"a": np.zeros(4), "b": np.ones(4)}
    parts = [shards.write_shards(run.store, "a1", tensors, [pieces.Piece(name, 0, 4)]) for name in tensors]
    run.log.append("checkpoint", {"stage": 1, "step": 1, "epoch": 1, "state": {}, "shards": receipts.merge(parts)})
    paths = run.store.list(layout.SHARDS)
    flip(run, paths[0])
    run.store.delete(paths[1])
    code, out, _ = ask("verify", run.url, "--json")
    found = json.loads(out)
    (checkpoint,) = [check for check in found["checks"] if check["what"] == "checkpoint 2"]
    assert code == 1 and found["whole"] is False and len(checkpoint["problems"]) == 2
    assert all(any(path in problem for problem in checkpoint["problems"]) for path in paths)
    assert "No checkpoint is whole. Put the files above back from a copy" in ask("verify", run.url)[1]


def test_a_flipped_bit_in_the_log_is_found(ask, finished):
    flip(finished, layout.commit(3), 40)
    code, out, _ = ask("verify", finished.url)
    assert code == 1 and "WRONG  commit log     Entry commits/00000003.json is damaged: " in out
    assert out.endswith("Every checkpoint is whole: 2 of 2.\nSomething is wrong with: commit log.\n")


def test_an_entry_of_another_run_does_not_fit_into_the_log(ask, tmp_path, finished):
    other = Trained(tmp_path, "vae-2")
    other.epoch()
    finished.store.write(layout.commit(2), other.store.read(layout.commit(2)))
    code, out, _ = ask("verify", finished.url)
    assert code == 1 and "WRONG  commit log     Entry commits/00000002.json does not fit its neighbours" in out


def test_what_is_amiss_with_a_deleted_checkpoint_is_told_and_no_problem(ask, tmp_path):
    run = Trained(tmp_path)
    run.epoch()
    run.epoch()
    retention.delete(run.log, [2])
    assert ask("verify", run.url)[0] == 0
    flip(run, layout.commit(2), 40)
    code, out, _ = ask("verify", run.url)
    assert code == 0 and "note   commit log     Entry commits/00000002.json is damaged: " in out
    run.store.delete(layout.commit(2))
    code, out, _ = ask("verify", run.url)
    assert code == 0 and "note   commit log     Entry commits/00000002.json is missing." in out


def test_a_live_entry_that_a_deleted_one_does_not_follow_is_a_problem(ask, tmp_path):
    run, other = Trained(tmp_path), Trained(tmp_path, "vae-2")
    run.epoch()
    run.epoch()
    # The log reads the newest 64 entries, the last of which says that 2 was deleted: so it
    # never reads 2, which is the only one that could tell that 1 is another.
    for _ in range(64):
        run.log.append("stage", {"stage": 1, "result": {}})
    retention.delete(run.log, [2])
    run.store.write(layout.commit(1), other.store.read(layout.commit(1)))
    reread = CommitLog(run.store)
    reread.refresh()
    code, out, _ = ask("verify", run.url)
    assert not reread.damaged and code == 1 and "commits/00000002.json does not follow commits/00000001.json" in out


def test_a_checkpoint_that_the_run_deletes_meanwhile_is_no_problem(ask, tmp_path, monkeypatch):
    run = Trained(tmp_path)
    run.epoch()
    run.epoch()
    read = shards.read_tensors

    def read_late(store, wanted):
        if 2 not in run.log.deleted():
            retention.delete(run.log, [2])
        return read(store, wanted)

    monkeypatch.setattr(shards, "read_tensors", read_late)
    code, out, _ = ask("verify", run.url)
    assert code == 0 and "note   checkpoint 2   The run deleted it while it was read.\n" in out


def test_a_run_that_never_committed_has_nothing_wrong(ask, tmp_path):
    code, out, _ = ask("verify", Trained(tmp_path).url)
    assert (code, out) == (0, "ok     run.json\nok     commit log     1 entry\nThere is no checkpoint yet.\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda store: store.delete(layout.model()), "model.keras is missing, and model.json is there."),
        (lambda store: store.delete(layout.model_json()), "model.json is missing, and model.keras is there."),
        (lambda store: store.write(layout.model(), b"junk"), "model.keras is damaged: it cannot be read as a zip archive: "),
        (lambda store: store.write(layout.model(), archive("3.15.1")[:-30]), "model.keras is damaged: it cannot be read as"),
        (
            lambda store: store.write(layout.model(), archive("3.15.1").replace(b"weights", b"weighty", 2)),
            "model.keras is damaged: ",
        ),
        (lambda store: store.write(layout.model(), archive("3.14.0")), "model.keras was saved by Keras 3.14.0, and model.json"),
        (lambda store: store.write(layout.model_json(), b"[]"), "model.json is damaged: "),
    ],
    ids=["no model", "no description", "no zip", "cut", "changed", "of another save", "description"],
)
def test_a_finished_model_is_a_whole_zip_with_its_description(ask, finished, change, told):
    change(finished.store)
    code, out, _ = ask("verify", finished.url)
    assert code == 1 and f"WRONG  model.keras    {told}" in out
    assert out.endswith("Every checkpoint is whole: 3 of 3.\nSomething is wrong with: model.keras.\n")


def test_a_bucket_is_read_like_a_folder(ask, gcs_address, monkeypatch):
    # As ~/.config/fsspec/*.json would: the command line has no words for an endpoint.
    monkeypatch.setitem(fsspec.config.conf, "gs", gs_options(gcs_address))
    run = Trained("gs://bucket/cli")
    run.epoch()
    assert (
        ask("runs", "gs://bucket/cli")[1].splitlines()[1].startswith("vae-1  not finished       1    10  3 min ago    loss 8")
    )
    assert ask("show", "gs://bucket/cli/vae-1")[1].startswith("vae-1  not finished  gs://bucket/cli/vae-1\n")
    assert ask("verify", "gs://bucket/cli/vae-1")[0] == 0
    code, _, err = ask("show", "gs://bucket/cli/vea-1")
    assert code == 1 and 'there is no run "vea-1" in gs://bucket/cli. Did you mean "vae-1"?' in err
    flip(run, file_of(run.log.checkpoints()[0]))
    code, out, _ = ask("verify", "gs://bucket/cli/vae-1")
    assert code == 1 and "WRONG  checkpoint 2" in out and file_of(run.log.checkpoints()[0]) in out


def test_a_run_that_is_not_there_is_corrected(ask, tmp_path, finished):
    for command in ("show", "verify"):
        code, out, err = ask(command, str(tmp_path / "vae-2"))
        assert (code, out) == (1, "") and f'{command}: there is no run "vae-2" in {tmp_path}. Did you mean "vae-1"?' in err
        code, _, err = ask(command, str(tmp_path))
        assert code == 1 and f"holds runs: vae-1. Add the name: {tmp_path}/vae-1" in err
        code, _, err = ask(command, str(tmp_path / "a" / "b"))
        assert code == 1 and f"there is no run at {tmp_path}/a/b, nor any beside it" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shwo", "x"], 'there is no command "shwo". Did you mean "show"?'),
        (["start"], 'there is no command "start".'),
        (
            ["--json", "runs"],
            '"--json" stands before the command. Write the command first: runs, show, verify, logs, doctor, manifest.',
        ),
        (["show", "x", "--jsn"], 'there is no option "--jsn". Did you mean "--json"?'),
        (["show", "x", "--js"], 'there is no option "--js". Did you mean "--json"?'),
        (["show"], "expected one RUN, a run's folder, such as runs/vae-1 or gs://bucket/runs/vae-1; none was given."),
        (["verify", "a", "--json", "b"], "gs://bucket/runs/vae-1; given a b."),
        (["runs"], "expected one URL, a storage, such as runs or gs://bucket/runs; none was given."),
        (["runs", "g://bucket"], 'there is no storage "g://". Did you mean "gs"?'),
        ([], "Looks into the runs of SameStep."),
    ],
)
def test_a_wrong_word_ends_with_2_and_is_corrected(ask, words, told):
    code, out, err = ask(*words)
    assert (code, out) == (2, "") and told in err


def test_help_names_the_commands_and_their_word(ask):
    code, out, _ = ask("--help")
    assert code == 0 and all(
        f"  {name}" in out for name in ("runs      URL", "show      RUN", "verify    RUN", "manifest  JOB")
    )
    code, out, _ = ask("verify", "--help")
    assert code == 0 and "verify RUN [--json]" in out and "exits with 1 if anything is wrong" in out


def test_the_commands_load_neither_tensorflow_nor_keras_nor_ray(tmp_path, finished):
    code = f"""
import sys
from service.cli import main
codes = [main(["runs", {str(tmp_path)!r}]), main(["show", {finished.url!r}]), main(["verify", {finished.url!r}])]
print(codes, [name for name in ("tensorflow", "keras", "ray") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[0, 0, 0] []"


def test_the_module_is_the_command_and_a_reader_that_leaves_is_no_traceback(finished):
    assert __main__.main is cli.main  # what the script samestep calls
    words = [sys.executable, "-m", "service", "show", finished.url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        command.stdout.close()
        assert command.stderr.read() == "" and command.wait() == 1


def test_show_tells_where_training_diverged_and_what_followed(ask, tmp_path):
    run = Trained(tmp_path)
    run.epoch()  # entry 2
    place = {"stage": 1, "epoch": 1, "batch": 3, "step": 14, "why": "its loss is nan"}
    run.log.append("diverged", {**place, "loss": float("nan"), "back_to": 2, "skipped": [], "is_over": False})
    run.epoch()  # entry 4, which the run leaves behind
    run.log.append("diverged", {**place, "loss": 1e30, "back_to": 2, "skipped": [[1, 0], [1, 3]], "is_over": False})
    run.log.append("diverged", {**place, "loss": 7.5, "back_to": 2, "skipped": [], "is_over": True})
    code, out, _ = ask("show", run.url)
    shown = out[out.index("training diverged") :].splitlines()
    assert code == 0 and shown[1:5] == [
        "  entry  stage  epoch  batch  step  loss   what followed",
        "      3      1      2      4    14  nan    training went on as it was",
        "      5      1      2      4    14  1e+30  back to checkpoint 2, without epoch 2, batch 1 to epoch 2, batch 4",
        "      6      1      2      4    14  7.5    the run ended",
    ]
    assert [line.endswith("left behind") for line in out[out.index("\ncheckpoints") :].splitlines()[3:5]] == [False, True]
    code, out, _ = ask("runs", str(tmp_path))
    assert out.splitlines()[1].split()[:5] == ["vae-1", "not", "finished", "1", "10"], "the checkpoint that counts"
