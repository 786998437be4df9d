"""Seconds per megapixel and peak memory of the network under several engines, against the arithmetic floor.

Every engine is a process of its own; the repetitions of all are interleaved, and beside the wall time stands the CPU
time, which other programs on the machine disturb less. Errors are differences from eager float32 on a phantom with
noise, in sigma. Engines that are not installed are named and left out:
`pip install onnx onnxscript onnxruntime openvino`; compile and aot need a C++ compiler.

    python tests/benchmarks/engines.py --repetitions 5
    python tests/benchmarks/engines.py --models lite --threads 1 --engines bands,whole,onnxruntime
    python tests/benchmarks/engines.py --denoise lite:9,lite:16
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

ENGINES = "bands,whole,contiguous,mallopt,mkldnn,frozen,compile,aot,bf16_autocast,onnxruntime,openvino"
GMAC_PER_MEGAPIXEL = {"lite": 27.5, "base": 108.0}
WIDTH = {"lite": 32, "base": 64}
Engine = Callable[[Any], Any]


def main() -> None:
    """Measure every combination, interleaved, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=ENGINES)
    parser.add_argument("--models", default="lite,base")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--size", default="2560x2048", help="rows x columns, multiples of 32")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--patience", type=float, default=600, help="seconds that an engine may take to get ready")
    parser.add_argument("--json", type=Path, help="where the single results go")
    parser.add_argument("--denoise", default="", help="instead: the whole of Denoiser.denoise, MODEL:MEGAPIXELS,...")
    parser.add_argument("--serve", nargs=3, metavar=("ENGINE", "MODEL", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
    elif arguments.denoise:
        compare_denoise(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Run all combinations, one line of medians for each."""
    rows, columns = map(int, arguments.size.split("x"))
    megapixels = rows * columns / 1e6
    found = []
    print(f"{rows} x {columns}, medians of {arguments.repetitions} interleaved repetitions, s/MP and MB\n")
    print("| model | threads | engine | wall | least | CPU | peak | ready | error P99.9 | max |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in arguments.models.split(","):
        for threads in map(int, arguments.threads.split(",")):
            for row in measure(arguments, model, threads, megapixels):
                found.append({"model": model, "threads": threads, **row})
                print(line(found[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    start = f"| {row['model']} | {row['threads']} | {row['engine']} "
    if "reason" in row:
        return start + f"| {row['reason']} |"
    figures = f"| {row['wall']:.3f} | {row['least']:.3f} | {row['cpu']:.3f} "
    if "peak_mb" not in row:
        return start + figures + f"| | {row['gflops']:.0f} GFLOP per CPU s | | |"
    return (
        start
        + figures
        + (f"| {row['peak_mb']:.0f} | {row['ready_s']:.1f} s | {row['error'][0]:.4f} | {row['error'][1]:.4f} |")
    )


def measure(arguments: argparse.Namespace, model: str, threads: int, megapixels: float) -> list[dict[str, Any]]:
    """Return the medians of every engine for one model and number of threads, the floor first."""
    found: list[dict[str, Any]] = []
    running: list[tuple[str, subprocess.Popen[str], dict[str, Any]]] = []
    names = ["floor", *arguments.engines.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ENGINES_FOLDER": folder}
        try:
            for name in names:
                child = subprocess.Popen(
                    [sys.executable, __file__, "--serve", name, model, arguments.size],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=environment,
                )
                patience = threading.Timer(arguments.patience, child.kill)
                patience.start()
                ready = _answer(child)
                patience.cancel()
                if "reason" in ready:
                    found.append({"engine": name, **ready})
                    child.communicate()
                else:
                    running.append((name, child, ready))
            times: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in running}
            for repetition in range(arguments.repetitions):
                for name, child, _ in running:
                    times[name].append(_ask(child))
                    print(model, threads, name, repetition, times[name][-1], file=sys.stderr, flush=True)
        finally:
            for _, child, _ in running:
                child.communicate()
    done = []
    for name, _, ready in running:
        wall = [t["wall"] for t in times[name]]
        row = {
            "engine": name,
            "wall": statistics.median(wall) / megapixels,
            "least": min(wall) / megapixels,
            "cpu": statistics.median(t["cpu"] for t in times[name]) / megapixels,
        }
        if name == "floor":
            # The time of this many additions and multiplications, scaled to those of one megapixel.
            scale = 2 * GMAC_PER_MEGAPIXEL[model] / ready["gflop"] * megapixels
            row.update({key: row[key] * scale for key in ("wall", "least", "cpu")})
            row["gflops"] = 2 * GMAC_PER_MEGAPIXEL[model] / row["cpu"]
            row["engine"] = f"floor: {ready['floor']}"
        else:
            row["peak_mb"] = max(t["peak_mb"] for t in times[name]) - ready["before_mb"]
            row.update(ready)
        done.append(row)
    return done + found


def compare_denoise(arguments: argparse.Namespace) -> None:
    """Measure `Denoiser.denoise` on phantoms, network, estimation and guards together, a process for each."""
    print("| weights | MP | setting, MB | s/MP | CPU s/MP | peak, MB |\n|---|---|---|---|---|---|")
    environment = {**os.environ, "OMP_NUM_THREADS": arguments.threads.split(",")[0]}
    for case in arguments.denoise.split(","):
        model, megapixels = case.split(":")
        for memory_mb in (1024, 256):
            command = [sys.executable, __file__, "--serve", f"denoise:{memory_mb}", model, megapixels]
            done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, check=True)
            row = json.loads(done.stdout)
            figures = f"{row['wall']:.2f} | {row['cpu']:.2f} | {row['peak_mb']:.0f}"
            print(f"| {model} | {megapixels} | {memory_mb} | {figures} |", flush=True)


def denoise_once(model: str, megapixels: float, memory_mb: int) -> dict[str, float]:
    """Denoise one 14 bit phantom; the peak is what is taken beyond the image and the loaded denoiser."""
    import torch

    from model.denoiser import Denoiser
    from model.domain import Domain
    from model.noise import NoiseLaw
    from training.lowdose import Detector, low_dose_stored
    from training.phantom import phantom

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    columns = int((megapixels * 1e6 / 1.2) ** 0.5)
    rows = int(megapixels * 1e6 / columns)
    detector = Detector(law=NoiseLaw(structure=0.005, quantum=3.0, electronic=8.0))
    stored, _ = low_dose_stored(
        phantom(rows, columns, 7, anatomy="chest"),
        dose=0.25,
        detector=detector,
        open_field=12_000.0,
        rng=np.random.default_rng(0),
    )
    frames = stored[None].astype(np.float32)
    denoiser = Denoiser.load(model, device="cpu", memory_mb=memory_mb)
    # The first call of PyTorch takes memory that stays.
    denoiser.denoise(frames[:, :256, :256], domain=Domain.LINEAR)
    _reset_peak()
    before_mb, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    result = denoiser.denoise(frames, domain=Domain.LINEAR)
    assert result.enhanced, result.reasons
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall / megapixels, "cpu": cpu / megapixels, "peak_mb": peak_mb() - before_mb}


def _answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    text = child.stdout.readline()
    return json.loads(text) if text else {"reason": "not ready in time, or ended"}


def _ask(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return _answer(child)


def serve(name: str, model: str, size: str) -> None:
    """Child process: make the engine, tell what it is, then run once for every line."""
    if name.startswith("denoise:"):
        print(json.dumps(denoise_once(model, float(size), int(name.removeprefix("denoise:")))))
        return
    rows, columns = map(int, size.split("x"))
    answers = sys.stdout
    # What an engine prints on its own must not mix with the answers.
    sys.stdout = sys.stderr
    network = _network(model)
    z = _picture(rows, columns)
    small = _picture(512, 512)
    # Before the engine: what importing PyTorch takes is not counted, what importing the engine takes is.
    before_mb = peak_mb()
    begin = time.perf_counter()
    try:
        if name == "floor":
            run, facts = floor(model)
        else:
            run = BUILD[name](network, z)
            error = np.abs(np.asarray(run(small)) - np.asarray(_whole(network, small)[0, 0])) * 8
            facts = {"error": [float(np.percentile(error, 99.9)), float(error.max())]}
            _reset_peak()
        facts |= {"ready_s": time.perf_counter() - begin, "before_mb": before_mb}
    except Exception as failure:  # noqa: BLE001 - an engine that is missing or fails is a result
        print(json.dumps({"reason": f"{type(failure).__name__}: {str(failure).splitlines()[0][:90]}"}), file=answers)
        return
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run(z)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall, "cpu": cpu, "peak_mb": peak_mb()}), file=answers, flush=True)


def peak_mb() -> float:
    """Return the peak resident memory of this process (VmHWM) in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(next(text.split()[1] for text in status.splitlines() if text.startswith("VmHWM"))) / 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def floor(model: str) -> tuple[Engine, dict[str, Any]]:
    """Return the fastest float32 product or convolution that PyTorch and NumPy have here, and its GFLOP."""
    import torch

    # A convolution that stays in the cache counts too: MKL's products are slow on processors of another maker.
    n = 1536
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((n, n), dtype=np.float32) for _ in range(2))
    x, w = torch.from_numpy(a).reshape(1, 64, 192, 192), torch.from_numpy(b).flatten()[: 64 * 64 * 9]
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w.reshape(64, 64, 3, 3)))
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    candidates = {
        "torch.matmul": (lambda _: ta @ tb, 2 * n**3),
        "numpy.matmul": (lambda _: a @ b, 2 * n**3),
        "3 x 3 convolution": (lambda _: torch.nn.functional.conv2d(x, w, padding=1), 2 * 9 * 64 * 64 * 192 * 192),
    }
    rates = {}
    for label, (run, flop) in candidates.items():
        seconds = []
        for _ in range(12):
            begin = time.process_time()
            run(None)
            seconds.append(time.process_time() - begin)
        rates[label] = flop / min(seconds)
    best = max(rates, key=lambda label: rates[label])
    print({label: round(rate / 1e9) for label, rate in rates.items()}, "GFLOP per CPU second", file=sys.stderr)
    run, flop = candidates[best]
    return lambda _: [run(None) for _ in range(8)], {"gflop": 8 * flop / 1e9, "floor": best}


def _network(model: str) -> Any:
    import torch

    from model.errors import WeightsError
    from model.manifest import find_manifest, load_network, read_manifest
    from model.resnet_unet import BasicBlock, ResnetUnet, channels_last

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        network = load_network(read_manifest(find_manifest(model)))
    except WeightsError:
        # Weights that are not published: the time does not depend on them, the error does.
        torch.manual_seed(0)
        network = ResnetUnet(width=WIDTH[model])
        for module in network.modules():
            if isinstance(module, BasicBlock):
                torch.nn.init.normal_(module.conv2.weight, std=0.02)
    return channels_last(network, torch.device("cpu")).eval()


def _picture(rows: int, columns: int) -> Any:
    """Return a noisy chest phantom as the network is shown it: ``(1, 1, rows, columns)``."""
    import torch

    from training.phantom import phantom

    stabilised = 2 * np.sqrt(150 * phantom(512, 512, 5, anatomy="chest") + 1)
    stabilised = np.tile(stabilised, (-(-rows // 512), -(-columns // 512)))[:rows, :columns]
    noisy = stabilised + np.random.default_rng(0).standard_normal(stabilised.shape)
    return torch.from_numpy(((noisy - np.median(noisy)) / 8).astype(np.float32))[None, None]


def _whole(network: Any, z: Any) -> Any:
    import torch

    with torch.inference_mode():
        return network(z, torch.ones_like(z))


def _tensors(function: Callable[[Any, Any], Any]) -> Engine:
    import torch

    def run(z: Any) -> Any:
        with torch.inference_mode():
            return function(z, torch.ones_like(z))[0, 0].float().numpy()

    return run


def bands(network: Any, z: Any) -> Engine:
    """Eager, channels last, in bands: what `Denoiser` does."""
    from model.bands import run_in_bands

    return _tensors(lambda z, _: run_in_bands(network, z))


def whole(network: Any, z: Any) -> Engine:
    """Eager, channels last, the whole image at once."""
    return _tensors(network)


def contiguous(network: Any, z: Any) -> Engine:
    """Eager in the layout that PyTorch has by default."""
    import torch

    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format)
    return _tensors(network)


def mallopt(network: Any, z: Any) -> Engine:
    """As `whole`, but the C library keeps freed memory (M_TRIM_THRESHOLD -1, M_MMAP_THRESHOLD -3)."""
    import ctypes

    libc = ctypes.CDLL(None)
    assert libc.mallopt(-3, 2**30) == 1
    assert libc.mallopt(-1, 2**31 - 1) == 1
    return _tensors(network)


def mkldnn(network: Any, z: Any) -> Engine:
    """Convolution weights in oneDNN's own layout once, not at each call."""
    import torch
    from torch.utils import mkldnn as converted

    from model.bands import run_in_bands

    for name, child in list(network.named_modules()):
        if isinstance(child, torch.nn.Conv2d):
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _Prepacked(converted.MkldnnConv2d(child, torch.float32)))
    return _tensors(lambda z, _: run_in_bands(network, z))


def _Prepacked(layer: Any) -> Any:
    import torch

    class Prepacked(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return layer(x.to_mkldnn()).to_dense()

    return Prepacked()


def frozen(network: Any, z: Any) -> Engine:
    """TorchScript, frozen and optimised for inference."""
    import torch

    with torch.no_grad():
        traced = torch.jit.trace(network, (_part(z), torch.ones_like(_part(z))), check_trace=False)
        return _tensors(torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval())))


def compile(network: Any, z: Any) -> Engine:
    """torch.compile with freezing, which fuses the rectifier into the convolution."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    run = _tensors(torch.compile(network))
    run(z)
    return run


def aot(network: Any, z: Any) -> Engine:
    """torch.export and AOTInductor: a shared library for one size of image."""
    import torch
    import torch._inductor
    import torch._inductor.config

    torch._inductor.config.freezing = True
    runs = {}
    for picture in (z, _part(z)):
        with torch.no_grad():
            exported = torch.export.export(network, (picture, torch.ones_like(picture)))
            path = str(Path(os.environ["ENGINES_FOLDER"]) / f"{len(runs)}.pt2")
            package = torch._inductor.aoti_compile_and_package(exported, package_path=path)
        runs[picture.shape] = torch._inductor.aoti_load_package(package)
    return _tensors(lambda z, ones: runs[z.shape](z, ones))


def bf16_autocast(network: Any, z: Any) -> Engine:
    """The body in bfloat16 under autocast, in bands."""
    import torch

    from model.bands import run_in_bands

    def run(z: Any, _: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run_in_bands(network, z)

    return _tensors(run)


def _part(z: Any) -> Any:
    return z[:, :, :512, :512].contiguous()


@contextmanager
def _onnx(network: Any, z: Any) -> Iterator[Path]:
    import torch

    path = Path(os.environ["ENGINES_FOLDER"]) / f"{os.getpid()}.onnx"
    part = z[:, :, :512, :512].contiguous()
    rows, columns = (32 * torch.export.Dim(name, min=1, max=512) for name in ("rows", "columns"))
    sides = {2: rows, 3: columns}
    with torch.no_grad():
        program = torch.onnx.export(network, (part, torch.ones_like(part)), dynamic_shapes=(sides, sides), dynamo=True)
    program.save(str(path))
    yield path


def onnxruntime(network: Any, z: Any) -> Engine:
    """ONNX Runtime on the CPU, any size of image."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    with _onnx(network, z) as path:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(z: Any) -> Any:
        values = z.numpy()
        return session.run(None, dict(zip(names, (values, np.ones_like(values)), strict=False)))[0][0, 0]

    return run


def openvino(network: Any, z: Any) -> Engine:
    """OpenVINO on the CPU in float32, any size of image."""
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    with _onnx(network, z) as path:
        compiled = ov.Core().compile_model(str(path), "CPU", settings)

    def run(z: Any) -> Any:
        values = z.numpy()
        return compiled([values, np.ones_like(values)][: len(compiled.inputs)])[0][0, 0]

    return run


BUILD: dict[str, Callable[[Any, Any], Engine]] = {
    build.__name__: build
    for build in (
        bands,
        whole,
        contiguous,
        mallopt,
        mkldnn,
        frozen,
        compile,
        aot,
        bf16_autocast,
        onnxruntime,
        openvino,
    )
}


if __name__ == "__main__":
    main()
