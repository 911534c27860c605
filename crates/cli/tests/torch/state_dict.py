"""State dicts to and from torchvision, for the test of `dsconv export --format state-dict`.

    state_dict.py check
    state_dict.py make NETWORK FILE       random weights and running statistics
    state_dict.py logits NETWORK FILE IMAGE   loads strictly, prints the logits as JSON
    state_dict.py image FILE
"""

import json
import sys

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file


def network(name):
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    if name == "googlenet":
        extra["transform_input"] = False
    return getattr(torchvision.models, name)(weights=None, **extra)


def make(name, path):
    torch.manual_seed(1)
    model = network(name)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def logits(name, path, image):
    model = network(name).eval()
    model.load_state_dict(load_file(path), strict=True)
    transform = torchvision.transforms.Compose([
        torchvision.transforms.Resize(256),
        torchvision.transforms.CenterCrop(224),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])
    with torch.inference_mode():
        print(json.dumps(model(transform(Image.open(image).convert("RGB"))[None])[0].tolist()))


def image(path):
    torch.manual_seed(2)
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 40, 40), size=(300, 260), mode="bilinear")
    torchvision.transforms.functional.to_pil_image(pixels[0]).save(path)


if __name__ == "__main__":
    command = sys.argv[1]
    if command != "check":
        {"make": make, "logits": logits, "image": image}[command](*sys.argv[2:])
