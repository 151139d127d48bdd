"""The dashboard and the alerts use metrics that are documented, and the alerts fire when they say."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml

from tests.k8s.conftest import ROOT, load
from tests.k8s.mutants import of

DASHBOARD = json.loads((ROOT / "k8s/monitoring/dashboard.json").read_text())
ALERTS = yaml.safe_load((ROOT / "k8s/monitoring/alerts.yaml").read_text())["spec"]
DOCUMENTED = dict(re.findall(r"^\| `(samestep_\w+)` \| (\w*)", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def test_the_dashboard_shows_every_documented_metric_and_no_other():
    used = set(re.findall(r"ray_(samestep_\w+)", " ".join(EXPRESSIONS)))
    assert used == set(DOCUMENTED) and len(used) == 12


def test_an_alert_asks_for_documented_metrics_only():
    used = set(re.findall(r"ray_(samestep_\w+)", " ".join(rule["expr"] for rule in RULES)))
    assert used and used <= set(DOCUMENTED)


def test_a_legend_names_the_worker_where_the_metric_has_one():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"ray_(samestep_\w+)", target["expr"]):
                assert ("{{worker}}" in target["legendFormat"]) == (DOCUMENTED[name] == "worker"), panel["title"]


def test_ray_s_own_metrics_are_ones_that_ray_has():
    folder = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
    theirs = "".join(path.read_text() for path in folder.glob("*.py"))
    used = set(re.findall(r"\bray_(?!samestep|train_run_name)\w+", " ".join(EXPRESSIONS)))
    assert len(used) >= 5 and all(name in theirs for name in used)


def test_the_dashboard_s_panels_lie_side_by_side():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in DASHBOARD["panels"]})
    assert all(panel["title"] and panel["targets"] for panel in DASHBOARD["panels"])


def test_google_s_kinds_have_the_same_rules_and_pods(render):
    """PodMonitoring and Rules are made of the Prometheus operator's kinds, whose one difference is a field's name."""
    ours, theirs = load(render(ROOT / "k8s/monitoring")), load(render(ROOT / "k8s/overlays/gpu"))
    assert of(theirs, "Rules", "samestep")["spec"] == of(ours, "PrometheusRule")["spec"] == ALERTS
    monitor, monitoring = of(ours, "PodMonitor")["spec"], of(theirs, "PodMonitoring")["spec"]
    assert monitoring == {"selector": monitor["selector"], "endpoints": monitor["podMetricsEndpoints"]}
    assert [endpoint["port"] for endpoint in monitoring["endpoints"]] == ["metrics"]
    config = [d for d in ours if d["kind"] == "ConfigMap"]
    assert [json.loads(c["data"]["dashboard.json"])["uid"] for c in config] == ["samestep"]


def at(values: str) -> list[tuple[str, str]]:
    """Returns the series of a run that stepped and committed every minute, with some of them given another way."""
    series = {
        "ray_samestep_step_timestamp_seconds": "0+60x90",
        "ray_samestep_commit_timestamp_seconds": "0+60x90",
        "ray_samestep_restarts": "0x90",
        "ray_samestep_loss": "5-0.01x90",
    }
    given = dict(part.split("=") for part in values.split(";") if part)
    return [(name, given.get(name.removeprefix("ray_samestep_"), value)) for name, value in series.items()]


# What a run does, a minute an entry, and when which alerts stand.
CASES = {
    "a run that goes well": ("", "80m", []),
    # The last step is at minute 20: more than 600 s ago after minute 30, and for one minute after 31.
    "no step for 9 minutes": ("step_timestamp_seconds=0+60x20 1200x60", "29m", []),
    "no step for 10 minutes": ("step_timestamp_seconds=0+60x20 1200x60", "32m", ["SameStepNoStep"]),
    "a checkpoint of an hour ago": ("commit_timestamp_seconds=0+60x10 600x80", "69m", []),
    "a checkpoint of more than an hour ago": ("commit_timestamp_seconds=0+60x10 600x80", "73m", ["SameStepCheckpointOld"]),
    "no checkpoint in the first hour": ("commit_timestamp_seconds=_x90", "59m", []),
    "no checkpoint after an hour": ("commit_timestamp_seconds=_x90", "62m", ["SameStepNoCheckpoint"]),
    "two restarts within an hour": ("restarts=0x10 1x10 2x70", "40m", []),
    "three restarts within an hour": ("restarts=0x10 1x10 2x10 3x60", "40m", ["SameStepRestarts"]),
    "three restarts, long ago": ("restarts=0x1 1x1 2x1 3x87", "80m", []),
    "a loss that is no number": ("loss=5x10 " + "NaN " * 80, "20m", ["SameStepLossNotFinite"]),
    "a loss without bounds": ("loss=5x10 " + "Inf " * 80, "20m", ["SameStepLossNotFinite"]),
}


@pytest.fixture
def promtool(tmp_path):
    program = shutil.which("promtool", path=os.pathsep.join([str(ROOT / ".venv/infra/bin"), os.environ["PATH"]]))
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(ALERTS))
    return lambda *words: subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True)


def test_prometheus_accepts_the_alerts(promtool):
    done = promtool("check", "rules", "rules.yaml")
    assert done.returncode == 0 and f"{len(RULES)} rules found" in done.stdout, done.stdout + done.stderr


def test_an_alert_fires_when_it_says_and_only_then(promtool, tmp_path):
    names = [rule["alert"] for rule in RULES]
    tests = [
        {
            "name": case,
            "interval": "1m",
            "input_series": [{"series": f'{name}{{run="vae-1"}}', "values": values} for name, values in at(changed)],
            "alert_rule_test": [
                {"eval_time": moment, "alertname": name, "exp_alerts": [alert(name)] if name in fired else []} for name in names
            ],
        }
        for case, (changed, moment, fired) in CASES.items()
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    done = promtool("test", "rules", "tests.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for _, _, fired in CASES.values() for name in fired} == set(names)


def alert(name: str) -> dict:
    """Returns what Prometheus is to tell of an alert."""
    (rule,) = [rule for rule in RULES if rule["alert"] == name]
    texts = {
        key: text.replace("{{ $labels.run }}", "vae-1").replace("{{ $value }}", "3")
        for key, text in rule["annotations"].items()
    }
    return {"exp_labels": {**rule["labels"], "run": "vae-1"}, "exp_annotations": texts}
