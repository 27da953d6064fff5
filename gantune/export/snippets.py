"""How each exported file is used, in a few lines that are run by the tests."""

HOLDS = {
    "generator.safetensors": "the weights, and what is known of them; gantune reads it",
    "config.yaml": "the training configuration, which `gantune train` takes",
    "generator.pt2": "the generator as a program of torch.export, for PyTorch alone",
    "generator.onnx": "the generator for onnxruntime and whatever else reads ONNX",
    "sample.py": "a script that draws by generator.pt2, with PyTorch alone",
    "samples.png": "the picture above",
    "report.html": "the search that it comes from, as one page that opens offline",
    "README.md": "this card",
}


def uses(z_dim: int, *, labelled: bool, pictures: bool) -> dict[str, tuple[str, str]]:
    """By file, the language and the text of a snippet that runs in the exported folder."""
    also, fed = (", torch.tensor([0] * 16)", ', "labels": np.zeros(16, np.int64)') if labelled else ("", "")
    one = " --class 0" if labelled else ""
    grid = f"python sample.py -n 64 --seed 0{one} --out drawn.{'png' if pictures else 'csv'}"
    many = "python sample.py -n 1000 --out drawn" if pictures else "python sample.py -n 1000 --seed 1 --out more.csv"
    shape = "[16, C, S, S], from -1 to 1" if pictures else "[16, D]"
    return {
        "sample.py": ("sh", f"{grid}\n{many}"),
        "generator.pt2": (
            "python",
            "import torch\n\n"
            'generator = torch.export.load("generator.pt2").module()\n'
            f"samples = generator(torch.randn(16, {z_dim}){also})  # {shape}",
        ),
        "generator.onnx": (
            "python",
            "import numpy as np\nimport onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("generator.onnx")\n'
            f'given = {{"latents": np.random.randn(16, {z_dim}).astype(np.float32){fed}}}\n'
            f"(samples,) = session.run(None, given)  # {shape}",
        ),
        "generator.safetensors": (
            "python",
            "import gantune\n\n"
            'generator = gantune.generator(".")\n'
            f"samples = generator.draw(16, seed=0)  # {'uint8 [16, C, S, S]' if pictures else 'float32 [16, D]'}",
        ),
        "config.yaml": ("sh", "gantune train config.yaml --out again"),
    }
