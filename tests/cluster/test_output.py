"""A worker's output is kept, and a disk that takes no more of it ends nothing."""

import subprocess
import sys

PRINTING = """
import resource
import sys
from service.cluster.output import Output

output = Output(sys.argv[1])
print("first")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for line in range(1000):
    print("another line", line)
    print("an error", line, file=sys.stderr)
    output.write("a line of the chief's\\n")
output.drain()
"""


def test_a_file_that_cannot_grow_costs_what_is_printed_and_nothing_else(tmp_path):
    path = tmp_path / "output" / "worker-0" / "log"
    done = subprocess.run([sys.executable, "-c", PRINTING, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text().startswith("first\n") and path.stat().st_size == 4096
    # What the file has is copied on to where it went before.
    assert done.stdout == path.read_text()
