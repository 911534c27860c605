"""Small checkpoints of every kind that people have, all of one tiny network with the weights of the formula.

    python checkpoints.py           # writes checkpoints/, with torch, numpy and safetensors

checkpoints/expected.json holds the weights that PyTorch computes with where they are not those of the formula.
"""

import argparse
import collections
import datetime
import io
import json
import math
import pathlib
import pickle
import struct
import sys
import tarfile
import warnings

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from formula import formula_state

OLD = {"_use_new_zipfile_serialization": False}


class Tiny(nn.Module):
    """What tests/zoo/checkpoints.rs builds as `tiny`."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.bn1(self.conv1(x)).mean((2, 3)))


class Config(dict):
    """A class of the training script."""


class Trainer:
    """An object that holds the network among other things."""

    def __init__(self, model):
        self.model, self.epoch, self.class_names = model, 3, ["cat", "dog", "owl"]


def tiny():
    model = Tiny().eval()
    model.load_state_dict(formula_state(model))
    return model


def prefixed(prefix, state):
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def damped(state):
    """Another network of the same shapes."""
    return {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def tar(path, state):
    """As PyTorch wrote before 0.2, to its reader's `legacy_load`."""
    storages, tensors, keys = io.BytesIO(), io.BytesIO(), {}
    dump = lambda value, file: pickle.dump(value, file, protocol=2)
    dump(len(state), storages)
    dump(len(state), tensors)
    for key, (name, tensor) in enumerate(state.items()):
        keys[name] = 100 + key
        dump((key, "cpu", torch.FloatStorage), storages)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        dump((100 + key, key, torch.FloatTensor), tensors)
        sizes = [*tensor.shape, *tensor.stride()]
        tensors.write(struct.pack(f"<ii{len(sizes)}qq", tensor.dim(), 0, *sizes, 0))
    dump([], storages)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return str(value.key) if isinstance(value, Key) else None

    root = io.BytesIO()
    Pickler(root, protocol=2).dump({name: Key(key) for name, key in keys.items()})
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        parts = {"sys_info": io.BytesIO(), "pickle": root, "storages": storages, "tensors": tensors}
        for name, part in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(part.getvalue())
            archive.addfile(info, io.BytesIO(part.getvalue()))


class Key:
    def __init__(self, key):
        self.key = key


def plain(folder, state, floats):
    """Containers and element types."""
    cast = lambda dtype: {name: tensor.to(dtype) for name, tensor in floats.items()}
    save = lambda name, value, **how: torch.save(value, folder / name, **how)
    save("zip.pth", state)
    save("legacy.pth", state, **OLD)
    save("legacy_protocol4.pth", state, pickle_protocol=4, **OLD)
    save("protocol5.pth", state, pickle_protocol=5)
    # The first entry of its directory is as long as the ZIP64 records behind the directory.
    save("checkpoint_epoch_0199.pth", state)
    save("f64.pth", cast(torch.float64))
    save("bf16.pth", cast(torch.bfloat16))
    save("half.pth", cast(torch.float16))
    torch.serialization.set_crc32_options(False)
    save("no_checksums.pth", state)
    torch.serialization.set_crc32_options(True)
    # Views that share one storage, and a transposed one.
    flat = torch.cat([tensor.flatten() for tensor in floats.values()])
    views, at = {}, 0
    for name, tensor in floats.items():
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    views["fc.weight"] = views["fc.weight"].t().contiguous().t()
    save("views.pth", views)
    save("views_legacy.pth", views, **OLD)
    last = lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
    save("channels_last.pth", {name: last(tensor) for name, tensor in state.items()})
    save("expanded.pth", {name: tensor.expand(2, *tensor.shape)[1] for name, tensor in floats.items()})
    tag, torch.serialization.location_tag = torch.serialization.location_tag, lambda _: "cuda:0"
    save("cuda.pth", state)
    torch.serialization.location_tag = tag
    tar(folder / "tar.pth", floats)
    with open(folder / "tensors.pkl", "wb") as file:
        pickle.dump(state, file)
    arrays = {name: tensor.numpy() for name, tensor in floats.items()}
    for protocol in [2, 5]:
        with open(folder / f"arrays{protocol}.pkl", "wb") as file:
            pickle.dump({**arrays, "fc.weight": np.asfortranarray(arrays["fc.weight"])}, file, protocol=protocol)
    save("arrays.pth", arrays)
    np.savez(folder / "arrays.npz", **arrays)
    for name, dtype in [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)]:
        save_file(cast(dtype), folder / f"{name}.safetensors")
    half = len(floats) // 2
    parts = {"model-00001-of-00002.safetensors": list(floats)[:half], "model-00002-of-00002.safetensors": list(floats)[half:]}
    for file, names in parts.items():
        save_file({name: floats[name] for name in names}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def wrapped(folder, state, model):
    """Whatever training scripts put around a network."""
    save = lambda name, value, **how: torch.save(value, folder / name, **how)
    trained = tiny()
    adam = torch.optim.Adam(trained.parameters())
    trained(torch.ones(1, 3, 8, 8)).sum().backward()
    adam.step()
    epoch = {"epoch": 3, "arch": "tiny", "optimizer": adam.state_dict(), "best_acc1": np.float64(91.25)}
    save("data_parallel.pth", {**epoch, "state_dict": prefixed("module.", state)})
    save("data_parallel_legacy.pth", {**epoch, "state_dict": prefixed("module.", state)}, **OLD)
    save("model_key.pt", {"model": state})
    save("net_key.pth", {"net": prefixed("module.", state), "acc": 93.1, "epoch": 7})
    save("nested.pth", {"checkpoint": {"model": {"state_dict": state}}})
    save("tuple.pth", (state, adam.state_dict()))
    save("compiled.pth", prefixed("module._orig_mod.", state))
    save("mixed.pth", {("module." if i % 2 else "") + name: tensor for i, (name, tensor) in enumerate(state.items())})
    save("averaged.pth", {"n_averaged": torch.tensor(5), **prefixed("module.", state)})
    lightning = prefixed("model.", state)
    lightning["criterion.weight"] = torch.ones(3)
    lightning["train_acc.confmat"] = torch.zeros(3, 3, dtype=torch.long)
    hyper = {"lr": 0.1, "class_to_idx": {"dog": 1, "cat": 0, "owl": 2}}
    save("lightning.ckpt", {**epoch, "pytorch-lightning_version": "2.1.0", "state_dict": lightning, "hyper_parameters": hyper})
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc")}
    save("backbone_head.pth", {**prefixed("backbone.", body), "head.fc.weight": state["fc.weight"], "head.fc.bias": state["fc.bias"]})
    save("two_dicts.pth", {"encoder": body, "classifier": {"weight": state["fc.weight"], "bias": state["fc.bias"]}})
    save("head_sequential.pth", {**body, "fc.1.weight": state["fc.weight"], "fc.1.bias": state["fc.bias"]})
    save("thop.pth", {**state, "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)})
    objects = {
        "config": Config(lr=0.1),
        "args": argparse.Namespace(data="/x", classes=("cat", "dog", "owl")),
        "path": pathlib.PurePosixPath("/a"),
        "when": datetime.datetime(2024, 1, 1),
        "kind": np.dtype("f4"),
        "seen": {1, 2},
        "big": 1 << 80,
    }
    save("objects.pth", {**objects, "state_dict": state})
    save("objects_protocol4.pth", {**objects, "state_dict": state}, pickle_protocol=4)
    save("ema_beside.pth", {"state_dict_ema": damped(state), "state_dict": state})
    save("ema_in_one.pth", {"state_dict": {**prefixed("ema_model.", damped(state)), **prefixed("model.", state)}})
    save("teacher_student.pth", {"teacher": damped(state), "student": state})
    save("twice_the_same.pth", {"best": state, "last": state})
    save("whole.pth", model)
    save("whole_legacy.pth", model, **OLD)
    save("whole_parallel.pth", {"model": nn.DataParallel(model)})
    save("trainer.pth", Trainer(model))
    torch.jit.save(torch.jit.trace(model, torch.ones(1, 3, 8, 8)), folder / "script.pt")


def in_parts(folder, expected):
    """Weights that are stored in parts: PyTorch says what they are together."""

    def save(name, model, weight):
        model.eval()
        model(torch.ones(1, 3, 8, 8))
        expected[name] = {weight: model.get_submodule(weight.rpartition(".")[0]).weight.flatten().tolist()}
        torch.save(model.state_dict(), folder / name)

    model = tiny()
    prune.l1_unstructured(model.conv1, "weight", amount=0.5)
    save("pruned.pth", model, "conv1.weight")
    for name, normalise in [("weight_norm.pth", weight_norm), ("weight_norm_parametrized.pth", parametrizations.weight_norm)]:
        model = tiny()
        normalise(model.conv1)
        with torch.no_grad():
            model.conv1.weight_g.mul_(1.5) if name == "weight_norm.pth" else model.conv1.parametrizations.weight.original0.mul_(1.5)
        save(name, model, "conv1.weight")
    for name, normalise in [("spectral_norm.pth", spectral_norm), ("spectral_norm_parametrized.pth", parametrizations.spectral_norm)]:
        model = tiny()
        normalise(model.fc)
        save(name, model, "fc.weight")


def refused(folder, state, floats):
    """What holds no weights that could be used."""
    save = lambda name, value: torch.save(value, folder / name)
    save("nan.pth", {**floats, "fc.bias": torch.tensor([0.5, math.nan, 1.0])})
    save("integers.pth", {**floats, "fc.bias": torch.tensor([1, 2, 3])})
    quantized = torch.quantize_per_tensor(state["conv1.weight"], 0.01, 0, torch.qint8)
    save("quantized.pth", {**state, "conv1.weight": quantized})
    save("sparse.pth", {**state, "fc.weight": state["fc.weight"].to_sparse()})
    save("meta.pth", {**state, "fc.weight": torch.empty(3, 4, device="meta")})
    save("float8.pth", {**state, "conv1.weight": state["conv1.weight"].to(torch.float8_e4m3fn)})
    model = tiny()
    parametrize.register_parametrization(model.fc, "weight", Double())
    save("parametrized.pth", model.state_dict())
    save("extra_layer.pth", {**state, "bn1.se.weight": torch.ones(4, 4)})
    save("two_heads.pth", {**{n: t for n, t in state.items() if "fc" not in n}, **{f"{h}.{r}": state[f"fc.{r}"] for h in "ab" for r in ["weight", "bias"]}})
    save("no_statistics.pth", {name: tensor for name, tensor in floats.items() if "running" not in name})
    save("no_tensors.pth", {"epoch": 3})
    model = tiny()
    model.conv1.stride = (2, 2)
    save("other_stride.pth", model)
    model = tiny()
    model.bn1.eps = 1e-3
    save("other_eps.pth", model)


class Double(nn.Module):
    def forward(self, x):
        return x * 2


def checkpoints(folder):
    warnings.simplefilter("ignore")
    # Classes of the training script are those of `__main__`.
    for kind in [Tiny, Config, Trainer]:
        kind.__module__ = "__main__"
        setattr(sys.modules["__main__"], kind.__name__, kind)
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = tiny()
    state = model.state_dict()
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    expected = {}
    plain(folder, state, floats)
    wrapped(folder, state, model)
    in_parts(folder, expected)
    refused(folder, state, floats)
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    checkpoints(pathlib.Path(__file__).parent / "checkpoints")
