"""Which published networks can be masked, and does one that is accepted ever forget?

``python -m benchmarks.census [--only TEXT]`` wraps every classifier of torchvision, and some of timm where
that is installed (it is needed for nothing else), lets two tasks more be learnt after the first, shakes all
that protection leaves, and prints a Markdown table. Images are as small as each network takes.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

from dsn import InputError, MaskedModel, ProtectedWeights, backbones, mask_neurons

from .learning import Build, Learner, timm_features

SIZES = (64, 224, 256, 299)
AUXILIARY = ("googlenet", "inception_v3")  # have classifiers in their middle, for training from scratch
TIMM = (
    "resnetv2_50x1_bit", "tf_efficientnet_b0", "mobilenetv3_small_100", "vit_tiny_patch16_224",
    "convnext_atto", "mixer_s32_224", "dm_nfnet_f0", "regnetx_002", "ghostnet_100", "res2net50_26w_4s",
    "dla34", "ese_vovnet19b_dw", "cspresnet50", "hrnet_w18_small", "repvgg_a0", "xception41", "selecsls42b",
    "skresnet18", "darknet53", "dpn48b", "resnest14d", "poolformer_s12", "visformer_tiny", "legacy_senet154",
    "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "cait_xxs24_224",
    "mobilenetv4_conv_small", "convnextv2_atto", "efficientformer_l1", "levit_128s", "edgenext_xx_small",
    "fastvit_t8", "resnet10t", "repghostnet_050", "starnet_s1", "hgnetv2_b0", "rexnet_100", "seresnet18",
    "lcnet_050", "tinynet_e", "regnety_002", "resmlp_12_224", "mobilevit_xxs", "crossvit_tiny_240",
    "pit_ti_224", "xcit_nano_12_p8_224", "tiny_vit_5m_224", "gmlp_ti16_224", "coat_lite_tiny",
    "twins_svt_small", "mvitv2_tiny", "beit_base_patch16_224", "eva02_tiny_patch14_224",
    "inception_next_tiny", "efficientvit_b0", "tf_mixnet_s", "nest_tiny",
)  # fmt: skip

FAMILIES = (  # the smallest of each of timm's modules and one of its next, below 32 million weights
    "gcresnext50ts", "coat_tiny", "coat_lite_mini", "convit_tiny", "convmixer_768_32", "convnextv2_femto",
    "cpubone_nano", "cpubone_b0_bfrobust", "crossvit_9_240", "crossvit_15_240", "csatv2",
    "cs3darknet_focus_s", "darknet21", "cspnext_tiny", "cspnext_s", "davit_tiny",
    "deit_tiny_distilled_patch16_224", "densenet121", "densenet169", "dla46x_c", "dla60_res2next",
    "dpn68", "edgenext_x_small", "efficientformer_l3", "efficientformerv2_s0", "mobilenetv1_100h",
    "efficientvim_m1", "efficientvim_m2", "efficientvit_b1", "efficientvit_m0", "efficientvit_m2",
    "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fasternet_t2", "fastvit_t12", "fastvit_mci0",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gcvit_xtiny", "ghostnet_050", "ghostnet_130", "hardcorenas_b",
    "hardcorenas_c", "hgnetv2_b1", "hgnetv2_b3", "hiera_tiny_224", "sam2_hiera_tiny",
    "hrnet_w18_small_v2", "iformer_t", "iformer_m_distilled", "inception_next_atto", "inception_v3",
    "lcnetv2_small", "levit_conv_128s", "levit_conv_256", "lowformer_b0", "lowformer_b1", "mambaout_tiny",
    "maxvit_rmlp_tiny_rw_256", "poolformerv2_s12", "poolformerv2_s36", "gmixer_12_224", "resmlp_24_224",
    "lcnet_035", "tf_mobilenetv3_large_minimal_100", "mobilevitv2_050", "mobilevitv2_100", "nest_tiny_jx",
    "nextvit_small", "nf_seresnet50", "pit_ti_distilled_224", "pit_xs_distilled_224", "pvt_v2_b0",
    "pvt_v2_b2_li", "rdnet_tiny", "regnety_004", "regnetx_032", "repghostnet_058", "repghostnet_100",
    "repvit_m1", "repvit_m1_0", "res2next50", "res2net50_48w_2s", "resnest26d", "resnest50d",
    "ecaresnet50t", "resnetv2_18", "resnetv2_50d", "rexnetr_100", "rexnet_150", "selecsls42",
    "legacy_seresnet18", "legacy_seresnet34", "sequencer2d_s", "shvit_s1", "skresnet34", "starnet_s050",
    "starnet_s150", "swiftformer_xs", "swin_s3_tiny_224", "swinv2_tiny_window16_256",
    "swinv2_cr_tiny_224", "tiny_vit_11m_224", "tnt_s_legacy_patch16_224", "tresnet_m",
    "twins_pcpvt_small", "vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224",
    "ese_vovnet19b_slim_dw", "eca_vovnet39b", "legacy_xception", "xception41p", "xcit_nano_12_p8_384",
    "xcit_tiny_24_p16_224",
)  # fmt: skip


def networks(families: bool = False) -> Iterator[tuple[str, Build]]:
    """(name, builder of the network and the path of its head); ``families``: those of timm's alone."""
    for name in [] if families else torchvision.models.list_models(module=torchvision.models):
        options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
        yield f"torchvision {name}", partial(backbones.torchvision_model, name, **options)
    if importlib.util.find_spec("timm"):
        for name in FAMILIES if families else TIMM:
            yield f"timm {name}", partial(timm_features, name)


def smallest_size(net: nn.Module) -> int:
    """Of an image that the network takes."""
    for size in SIZES[:-1]:
        try:
            with torch.no_grad():
                net.eval()(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError):
            continue
        return size
    return SIZES[-1]


def moved(model: MaskedModel, size: int) -> float:
    """How far the first task's logits move at most, by two more tasks and by all that protection allows."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, size, size), torch.arange(4) % 2
    before = None
    for task in range(3):
        model.add_task(2)
        learner = Learner(model, task)
        for step in range(2):
            learner.step(x, y, step)
        model.commit(task)
        model.eval()
        with torch.no_grad():
            before = model(x, 0) if task == 0 else before
    own = {id(p) for task in model.committed for p in model.own_parameters(task)}
    with ProtectedWeights(model), torch.no_grad():
        for parameter in model.backbone.parameters():
            if id(parameter) not in own:
                parameter.add_(torch.randn_like(parameter))
    with torch.no_grad():
        model(x, 2)  # what a module keeps of this pass must not be found by the next
        return float((model(x, 0) - before).abs().max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="networks whose name has this text")
    parser.add_argument("--below", type=float, default=1e9, help="networks of fewer million weights")
    parser.add_argument(
        "--above", type=float, default=0.0, help="networks of as many million weights or more"
    )
    parser.add_argument(
        "--families", action="store_true", help="instead, one or two of each of timm's modules"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    counts = {"wraps": 0, "refused": 0, "forgets": 0, "left out": 0}
    print("| network | image | wrapping | seconds | first task's logits moved, or why refused |")
    print("|---|---:|---|---:|---|", flush=True)
    for name, build in networks(args.families):
        if args.only not in name:
            continue
        torch.manual_seed(0)
        size, start = 0, time.process_time()
        try:
            net, head = build()
            if not args.above <= sum(p.numel() for p in net.parameters()) / 1e6 < args.below:
                counts["left out"] += 1
                continue
            size = smallest_size(net)
            start = time.process_time()
            model = mask_neurons(net, head=head, example_input=torch.zeros(1, 3, size, size))
        except InputError as error:
            verdict, said = "refused", str(error).replace("|", "/")
            seconds = time.process_time() - start
        else:
            seconds = time.process_time() - start
            distance = moved(model, size)
            verdict, said = ("wraps" if distance == 0 else "forgets"), f"{distance:g}"
        counts[verdict] += 1
        print(f"| {name} | {size} | {verdict} | {seconds:.1f} | {said} |", flush=True)
    print(
        f"\n{counts['wraps']} wrap, {counts['refused']} are refused, {counts['forgets']} forget, "
        f"{counts['left out']} were not asked for."
    )


if __name__ == "__main__":
    main()
