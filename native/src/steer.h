// Moving activations along directions while music is generated: one kernel for every operator of src/steering/operators.ts.
#pragma once

#include "kernel_table.h"

namespace tonearm {

/// How an activation h is moved by Σ sᵢ·stepᵢ. Codes as in src/runtime/native/addon.ts.
enum class SteerOperator : std::int32_t {
  convex = 0,   // (h + ‖h‖·Σ sᵢ·stepᵢ) / (1 + Σ |sᵢ·weightᵢ|)
  add = 1,      // h + Σ sᵢ·stepᵢ
  clamp = 2,    // h + (goal − h·along)·Σ sᵢ·stepᵢ
  replace = 3,  // (1 − Σ sᵢ·weightᵢ)·h + Σ sᵢ·stepᵢ
};

/// A place is a row at a position; it has `units` activations of `width` values, each moved for itself.
struct SteerJob {
  SteerOperator op = SteerOperator::add;
  bool restoreNorm = false;          // scale the result to ‖h‖
  const float* h = nullptr;          // [places, units, width]
  const float* strengths = nullptr;  // [places, directions]
  const float* steps = nullptr;      // [directions, units, width]
  const float* weights = nullptr;    // [directions, units]; 0: that unit is left alone
  const float* along = nullptr;      // [units, width], for clamp
  const float* goals = nullptr;      // [units], for clamp
  float* y = nullptr;                // [places, units, width], not h
  Index places = 0;
  Index directions = 0;
  Index units = 0;
  Index width = 0;
};

/// Moves the activations of every place. Where all strengths times weights are 0, y is h bit for bit.
void steer(const SteerJob& job);

}  // namespace tonearm
