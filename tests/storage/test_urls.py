import subprocess
import sys

import pytest

from service.errors import RunInvalid
from service.storage.urls import check_url


@pytest.mark.parametrize(
    "url", ["runs", "/tmp/runs", "file:///tmp/runs", "memory://", "memory://a/b", "gs://bucket", "s3://bucket/runs"]
)
def test_a_run_can_be_kept_here(url):
    assert check_url(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("gss://bucket/runs", 'there is no storage "gss://". Did you mean "gs"'),
        ("nonsense://x", 'there is no storage "nonsense://". There is:'),
        ("abfs://container/runs", "needs the package adlfs.*Install adlfs"),
        ("gs:bucket/runs", 'Did you mean "gs://..."'),
        ("s3:/bucket/runs", 'Did you mean "s3://..."'),
        ("simplecache::gs://bucket/runs", "chain of file systems"),
        ("data://x", "cannot create a file that exactly one of many writers wins.*Use a folder, or one of"),
        ("gs://", "names no bucket. Expected gs://bucket/folder"),
        ("s3:///", "names no bucket"),
        ("", "expected a folder or a URL"),
        (None, "expected a folder or a URL"),
    ],
)
def test_a_wrong_url_is_told_with_what_to_write(url, problem):
    with pytest.raises(RunInvalid, match=problem):
        check_url(url)


def test_checking_a_url_imports_no_storages_package():
    program = (
        "import sys; from service.storage.urls import check_url; check_url('gs://b/x'); check_url('s3://b/x');"
        "print({'gcsfs', 's3fs', 'aiohttp', 'botocore', 'tensorflow', 'keras', 'ray'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
