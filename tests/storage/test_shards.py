import copy
import hashlib
import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Corrupt
from service.storage import pieces, receipts, shards
from service.storage.pieces import Piece
from tests.storage.faults import faulty_store, same, tensors_at

STATE = {
    "kernel": np.arange(35, dtype=np.float32).reshape(5, 7),
    "float64": np.array([np.nan, -0.0, np.inf, 1e-310]),
    "half": np.arange(9, dtype=np.float16).reshape(3, 3),
    "bfloat16": np.arange(8).astype(ml_dtypes.bfloat16).reshape(2, 4),
    "float8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint64": np.array([2**64 - 1], np.uint64),
    "int8": np.arange(-3, 3, dtype=np.int8),
    "bool": np.array([True, False, True]),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 3), np.int32),
    "strided": np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1],
    "optimizer/ж[0:3]": np.arange(3, dtype=np.uint8),
}


def write(store, tensors, workers, attempt="a1", previous=()):
    sizes = {name: (tensor.size, tensor.itemsize) for name, tensor in tensors.items()}
    parts = pieces.share(sizes, workers)
    return receipts.merge(shards.write_shards(store, attempt, tensors, part, previous) for part in parts if part)


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_every_dtype_and_shape_comes_back_bit_by_bit(workers, store):
    found = shards.read_tensors(store, json.loads(json.dumps(write(store, STATE, workers))))
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.tobytes(), name


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.lists(st.integers(0, 6), max_size=3), max_size=5), st.integers(1, 5))
def test_any_shapes_come_back_from_any_number_of_workers(shapes, workers):
    from service.storage.store import Store

    tensors = {name: np.random.default_rng(0).random(shape) for name, shape in shapes.items()}
    store = Store("memory://any")
    found = shards.read_tensors(store, write(store, tensors, workers))
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensor) and found[name].shape == tensor.shape for name, tensor in tensors.items())


def test_the_files_are_plain_safetensors(memory):
    receipt, other = write(memory, {"a": np.ones((2, 2)), "b": np.arange(12.0)}, 2)
    assert receipt["pieces"][1]["end"] == 4  # 16 elements, 8 for each: all of "a" and 4 of "b"
    found = safetensors.numpy.load(memory.read(receipt["file"]))
    assert found.keys() == {"a", "b[0:4]"} and np.array_equal(found["a"], np.ones((2, 2)))
    assert np.array_equal(safetensors.numpy.load(memory.read(other["file"]))["b[4:12]"], np.arange(4.0, 12.0))


def test_a_file_is_named_by_attempt_and_content(memory):
    (receipt,) = write(memory, {"a": np.ones(3)}, 1, attempt="attempt7")
    assert receipt["file"].startswith("shards/attempt7-")
    assert receipt["file"].endswith(f"-{hashlib.sha256(memory.read(receipt['file'])).hexdigest()[:32]}.safetensors")


def test_the_same_content_saved_again_is_another_file(memory):
    first, second = (write(memory, {"a": np.ones(3)}, 1) for _ in range(2))
    assert not receipts.files(first) & receipts.files(second)


def test_a_file_of_another_size_is_not_even_read(memory):
    written = write(memory, tensors_at(1), 2)
    memory.write(written[1]["file"], bytes(1000))
    store, place = faulty_store(memory.url)
    with pytest.raises(Corrupt, match="has 1000 bytes, and"):
        shards.read_tensors(store, written)
    assert [name for name, _ in place.calls] == ["size", "size"]


@pytest.mark.parametrize(
    "tensor", [np.array(["text"]), np.array([object()]), np.array([1], ">i4"), np.array([1j])], ids=lambda t: str(t.dtype)
)
def test_text_objects_and_foreign_byte_orders_are_refused_before_anything_is_written(tensor, memory):
    with pytest.raises(TypeError, match='tensor "name" has dtype'):
        shards.write_shards(memory, "a1", {"ok": np.ones(1), "name": tensor}, [Piece("ok", 0, 1), Piece("name", 0, 1)])
    assert memory.list() == []


def test_two_pieces_of_one_name_in_a_file_are_refused(memory):
    tensors = {"a": np.arange(4.0), "a[0:2]": np.ones(1)}
    with pytest.raises(ValueError, match="Rename the tensor"):
        shards.write_shards(memory, "a1", tensors, [Piece("a", 0, 2), Piece("a[0:2]", 0, 1)])


def test_a_mapping_that_fetches_tensors_is_asked_only_for_a_workers_own(memory):
    asked = []

    class Fetching(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    shards.write_shards(memory, "a1", Fetching(STATE), [Piece("kernel", 3, 9), Piece("bool", 0, 3)])
    assert asked == ["kernel", "bool"]


def test_what_did_not_change_is_not_written_again(memory):
    frozen = {f"frozen{n}": np.full((100, 100), n, np.float32) for n in range(9)}
    first = write(memory, {**frozen, "head": np.zeros((100, 100), np.float32)}, 4)
    before = sum(memory.sizes().values())
    tensors = {**frozen, "head": np.ones((100, 100), np.float32)}
    second = write(memory, tensors, 4, attempt="a2", previous=first)
    # 40,000 bytes of 400,000 changed; the rest of what was written is one or two headers.
    assert 40_000 <= sum(memory.sizes().values()) - before <= 1.05 * 40_000
    assert np.array_equal(shards.read_tensors(memory, second)["head"], tensors["head"])
    third = write(memory, tensors, 4, attempt="a3", previous=second)
    assert receipts.files(third) == receipts.files(second)
    assert shards.read_tensors(memory, third).keys() == tensors.keys()


def test_a_large_tensor_is_written_until_it_has_been_the_same_twice(memory):
    def tensors(head, one):
        table = np.zeros(100_000)
        table[1::2] = head
        table[50_001] = one  # between the elements of the sample, of which there is one in 97
        return {"table": np.arange(100_000.0), "head": table}

    saved = ()
    files = []
    for step, (head, one) in enumerate([(1, 1), (2, 2), (2, 2), (2, 2), (2, 3)]):
        saved = write(memory, tensors(head, one), 1, attempt=f"a{step}", previous=saved)
        files.append({e["tensor"]: receipt["file"].split("/")[1][:2] for receipt in saved for e in receipt["pieces"]})
        assert np.array_equal(shards.read_tensors(memory, saved)["head"], tensors(head, one)["head"])
    # The table stays in the first file. The head changes; has only just stopped; is the same; one element differs.
    assert files == [{"table": "a0", "head": f"a{n}"} for n in (0, 1, 2, 2, 4)]


def test_a_piece_of_the_same_bytes_but_another_shape_or_type_is_written(memory):
    first = write(memory, {"a": np.zeros((2, 3), np.float32)}, 1)
    for other in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32)):
        second = write(memory, {"a": other}, 1, previous=first)
        assert not receipts.files(second) & receipts.files(first)
        found = shards.read_tensors(memory, second)["a"]
        assert (found.shape, found.dtype) == (other.shape, other.dtype)


def test_only_the_files_that_hold_wanted_pieces_are_read(memory):
    first = write(memory, {"a": np.zeros(100), "b": np.zeros(100)}, 2)
    second = write(memory, {"a": np.zeros(100), "b": np.ones(100)}, 2, previous=first)
    (gone,) = receipts.files(first) - receipts.files(second)
    memory.delete(gone)
    assert np.array_equal(shards.read_tensors(memory, second)["b"], np.ones(100))


def test_random_damage_to_a_file_is_never_silent(memory):
    written = write(memory, tensors_at(1), 2)
    generator = np.random.default_rng(20)
    kept = {receipt["file"]: memory.read(receipt["file"]) for receipt in written}
    files = [*kept]
    for _ in range(400):
        file = files[generator.integers(len(files))]
        data, way = bytearray(kept[file]), generator.integers(5)
        if way == 0:
            data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        elif way == 1:
            del data[generator.integers(len(data)) :]
        elif way == 2:
            data += b"\0"
        elif way == 3:
            data = bytearray(kept[files[1 - files.index(file)]])
        else:
            data[:8] = int(generator.integers(2**62)).to_bytes(8, "little")
        memory.write(file, bytes(data))
        with pytest.raises(Corrupt, match=file):
            shards.read_tensors(memory, written)
        memory.write(file, kept[file])
    memory.delete(files[0])
    with pytest.raises(Corrupt, match=f"{files[0]} is missing"):
        shards.read_tensors(memory, written)


def _edits(receipt):
    """Every way of changing one value in a receipt."""
    whole = {"begin": (1, -1, 2**70, "0", True), "end": (0, 3, 2**70, None), "shape": ([], [2**60, 2**60], [-1], "x", [7, 5])}
    named = {"tensor": (1, "", "other"), "dtype": ("F16", "X", 7, "F64"), "sha256": ("", "x" * 64, 3)}
    for field, values in {**whole, **named}.items():
        for value in values:
            yield field, value, lambda changed, f=field, v=value: changed["pieces"][0].__setitem__(f, v)
    files = (
        "../x",
        "/etc/passwd",
        "shards/../../x",
        "shards/a1.safetensors",
        3,
        receipt["file"] + "/..",
        "commits/00000001.json",
    )
    for field, values in {
        "file": files,
        "size": (0, -1, 2**80, "9", 9.0),
        "sha256": ("0" * 64, "", 1),
        "pieces": ([], 0),
    }.items():
        for value in values:
            yield field, value, lambda changed, f=field, v=value: changed.__setitem__(f, v)
    for field in receipt:
        yield field, "removed", lambda changed, f=field: changed.pop(f)


def test_no_edited_receipt_is_believed(memory):
    good = write(memory, {"kernel": np.arange(35, dtype=np.float32).reshape(5, 7)}, 1)
    unnoticed = []
    for field, value, edit in _edits(good[0]):
        changed = copy.deepcopy(good)
        edit(changed[0])
        tracemalloc.start()
        try:
            shards.read_tensors(memory, changed)
            unnoticed.append((field, value))
        except Corrupt:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2**20, (field, value)
    # A piece's own sha256 tells only what need not be written again; the file's covers its bytes.
    assert unnoticed == []


def test_a_split_tensor_is_put_together_only_from_its_own_pieces(memory):
    first = write(memory, {"a": np.arange(12.0).reshape(3, 4)}, 2)
    changed = copy.deepcopy(first)
    for receipt in changed:
        receipt["pieces"][0]["shape"] = [4, 3]
    with pytest.raises(Corrupt, match=r"is of another tensor than of shape \[4, 3\]"):
        shards.read_tensors(memory, changed)
    with pytest.raises(Corrupt, match="6 of its 12 elements"):
        shards.read_tensors(memory, first[:1])
    with pytest.raises(Corrupt, match="a file has two receipts"):
        shards.read_tensors(memory, [*first, first[0]])


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{", b"[" * 50_000, b"\xff", b'{"a":1}', b'{"a":{}}']
    + [
        json.dumps({"a": {"dtype": "F64", "shape": [2], "data_offsets": offsets}}).encode()
        for offsets in ([0, 8], [-16, 0], [0, 2**62], [2**62, 2**62 + 16], [8, 24], "x", [0], [0.0, 16.0], None)
    ],
)
def test_a_hostile_file_with_a_true_checksum_is_refused(header, memory):
    data = len(header).to_bytes(8, "little") + header + np.zeros(2).tobytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"shards/a1-00000000-{sha256[:32]}.safetensors"
    memory.write(file, data)
    piece = {"tensor": "a", "begin": 0, "end": 2, "dtype": "F64", "shape": [2], "sha256": sha256}
    with pytest.raises(Corrupt, match=file):
        shards.read_tensors(memory, [{"file": file, "size": len(data), "sha256": sha256, "pieces": [piece]}])


def test_reading_takes_little_more_memory_than_the_tensors(memory):
    tensors = {f"w{n}": np.full((256, 1024), n, np.float32) for n in range(8)}  # 8 MiB
    written = write(memory, tensors, 4)
    tracemalloc.start()
    found = shards.read_tensors(memory, written)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 1.2 * sum(tensor.nbytes for tensor in tensors.values())
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_states_of_the_other_tests_differ():
    assert same(tensors_at(3), 3) and not same(tensors_at(3), 4)
