"""Two nodes: two launchers that meet over the network, on one machine and across two network namespaces."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from tiny import ROOT, frames_shards, free_port, history, tiny_config, tiny_overrides, weights

from wildstream.training.run import train

OPTIONS = ("trainer.epochs=2", "model.backbone=test_vit", "data.size=160")
"""A network without batch norm, which would take its statistics over other batches on two nodes."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return frames_shards(tmp_path_factory)


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """One process, with the global batch of two nodes."""
    return train(tiny_config(shards, tmp_path_factory.mktemp("alone") / "run", *OPTIONS, "trainer.batch_size=8"))


def launch(node, address, port, overrides, prefix=(), **environment):
    """Start `accelerate launch` on one node."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "2", "--machine_rank", str(node), "--main_process_ip", address]
    command += ["--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no"]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return subprocess.Popen(
        [*prefix, *command, str(ROOT / "train.py"), *overrides],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait(nodes):
    """Let both end; what they printed."""
    try:
        said = [node.communicate(timeout=280)[0] for node in nodes]
    finally:
        for node in nodes:
            if node.poll() is None:  # the launcher, and what it launched
                os.killpg(node.pid, signal.SIGKILL)
                node.communicate()
    assert [node.returncode for node in nodes] == [0, 0], said
    return said


def check_same_training(run, alone):
    for together, one in zip(history(run), history(alone), strict=True):
        assert together["train"]["loss"] == pytest.approx(one["train"]["loss"], abs=1e-4)
        assert together["val"] == pytest.approx(one["val"], abs=1e-4, nan_ok=True)
        assert together["train"]["delivered"] == one["train"]["delivered"]
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(alone)[name], atol=1e-4, rtol=1e-3)


def test_two_launchers_on_one_machine_train_as_one_process_does(shards, alone, tmp_path):
    port = free_port()
    overrides = tiny_overrides(shards, tmp_path / "run", *OPTIONS, "trainer.batch_size=4")
    said = wait([launch(node, "127.0.0.1", port, overrides) for node in (0, 1)])
    check_same_training(tmp_path / "run", alone)
    assert "epoch 2:" in said[0]
    assert "epoch 2:" not in said[1]  # it is told once


@contextmanager
def two_namespaces():
    """Two network namespaces with a cable between them; their names, and the address of the first."""
    names = [f"ws{os.getpid()}{side}" for side in "ab"]
    commands = [f"ip netns add {name}" for name in names]
    commands += [f"ip link add {names[0]} type veth peer name {names[1]}"]
    for number, name in enumerate(names, 1):
        commands += [f"ip link set {name} netns {name}", f"ip -n {name} link set lo up"]
        commands += [f"ip -n {name} addr add 10.213.7.{number}/24 dev {name}", f"ip -n {name} link set {name} up"]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True, text=True)
        yield names, "10.213.7.1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_nodes_across_network_namespaces_train_as_one_process_does(shards, alone, tmp_path):
    overrides = tiny_overrides(shards, tmp_path / "run", *OPTIONS, "trainer.batch_size=4")
    try:
        with two_namespaces() as (names, address):
            nodes = [
                launch(number, address, 29500, overrides, ("ip", "netns", "exec", name), GLOO_SOCKET_IFNAME=name)
                for number, name in enumerate(names)
            ]
            wait(nodes)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    check_same_training(tmp_path / "run", alone)
