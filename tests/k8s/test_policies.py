"""The namespace is closed but for what a run needs; and the evaluator that says so is itself right."""

import pytest

from tests.k8s.policies import PEERS, Peer, may_connect, pod, surprises


def policy(selector, **rules):
    types = [word.capitalize() for word in rules]
    return {"metadata": {"namespace": "samestep"}, "spec": {"podSelector": selector, "policyTypes": types, **rules}}


A, B = Peer({"name": "a"}), Peer({"name": "b"})
TO_A = {"podSelector": {"matchLabels": {"name": "a"}}}


@pytest.mark.parametrize(
    ("policies", "a_to_b", "b_to_a"),
    [
        ([], True, True),
        ([policy({}, ingress=[])], False, False),
        ([policy({"matchLabels": {"name": "b"}}, ingress=[])], False, True),
        ([policy({"matchLabels": {"name": "b"}}, egress=[])], True, False),
        # What one of several policies allows is allowed, on both sides.
        ([policy({}, ingress=[], egress=[]), policy({}, ingress=[{}])], False, False),
        ([policy({}, ingress=[], egress=[]), policy({}, ingress=[{}], egress=[{"to": [TO_A]}])], False, True),
        # A rule's peers are alternatives; within one peer both selectors must fit.
        ([policy({}, ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}, TO_A]}])], True, False),
        ([policy({}, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"x": "y"}}, **TO_A}]}])], False, False),
        ([policy({}, ingress=[{"from": [TO_A], "ports": [{"port": 80}]}])], True, False),
        ([policy({}, ingress=[{"from": [TO_A], "ports": [{"port": 81}]}])], False, False),
        ([policy({}, ingress=[{"from": [TO_A], "ports": [{"port": 80, "protocol": "UDP"}]}])], False, False),
    ],
)
def test_the_evaluator_decides_as_kubernetes_does(policies, a_to_b, b_to_a):
    assert (may_connect(policies, A, B, 80), may_connect(policies, B, A, 80)) == (a_to_b, b_to_a)


def test_an_excepted_address_is_none_of_its_block():
    block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
    policies = [policy({}, egress=[{"to": [block]}])]
    reached = [address for address in ("9.9.9.9", "10.9.9.9") if may_connect(policies, A, Peer(address=address), 443)]
    assert reached == ["9.9.9.9"]


def test_every_connection_that_a_run_needs_is_open_and_no_other(documents):
    assert surprises(documents) == []


def test_nobody_but_the_submitter_and_the_operator_reaches_the_jobs_api(documents):
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    head = pod("head", **{"samestep/run": "vae-1"})
    callers = {name for name, peer in PEERS.items() if may_connect(policies, peer, head, 8265)}
    assert callers == {"cluster's head", "run's head", "worker", "submitter", "operator"}


def test_tensorboard_is_reached_by_nobody_in_the_cluster(documents):
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    assert not any(may_connect(policies, peer, pod("tensorboard"), 6006) for peer in PEERS.values())
