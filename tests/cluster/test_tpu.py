"""TPU hosts: their order, their servers, and what is said where there is no TPU."""

import multiprocessing
import os

import pytest

from service.cluster import tpu
from service.errors import EnvironmentUnfit
from tests.processes import free_ports


def test_hosts_are_ordered_by_their_ids_whatever_order_ray_gives_them():
    found = [("2", "c:1"), ("0", "a:1"), ("11", "l:1"), ("1", "b:1"), *((str(i), f"h{i}:1") for i in range(3, 11))]
    assert [found[place][0] for place in tpu.in_order(found)] == [str(i) for i in range(12)]


@pytest.mark.parametrize(
    "ids", [("0", "0"), ("0", "2"), (None, "1"), ("1", "2")], ids=["twice", "one missing", "not set", "not from 0"]
)
def test_ids_that_are_no_whole_slice_are_refused(ids):
    with pytest.raises(EnvironmentUnfit, match="should be 0 to 1, each once"):
        tpu.in_order([(ids[0], "a:1"), (ids[1], "b:1")])


def _serve(hosts, host, ready):
    tpu.introduce(hosts, host)
    server = tpu.serve_here()
    ready.set()
    server.join()


def _join(hosts, host, answer):
    """What the chief does, on hosts whose chips are CPUs: joins all servers, its own in a process beside it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tpu.introduce(hosts, host)
    import tensorflow as tf

    try:
        tpu.strategy(4)
        problem = ""
    except EnvironmentUnfit as error:  # the hosts are joined, and have no chips
        problem = str(error)
    there = sorted(device.name for device in tf.config.list_logical_devices("CPU") if "/job:worker" in device.name)
    with tf.device("/job:worker/replica:0/task:1/device:CPU:0"):
        total = tf.reduce_sum(tf.constant([1.0, 2.0])).numpy()
    answer.send((there, total, os.environ["TPU_LOAD_LIBRARY"], problem))


@pytest.mark.processes
def test_the_chief_reaches_every_host_s_devices_by_its_number():
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    context = multiprocessing.get_context("spawn")
    ready, (mine, theirs) = context.Event(), context.Pipe()
    # The chief is host 0 and host 1 serves, in processes of their own.
    serving = context.Process(target=_serve, args=(hosts, 1, ready))
    chief = context.Process(target=_join, args=(hosts, 0, theirs))
    serving.start()
    chief.start()
    try:
        assert ready.wait(60) and mine.poll(120)
        there, total, loads, problem = mine.recv()
        assert there == [f"/job:worker/replica:0/task:{host}/device:CPU:0" for host in (0, 1)]
        assert (total, loads) == (3.0, "0")
        assert problem.startswith("TensorFlow finds no TPU") and "samestep[tpu]" in problem
    finally:
        for process in (chief, serving):
            process.kill()
            process.join()
