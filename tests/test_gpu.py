"""Checks of runs on a GPU that need none: graphs, placement, environments.

With `device.gpus` replaced, graphs are built as for a GPU and run on the CPU. See `placement`.
"""

import os
import subprocess
import sys

import conftest
import numpy as np
import placement
import pytest
from conftest import DEMO, DEMO_DIR, ROOT
from PIL import Image
from tensorflow.core.protobuf import device_properties_pb2
from tensorflow.python.grappler import cluster, tf_optimizer

import tf_boilerplate
from coding import digests, readers, tfci, writers
from inference.evaluation import Evaluation
from inference.methods import find_method
from model import checkpoints, cpu_layers, device, hyperprior, layers, tiling
from runtime import machine
from runtime.quiet_tf import tf
from study import cluster as study_cluster
from study import execution, inputs, tasks
from study import run as study_run
from training import cores, horovod

OPTIMISED = ["sga", "map", "ste", "unoise", "danneal", "bb_sga"]
MOST_CROSSINGS, MOST_BYTES = 3, 1000


@pytest.fixture
def gpu(monkeypatch):
    """Makes graphs be built as if there were a GPU."""
    monkeypatch.setattr(device, "gpus", lambda: ["/physical_device:GPU:0"])


def evaluation(script, *flags, size=(75, 53)):
    """The evaluation graph of a method for one image, with a demo model."""
    method = find_method(script)
    run = checkpoints.find_run(DEMO_DIR, DEMO[script])
    args = tf_boilerplate.parse(script, "", method, None, ["compress", run.name, "image", *flags])
    args.lmbda = run.lmbda
    weights = checkpoints.load(method.model_class, run)
    return Evaluation(method, weights, (1, *size, 3), args)


def iteration(made):
    """The operations of an iteration of the first stage."""
    return placement.ancestors(made.method.stages[0].update)


# --- Graphs ----------------------------------------------------------------------------------


def test_layers_follow_from_the_device(monkeypatch):
    monkeypatch.setattr(device, "gpus", lambda: [])
    with tf.Graph().as_default():
        assert device.layers() is cpu_layers
        monkeypatch.setattr(device, "gpus", lambda: ["/physical_device:GPU:0"])
        assert device.layers() is layers
        with device.on_cpu():
            assert device.layers() is cpu_layers and "CPU" in tf.no_op().device
        assert device.layers() is layers and tf.no_op().device == ""


# Types of operations on the host: the step, the noise's seeds and the schedules.
ON_HOST = {
    *("VarHandleOp", "ReadVariableOp", "AssignAddVariableOp", "Identity", "Const", "Cast"),
    *("Unpack", "Pack", "AddV2", "Add", "Sub", "Mul", "RealDiv", "Exp", "Cos"),
    *("Minimum", "Maximum"),
}


@pytest.mark.parametrize("script", OPTIMISED)
def test_an_iteration_stays_on_the_gpu(script, gpu):
    """Only values shared by all latents come from the host: temperature and learning rate."""
    flags = ("--lr_final", 0.1, "--fit_schedule") if script == "sga" else ()
    made = evaluation(script, *map(str, flags))
    ops = iteration(made)
    for op in ops:
        assert placement.kernel(op, "GPU") is not None, op.type
    placed = placement.devices(made.graph)
    on_cpu = {op.type for op in ops if placed[op.name] == "CPU"}
    assert on_cpu <= ON_HOST and "AssignAddVariableOp" in on_cpu
    for op in ops:  # no large or costly operation is on the host, whatever its type
        if placed[op.name] == "CPU":
            sizes = [t.shape.num_elements() for t in op.outputs]
            assert all(size is not None and size <= 4 for size in sizes), op.name
    found = placement.crossings(ops, placed)
    assert len(found) <= MOST_CROSSINGS, found
    assert sum(crossing.bytes for crossing in found) < MOST_BYTES
    # All are scalars from the schedules, copied to the GPU; nothing is copied back.
    assert all(crossing.into == placement.DEVICE and crossing.bytes == 4 for crossing in found)
    assert bool(found) == (script in ("sga", "danneal", "bb_sga"))


def test_the_count_sees_what_the_layers_of_a_cpu_would_copy(monkeypatch):
    monkeypatch.setattr(cpu_layers, "WINOGRAD_CHANNELS", 8)
    monkeypatch.setattr(cpu_layers, "WINOGRAD_TILES", 1)
    made = evaluation("sga")
    found = placement.crossings(iteration(made), placement.devices(made.graph))
    assert len(found) > MOST_CROSSINGS
    assert sum(crossing.bytes for crossing in found) > MOST_BYTES
    read_by = {(crossing.into, *crossing.readers) for crossing in found}
    assert (placement.DEVICE, "GatherV2") in read_by  # Winograd's indices
    assert (placement.HOST, "SplitV") in read_by  # the strips of GDN


def test_an_iteration_in_pieces_stays_on_the_gpu_too(gpu, monkeypatch):
    monkeypatch.setattr(tiling, "largest", lambda channels: 9 * 9)
    made = evaluation("sga", size=(171, 208))
    ops = iteration(made)
    assert any(op.type == "Exit" for op in ops)
    assert all(placement.kernel(op, "GPU") is not None for op in ops)
    found = placement.crossings(ops, placement.devices(made.graph))
    assert len(found) <= MOST_CROSSINGS and all(crossing.bytes == 4 for crossing in found)


def test_layout_pass_gives_every_convolution_the_layout_of_cudnn(gpu):
    """Runs Grappler on a session's graph and settings, with the description of a GPU."""
    made = evaluation("sga", size=(64, 64))
    with made.graph.as_default():
        graph = tf.train.export_meta_graph(clear_devices=False)
    fetched = made.method.stages[0].update.name
    nodes = graph.collection_def["train_op"].node_list
    nodes.value.append(fetched)
    properties = device_properties_pb2.DeviceProperties
    prefix = "/job:localhost/replica:0/task:0/device:"
    environment = {"architecture": "7", "cuda": "10000", "cudnn": "7600"}
    described = [
        properties(type="GPU", vendor="NVIDIA", environment=environment, memory_size=2**34),
        properties(type="CPU", memory_size=2**34),
    ]
    named = [
        device_properties_pb2.NamedDevice(name=prefix + each.type + ":0", properties=each)
        for each in described
    ]
    config = device.session_config()
    optimised = tf_optimizer.OptimizeGraph(
        config, graph, verbose=False, cluster=cluster.Cluster(devices=named)
    )
    with tf.Graph().as_default() as result:
        tf.import_graph_def(optimised, name="")
    ops = placement.ancestors(result.get_operation_by_name(fetched))
    convolutions = [op for op in ops if op.type.startswith("Conv2D")]
    assert len(convolutions) > 15
    assert all(op.get_attr("data_format") == b"NCHW" for op in convolutions)
    # The layers' operations accept any layout: images and latents are transposed at the ends,
    # and nothing of the sizes in between.
    turned = [op for op in ops if op.type == "Transpose" and "LayoutOptimizer" in op.name]
    sizes = {op.inputs[0].shape.num_elements() for op in turned}
    assert sizes <= {64 * 64 * 3, 4 * 4 * 32, 1 * 1 * 32} and len(sizes) > 1
    found = placement.crossings(ops, placement.devices(result))
    assert len(found) <= MOST_CROSSINGS
    assert sum(crossing.bytes for crossing in found) < MOST_BYTES


def test_session_leaves_grappler_out_on_the_cpu(monkeypatch):
    monkeypatch.setattr(device, "gpus", lambda: [])
    rewrite = device.session_config().graph_options.rewrite_options
    assert rewrite.disable_meta_optimizer


@pytest.mark.parametrize("script", ["sga", "bb_sga"])
def test_portable_layers_give_the_same_losses(script, monkeypatch):
    pixels = np.random.RandomState(0).randint(0, 256, (1, 75, 53, 3)).astype(np.uint8)
    relaxed = []
    for gpus in ([], ["/physical_device:GPU:0"]):
        monkeypatch.setattr(device, "gpus", lambda gpus=gpus: gpus)
        made = evaluation(script)
        kinds = {op.type for op in made.graph.get_operations()}
        assert ("SplitV" in kinds) == (not gpus)
        made.begin(pixels)
        (stage,) = made.method.stages
        made.session.run(stage.start)
        relaxed.append(
            [made.session.run([stage.update, stage._relaxed])[1]["rd_loss"] for _ in range(3)]
        )
    np.testing.assert_allclose(*relaxed, rtol=1e-5)


# --- What a decoder reads --------------------------------------------------------------------


def test_the_authors_files_are_coded_on_the_cpu(gpu, monkeypatch):
    run = checkpoints.find_run(DEMO_DIR, DEMO["mbt2018"])
    graphs = []
    session = tf.Session

    def observed(*args, config=None, **kwargs):
        assert config.device_count["GPU"] == 0 and "GPU" in config.device_count
        graphs.append(tf.get_default_graph())
        return session(*args, config=config, **kwargs)

    monkeypatch.setattr(tf, "Session", observed)
    weights = checkpoints.load(hyperprior.Mbt2018, run)
    rng = np.random.RandomState(0)
    latents = {"y": rng.normal(0, 2, (4, 4, 32)), "z": rng.normal(0, 2, (1, 1, 32))}
    writer = writers.PackedWriter(run, weights)
    sent = writer.add(latents, (64, 64), None).latents
    content, _ = writer.finish()
    ((_, back),) = readers.read(content).latents(run, weights)
    np.testing.assert_array_equal(back["y"], sent["y"])
    assert len(graphs) == 3
    for graph in graphs:
        ops = graph.get_operations()
        assert len(ops) > 50 and all("CPU" in op.device for op in ops)
    assert sum(op.type == "UnboundedIndexRangeDecode" for op in ops) == 2
    assert tfci.unpack(content)[2] == [64, 64]


def test_the_process_that_checks_an_archive_gets_no_gpu(monkeypatch):
    environments = []

    def observed(command, env, **_):
        environments.append(env)
        return subprocess.CompletedProcess(command, 0, stdout="digest\n")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(subprocess, "run", observed)
    run = checkpoints.find_run(DEMO_DIR, DEMO["bb_sga"])
    assert digests.digests_elsewhere(run, "file.tfci") == ["digest"]
    ((environment),) = environments
    assert device.cards(environment) == [] and environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["PATH"] == os.environ["PATH"]


# --- Cards and processes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "visible, names",
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("1,-1,0", ["1"]),
        ("GPU-8932f937,GPU-46b5", ["GPU-8932f937", "GPU-46b5"]),
    ],
)
def test_cards_are_those_that_cuda_shows(visible, names):
    assert device.cards({"CUDA_VISIBLE_DEVICES": visible}) == names


def test_cards_are_those_of_the_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_PROC", str(tmp_path / "*"))
    assert device.cards({}) == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert device.cards({}) == ["0", "1"]


def test_processes_take_the_cards_in_turn():
    def card(number, visible):
        environment = {"CUDA_VISIBLE_DEVICES": visible, "HOME": "/"}
        found = device.environment_of(number, environment)
        assert found["HOME"] == "/"
        return found["CUDA_VISIBLE_DEVICES"]

    assert [card(number, "4,7") for number in range(4)] == ["4", "7", "4", "7"]
    assert card(3, "") == ""


def test_workers_of_horovod_take_the_cards_in_turn(monkeypatch):
    class Horovod:
        @staticmethod
        def init():
            """Does nothing: there is one process."""

    monkeypatch.setattr(horovod, "_horovod", lambda: Horovod)
    seen = []
    for rank, local_rank in enumerate((0, 1, 0, 1)):  # two on each of two machines
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        monkeypatch.setenv("HOROVOD_SIZE", "4")
        monkeypatch.setenv("HOROVOD_RANK", str(rank))
        monkeypatch.setenv("HOROVOD_LOCAL_RANK", str(local_rank))
        with horovod.joined():
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["4", "7", "4", "7"]


@pytest.mark.parametrize("name, card", [(0, "4"), (1, "7"), (2, "4"), ("gpu-3", "7")])
def test_tasks_of_a_study_take_the_cards_in_turn(name, card, monkeypatch, tmp_path):
    image = tmp_path / "0.png"
    Image.new("RGB", (32, 32)).save(str(image))
    images = inputs.find([str(image)])
    models = tasks.find_models(DEMO_DIR, [DEMO["sga"]])
    (task,) = tasks.make_tasks(images, ["sga"], models)
    environments = []

    def observed(identity, command, environment):
        environments.append(environment)
        raise RuntimeError("stopped here")

    class Worker:
        pass

    Worker.name = name
    monkeypatch.setattr(execution.distributed, "get_worker", Worker)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(execution, "Process", observed)
    with pytest.raises(RuntimeError, match="stopped here"):
        execution.run_task(task, 1)
    assert environments[0]["CUDA_VISIBLE_DEVICES"] == card


def test_outside_of_dask_a_task_takes_the_first_card():
    assert execution._worker_number() == 0


def test_cores_are_counted_beside_gpus_and_tasks_follow_the_cards(gpu, monkeypatch):
    conftest.pretend_cores(monkeypatch, 16)
    assert machine.cores() == 16
    assert cores.parts(8) == 1
    args = study_run.parse(["image.png"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert study_cluster.shared_out(args, 10) == (2, 8)
    args.workers = 4
    assert study_cluster.shared_out(args, 10) == (4, 4)
    args.workers = None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert study_cluster.shared_out(args, 10) == (10, 1)


def test_a_gpu_is_shared_unless_the_user_says_otherwise():
    code = "import os, runtime.quiet_tf; print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])"
    for given, expected in (({}, "true"), ({"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, "false")):
        environment = {**os.environ, **given}
        if not given:
            environment.pop("TF_FORCE_GPU_ALLOW_GROWTH", None)
        found = subprocess.check_output(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, universal_newlines=True
        )
        assert found.strip() == expected


# --- What a run says -------------------------------------------------------------------------


@pytest.mark.skipif(bool(device.gpus()), reason="there is a GPU that works")
def test_a_note_names_the_library_that_does_not_load(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.why_unused() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # a card without a driver
    note = device.why_unused()
    assert "libcuda.so.1" in note and "\n" not in note and "docs/gpu.md" in note


def test_the_device_is_said_and_saved(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(device, "describe", lambda: "GPU (Some Card)")
    image = str(tmp_path / "image.png")
    pixels = np.random.RandomState(0).randint(0, 256, (35, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(image)
    where = {"checkpoint_dir": DEMO_DIR}
    flags = ("--sga_its", 3)
    result = conftest.compress(
        "sga", DEMO["sga"], image, tmp_path / "r", *flags, top=("--verbose",), **where
    )
    assert str(result["device"]) == "GPU (Some Card)"
    assert "device: GPU (Some Card)" in capsys.readouterr().err.splitlines()


# --- Without TensorFlow Compression ----------------------------------------------------------

BLOCKED = """
import runpy, sys
sys.modules["tensorflow_compression"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def blocked(script, *argv):
    """Runs a script in a process that cannot import TFC."""
    command = [sys.executable, "-c", BLOCKED, os.path.join(ROOT, script + ".py"), *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (35, 40, 3)).astype(np.uint8)
    path = str(tmp_path / "photo.png")
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("script", ["sga", "bb_sga", "mbt2018"])
def test_methods_do_without_tfc_with_the_same_numbers(script, photo, tmp_path):
    flags = {"mbt2018": ("--container",)}.get(script, ("--sga_its", 3))
    flags += ("--r_its", 3) if script == "bb_sga" else ()
    run = DEMO[script]
    file = tmp_path / "file.tfci"
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", run, photo, file, *flags]
    process = blocked(script, *argv, "--results_dir", tmp_path / "without")
    assert process.returncode == 0, process.stderr
    decoding = ["--checkpoint_dir", DEMO_DIR, "decompress", run, file, tmp_path / "back.png"]
    process = blocked(script, *decoding)
    assert process.returncode == 0, process.stderr
    expected = conftest.compress(
        script, run, photo, tmp_path / "with", *flags, checkpoint_dir=DEMO_DIR
    )
    with np.load(str(tmp_path / "without" / expected.pop("result_file"))) as found:
        assert set(found) == set(expected)
        for key, value in expected.items():
            if "seconds" not in key:
                np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_the_bits_back_model_is_trained_without_tfc(photo, untrained, tmp_path):
    """Its checkpoint has the variables that it has with TFC."""
    argv = ["--num_filters", 4, "train", "--train_glob", photo, "--patchsize", 32]
    argv += ["--batchsize", 2, "--last_step", 2, "--logdir", ""]
    process = blocked("mbt2018_bb", "--checkpoint_dir", tmp_path, *argv)
    assert process.returncode == 0, process.stderr
    name = "mbt2018_bb-num_filters=4-lmbda=0.01"
    without, expected = (
        conftest.checkpoint_values(folder / name) for folder in (tmp_path, untrained)
    )
    assert {k: v.shape for k, v in without.items()} == {k: v.shape for k, v in expected.items()}
    assert all(without[key].dtype == value.dtype for key, value in expected.items())
    assert without["global_step"] == 2


@pytest.mark.parametrize("command", ["compress", "decompress", "train"])
def test_what_needs_tfc_says_so(command, photo, tmp_path):
    run = DEMO["mbt2018"]
    file = tmp_path / "file.tfci"
    file.write_bytes(b"\n" + bytes(40))
    words = {
        "compress": [run, photo, "--results_dir", ""],
        "decompress": [run, file],
        "train": ["--train_glob", photo, "--patchsize", 32, "--last_step", 1, "--logdir", ""],
    }[command]
    folder = tmp_path if command == "train" else DEMO_DIR
    process = blocked("mbt2018", "--checkpoint_dir", folder, command, *words)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    lines = [line for line in process.stderr.splitlines() if not line.startswith("note")]
    assert len(lines) == 1 and "needs tensorflow-compression 1.3" in lines[0]


def test_tasks_share_memory():
    """The processes of a study know how many there are, by which `machine.memory` divides."""
    args = study_run.parse(["image.png", "--workers", "2"])
    with study_cluster._client(args, 4) as (client, _):
        assert client.submit(os.getenv, machine.TASKS).result() == "2"
        assert client.submit(machine.memory).result() == machine.memory() // 2
