"""Stored tensors: the same numbers as constants, outside the graph's definition."""

import gc

import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR

import sga
import tf_boilerplate
from inference.evaluation import Evaluation
from model import checkpoints, cpu_layers, device, hyperprior, stored
from runtime.quiet_tf import no_collection, tf


def loss_and_gradients(weights, as_tensor, x):
    """Also the number of variables."""
    config = device.session_config()
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        model = hyperprior.build(hyperprior.Mbt2018, weights, as_tensor)
        fed = tf.placeholder(tf.float32, x.shape)  # TensorFlow computes what is constant otherwise
        y = model.analysis(fed)
        z = model.hyper_analysis(y)["z"]
        loss, _ = model.rate_distortion(fed, 0.01, y=y, z=z)
        gradients = tf.gradients(loss, [y, z])
        session.run(tf.global_variables_initializer())
        stored.release()
        return session.run([loss, *gradients], {fed: x}), len(tf.global_variables())


@pytest.mark.parametrize("least", [8, 1000])  # with Winograd's filtering, and without
@pytest.mark.parametrize("small", [0, 2**15])
def test_a_model_gives_the_same_numbers(small, least, monkeypatch):
    monkeypatch.setattr(stored, "SMALL", small)
    monkeypatch.setattr(cpu_layers, "WINOGRAD_CHANNELS", least)
    monkeypatch.setattr(cpu_layers, "WINOGRAD_TILES", 1)
    weights = checkpoints.load(hyperprior.Mbt2018, checkpoints.find_run(DEMO_DIR, DEMO["sga"]))
    x = np.random.RandomState(0).uniform(0, 1, (1, 64, 96, 3)).astype(np.float32)
    expected, none = loss_and_gradients(weights, tf.constant, x)
    found, variables = loss_and_gradients(weights, stored.store, x)
    assert none == 0 < variables
    for ours, constants in zip(found, expected):
        np.testing.assert_array_equal(ours, constants)


def test_the_graph_of_an_evaluation_does_not_contain_the_weights(monkeypatch):
    monkeypatch.setattr(stored, "SMALL", 0)
    run = checkpoints.find_run(DEMO_DIR, DEMO["sga"])
    weights = checkpoints.load(hyperprior.Mbt2018, run)
    args = tf_boilerplate.parse("sga", "", sga.SGA, None, ["compress", run.name, "image"])
    args.lmbda = run.lmbda
    graph = Evaluation(sga.SGA, weights, (1, 64, 64, 3), args).graph
    kernels = [w for w in tf.nest.flatten(weights) if w is not None and w.ndim == 4]
    assert graph.as_graph_def().ByteSize() < sum(kernel.nbytes for kernel in kernels)
    arrays = [array for _, array in graph.get_collection("stored tensors")]
    assert len(arrays) > len(kernels) and not any(array is not None for array in arrays)


def test_collection_is_only_off_while_a_graph_is_built():
    with pytest.raises(KeyError), no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_a_tensor_made_inside_a_loop_can_be_read_outside(monkeypatch):
    monkeypatch.setattr(stored, "SMALL", 0)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = []

    def add(total):
        made.append(stored.store(array))
        return (total + made[0],)

    with tf.Graph().as_default(), tf.Session() as session:
        total = tf.while_loop(lambda total: total[1, 2] < 10, add, (tf.zeros((2, 3)),))
        session.run(tf.global_variables_initializer())
        np.testing.assert_array_equal(session.run(total + made[0]), 3 * array)
        assert stored.stored_value(made[0]) is array
        assert stored.stored_value(tf.identity(made[0])) is None
