"""Writes OUT_STEM.safetensors and OUT_STEM.json: torchvision on Pillow images of noise, far from the paper's parameters.

The form is that of make_augment_fixtures.py, for images of any size, with angles of several turns, scales from 0.01 to
100, shears up to 89 degrees, shifts out of the image, and these cases besides:
    recipe   F.rotate, then F.affine, then F.erase, with parameters that torchvision drew for the paper's recipe
    fused    Pillow's transform once, by the product of the matrices that F.rotate and F.affine would use
The key `interpolation` of the JSON says what was used: nearest or bilinear.
usage: make_augment_extremes.py HEIGHT WIDTH SEED CASES INTERPOLATION OUT_STEM
"""
import json, math, random, sys
import numpy as np, torch
from PIL import Image
import torchvision
import torchvision.transforms as T
import torchvision.transforms.functional as F
from safetensors.numpy import save_file

height, width, seed, count = map(int, sys.argv[1:5])
mode, stem = T.InterpolationMode(sys.argv[5]), sys.argv[6]
pil_mode = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}[mode.value]
rng = random.Random(seed)
torch.manual_seed(seed)
noise = np.random.RandomState(seed).randint(0, 256, (12, height, width)).astype(np.uint8)
inputs = [Image.fromarray(image) for image in noise]
TURNS = [0.0, 90.0, -90.0, 180.0, -180.0, 270.0, 360.0, -360.0, 450.0, 45.0, 89.9999999, 1e-9, 1e-18, -1e-18]


def rotation_matrix(angle):
    r = -math.radians(angle % 360.0)
    a, b, d, e = (round(v, 15) for v in (math.cos(r), math.sin(r), -math.sin(r), math.cos(r)))
    cx, cy = width / 2, height / 2
    return a, b, a * -cx + b * -cy + cx, d, e, d * -cx + e * -cy + cy


def product(p, q):
    square = lambda m: np.array([m[:3], m[3:], (0, 0, 1)], dtype=np.float64)
    return (square(p) @ square(q))[:2].flatten().tolist()


def extreme():
    shear = lambda: rng.choice([0.0, 0.0, rng.uniform(-10, 10), rng.uniform(-89, 89), 45.0, 89.0, -89.0])
    far = rng.random() < 0.3
    return {
        "translate": [rng.randint(-width, width), rng.randint(-height, height)] if far else [rng.randint(-6, 6), rng.randint(-6, 6)],
        "scale": rng.choice([1.0, 2.0, 0.5, 0.01, 100.0, rng.uniform(0.01, 0.1), rng.uniform(0.5, 2), rng.uniform(0.9, 1.1), rng.uniform(2, 30)]),
        "shear": [shear(), shear()],
    }


def paper():
    angle = T.RandomRotation.get_params([-15.0, 15.0])
    _, translate, scale, shear = T.RandomAffine.get_params([0.0, 0.0], [0.1, 0.1], [0.9, 1.1], [-10.0, 10.0], [width, height])
    return {"angle": angle, "translate": list(translate), "scale": scale, "shear": list(shear)}


cases, expected = [], []
for n in range(count):
    i = rng.randrange(12)
    op = ("rotate", "affine", "affine", "recipe", "fused")[n % 5]
    image = inputs[i]
    if op == "rotate":
        case = {"angle": rng.choice(TURNS) if rng.random() < 0.3 else rng.uniform(-720, 720)}
        out = F.rotate(image, case["angle"], mode)
    elif op == "affine":
        case = extreme()
        out = F.affine(image, 0.0, case["translate"], case["scale"], case["shear"], mode)
    elif op == "recipe":
        case = paper()
        out = F.affine(F.rotate(image, case["angle"], mode), 0.0, case["translate"], case["scale"], case["shear"], mode)
        pixels = F.pil_to_tensor(out)
        top, left, h, w, _ = T.RandomErasing.get_params(pixels, (0.02, 0.1), (0.3, 3.3), [33.0])
        case["erase"] = {"top": top, "left": left, "height": h, "width": w, "value": 33}
        out = F.erase(pixels, top, left, h, w, torch.tensor(33, dtype=torch.uint8))[0].numpy()
    else:
        case = paper() if n % 2 else {"angle": rng.uniform(1, 80), **extreme()}
        affine = F._get_inverse_affine_matrix([width * 0.5, height * 0.5], 0.0, case["translate"], case["scale"], case["shear"])
        matrix = product(rotation_matrix(case["angle"]), affine)
        out = image.transform(image.size, Image.Transform.AFFINE, matrix, pil_mode)
    cases.append({"op": op, "image": i, **case})
    expected.append(np.asarray(out))
save_file({"inputs": noise, "expected": np.stack(expected)}, stem + ".safetensors")
about = {"torchvision": torchvision.__version__, "interpolation": mode.value, "cases": cases}
json.dump(about, open(stem + ".json", "w"), indent=0)
print(len(cases), "cases")
