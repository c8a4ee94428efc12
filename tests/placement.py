"""Predicts, without a GPU, where TensorFlow would place the operations of a graph given one.

TensorFlow 1.15 from PyPI registers its GPU kernels wherever it is imported, with the arguments
that each keeps in host memory. The rules of its placer can therefore be applied without a
GPU: an operation goes to the GPU if it has a kernel there for its types and no device scope or
colocation says otherwise; a constant goes where its consumers are; `Shape`, `Size` and `Rank`
follow their input. (`tensorflow/core/common_runtime/placer.cc` and `memory_types.cc`, 1.15.)
"""

import collections

from tensorflow.python.framework import kernels

from runtime.quiet_tf import tf

HOST, DEVICE = "host", "device"  # kinds of memory

Crossing = collections.namedtuple("Crossing", "tensor into bytes readers")
Crossing.__doc__ = """A tensor that is copied between host and GPU each time the graph runs.

tensor: its name; into: the kind of memory that it is copied to; bytes: its size, None where the
graph does not say; readers: types of the operations that read the copy.
"""


def ancestors(op):
    """All operations that run when `op` is run, including itself."""
    found, todo = {}, [op]
    while todo:
        op = todo.pop()
        if op.name not in found:
            found[op.name] = op
            todo += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return list(found.values())


def kernel(op, device_type):
    """The registered kernel that would run `op`, a `KernelDef`; None if none does."""
    label = op.node_def.attr["_kernel"].s.decode() if "_kernel" in op.node_def.attr else ""
    for device in (device_type, "DEFAULT"):  # kernels that any device runs
        for candidate in _kernels(op.type):
            if (candidate.device_type, candidate.label) == (device, label) and all(
                set(_types(op, constraint.name)) <= set(constraint.allowed_values.list.type)
                for constraint in candidate.constraint
            ):
                return candidate
    return None


_cache = {}


def _kernels(op_type):
    if op_type not in _cache:
        _cache[op_type] = list(kernels.get_registered_kernels_for_op(op_type).kernel)
    return _cache[op_type]


def _types(op, name):
    attr = op.node_def.attr[name]
    return attr.list.type if attr.HasField("list") else [attr.type]


def devices(graph):
    """Predicts the placement of a graph: a dict from name of operation to "GPU" or "CPU"."""
    ops = graph.get_operations()
    groups = _colocated(ops)
    members = collections.defaultdict(list)
    for op in ops:
        members[groups[op.name]].append(op)
    consumers = collections.defaultdict(list)
    for op in ops:
        for source in {tensor.op.name for tensor in op.inputs} | {
            control.name for control in op.control_inputs
        }:
            consumers[source].append(op.name)
    can = {
        group: "CPU" not in "".join(op.device.upper() for op in those)
        and all(kernel(op, "GPU") is not None for op in those)
        for group, those in members.items()
    }
    placed = {}
    generators = []
    for op in ops:  # in the order of creation, which is topological except for loops
        if not op.inputs and len(op.outputs) == 1 and len(members[groups[op.name]]) == 1:
            generators.append(op)
        elif op.type in ("Shape", "Size", "Rank") and can[groups[op.name]]:
            placed[op.name] = placed.get(op.inputs[0].op.name, "GPU")
        else:
            placed[op.name] = "GPU" if can[groups[op.name]] else "CPU"
    for op in generators:
        where = {placed.get(name) for name in consumers[op.name]}
        forced = "CPU" in op.device.upper() or kernel(op, "GPU") is None
        placed[op.name] = "CPU" if forced or where == {"CPU"} else "GPU"
    return placed


def _colocated(ops):
    """A dict from operation to colocation group, by `_class` and by shared resources."""
    parents = {op.name: op.name for op in ops}

    def root(name):
        while parents[name] != name:
            name = parents[name]
        return name

    for op in ops:
        together = [group.decode()[len("loc:@") :] for group in op.colocation_groups()]
        together += [t.op.name for t in op.inputs if t.dtype == tf.resource]
        for other in together:
            if other in parents:
                parents[root(op.name)] = root(other)
    return {op.name: root(op.name) for op in ops}


def crossings(ops, placed):
    """The `Crossing`s between host and GPU memory when `ops` are run once.

    A tensor counts if one operation leaves it in one kind of memory and another reads it from the
    other. Constants count too: those of int32 are in host memory and copied each time. Values that
    are already on the GPU, such as weights, are not counted. A tensor with several readers is
    copied once. Tensors passed between a CPU operation and a GPU kernel in host memory (shapes,
    seeds) are not copied, nor are handles of resources.
    """
    readers = collections.defaultdict(set)
    for op in ops:
        inputs = _memories(op, placed[op.name], "input")
        for tensor, into in zip(op.inputs, inputs):
            if tensor.dtype in (tf.resource, tf.string, tf.variant):
                continue
            source = tensor.op
            outputs = _memories(source, placed[source.name], "output")
            if outputs[tensor.value_index] != into:
                readers[tensor.name, into].add(op.type)
    graph = ops[0].graph
    found = []
    for (name, into), types in readers.items():
        tensor = graph.get_tensor_by_name(name)
        number = tensor.shape.num_elements()
        size = None if number is None else number * tensor.dtype.size
        found.append(Crossing(name, into, size, sorted(types)))
    return found


def _memories(op, device, side):
    """The kinds of memory of an operation's inputs or outputs, in order."""
    arguments = op.op_def.input_arg if side == "input" else op.op_def.output_arg
    on_host = set(kernel(op, "GPU").host_memory_arg) if device == "GPU" else None
    memories = []
    for argument in arguments:
        number = 1
        if argument.number_attr:
            number = op.node_def.attr[argument.number_attr].i
        elif argument.type_list_attr:
            number = len(op.node_def.attr[argument.type_list_attr].list.type)
        host = on_host is None or argument.name in on_host
        memories += [HOST if host else DEVICE] * number
    return memories
