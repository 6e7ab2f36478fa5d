"""FLOPs and parameters of the student, from its configuration.

Two operations for each multiply-add; norms, activations and the like are left out, and so is whatever a kernel or
activation checkpointing computes a second time. So these are *model* FLOPs, the numerator of model FLOP utilisation
(PaLM, Chowdhery et al. 2022, App. B). Free of torch, whose own counter needs tensors, if only meta ones.
"""

import math

from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig, MaskConfig, ProjectorConfig, SamplerConfig

TIME_FEATURES = 256
"""Features of a time step (`lightgen_core.model.head.time_features`)."""


def linear(rows: float, inputs: int, outputs: int) -> float:
    """Count a linear layer on `rows` vectors."""
    return 2 * rows * inputs * outputs


def forward_flops(
    mar: MarConfig, head: HeadConfig, *, tokens: int, masked: float, text_tokens: int, noise_samples: float
) -> dict[str, float]:
    """Count the forward pass of one image by part; `text_tokens` includes padding to the batch's longest."""
    width, visible = mar.width, tokens - masked
    return {
        "aligner": linear(text_tokens, mar.text_width, width)
        + linear(text_tokens, width, width)
        + mar.aligner_depth * _block(mar, text_tokens),
        "encoder": linear(visible, mar.token_width, width) + mar.encoder_depth * _block(mar, visible),
        "decoder": linear(visible, width, width) + mar.decoder_depth * _block(mar, tokens),
        "cross_attention": mar.text_depth * _text_kv(mar, text_tokens)
        + _cross_attention(mar, tokens, masked, text_tokens),
        "head": linear(masked, width, head.width) + noise_samples * masked * (_time(head) + _denoising(mar, head)),
    }


def training_flops(
    mar: MarConfig, head: HeadConfig, *, tokens: int, masked: float, text_tokens: int, noise_samples: float
) -> float:
    """Count the forward and backward pass of one image.

    A backward pass multiplies twice for each product of the forward pass, once for each of its two factors. The
    layers that read the data itself (captions, tokens, noisy tokens, times) need the gradient of their weights alone.
    """
    reads_data = (
        linear(text_tokens, mar.text_width, mar.width)
        + linear(tokens - masked, mar.token_width, mar.width)
        + noise_samples * masked * (linear(1, mar.token_width, head.width) + linear(1, TIME_FEATURES, head.width))
    )
    forward = forward_flops(
        mar, head, tokens=tokens, masked=masked, text_tokens=text_tokens, noise_samples=noise_samples
    )
    return 3 * sum(forward.values()) - reads_data


def aligned_tokens(mar: MarConfig, projector: ProjectorConfig, *, tokens: int, masked: int) -> int:
    """Return how many of an image's tokens are aligned: all in the decoder, those that pass in the text blocks."""
    return tokens if projector.depth <= mar.decoder_depth or mar.text_self_attention else masked


def alignment_flops(mar: MarConfig, projector: ProjectorConfig, *, tokens: int, masked: int) -> float:
    """Count the forward and backward pass of the projector on one image."""
    rows, width = aligned_tokens(mar, projector, tokens=tokens, masked=masked), projector.width
    layers = ((mar.width, width), (width, width), (width, projector.feature_channels))
    return 3 * sum(linear(rows, *sizes) for sizes in layers)


def expected_training_flops(
    mar: MarConfig,
    head: HeadConfig,
    mask: MaskConfig,
    *,
    tokens: int,
    text_tokens: int,
    noise_samples: int,
    projector: ProjectorConfig | None = None,
) -> float:
    """Average `training_flops`, and those of an alignment, over the steps' numbers of masked tokens."""
    options = {"text_tokens": text_tokens, "noise_samples": noise_samples}
    total = 0.0
    for (kept, masked), probability in step_sizes(tokens, mask).items():
        total += probability * training_flops(mar, head, tokens=kept, masked=masked, **options)
        if projector is not None:
            total += probability * alignment_flops(mar, projector, tokens=kept, masked=masked)
    return total


def sampling_flops(
    mar: MarConfig,
    head: HeadConfig,
    sampler: SamplerConfig,
    *,
    tokens: int,
    text_tokens: int,
) -> float:
    """Count the sampling of one image; the cosine schedule is not rounded to whole tokens.

    head: for `head_sampler` few_step that of the few-step student, which has guidance inside.
    """
    branches = 2 if sampler.guidance_scale > 1 and sampler.head_sampler != "few_step" else 1
    iterations = min(sampler.iterations, tokens)
    once = forward_flops(mar, head, tokens=tokens, masked=tokens, text_tokens=text_tokens, noise_samples=0)
    denoising = sampler.head_steps * (branches * tokens * _denoising(mar, head) + _time(head))
    text_kv = mar.text_depth * _text_kv(mar, text_tokens)
    total = once["aligner"] + text_kv + branches * once["head"] + denoising
    for done in range(iterations):
        left, next_left = (tokens * math.cos(math.pi / 2 * step / iterations) for step in (done, done + 1))
        part = forward_flops(mar, head, tokens=tokens, masked=left, text_tokens=text_tokens, noise_samples=0)
        total += part["encoder"] + part["decoder"] + _cross_attention(mar, tokens, left - next_left, text_tokens)
        # The null text is one token; where it is cached, it runs in the first iteration and again from the second on.
        if branches == 2 and (done == 0 or (done - 1) % sampler.null_text_every == 0):
            total += _cross_attention(mar, tokens, left - next_left, 1)
    return total


def num_masked_probabilities(tokens: int, mask: MaskConfig) -> dict[int, float]:
    """Return every number of masked tokens of a step with its probability (`train/step_noise.py`)."""
    if mask.distribution == "uniform":
        fewest = max(1, math.ceil(mask.min_ratio * tokens))
        raw = dict.fromkeys(range(fewest, tokens + 1), 1 / (tokens + 1 - fewest))
    else:
        edges = [_ratio_cdf(count / tokens, mask) for count in range(tokens + 1)]
        raw = {count: edges[count] - edges[count - 1] for count in range(1, tokens + 1)}
    counts: dict[int, float] = {}
    for count, probability in raw.items():
        rounded = mask.rounded(count, tokens)
        counts[rounded] = counts.get(rounded, 0.0) + probability
    return {count: probability for count, probability in counts.items() if probability > 0}


def step_sizes(tokens: int, mask: MaskConfig) -> dict[tuple[int, int], float]:
    """Return every (tokens, masked tokens) of a step, without those it leaves out, with its probability."""
    sizes: dict[tuple[int, int], float] = {}
    for masked, probability in num_masked_probabilities(tokens, mask).items():
        learned = mask.num_learned(masked)
        size = (tokens - masked + learned, learned)
        sizes[size] = sizes.get(size, 0.0) + probability
    return sizes


def _ratio_cdf(ratio: float, mask: MaskConfig) -> float:
    """Return the probability of a mask ratio of at most `ratio` under the truncated normal."""
    low, high, here = (
        math.erf((bound - mask.mean) / (mask.std * math.sqrt(2)))
        for bound in (mask.min_ratio, 1.0, max(ratio, mask.min_ratio))
    )
    return (here - low) / (high - low)


def _mlp(mar: MarConfig, length: float) -> float:
    return 2 * linear(length, mar.width, round(mar.width * mar.mlp_ratio))


def _attention(width: int, queries: float, keys: float) -> float:
    """Count the scores and the mean of values under them."""
    return 2 * linear(queries, width, 1) * keys


def _self_attention(mar: MarConfig, length: float) -> float:
    return 4 * linear(length, mar.width, mar.width) + _attention(mar.width, length, length)


def _block(mar: MarConfig, length: float) -> float:
    return _self_attention(mar, length) + _mlp(mar, length)


def _text_kv(mar: MarConfig, text_tokens: float) -> float:
    """Count keys and values of a text, for one text block."""
    return linear(text_tokens, mar.width, 2 * mar.width)


def _cross_attention(mar: MarConfig, tokens: float, read: float, text_tokens: float) -> float:
    """Count the text blocks, given keys and values; without self-attention only `read` tokens pass through them."""
    seen, own = read, 0.0
    if mar.text_self_attention:
        seen, own = tokens, _self_attention(mar, tokens)
    block = own + 2 * linear(seen, mar.width, mar.width) + _attention(mar.width, seen, text_tokens) + _mlp(mar, seen)
    return linear(tokens, mar.width, mar.width) + mar.text_depth * block


def _time(head: HeadConfig) -> float:
    """Count the embedding of a time step."""
    return linear(1, TIME_FEATURES, head.width) + linear(1, head.width, head.width)


def _modulations(head: HeadConfig) -> float:
    """Count shift, scale and gate of all the head's layers, from the embeddings of one condition and time."""
    return linear(1, head.width, (3 * head.depth + 2) * head.width)


def _denoising(mar: MarConfig, head: HeadConfig) -> float:
    """Count the head at one noisy token, given the embeddings of its condition and time."""
    outputs = mar.token_width * (2 if head.objective == "ddpm" else 1)
    block = 5 * linear(1, head.width, head.width)  # two of the MLP, and shift, scale and gate
    return linear(1, mar.token_width, head.width) + head.depth * block + linear(1, head.width, 2 * head.width + outputs)


def _linear_parameters(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def mar_parameters(mar: MarConfig) -> int:
    """Count the weights of the transformer, aligner and learned vectors included."""
    width, inner = mar.width, round(mar.width * mar.mlp_ratio)
    norm = 2 * width
    mlp = norm + _linear_parameters(width, inner) + _linear_parameters(inner, width)
    qk_norms = 2 * (width // mar.heads) if mar.qk_norm else 0
    attention = norm + _linear_parameters(width, 3 * width) + _linear_parameters(width, width) + qk_norms
    text_block = 2 * norm + 2 * _linear_parameters(width, width) + _linear_parameters(width, 2 * width) + qk_norms + mlp
    if mar.text_self_attention:
        text_block += attention
    return (
        _linear_parameters(mar.text_width, width)
        + _linear_parameters(width, width)
        + (mar.aligner_depth + mar.encoder_depth + mar.decoder_depth) * (attention + mlp)
        + mar.text_depth * text_block
        + _linear_parameters(mar.token_width, width)
        + 2 * _linear_parameters(width, width)  # into the decoder, into the text decoder
        + 5 * norm  # after aligner, token embedding, encoder, decoder, text decoder
        + 2 * width  # null text, mask token
        + 3 * mar.position_grid**2 * width
    )


def head_parameters(mar: MarConfig, head: HeadConfig) -> int:
    """Count the weights of the per-token diffusion head."""
    width = head.width
    block = 2 * width + 2 * _linear_parameters(width, width) + _linear_parameters(width, 3 * width)
    outputs = mar.token_width * (2 if head.objective == "ddpm" else 1)
    return (
        _linear_parameters(TIME_FEATURES, width)
        + _linear_parameters(width, width)
        + _linear_parameters(mar.width, width)
        + _linear_parameters(mar.token_width, width)
        + head.depth * block
        + _linear_parameters(width, 2 * width)
        + _linear_parameters(width, outputs)
    )


def projector_parameters(mar: MarConfig, projector: ProjectorConfig) -> int:
    """Count the weights that representation alignment trains beside the student's."""
    width = projector.width
    return (
        _linear_parameters(mar.width, width)
        + _linear_parameters(width, width)
        + _linear_parameters(width, projector.feature_channels)
    )


def few_step_head(sizes: FewStepConfig) -> HeadConfig:
    """Return the diffusion head with the layers of a few-step head, that of its guidance left out."""
    return HeadConfig(width=sizes.width, depth=sizes.depth, objective=sizes.objective)


def few_step_parameters(mar: MarConfig, sizes: FewStepConfig) -> int:
    """Count the weights of a few-step student: a transformer of its own, and the head."""
    return (
        mar_parameters(mar)
        + head_parameters(mar, few_step_head(sizes))
        + _linear_parameters(TIME_FEATURES, sizes.width)
    )


def distillation_flops(
    mar: MarConfig,
    head: HeadConfig,
    sizes: FewStepConfig,
    sampler: SamplerConfig,
    *,
    tokens: int,
    masked: int,
    text_tokens: int,
    noise_samples: int,
) -> float:
    """Count one image of distillation: the student forward and backward, the teacher's states, and its head's steps.

    The teacher samples each masked token to its end from each noise, and again from where each further step of the
    student begins; falling head steps count as the first.
    """
    options = {"tokens": tokens, "masked": masked, "text_tokens": text_tokens}
    few = sizes.steps
    student = training_flops(mar, few_step_head(sizes), **options, noise_samples=few * noise_samples)
    # The time of a step is one for all tokens, so that a token's modulations serve all its noises.
    student -= few * noise_samples * masked * (3 * _time(few_step_head(sizes)) - linear(1, TIME_FEATURES, sizes.width))
    student -= 3 * few * (noise_samples - 1) * masked * _modulations(few_step_head(sizes))
    states = forward_flops(mar, head, **options, noise_samples=0)
    branches = 2 if sampler.guidance_scale > 1 else 1
    once = sum(states.values()) - states["head"]
    null_text = _cross_attention(mar, tokens, masked, 1) + mar.text_depth * _text_kv(mar, 1) if branches == 2 else 0.0
    evaluations, modulations = sampler.head_steps * (few + 1) / 2, _modulations(head)
    each = modulations + noise_samples * (_denoising(mar, head) - modulations)
    steps = branches * (states["head"] + evaluations * masked * each)
    return student + once + null_text + steps + sampler.head_steps * _time(head)


def student_parameters(mar: MarConfig, head: HeadConfig) -> int:
    """Count the weights of both."""
    return mar_parameters(mar) + head_parameters(mar, head)
