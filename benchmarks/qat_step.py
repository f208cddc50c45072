"""A quantization-aware training step against a float training step, in turns in one process.

    python benchmarks/qat_step.py --variant yolov6s_v2 --size 320 --batch 16 --threads 2

A step is what the stages do: forward, detection loss, backward, gradient clipping, SGD, weight averaging. The float
network is in its training form with batch norm; the quantized one is deployed (batch norm folded) and calibrated. One
more column has the whole of `qat-distill`: a forward pass of the float teacher and the matching of outputs and
features. Images and weights are random, the boxes of the targets too: this is about speed only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from stages._params import AugmentParams, parse_params
from stages._training import LOSS_WEIGHTS, detection_criterion, make_learner
from stages.qat_distill import QatParams, distillation_losses, loss_weights
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.training.loop import Learner, train_one_epoch
