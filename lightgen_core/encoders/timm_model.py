"""Frozen image encoders of timm, by name: with weights of a file of this machine, or of the hub."""

from typing import TYPE_CHECKING, Any

from lightgen_core.encoders.model_ref import TIMM, ModelNotFound, parse_model_ref

if TYPE_CHECKING:
    import torch


def load_timm(reference: str, device: "torch.device | str" = "cpu", size: int | None = None) -> Any:
    """Return a model without its classifier, in evaluation mode; names as `model_ref` lists them.

    size: side of its images, px, where that is another than the model's own (a transformer's positions are
    interpolated).

    Raises:
        ModelNotFound: timm has no such model, or its weights are not here, or are another model's.
    """
    import timm

    where, name = parse_model_ref(reference), _name(reference)
    _check_name(name)
    options: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    if where.path is not None:
        options["pretrained_cfg_overlay"] = {"file": str(where.path)}
    source = f"hf-hub:{where.repository}@{where.revision}" if where.revision else name
    try:
        model = timm.create_model(source, **options)
    except Exception as error:  # of the hub: connection, offline mode, no such repository; of a file: another model's
        raise ModelNotFound(
            f"the weights of timm:{name} are not here ({type(error).__name__}: {str(error).strip()[:200]}). On a "
            f"machine that reaches the hub: python -c 'import timm; timm.create_model(\"{name}\", pretrained=True)'; "
            f"or give the file, timm:{name}@model.safetensors"
        ) from error
    if where.path is not None:
        _check_file(model, reference)
    _resize(model, size)
    return model.eval().requires_grad_(False).to(device)


def timm_map_channels(reference: str, size: int | None = None) -> int:
    """Return the channels of a model's last feature map, without its weights.

    Raises:
        ModelNotFound: timm has no such model, or it gives no map of features, or none for images of this size.
    """
    import timm
    import torch

    name = _name(reference)
    _check_name(name)
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0).eval()
        _resize(model, size)
        return int(timm_map(model, torch.zeros(1, 3, *timm_config(model, size)["input_size"][1:])).shape[1])


def timm_map(model: Any, images: "torch.Tensor") -> "torch.Tensor":
    """Return a model's last feature map (n, channels, h, w), normalised where the model does, without prefix tokens.

    Raises:
        ModelNotFound: the model gives none, or images are of a size that it does not take.
    """
    name = type(model).__name__
    if not hasattr(model, "forward_intermediates"):
        raise ModelNotFound(f"timm's {name} gives no map of features; choose a model that has forward_intermediates")
    side = f"{images.shape[2]} x {images.shape[3]}"
    try:
        (features,) = model.forward_intermediates(
            images, indices=1, norm=True, intermediates_only=True, output_fmt="NCHW"
        )
    except (AssertionError, RuntimeError) as error:
        raise ModelNotFound(f"timm's {name} makes no map of features of {side} px images: {error}") from error
    if features.ndim != 4:
        raise ModelNotFound(f"timm's {name} gives features {tuple(features.shape)}; expected (n, channels, h, w)")
    return features


def timm_config(model: Any, size: int | None = None) -> dict[str, Any]:
    """Return how a model wants its images: input_size (3, height, width), mean, std, interpolation."""
    import timm

    config = timm.data.resolve_model_data_config(model)
    return config | ({"input_size": (3, size, size)} if size else {})


def _name(reference: str) -> str:
    return reference.removeprefix(TIMM).partition("@")[0]


def _check_name(name: str) -> None:
    import timm

    if name.partition(".")[0] not in timm.list_models():
        raise ModelNotFound(f"found timm model {name!r}; timm.list_models() names those that there are")


def _check_file(model: Any, reference: str) -> None:
    """Raise ModelNotFound if a file lacks weights of a model: timm would leave those as they are."""
    from safetensors import safe_open

    path = parse_model_ref(reference).path
    with safe_open(path, framework="pt") as file:
        found = set(file.keys())
    names = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    if missing := sorted(names - found):
        raise ModelNotFound(f"{path} holds another model than timm:{_name(reference)}: it lacks {missing[0]}")


def _resize(model: Any, size: int | None) -> None:
    """Tell a transformer the size of its images; others take any."""
    if size is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)
