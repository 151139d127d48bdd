"""Who may talk to whom under a set of NetworkPolicies, as Kubernetes defines it."""

import ipaddress
from typing import NamedTuple

Labels = dict[str, str]


class Peer(NamedTuple):
    """One end of a connection: a pod with its labels and its namespace's, or an address outside the cluster."""

    labels: Labels = {}
    namespace: str = "samestep"
    address: str | None = None


def may_connect(policies: list[dict], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let through: out of its source, and into its target.

    A pod that no policy selects for a direction is open in it; one that some select is open to
    what any of them allows. What has an address is outside the cluster and no policy selects it.
    """
    return _is_open(policies, "Egress", source, target, port, protocol) and lets_in(policies, source, target, port, protocol)


def lets_in(policies: list[dict], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the target's own side lets a connection through, whatever the source's side says of it."""
    return _is_open(policies, "Ingress", target, source, port, protocol)


def _is_open(policies: list[dict], direction: str, here: Peer, there: Peer, port: int, protocol: str) -> bool:
    if here.address is not None:
        return True
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"].get("namespace", "samestep") == here.namespace
        and direction in policy["spec"].get("policyTypes", ["Ingress"])
        and _selects(policy["spec"]["podSelector"], here.labels)
    ]
    key, end = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return not selecting or any(
        _has_port(rule.get("ports"), port, protocol) and _has_peer(rule.get(end), here, there)
        for spec in selecting
        for rule in spec.get(key) or []
    )


def _has_port(ports: list[dict] | None, port: int, protocol: str) -> bool:
    if not ports:  # none named are all
        return True
    return any(
        entry.get("protocol", "TCP") == protocol
        and ("port" not in entry or entry["port"] <= port <= entry.get("endPort", entry["port"]))
        for entry in ports
    )


def _has_peer(peers: list[dict] | None, here: Peer, there: Peer) -> bool:
    if not peers:  # none named are all
        return True
    return any(_is_peer(peer, here, there) for peer in peers)


def _is_peer(peer: dict, here: Peer, there: Peer) -> bool:
    if "ipBlock" in peer:
        if there.address is None:  # a pod's address is not for a policy to count on
            return False
        address = ipaddress.ip_address(there.address)
        within = [block for block in (peer["ipBlock"]["cidr"], *peer["ipBlock"].get("except", []))]
        return address in ipaddress.ip_network(within[0]) and not any(
            address in ipaddress.ip_network(block) for block in within[1:]
        )
    if there.address is not None:
        return False
    if "namespaceSelector" in peer:
        in_namespace = _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": there.namespace})
    else:
        in_namespace = there.namespace == here.namespace
    return in_namespace and _selects(peer.get("podSelector", {}), there.labels)


def _selects(selector: dict, labels: Labels) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_matches(expression, labels) for expression in selector.get("matchExpressions", []))


def _matches(expression: dict, labels: Labels) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(expression)


def pod(component: str, **labels: str) -> Peer:
    """Returns a pod of ours, by what it is."""
    return Peer({"app.kubernetes.io/part-of": "samestep", "app.kubernetes.io/component": component, **labels})


PEERS = {
    "cluster's head": pod("head", **{"samestep/cluster": "samestep"}),
    "run's head": pod("head", **{"samestep/run": "vae-1"}),
    "worker": pod("worker", **{"samestep/run": "vae-1"}),
    "submitter": pod("submitter", **{"samestep/run": "vae-1"}),
    "tensorboard": pod("tensorboard"),
    "stranger beside": Peer({"app": "shell"}),
    "stranger elsewhere": Peer({"app": "shell"}, "default"),
    "pretender elsewhere": pod("worker")._replace(namespace="default"),
    "operator": Peer({"app.kubernetes.io/name": "kuberay-operator"}, "ray-system"),
    "prometheus": Peer({"app": "prometheus"}, "monitoring"),
    "dns": Peer({"k8s-app": "kube-dns"}, "kube-system"),
    "other system pod": Peer({"k8s-app": "metrics-server"}, "kube-system"),
    "api server": Peer(address="172.16.0.2"),
    "internet": Peer(address="142.250.1.1"),
    "private network": Peer(address="10.1.2.3"),
    "metadata server": Peer(address="169.254.169.254"),
    "metadata on the node": Peer(address="169.254.169.252"),
}
PORTS = (22, 53, 80, 443, 988, 6006, 6379, 6443, 8080, 8265, 10001, 52365)
RAY = ("cluster's head", "run's head", "worker")
OURS = (*RAY, "submitter", "tensorboard", "stranger beside")


def expected(is_cloud: bool) -> set[tuple[str, str, int]]:
    """Returns every connection of these peers that a run needs; there is to be no other."""
    needed = {(source, target, port) for source in RAY for target in RAY for port in PORTS}
    needed |= {(source, "dns", 53) for source in OURS}
    needed |= {(source, head, 8265) for source in ("submitter", "operator") for head in RAY[:2]}
    outside = ("api server", "internet", "private network", "metadata server", "metadata on the node")
    needed |= {("cluster's head", target, port) for target in outside for port in (443, 6443)}
    # That rule names no address, so in the cluster it leads as far as the other side lets it in.
    needed |= {("cluster's head", target, port) for target in OPEN_ELSEWHERE for port in (443, 6443)}
    if is_cloud:
        for source in (*RAY, "tensorboard"):
            needed |= {(source, "metadata server", port) for port in (53, 80)}
            needed |= {(source, "metadata on the node", 988), (source, "internet", 443)}
        needed |= {("prometheus", target, 8080) for target in RAY}
    return needed


OPEN_ELSEWHERE = ("stranger elsewhere", "pretender elsewhere", "operator", "prometheus", "dns", "other system pod")


def surprises(documents: list[dict]) -> list[str]:
    """Returns each connection that is open and not needed, or needed and not open.

    A pod of ours must turn away by itself what it does not need: that the other side is kept
    in by another policy is no reason to leave it open.
    """
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    is_cloud = any(document["kind"] == "PodMonitoring" for document in documents)
    open_ones = {
        (source, target, port)
        for source, here in PEERS.items()
        for target, there in PEERS.items()
        if source in OURS or target in OURS  # what others do among themselves is not for these policies to say
        for port in PORTS
        if (lets_in if target in OURS else may_connect)(policies, here, there, port)
    }
    closed = {(s, t, p) for s, t, p in expected(is_cloud) if not may_connect(policies, PEERS[s], PEERS[t], p)}
    return [
        *(
            f"open and not needed: {source} -> {target}:{port}"
            for source, target, port in sorted(open_ones - expected(is_cloud))
        ),
        *(f"needed and not open: {source} -> {target}:{port}" for source, target, port in sorted(closed)),
    ]
