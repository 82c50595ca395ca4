#!/usr/bin/env bash
# Two libraries write NVFP4 with the same codes and the same scales of blocks, and with a scale of scales that is each other's reciprocal.
#
# Guessed: NVFP4 is one format (codes of four bits, a float8 scale of every 16 numbers, one float32 scale of the tensor), so that files of
# NVIDIA's ModelOpt and of compressed-tensors (vLLM, llm-compressor) differ in names alone.
# Seen (nvidia-modelopt 0.47.0, compressed-tensors 0.20.1, torch 2.13.0): of one matrix both write the same packed bytes and the same
# float8 scales. ModelOpt's weight_scale_2 is multiplied by (amax / (6 * 448), .0015 here), compressed-tensors' weight_global_scale is
# divided by (6 * 448 / amax, 655): renamed only, a file of one is read by the other as numbers some 430,000 times too large or too small,
# without a complaint.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 compressed-tensors==0.20.1 nvidia-modelopt==0.47.0 requests==2.32.5
cd "$work"
"$work/venv/bin/python" - 2> /dev/null <<'PYTHON'
import torch
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

torch.manual_seed(0)
weight = torch.randn(8, 64)
held, blocks, two = NVFP4QTensor.quantize(weight, 16)
whole = 6 * 448 / weight.abs().max()
args = QuantizationArgs(num_bits=4, type="float", symmetric=True, group_size=16, strategy="tensor_group")
scheme = QuantizationScheme(targets=["Linear"], weights=args)
scales = weight.view(8, 4, 16).abs().amax(-1) / 6 * whole
given = {"weight": weight, "weight_scale": scales.to(torch.float8_e4m3fn).float(), "weight_global_scale": whole.reshape(1)}
other = NVFP4PackedCompressor.compress(given, scheme)
same = float((other["weight_packed"] == held._quantized_data).float().mean())
print(f"the same bytes: {same:.3f}; the same scales: {torch.equal(other['weight_scale'].float(), blocks.float())}")
print(f"weight_scale_2 {float(two):.6f}, weight_global_scale {float(whole):.2f}, product {float(two * whole):.6f}")
assert same > 0.99 and torch.equal(other["weight_scale"].float(), blocks.float()) and abs(float(two * whole) - 1) < 1e-5
first = held.dequantize(dtype=torch.float32, scale=blocks, double_scale=two, block_sizes={-1: 16})
second = NVFP4PackedCompressor.decompress(other, scheme)["weight"].float()
assert float((first - second).norm() / first.norm()) < 0.01 and float((first - weight).norm() / weight.norm()) < 0.12
swapped = NVFP4PackedCompressor.decompress({**other, "weight_global_scale": two.reshape(1)}, scheme)["weight"].float()
print(f"with the other's scale: {float(swapped.norm() / first.norm()):,.0f} times as large")
assert abs(float(swapped.norm() / first.norm()) / float(whole / two) - 1) < 0.01
PYTHON
echo "as seen"
