"""Writes model_NAME_bf16.json for the networks of model_NAME.json: what PyTorch computes for the same weights and the same batch
under torch.autocast(bfloat16) on the CPU, to show what bfloat16 costs there.

usage: make_bf16_fixtures.py FOLDER      (the folder that holds model_NAME.json)
"""
import json, sys
from pathlib import Path
import torch

from make_model_fixtures import batch, figures, fill, write
from multidigit.models import NETWORKS


def under_autocast(model):
    """The model, every pass of which has a context of its own: within one, PyTorch keeps the cast weights from before a step."""
    forward = model.forward

    def cast(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(x)

    model.forward = cast
    return model


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(2)
    for name, kind in NETWORKS.items():
        exact = json.loads((folder / f"model_{name}.json").read_text())
        about = {key: exact[key] for key in ("stream_offset", "images", "size", "gradient_scale")}
        model = kind()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        fill(model, about["stream_offset"])
        x, targets = batch(about["images"], about["size"], about["stream_offset"])
        out = about | figures(under_autocast(model), x, targets, about["gradient_scale"])
        write(folder, f"{name}_bf16", out)
        print(name, [step["loss"] for step in out["steps"]], [step["loss"] for step in exact["steps"]], torch.__version__)


if __name__ == "__main__":
    main()
