"""What is taken for a secret and what is not, and that no part of one stays."""

import base64
import secrets

import pytest

from service import secrecy
from service.errors import OptionUnknown, RunInvalid

VALUE = "q7Zx0vWm3Kd9Tn5Rb1Lh"

SECRETS = {
    "password": "abc",
    "db_password": "a long sentence",
    "secret": VALUE,
    "client_secret": VALUE,
    "api_key": VALUE,
    "apikey": VALUE,
    "aws_secret_access_key": VALUE,
    "hf_token": VALUE,
    "Authorization": VALUE,
    "credentials": "{}",
    "database": f"postgres://user:{VALUE}@host/db",
    "repository": f"https://{VALUE}@host/repository.git",
    "data": f"https://bucket.host/file?X-Goog-Date=1&X-Goog-Signature={VALUE}",
    "blob": f"https://account.host/file?sv=2024&sig={VALUE}&se=2027",
    "header": f"Bearer {VALUE}",
    "key": f"-----BEGIN RSA PRIVATE KEY-----\n{VALUE}\n-----END RSA PRIVATE KEY-----",
    "hub": f"hf_{VALUE}",
}
PLAIN = {
    "max_tokens": 128,
    "tokens": "data/tokens.txt",
    "pad_token": "<|endoftext|>",
    "mask_token": "[MASK]",
    "token": "word",
    "token_kind": "byte-pair-encoding",
    "password_file": "/run/secrets/password",
    "key": "label",
    "monkey": "business",
    "data": "https://host/file?key=train&version=3",
    "storage": "gs://bucket/runs/vae-1",
    "mail": "someone@host",
    "repository": "ssh://git@host/repository.git",
    "basic": "Basic blocks of three layers",
    "turnkey": None,
    "api_key": "",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_found_at_its_place_however_deep(name):
    value = SECRETS[name]
    assert [*secrecy.found_in(name, value)] == [name]
    assert [*secrecy.found_in("options", [{"x": 1}, {name: value}])] == [f"options[1][{name!r}]"]


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_only_called_like_one_is_none(name):
    assert [*secrecy.found_in(name, PLAIN[name])] == []


@pytest.mark.parametrize("name", SECRETS)
def test_a_refused_option_is_named_with_the_way_to_pass_it_and_without_its_value(name):
    with pytest.raises(OptionUnknown) as refused:
        secrecy.check_options({name: SECRETS[name]})
    assert f"option {name} looks like a secret" in str(refused.value) and f"os.environ['{name.upper()}']" in str(refused.value)
    assert SECRETS[name] not in str(refused.value) and VALUE not in str(refused.value)


def test_a_storage_with_a_secret_in_its_url_is_refused_without_showing_it():
    for url in (f"s3://key:{VALUE}@bucket/runs", f"gs://{VALUE}@bucket", f"s3://bucket/runs?X-Amz-Signature={VALUE}"):
        with pytest.raises(RunInvalid, match=r"has a secret in it") as refused:
            secrecy.check_url(url)
        assert VALUE not in str(refused.value)
    for url in ("runs", "/data/user@host/runs", "gs://bucket/runs", "file:///data/runs", "memory://a"):
        secrecy.check_url(url)


def test_of_a_text_only_the_secrets_go():
    text = f"GET https://user:{VALUE}@host/a?x=1&sig={VALUE}&y=2 with Bearer {VALUE}, then {VALUE[::-1]}"
    assert secrecy.redacted(text, {VALUE[::-1]}) == "GET https://user:***@host/a?x=1&sig=***&y=2 with Bearer ***, then ***"
    assert secrecy.redacted(secrecy.redacted(text)) == secrecy.redacted(text)


def test_a_secret_that_another_one_begins_with_leaves_no_rest():
    assert secrecy.redacted("longer-secret secret", {"longer", "longer-secret"}) == "*** secret"


def test_of_random_secrets_no_eight_characters_stay():
    """Eight of 24 random characters are 48 bits: what is left of them could be searched through."""
    for _ in range(200):
        value = base64.urlsafe_b64encode(secrets.token_bytes(18)).decode()
        shown = secrecy.redacted(f"https://u:{value}@h/p?sig={value} Bearer {value}\n-----BEGIN PRIVATE KEY-----\n{value}")
        assert not any(value[i : i + 8] in shown for i in range(len(value) - 7))


def test_a_command_s_words_keep_all_but_the_secrets():
    words = [
        "job.py",
        "--api-key",
        VALUE,
        "--epochs",
        "5",
        f"--password={VALUE}",
        f"DB_PASSWORD={VALUE}",
        f"s3://u:{VALUE}@b",
        "--",
    ]
    shown = ["job.py", "--api-key", "***", "--epochs", "5", "--password=***", "DB_PASSWORD=***", "s3://u:***@b", "--"]
    assert secrecy.redacted_words(words) == shown


def test_a_flag_before_a_secret_s_name_hides_nothing_else():
    assert secrecy.redacted_words(["--use-token", "--name", "vae-1"]) == ["--use-token", "--name", "vae-1"]


def test_the_environment_s_secrets_are_known_by_their_names_and_files_of_them_are_none(monkeypatch):
    monkeypatch.setattr(
        "os.environ",
        {"HF_TOKEN": VALUE, "RAY_AUTH_TOKEN_PATH": "/home/me/token", "PATH": "/usr/bin", "USE_TOKEN": "true", "HOME": "/root"},
    )
    assert secrecy.of_environment() == {VALUE}
