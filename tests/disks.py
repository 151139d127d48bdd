"""Attempts at runs on a small disk of their own that fills up or becomes read-only; a program.

    unshare --mount python -m tests.disks FOLDER

mounts a disk that nobody else sees, and leaves in FOLDER what each attempt left, and copies of the runs.
"""

import os
import pickle
import shutil
import subprocess
import sys

from service.storage.store import Store
from tests import outages

DISK_BYTES = 4 * 2**20
FULL_FROM, FREE_FROM = 9, 15


def main(folder: str) -> None:
    """Makes the attempts."""
    disk = os.path.join(folder, "disk")
    os.makedirs(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "disk", disk], check=True)
    left = {"whole": outages.train(Store(os.path.join(folder, "whole")))}

    def attempt(name: str, *args) -> None:
        run = os.path.join(disk, name.partition(",")[0])
        left[name] = outages.train(Store(run), *args)
        shutil.copytree(run, os.path.join(folder, name))

    fillers = os.path.join(disk, "filler")
    attempt("full for a while", {FULL_FROM: (fill, fillers), FREE_FROM: (os.remove, fillers)}, FULL_FROM)
    attempt("full", {FULL_FROM: (fill, fillers)})
    os.remove(fillers)
    attempt("full, then mended")
    attempt("read-only for a while", {FULL_FROM: (remount, disk, "ro"), FREE_FROM: (remount, disk, "rw")}, FULL_FROM)
    with open(os.path.join(folder, "left"), "xb") as file:
        pickle.dump(left, file)


def fill(path: str) -> None:
    """Writes a file until the disk has no byte left."""
    with open(path, "xb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def remount(disk: str, how: str) -> None:
    """Makes a disk read-only, or not."""
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
