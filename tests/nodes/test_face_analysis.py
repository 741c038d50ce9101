"""The loader of the face analysis: where the model lies, what runs it,
and what it says where something is missing.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import numpy as np
import onnx
import pytest
from megapixel.faces.find import find_faces
from megapixel.host import face_install, face_packages
from megapixel.host.face_models import FILES, list_model_folders
from megapixel.nodes import MegapixelFaceAnalysis
from onnx import TensorProto, helper

from devhost.environment import ROOT
from devhost.tiny.faces import Portrait, draw_portraits

PICTURE = draw_portraits((200, 301), Portrait(1, (150, 100), 80))


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """The host's models folder, empty, with no other insightface folder registered and
    no way to the internet.
    """

    def refuse(*arguments):
        raise AssertionError("something was to be downloaded")

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.delitem(folder_paths.folder_names_and_paths, "insightface", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "models"


@pytest.fixture
def put(models, antelopev2):
    """A function that copies antelopev2 into a folder, by default that of the documentation."""

    def copied(folder=models / "insightface" / "models" / "antelopev2"):
        shutil.copytree(antelopev2, folder)
        return folder

    return copied


@pytest.fixture(autouse=True)
def all_lines(caplog):
    caplog.set_level(logging.INFO, logger="megapixel")


def load(provider="CPU", **settings):
    return run(provider, **settings)[0]


def run(provider="CPU", **settings):
    """Return the analysis, and the text at the node."""
    result = MegapixelFaceAnalysis.execute(provider, **settings)
    return result.args[0], "\n".join(result.ui.as_dict()["text"]) if result.ui else ""


def refusal(*arguments, **settings):
    with pytest.raises(ValueError, match=r"^\w+: expected ") as raised:
        load(*arguments, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def offered():
    return next(
        socket for socket in MegapixelFaceAnalysis.define_schema().inputs if socket.id == "folder"
    ).options


@pytest.mark.parametrize(
    "place",
    [
        "models/antelopev2",
        "antelopev2",
        "models/antelopev2/antelopev2",
        "antelopev2/antelopev2",
        "models",
        ".",
    ],
)
def test_antelopev2_is_found_however_it_was_unpacked(place, models, put):
    put(models / "insightface" / place)
    analysis = load()
    assert sorted(analysis.models) == ["detection", "recognition"]
    assert len(find_faces(analysis, PICTURE)) == 1
    assert offered() == ["auto", place]


def test_it_is_insightfaces_own_and_as_another_pack_makes_it(put, face_analysis):
    from insightface.app import FaceAnalysis

    put()
    analysis = load()
    assert type(analysis) is FaceAnalysis
    [ours], [theirs] = find_faces(analysis, PICTURE), find_faces(face_analysis, PICTURE)
    assert ours.box == theirs.box
    assert np.array_equal(ours.embedding, theirs.embedding)
    [known] = analysis.get(PICTURE[..., ::-1])  # as the original nodes use it
    np.testing.assert_allclose(known.bbox[[1, 0, 3, 2]], ours.box, atol=1e-3)


def test_every_registered_folder_is_looked_at_and_one_can_be_chosen(tmp_path, models, put, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    registered = ([str(elsewhere)], set())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "insightface", registered)
    first, second = put(elsewhere / "models" / "antelopev2"), put(elsewhere / "old" / "faces")
    usual = put(models / "insightface" / "antelopev2")
    assert list_model_folders() == {"models/antelopev2": first, "old/faces": second, "antelopev2": usual}
    for settings, folder in (
        ({}, first),
        ({"folder": "old/faces"}, second),
        ({"folder": "antelopev2"}, usual),
    ):
        assert Path(load(**settings).models["detection"].model_file).parent == folder


def test_the_first_folder_counts_where_two_have_one_name(tmp_path, models, put, monkeypatch):
    registered = ([str(tmp_path / "elsewhere")], set())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "insightface", registered)
    first = put(tmp_path / "elsewhere" / "antelopev2")
    put(models / "insightface" / "antelopev2")
    assert list_model_folders() == {"antelopev2": first}


def test_a_link_to_the_folder_serves_as_well(tmp_path, models, put):
    real = put(tmp_path / "real")
    (models / "insightface").mkdir(parents=True)
    (models / "insightface" / "antelopev2").symlink_to(real)
    assert len(find_faces(load(), PICTURE)) == 1


def save_genderage(file):
    """Write a network of the form by which insightface knows the one for gender and age."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["fc1"]),
    ]
    given = helper.make_tensor_value_info("data", TensorProto.FLOAT, ("None", 3, 96, 96))
    made = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ("None", 3))
    graph = helper.make_graph(nodes, "genderage", [given], [made])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(file))


def test_other_networks_beside_it_are_not_kept(put):
    from insightface.app import FaceAnalysis

    folder = put()
    save_genderage(folder / "genderage.onnx")
    shutil.copy(folder / FILES[0], folder / "w600k_r50.onnx")
    assert "genderage" in FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"]).models
    analysis = load()
    assert sorted(analysis.models) == ["detection", "recognition"]
    assert Path(analysis.models["recognition"].model_file).name == FILES[0]


def test_a_missing_model_is_an_error_message_with_its_place(models):
    place = models / "insightface" / "models" / "antelopev2"
    assert refusal() == (
        "folder: expected scrfd_10g_bnkps.onnx and glintr100.onnx in one folder, got no such folder (auto). "
        f"Unpack antelopev2.zip from insightface's model zoo into {place}."
    )
    assert offered() == ["auto"]
    assert not models.exists()


def test_half_a_model_is_none(put):
    (put() / FILES[1]).unlink()
    assert refusal().startswith("folder: expected scrfd_10g_bnkps.onnx and glintr100.onnx in one folder")


def test_a_folder_that_is_gone_is_named(put):
    put()
    assert "got no such folder (old/faces)" in refusal(folder="old/faces")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 200, 0.6], ids=["empty", "200 bytes", "cut off"])
def test_a_truncated_file_is_named(name, length, put):
    file = put() / name
    content = file.read_bytes()
    file.write_bytes(content[: length if isinstance(length, int) else int(length * len(content))])
    told = refusal()
    assert told.startswith(
        f"folder: expected the networks of antelopev2 in {file.parent}, got files that do not load"
    )
    assert name in told
    assert told.endswith("Copy the files there again.")


@pytest.mark.parametrize("name", FILES)
def test_a_network_of_another_kind_is_refused(name, put):
    folder = put()
    shutil.copy(folder / next(other for other in FILES if other != name), folder / name)
    assert "got files that do not load" in refusal()


@pytest.mark.parametrize("provider", ["CPU", "CUDA", "ROCM", "CoreML"])
def test_a_provider_that_cannot_start_leaves_the_cpu_with_one_line_also_at_the_node(provider, put, caplog):
    put()
    analysis, shown = run(provider)
    running = analysis.models["detection"].session.get_providers()
    assert running[-1] == "CPUExecutionProvider"
    lines = [record.message for record in caplog.records if record.name == "megapixel"]
    wanted = face_packages.PROVIDERS[provider]
    if not wanted or running[0] in wanted:
        assert lines == []
        assert shown == ""
    else:
        assert lines == [shown]
        assert shown.startswith(f"provider: expected {provider}, got ")
        assert "The CPU is used" in shown
    assert len(find_faces(analysis, PICTURE)) == 1


def test_an_onnxruntime_for_the_cpu_gets_the_command_for_the_other_one(put, caplog, monkeypatch):
    import onnxruntime

    put()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(face_packages, "_on_nvidia", lambda: True)
    load("CUDA")
    assert caplog.messages[-1] == (
        "provider: expected CUDA, got an onnxruntime without it. The CPU is used. "
        f"Run {sys.executable} -m pip install --force-reinstall --no-deps onnxruntime-gpu and restart ComfyUI."
    )


@pytest.mark.parametrize("provider", ["CUDA", "ROCM", "CoreML"])
def test_without_an_nvidia_gpu_its_build_is_not_advised(provider, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(face_packages, "_on_nvidia", lambda: False)
    assert face_packages.choose_providers(provider) == (
        ["CPUExecutionProvider"],
        [
            f"provider: expected {provider}, got an onnxruntime without it. The CPU is used. "
            "Set provider to CPU, or to one that this onnxruntime has."
        ],
    )


def absent(monkeypatch, *names):
    """Let modules be missing."""
    loaded = [name for name in sys.modules if name.split(".")[0] in names]
    for name in {*loaded, *names}:
        monkeypatch.setitem(sys.modules, name, None)


PYTHONS = [sys.executable, r"C:\My ComfyUI\python_embeded\python.exe"]


@pytest.mark.parametrize("python", PYTHONS, ids=["here", "with a space"])
def test_a_missing_package_gives_the_command_for_it_with_what_is_there_pinned(python, put, monkeypatch):
    put()
    absent(monkeypatch, "insightface", "onnx")
    monkeypatch.setattr(sys, "executable", python)
    quoted = f'"{python}"' if " " in python else python
    told = refusal()
    assert told.startswith(
        "insightface: expected packages that can be imported, got no insightface and no onnx. "
        f"Run {quoted} -m pip install insightface onnx numpy=={np.__version__} "
    )
    assert " onnxruntime" not in told
    assert told.endswith(" and restart ComfyUI.")


BUILDS = {  # other names for what fills the same folders, and what is missing
    "contrib": (["opencv-contrib-python", "onnxruntime"], ["insightface"], "{pip} --no-deps insightface"),
    "openvino": (
        ["onnxruntime-openvino", "opencv-python"], ["insightface", "skimage"],
        "{pip} scikit-image{pins} and then {pip} --no-deps insightface",
    ),
    "no OpenCV, openvino": (
        ["onnxruntime-openvino"], ["insightface", "cv2"], "{pip} opencv-python{pins} and then {pip} --no-deps insightface",
    ),
    "only onnxruntime": (["onnxruntime", "opencv-python"], ["onnxruntime"], "{pip} onnxruntime{pins}"),
}  # fmt: skip


@pytest.mark.parametrize("case", BUILDS)
def test_other_builds_are_left_alone(case, put, monkeypatch):
    there, missing, command = BUILDS[case]
    absent(monkeypatch, *missing)
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    monkeypatch.setattr(face_install, "installed", there.__contains__)
    monkeypatch.setattr(face_install, "_pins", lambda: ["numpy==2.1"])
    pip = f"{sys.executable} -m pip install"
    expected = command.format(pip=pip, pins=" numpy==2.1")
    assert face_install.install_command(face_install.missing_modules(), nvidia=False) == expected
    assert f"Run {expected} and restart ComfyUI." in refusal()


def test_a_computer_with_an_nvidia_gpu_gets_the_build_for_it(monkeypatch):
    monkeypatch.setattr(face_install, "installed", lambda name: False)
    monkeypatch.setattr(face_install, "_pins", list)
    pip = f"{sys.executable} -m pip install"
    assert face_install.install_command(["insightface", "onnxruntime", "cv2"], nvidia=True) == (
        f"{pip} onnxruntime-gpu opencv-python and then {pip} --no-deps insightface"
    )


def test_a_python_without_pip_is_served_by_uv(monkeypatch):
    absent(monkeypatch, "pip")
    assert face_install.pip_install("onnx") == f"uv pip install --python {sys.executable} onnx"


def test_another_runtime_is_not_written_over_for_cuda(put, caplog, monkeypatch):
    import onnxruntime

    put()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(face_packages, "other_runtimes", lambda: ["onnxruntime-openvino"])
    monkeypatch.setattr(face_packages, "_on_nvidia", lambda: True)
    load("CUDA")
    assert caplog.messages[-1] == (
        "provider: expected CUDA, got an onnxruntime without it. The CPU is used. "
        "onnxruntime-openvino is installed into the same folder as onnxruntime-gpu; only one of them can be there."
    )


def test_a_package_that_fails_to_import_is_named_with_its_reason(put, monkeypatch):
    put()
    monkeypatch.setitem(sys.modules, "insightface.app", None)  # the package is there, and raises
    told = refusal()
    assert told.startswith(
        "insightface: expected packages that can be imported, got an error in insightface ("
    )
    assert "insightface.app" in told
    assert told.endswith("-m pip install --force-reinstall --no-deps insightface and restart ComfyUI.")


def test_a_missing_library_of_the_system_is_named(put, monkeypatch):
    def fail(name):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return importlib.import_module(name)

    put()
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    monkeypatch.setattr(face_packages, "importlib", SimpleNamespace(import_module=fail))
    told = refusal()
    assert "got an error in opencv-" in told
    assert "(libGL.so.1: cannot open shared object file" in told
    assert told.endswith(
        "Install the library named in the error with the system's package manager and restart ComfyUI."
    )


def test_without_these_packages_every_other_node_loads_and_works():
    program = """
        import sys

        from importlib.machinery import PathFinder

        find = PathFinder.find_spec

        def without(name, path=None, target=None):
            absent = name.split(".")[0] in ("insightface", "onnxruntime", "onnx", "cv2")
            return None if absent else find(name, path, target)

        PathFinder.find_spec = without
        sys.path.insert(0, sys.argv[1])
        from devhost.host import import_host

        import_host()
        import torch
        from megapixel.nodes import NODES, MegapixelFaceAnalysis, MegapixelMSWMSASimple
        from devhost.tiny import random_models

        for node in NODES:
            node.GET_SCHEMA()
        [patched] = MegapixelMSWMSASimple.execute("auto", random_models.sd15()).args
        assert patched is not None
        try:
            MegapixelFaceAnalysis.execute("CPU")
        except ValueError as failure:
            print(failure)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(
        "insightface: expected packages that can be imported, got no insight"
    )
