// The functions that JavaScript sees, by what they are about. Each takes its arguments in the order that
// src/runtime/native/addon.ts gives, checks them, and returns a JavaScript value or null for undefined. What they throw
// becomes a JavaScript Error.
#pragma once

#include "arguments.h"

namespace tonearm {

struct Binding {
  const char* name;
  napi_value (*function)(const Arguments& arguments);
};

/// The list ends with a binding without a name.
extern const Binding kRuntimeBindings[];    // threads and instruction sets
extern const Binding kWeightBindings[];     // weights and linear layers
extern const Binding kArithmeticBindings[]; // elementwise, reductions, products, convolution, LSTM
extern const Binding kLayoutBindings[];     // copies, lookup, sorting
extern const Binding kAttentionBindings[];  // key-value stores and attention
extern const Binding kSteeringBindings[];   // moving activations along directions
extern const Binding kSolvingBindings[];    // linear equations

}  // namespace tonearm
