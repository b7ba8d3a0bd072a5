#include <optional>
#include <vector>

#include "bindings.h"
#include "linear.h"
#include "lstm.h"
#include "weight.h"

namespace tonearm {
namespace {

Activation activationOf(Index code) {
  require(code >= 0 && code <= 2, "there is no such activation");
  return static_cast<Activation>(code);
}

std::optional<Storage> storageOf(Index code) {
  require(code >= -1 && code <= 3, "there is no such storage");
  return code < 0 ? std::nullopt : std::optional(static_cast<Storage>(code));
}

/// (parts: Float32Array[], inputs, storage or −1 for the smallest exact one) → weight
napi_value makeWeight(const Arguments& arguments) {
  const Index inputs = arguments.integer(1);
  require(inputs > 0, "a weight needs inputs");
  std::uint32_t count = 0;
  require(napi_get_array_length(arguments.env(), arguments.value(0), &count) == napi_ok, "a list was expected");
  std::vector<WeightPart> parts;
  for (std::uint32_t i = 0; i < count; ++i) {
    napi_value element = nullptr;
    check(napi_get_element(arguments.env(), arguments.value(0), i, &element), "a list could not be read");
    const Span<float> values = floatsOf(arguments.env(), element);
    require(values.size % inputs == 0, "a part has another length than its shape says");
    parts.push_back({values.data, values.size / inputs});
  }
  return Handle<Weight>::wrap(arguments.env(),
                              std::make_unique<Weight>(parts, inputs, storageOf(arguments.integer(2))));
}

/// (weight) → code of its storage
napi_value weightStorage(const Arguments& arguments) {
  napi_value result = nullptr;
  const auto code = static_cast<std::int32_t>(arguments.object<Weight>(0).view().storage);
  check(napi_create_int32(arguments.env(), code, &result), "no room for a number");
  return result;
}

/// (weight) → bytes it takes
napi_value weightBytes(const Arguments& arguments) {
  napi_value result = nullptr;
  const auto bytes = static_cast<double>(arguments.object<Weight>(0).bytes());
  check(napi_create_double(arguments.env(), bytes, &result), "no room for a number");
  return result;
}

/// (weight, y [inputs, outputs])
napi_value readWeight(const Arguments& arguments) {
  const auto& weight = arguments.object<Weight>(0);
  weight.readTransposed(arguments.floats(1, weight.view().inputs * weight.view().outputs));
  return nullptr;
}

/// (weight)
napi_value releaseWeight(const Arguments& arguments) {
  Handle<Weight>::unwrap(arguments.env(), arguments.value(0)).release();
  return nullptr;
}

/// (weight, x, rows, bias | null, residual | null, activation, y)
napi_value linearLayer(const Arguments& arguments) {
  const WeightView& weights = arguments.object<Weight>(0).view();
  const Index rows = arguments.integer(2);
  require(rows >= 0, "a negative number of rows");
  const float* x = arguments.floats(1, rows * weights.inputs);
  Epilogue epilogue;
  epilogue.bias = arguments.optionalFloats(3, weights.outputs);
  epilogue.residual = arguments.optionalFloats(4, rows * weights.outputs);
  epilogue.activation = activationOf(arguments.integer(5));
  float* y = arguments.floats(6, rows * weights.outputs);
  require(y != epilogue.residual && y != x, "an output must not be an input too");
  linear(weights, x, rows, epilogue, y);
  return nullptr;
}

/// (recurrent weight, gates [batch, steps, 4·units], batch, steps, first hidden [batch, units], cell [batch, units], which
/// holds the last cell state afterwards, hidden [batch, steps, units])
napi_value lstmLayer(const Arguments& arguments) {
  const WeightView& recurrent = arguments.object<Weight>(0).view();
  const Index units = recurrent.inputs;
  const Index batch = arguments.integer(2);
  const Index steps = arguments.integer(3);
  require(recurrent.outputs == 4 * units && batch >= 0 && steps >= 0, "a recurrent weight must be [4 · units, units]");
  lstm(recurrent, arguments.floats(1, batch * steps * 4 * units), batch, steps, units,
       arguments.floats(4, batch * units), arguments.floats(5, batch * units),
       arguments.floats(6, batch * steps * units));
  return nullptr;
}

}  // namespace

const Binding kWeightBindings[] = {
    {"makeWeight", makeWeight}, {"weightStorage", weightStorage}, {"weightBytes", weightBytes}, {"readWeight", readWeight},
    {"releaseWeight", releaseWeight}, {"linear", linearLayer}, {"lstm", lstmLayer}, {nullptr, nullptr},
};

}  // namespace tonearm
