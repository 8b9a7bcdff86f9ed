"""Choosing: each rule at its limit, each priority, each runtime, and what is said when nothing fits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.hardware import Target
from pytest_quantgate.artifact.selection.estimate import GIBIBYTE, MemoryEstimate, estimate_memory
from pytest_quantgate.artifact.selection.recommendation import (
    QuantizationSelector,
    recommend_quantization,
)
from pytest_quantgate.artifact.selection.rules import LEVELS, PRIORITIES, RUNTIMES, USE_CASES
from pytest_quantgate.artifact.selection.select import Choice, choose
from pytest_quantgate.artifact.selection.shape import (
    ModelShape,
    shape_of_headers,
    shape_of_parameters,
)
from pytest_quantgate.errors import ArtifactError

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
SEVEN = shape_of_parameters(7e9)
PLENTY = Target(ram_bytes=256 * GIBIBYTE)


def ram(gibibytes: float) -> Target:
    """Return a machine without a GPU."""
    return Target(ram_bytes=round(gibibytes * GIBIBYTE))


def gpu(gibibytes: float, beside: float = 0) -> Target:
    """Return a machine with a GPU, and RAM beside it."""
    return Target(ram_bytes=round(beside * GIBIBYTE), vram_bytes=round(gibibytes * GIBIBYTE))


def reasons(choice: Choice) -> dict[str, str]:
    """Return why each other level was not chosen."""
    return {each.level: each.reason for each in choice.rejected}


# --- the documented selector -----------------------------------------------------------------------


def test_the_documented_choice() -> None:
    """7B on 8 GB, balanced: Q5_K_M; quality finds nothing better, speed takes the starting point."""
    selector = QuantizationSelector()

    chosen = selector.select(model_params_b=7.0, available_ram_gb=8.0, quality_priority="balanced")

    assert chosen == "Q5_K_M"
    assert selector.select(7.0, 8.0, "quality") == "Q5_K_M"
    assert selector.select(7.0, 8.0, "speed") == "Q4_K_M"
    assert selector.select(7.0, 8.0) == "Q5_K_M"


def test_the_selectors_errors() -> None:
    """Too little memory, numbers that are none and unknown priorities are ValueErrors."""
    selector = QuantizationSelector()

    with pytest.raises(ValueError, match=r"^No quantization fits in 8GB RAM: a 70B model needs"):
        selector.select(70, 8.0)
    with pytest.raises(ValueError, match="'balance' is not a priority; did you mean 'balanced'"):
        selector.select(7, 8, "balance")
    with pytest.raises(ValueError, match="parameters is no size of a model"):
        selector.select(0, 8)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="GB of memory cannot be"):
            selector.select(7, wrong)


def test_a_selector_for_a_longer_context() -> None:
    """More context leaves less for weights; a smaller cache type gives some back."""
    assert QuantizationSelector(context=16384).select(7, 8) == "Q3_K_M"
    assert QuantizationSelector(context=16384, cache_type="q4_0").select(7, 8) == "Q5_K_M"


def test_recommendations_are_one_line() -> None:
    """Level, what it takes, and its published relative quality."""
    assert recommend_quantization(12, 7, "coding") == "Q8_0 (Est. size: 8.7GB, Quality: 100%)"
    assert recommend_quantization(24, 70, "chat") == "IQ2_XXS (Est. size: 20.7GB)"
    assert recommend_quantization(4, 7, "chat") == "Model too large. Need 4.8GB minimum for Q3_K_M"
    assert recommend_quantization(4, 70, "chat").endswith("minimum for IQ2_XXS")


@pytest.mark.parametrize(
    ("priority", "level"),
    [
        (0.0, "Q4_K_M"),
        (0.33, "Q4_K_M"),
        (0.34, "Q5_K_M"),
        (0.66, "Q5_K_M"),
        (0.67, "F16"),
        (1.0, "F16"),
    ],
)
def test_a_number_as_priority(priority: float, level: str) -> None:
    """Thirds of the scale are speed, balanced and quality."""
    assert recommend_quantization(24, 7, "chat", priority).startswith(level + " ")


def test_recommendations_refuse_nonsense() -> None:
    """Unknown use cases and priorities outside the scale are ValueErrors, not the smallest level."""
    with pytest.raises(ValueError, match="'chatting' is not a use case; did you mean 'chat'"):
        recommend_quantization(24, 7, "chatting")
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="0 to 1 are accepted"):
            recommend_quantization(24, 7, "chat", wrong)


# --- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "allowed"), [(12.99e9, False), (13e9, True), (13.01e9, True)])
def test_never_below_three_bits_under_13b(count: float, allowed: bool) -> None:  # noqa: FBT001 - a parameter
    """Small models do not get two bits, whatever the memory; those of 13B and more do."""
    target = gpu(6.5)
    shape = shape_of_parameters(count)

    if not allowed:
        with pytest.raises(ArtifactError, match="at Q3_K_M, the smallest level the rules allow"):
            choose(shape, target)
        return
    choice = choose(shape, target)
    assert choice.level == "IQ2_XXS"
    assert choice.next_down is None
    assert choice.advice[0].startswith(
        "IQ2_XXS loses noticeably: measure it with the perplexity gate"
    )
    assert "IQ2_XXS needs an importance matrix: quantgate imatrix" in choice.advice


@pytest.mark.parametrize(
    ("loss", "level"), [(None, "Q4_K_M"), (0.0199, "Q4_K_M"), (0.02, "Q4_K_M"), (0.0201, "Q5_K_M")]
)
def test_a_measured_loss_rules_the_starting_point_out(loss: float | None, level: str) -> None:
    """Above 2% the next level up is taken, although speed would take the smaller one."""
    choice = choose(SEVEN, PLENTY, priority="speed", q4_loss=loss)

    assert choice.level == level
    if loss is not None and loss > 0.02:
        assert reasons(choice)["Q4_K_M"] == "the starting point lost 2.0%, more than 2%"
    else:
        assert "take Q5_K_M when the gates show that Q4_K_M loses more than 2%" in choice.advice


def test_a_loss_that_nothing_helps() -> None:
    """Where nothing better fits, the choice stays and the advice says so."""
    choice = choose(SEVEN, ram(7.1), q4_loss=0.05)

    assert choice.level == "Q4_K_M"
    assert choice.advice == (
        "Q4_K_M lost 5.0% and nothing better fits: use a smaller model or less context",
    )


@pytest.mark.parametrize(
    ("priority", "use_case", "level"),
    [
        ("speed", None, "Q4_K_M"),
        ("balanced", None, "Q8_0"),
        ("quality", None, "F16"),
        ("speed", "chat", "Q4_K_M"),
        ("balanced", "chat", "Q5_K_M"),
        ("quality", "chat", "F16"),
        ("speed", "creative", "Q4_K_M"),
        ("balanced", "creative", "Q6_K"),
        ("speed", "coding", "Q6_K"),
        ("balanced", "coding", "Q8_0"),
        ("speed", "reasoning", "Q6_K"),
        ("balanced", "reasoning", "Q8_0"),
    ],
)
def test_priorities_and_use_cases(priority: str, use_case: str | None, level: str) -> None:
    """With memory enough, chat is content with less than coding and reasoning are."""
    assert choose(SEVEN, PLENTY, priority=priority, use_case=use_case).level == level


def test_a_demanding_use_that_does_not_fit() -> None:
    """Coding on a small machine is told what it would want."""
    choice = choose(SEVEN, ram(8), use_case="coding")

    assert choice.level == "Q5_K_M"
    assert choice.advice == (
        "coding wants Q6_K or better, which does not fit: test critical cases with the accuracy gate",
    )


def test_every_other_level_has_its_reason() -> None:
    """Too large, not enough left, forbidden, or worse than what fits."""
    found = reasons(choose(SEVEN, ram(8)))

    assert set(found) == set(LEVELS) - {"Q5_K_M"}
    assert found["Q2_K"] == "below Q3, which models under 13B parameters do not survive"
    assert found["Q4_K_M"] == "loses more than Q5_K_M, which fits"
    assert found["Q8_0"] == "needs 7.60 GiB, 6.00 GiB can be used"
    assert reasons(choose(SEVEN, PLENTY))["F16"] == "larger, and Q8_0 is enough"
    assert reasons(choose(SEVEN, PLENTY, use_case="chat"))["Q6_K"].endswith("is enough for chat")
    assert (
        reasons(choose(SEVEN, PLENTY, priority="speed"))["Q6_K"] == "larger than Q4_K_M, so slower"
    )


@pytest.mark.parametrize(("spare", "fits"), [(-1, False), (0, True), (1, True)])
def test_the_margin_at_its_limit(spare: int, fits: bool) -> None:  # noqa: FBT001 - a parameter
    """A level is chosen when the need and 5% of it fit, to the byte."""
    need = estimate_memory(SEVEN, "F16", context=4096).required_bytes
    exact = -(-need * 105 // 100)
    target = Target(ram_bytes=exact + spare, reserve_bytes=0)
    choice = choose(SEVEN, target, priority="quality")

    assert (choice.level == "F16") == fits
    if not fits:
        assert reasons(choice)["F16"].endswith("less than 5% is left for the estimate's error")
    assert choose(SEVEN, target, priority="quality", margin=0).level == "F16"


@pytest.mark.parametrize(
    ("margin", "loss"),
    [(-0.1, None), (1.1, None), (float("nan"), None), (0.05, float("nan"))],
)
def test_margins_and_losses_that_cannot_be(margin: float, loss: float | None) -> None:
    """Numbers that are no share are refused."""
    with pytest.raises(ArtifactError, match=re.escape("cannot be; write 0.1 for 10%")):
        choose(SEVEN, PLENTY, margin=margin, q4_loss=loss)


# --- places ----------------------------------------------------------------------------------------


def test_the_gpu_alone_is_preferred() -> None:
    """What fits the GPU from the starting point on runs there, whatever RAM there is."""
    choice = choose(SEVEN, gpu(8, beside=64))

    assert (choice.level, choice.placement, choice.gpu_layers) == ("Q6_K", "gpu", None)
    assert choice.capacity_bytes == 8 * GIBIBYTE
    assert choice.headroom_bytes == choice.capacity_bytes - choice.estimate.required_bytes


def test_layers_are_shared_before_quality_is_lost() -> None:
    """70B on 24 GB of VRAM and 64 of RAM: the starting point on both, and how many layers where."""
    shape = shape_of_parameters(70e9)
    choice = choose(shape, gpu(24, beside=64))

    assert (choice.level, choice.placement) == ("Q4_K_M", "split")
    assert choice.gpu_layers == 43
    assert "layers on the processor are slow" in " ".join(choice.advice)
    assert choose(shape, gpu(24, beside=64), priority="quality").level == "Q8_0"
    fast = choose(shape, gpu(24, beside=64), priority="speed")
    assert (fast.level, fast.placement) == ("IQ2_XXS", "gpu")
    assert choose(shape, gpu(4, beside=64), priority="speed").placement == "split"


def test_unified_memory_is_what_the_gpu_may_use() -> None:
    """Of 16 GB, two thirds; the worked exercise of 4 GB kept free ends at Q8_0."""
    choice = choose(
        SEVEN, Target(ram_bytes=16 * GIBIBYTE, unified=True, reserve_bytes=4 * GIBIBYTE)
    )

    assert (choice.level, choice.placement) == ("Q8_0", "unified")
    assert choice.capacity_bytes == 16 * GIBIBYTE * 2 // 3


def test_nothing_fits() -> None:
    """The message names the machine, the least need, what can be used and what to do."""
    with pytest.raises(
        ArtifactError,
        match=(
            r"^No quantization fits in 4GB VRAM: a 7B model needs \d\.\d\d GiB at Q3_K_M, the "
            r"smallest level the rules allow, with 4,096 tokens of context; 4\.00 GiB can be used\. "
            r"Take a smaller model, a shorter context or a smaller type of cache \(q8_0\)$"
        ),
    ):
        choose(SEVEN, gpu(4))
    with pytest.raises(ArtifactError, match=r"in 4GB VRAM and 4GB RAM: a 70B model"):
        choose(shape_of_parameters(70e9), gpu(4, beside=4))
    with pytest.raises(
        ArtifactError, match="5% of the need must stay free for the estimate's error"
    ):
        choose(SEVEN, Target(ram_bytes=round(3.9 * GIBIBYTE), reserve_bytes=0))


# --- runtimes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["llama.cpp", "ollama", "lm-studio"])
def test_gguf_runtimes(runtime: str) -> None:
    """They choose among the same levels."""
    choice = choose(SEVEN, ram(8), runtime=runtime)

    assert (choice.level, choice.runtime) == ("Q5_K_M", runtime)


@pytest.mark.parametrize("runtime", ["vllm", "tgi", "transformers"])
def test_awq_before_gptq(runtime: str) -> None:
    """Where both work, AWQ is taken and GPTQ says why not."""
    choice = choose(SEVEN, gpu(12), runtime=runtime)

    assert (choice.level, choice.placement) == ("AWQ-4BIT", "gpu")
    assert reasons(choice)["GPTQ-4BIT"].startswith("AWQ-4BIT takes the same memory")
    assert choose(SEVEN, gpu(24), runtime=runtime, priority="quality").level == "F16"


@pytest.mark.parametrize("runtime", ["vllm", "tgi"])
@pytest.mark.parametrize(
    "target", [ram(64), Target(ram_bytes=64 * GIBIBYTE, unified=True)], ids=["cpu", "apple"]
)
def test_gpu_runtimes_without_a_gpu(runtime: str, target: Target) -> None:
    """AWQ and GPTQ are never for processors: GGUF is."""
    with pytest.raises(ArtifactError, match=r"use a GGUF level with llama\.cpp on declared"):
        choose(SEVEN, target, runtime=runtime)


def test_transformers_on_a_processor() -> None:
    """bitsandbytes loads there, AWQ and GPTQ do not."""
    choice = choose(SEVEN, ram(64), runtime="transformers")

    assert choice.level == "INT8"
    for level in ("AWQ-4BIT", "GPTQ-4BIT"):
        assert (
            reasons(choice)[level] == "AWQ and GPTQ need a GPU: they have no kernels for processors"
        )
    assert choose(SEVEN, ram(64), runtime="transformers", priority="speed").level == "INT8"
    assert choose(SEVEN, ram(9), runtime="transformers").level == "NF4"


@pytest.mark.parametrize(("use_case", "level"), [("chat", "AWQ-4BIT"), ("coding", "GPTQ-8BIT")])
def test_demanding_uses_get_eight_bits(use_case: str, level: str) -> None:
    """Coding takes the next format up where it fits."""
    assert choose(SEVEN, gpu(24), runtime="vllm", use_case=use_case).level == level


def test_unknown_runtimes() -> None:
    """An unknown runtime is refused with the nearest."""
    with pytest.raises(
        ArtifactError, match=r"'lama\.cpp' is not a runtime; did you mean 'llama\.cpp'"
    ):
        choose(SEVEN, PLENTY, runtime="lama.cpp")


# --- sources ---------------------------------------------------------------------------------------


def test_a_quantized_source_gains_nothing() -> None:
    """Levels above a source's own are no choice, and those below are to be made from the original."""
    shape = shape_of_headers([read_header(TINY)])
    eight = dataclasses.replace(
        shape,
        level="Q6_K",
        quantized=True,
        weights=tuple(
            each if each.kept else dataclasses.replace(each, type="Q6_K") for each in shape.weights
        ),
    )
    choice = choose(eight, PLENTY)

    assert choice.level == "Q6_K"
    assert reasons(choice)["Q8_0"] == "the source is Q6_K already: no quality comes back"
    assert "make Q4_K_M from the 16-bit model" in choose(eight, PLENTY, priority="speed").advice[0]


def test_an_estimator_is_asked() -> None:
    """What is known better than from the shape is used."""

    def nothing(level: str, device: str) -> MemoryEstimate:
        return MemoryEstimate(
            level=level,
            context=1,
            cache_type="f16",
            device="cpu" if device == "cpu" else "gpu",
            weights_bytes=1,
            repacked_bytes=GIBIBYTE,
            kv_cache_bytes=1,
            compute_bytes=1,
            output_bytes=1,
            runtime_bytes=1,
        )

    choice = choose(SEVEN, ram(3), priority="quality", estimator=nothing)

    assert choice.level == "F16"
    assert choice.advice[-1].startswith("the process will show up to 1.00 GiB: the engine copies")


@given(
    st.floats(1e8, 5e11),
    st.floats(1, 512),
    st.floats(0, 256),
    st.sampled_from(PRIORITIES),
    st.sampled_from([None, *USE_CASES]),
    st.sampled_from(RUNTIMES),
)
def test_a_choice_always_fits(
    count: float,
    memory: float,
    vram: float,
    priority: str,
    use_case: str | None,
    runtime: str,
) -> None:
    """Whatever is asked for: what is chosen fits with its margin, and nothing forbidden is chosen."""
    shape: ModelShape = shape_of_parameters(count)
    target = gpu(vram, beside=memory)
    try:
        choice = choose(shape, target, priority=priority, use_case=use_case, runtime=runtime)
    except ArtifactError:
        return

    assert choice.estimate.required_bytes * 1.05 <= choice.capacity_bytes
    assert not (count < 13e9 and choice.level in ("IQ2_XXS", "Q2_K"))
    assert choice.level not in {each.level for each in choice.rejected}
    assert choice.placement in ("gpu", "split", "cpu")
    assert not (target.vram_bytes == 0 and choice.level.startswith(("AWQ", "GPTQ")))
