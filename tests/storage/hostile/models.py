"""model.json and model.keras as somebody else has written them."""

import base64
import copy
import io
import json
import marshal
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from service.storage import layout
from tests.storage.hostile.cases import PICKLED, PLANTED, Bomb, case, linked, put, replaced, sparse


def model_case(name: str, told: str, spoil: Callable[[Path, Path], Any]) -> None:
    case(name, told, 0, spoil, reads="model")


def beside(**changes: Any) -> Callable[[Path, Path], Any]:
    def spoil(run: Path, outside: Path) -> None:
        path = run / layout.model_json()
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))

    return spoil


def custom(home: str, name: str) -> Callable[[Path, Path], Any]:
    return beside(custom=[{"home": home, "registered_name": name, "sha256": None}])


def planted(run: Path, outside: Path) -> None:
    (run / "planted.py").write_text("raise SystemExit('planted code ran')")
    custom(f"{run.name}.planted:layer", "layer")(run, outside)


MODEL_JSON = f"{layout.model_json()} is damaged"
for name, data in {
    "a pickle": PICKLED,
    "lists in lists": b"[" * 100_000,
    "an object with a key twice": b'{"custom": [], "custom": []}',
    "an object with NaN": b'{"noise": [[NaN]]}',
}.items():
    model_case(f"model.json is {name}", MODEL_JSON, put(layout.model_json(), data))
model_case("model.json is 2**40 bytes", MODEL_JSON, sparse(layout.model_json()))
model_case("model.json is a link", f"{layout.model_json()} is a link", linked(layout.model_json()))
for field, value in (
    *(("custom", {}), ("custom", ["os:system"]), ("custom", [{"home": 3, "registered_name": "x"}]), ("lacks", 3)),
    *(("noise", {}), ("noise", [[-1]]), ("noise", [[2**64]]), ("noise", [["x"]])),
):
    model_case(f"model.json's {field} is {value!r:.40}", MODEL_JSON, beside(**{field: value}))
model_case("model.json's noise is of other generators", "cannot be loaded", beside(noise=[[1, 2]] * 5))
for home in (
    *("os:system", "subprocess:Popen", "builtins:eval", "antigravity:geohash", "this:s", "runpy:run_path", "pip:main"),
    *("keras.src.utils.file_utils:get_file", "tensorflow.python.lib.io.file_io:copy", "numpy:save", "service.cli:main"),
    *("tensorflow.python.ops.gen_io_ops:write_file", "jobs.digits_vae:np.save", "jobs.__main__:main"),
    *("jobs.digits_vae:digits.x", "jobs.digits_vae:digits.__globals__"),
):
    model_case(f"model.json's home is {home}", f"needs {home}", custom(home, home.rpartition(":")[2]))
for home in ("../x:y", "/tmp/x:y", "jobs/x:y", "os;system:x", "jobs.digits_vae:", ":x", "", "\0:x"):
    model_case(f"model.json's home is {home!r}", "which is no module:name", custom(home, "x"))
model_case("model.json names a module in the run", "lies in the run itself", planted)
model_case("model.json calls the author's layer Dense", 'as "Dense"', custom("jobs.digits_vae:Sampling", "Dense"))


def archive(
    change: Callable[[dict[str, bytes]], Any] = lambda members: None,
    more: Callable[[zipfile.ZipFile], Any] = lambda archive: None,
    compression: int = zipfile.ZIP_STORED,
) -> Callable[[Path, Path], Any]:
    """The model's file packed anew."""

    def spoil(run: Path, outside: Path) -> None:
        with zipfile.ZipFile(run / layout.model()) as old:
            members = {name: old.read(name) for name in old.namelist()}
        change(members)
        with zipfile.ZipFile(run / layout.model(), "w", compression) as new, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile tells of a name that is there twice
            for name, data in members.items():
                new.writestr(name, data)
            more(new)

    return spoil


def configured(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], Any]:
    """The model's configuration changed."""

    def change(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        edit(config)
        members["config.json"] = json.dumps(config).encode()

    return archive(change)


def layer(
    class_name: str, config: dict[str, Any], module: str | None = "keras.layers", **more: Any
) -> Callable[[Path, Path], Any]:
    """Another layer in the model, behind its first one."""
    about = {
        "module": module,
        "class_name": class_name,
        "config": {"name": "hostile", **config},
        "registered_name": None,
        **more,
    }
    return configured(lambda model: model["config"]["layers"].insert(1, about))


def member(name: str, data: bytes = b"x", is_link: bool = False) -> Callable[[Path, Path], Any]:
    def more(archive: zipfile.ZipFile) -> None:
        about = zipfile.ZipInfo("x")
        about.filename = name
        about.external_attr = (0o120777 if is_link else 0o644) << 16
        archive.writestr(about, data)

    return archive(more=more)


def weights(make: Callable[[Any, Path], Any]) -> Callable[[Path, Path], Any]:
    """The model's weights changed by h5py."""

    def spoil(run: Path, outside: Path) -> None:
        import h5py

        def change(members: dict[str, bytes]) -> None:
            file = io.BytesIO(members["model.weights.h5"])
            with h5py.File(file, "a") as tensors:
                make(tensors, outside)
            members["model.weights.h5"] = file.getvalue()

        archive(change)(run, outside)

    return spoil


KERNEL = "layers/dense/vars/0"


def swap(make: Callable[[Any, str, Path], Any]) -> Callable[[Path, Path], Any]:
    """The kernel's dataset made anew."""

    def change(tensors: Any, outside: Path) -> None:
        del tensors[KERNEL]
        make(tensors, KERNEL, outside)

    return weights(change)


def external_link(tensors: Any, name: str, outside: Path) -> None:
    import h5py

    tensors[name] = h5py.ExternalLink(str(outside / "secret"), "/x")


def soft_link(tensors: Any, name: str, outside: Path) -> None:
    import h5py

    tensors[name] = h5py.SoftLink("/layers/dense/vars/1")


def external_bytes(tensors: Any, name: str, outside: Path) -> None:
    tensors.create_dataset(name, (2, 3), "f4", external=[(str(outside / "secret"), 0, 24)])


def virtual(tensors: Any, name: str, outside: Path) -> None:
    import h5py

    parts = h5py.VirtualLayout((2, 3), "f4")
    parts[:] = h5py.VirtualSource(str(outside / "secret"), "x", (2, 3))
    tensors.create_virtual_dataset(name, parts)


def npz(members: dict[str, bytes]) -> None:
    del members["model.weights.h5"]
    file = io.BytesIO()
    np.savez(file, __root__=np.array({"vars": Bomb()}, dtype=object))
    members["model.weights.npz"] = file.getvalue()


def bomb(members: dict[str, bytes]) -> None:
    members["config.json"] += b" " * 2**26


def overlapping(run: Path, outside: Path) -> None:
    """Two names for one member's bytes: what is unpacked is more than what is there."""

    def more(archive: zipfile.ZipFile) -> None:
        for i in range(50):
            about = copy.copy(archive.getinfo("model.weights.h5"))
            about.filename = about.orig_filename = f"assets/{i}"
            archive.filelist.append(about)

    archive(more=more)(run, outside)


LAMBDA = base64.b64encode(marshal.dumps(compile("lambda x: __import__('os').system('echo pwned')", "<x>", "eval"))).decode()
CODE = {"class_name": "__lambda__", "config": {"code": LAMBDA, "defaults": None, "closure": None}}
CODE["config"] = {"value": CODE["config"]}  # type: ignore[dict-item]
GET_FILE = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}
SYSTEM = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
MODEL = f"{layout.model()} is damaged"
CONFIG = f"{layout.model()}: its config.json is damaged"
REFUSED = "cannot be loaded"
model_case("model.keras is a pickle", MODEL, put(layout.model(), PICKLED))
model_case("model.keras is nothing", MODEL, put(layout.model(), b""))
model_case("model.keras is a link", f"{layout.model()} is a link", linked(layout.model()))
model_case("model.keras is a pipe", f"{layout.model()} is no plain file", replaced(layout.model(), os.mkfifo))
model_case("model.keras is an HDF5 file", MODEL, put(layout.model(), b"\x89HDF\r\n\x1a\n" + bytes(100)))
model_case("model.keras unpacks to 2**26 bytes more", MODEL, archive(bomb, compression=zipfile.ZIP_DEFLATED))
model_case("model.keras has one member's bytes fifty times", MODEL, overlapping)
for name in ("../evil", "/tmp/evil", "assets/../../evil", "a\\..\\evil", "C:/evil", "assets//evil", "./evil"):
    model_case(f"model.keras has a member {name!r}", MODEL, member(name))
model_case("model.keras has a link as a member", "is a link", member("assets/there", b"/etc/passwd", is_link=True))
model_case("model.keras has a member twice", "a member twice", member("config.json", b"{}"))
model_case("model.keras has no configuration", MODEL, archive(lambda members: members.pop("config.json")))
model_case("model.keras has no weights", MODEL, archive(lambda members: members.pop("model.weights.h5")))
for name, data in {
    "a pickle": PICKLED,
    "lists in lists": b"[" * 100_000,
    "a key twice": b'{"config": {}, "config": {}}',
}.items():
    model_case(
        f"model.keras's configuration is {name}", CONFIG, archive(lambda m, data=data: m.__setitem__("config.json", data))
    )
model_case("model.keras's weights are a pickle", MODEL, archive(lambda m: m.__setitem__("model.weights.h5", PICKLED)))
model_case("model.keras's weights are arrays of objects", MODEL, archive(npz))
model_case("model.keras's weights lie in another file", MODEL, swap(external_bytes))
model_case("model.keras's weights are a view of another file", MODEL, swap(virtual))
model_case("model.keras's weights are a link to another file", "is a link", swap(external_link))
model_case("model.keras's weights are a link", "is a link", swap(soft_link))
model_case(
    "model.keras's weights are 2**42 bytes of nothing",
    MODEL,
    swap(lambda tensors, name, _: tensors.create_dataset(name, (2**20, 2**20), "f4", chunks=(64, 64), compression="gzip")),
)
model_case(
    "model.keras's weights are 2**31 bytes of nothing",  # below the guard that Keras has
    MODEL,
    swap(lambda tensors, name, _: tensors.create_dataset(name, (2**15, 2**14), "f4", chunks=(64, 64), compression="gzip")),
)
model_case("model.keras has a Lambda of code", REFUSED, layer("Lambda", {"function": CODE}))
model_case("model.keras has a Lambda of os.system", REFUSED, layer("Lambda", {"function": SYSTEM}))
model_case(
    "model.keras has a Lambda of get_file",
    REFUSED,
    layer("Lambda", {"function": GET_FILE, "arguments": {"origin": "file:///etc/passwd", "cache_dir": "/tmp/evil"}}),
)
model_case("model.keras has a layer of os", REFUSED, layer("system", {}, "os"))
model_case("model.keras has a layer of a planted module", REFUSED, layer("Layer", {}, PLANTED))
model_case("model.keras has a layer of subprocess", REFUSED, layer("Popen", {"args": ["echo", "pwned"]}, "subprocess"))
model_case("model.keras has a layer that loads another model", REFUSED, layer("TFSMLayer", {"filepath": "/tmp/evil"}))
model_case(
    "model.keras has a layer of a pickle",
    REFUSED,
    layer("TorchModuleWrapper", {"module": {"class_name": "__bytes__", "config": {"value": "x"}}}),
)
model_case("model.keras has a layer that reads a file", REFUSED, layer("TextVectorization", {"vocabulary": "/etc/passwd"}))
model_case(
    "model.keras has a layer of 2**62 units",
    REFUSED,
    configured(lambda m: m["config"]["layers"][1]["config"].update(units=2**62)),
)
model_case("model.keras is compiled with os.system", REFUSED, configured(lambda m: m["compile_config"].update(loss=SYSTEM)))
model_case("model.keras is compiled with code", REFUSED, configured(lambda m: m["compile_config"].update(loss=CODE)))
