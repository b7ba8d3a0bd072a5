// Linear layers, matrix products and convolutions over the threads of the pool.
#pragma once

#include "kernel_table.h"

namespace tonearm {

/// What follows a product: y = activation(product + bias) + residual.
struct Epilogue {
  const float* bias = nullptr;      // [outputs] or null
  const float* residual = nullptr;  // [rows, outputs] or null; not the output
  Activation activation = Activation::none;
};

/// y[rows, outputs] = epilogue(x[rows, inputs] · Wᵀ). Few rows go through a kernel that reads each weight once, many
/// through a blocked product; `precision` is that of the latter.
void linear(const WeightView& weights, const float* x, Index rows, const Epilogue& epilogue, Precision precision, float* y);

/// One product C = epilogue(A·B), split over the threads.
void multiply(const GemmJob& job);

/// Shapes of a convolution in one dimension without padding: x [batch, length, inputs], filter [taps, inputs, outputs],
/// y [batch, positions, outputs] with positions = (length − dilation·(taps − 1) − 1) / stride + 1.
struct ConvolutionShape {
  Index batch, length, inputs, outputs, taps, stride, dilation, positions;
};

/// y = epilogue(x ∗ filter); the epilogue's residual is laid out as y.
void convolve(const ConvolutionShape& shape, const float* x, const float* filter, const Epilogue& epilogue, float* y);

}  // namespace tonearm
