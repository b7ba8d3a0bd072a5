#include <cstring>
#include <optional>
#include <vector>

#include "bindings.h"
#include "checksum.h"
#include "linear.h"
#include "lstm.h"
#include "weight.h"

namespace tonearm {
namespace {

Activation activationOf(Index code) {
  require(code >= 0 && code <= 2, "there is no such activation");
  return static_cast<Activation>(code);
}

Precision precisionOf(Index code) {
  require(code >= 0 && code <= 1, "there is no such precision");
  return static_cast<Precision>(code);
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

/// Rows of a table of doubles, each a part of a weight: not none, and none negative.
std::size_t partsIn(const Span<double>& table, Index columns) {
  require(table.size > 0 && table.size % columns == 0, "a table of parts has another length than it should");
  for (Index i = 0; i < table.size; ++i) require(table.data[i] >= 0, "a table of parts has a negative entry");
  return static_cast<std::size_t>(table.size / columns);
}

/// (parts: rows of file descriptor, first byte, rows, code of dtype; inputs, storage or −1 for the smallest exact one) →
/// weight
napi_value makeFileWeight(const Arguments& arguments) {
  const Span<double> table = arguments.doubles(0);
  const Index inputs = arguments.integer(1);
  require(inputs > 0, "a weight needs inputs");
  std::vector<FilePart> parts(partsIn(table, 4));
  const double* row = table.data;
  for (FilePart& part : parts) {
    require(row[3] <= 2, "there is no such dtype");
    part = {static_cast<int>(row[0]), static_cast<std::uint64_t>(row[1]), static_cast<Index>(row[2]),
            static_cast<Dtype>(static_cast<std::int32_t>(row[3]))};
    row += 4;
  }
  return Handle<Weight>::wrap(arguments.env(),
                              std::make_unique<Weight>(parts, inputs, storageOf(arguments.integer(2))));
}

/// (parts: rows of file descriptor, first byte of values, of scales, rows, checksum of values, of scales; inputs, storage)
/// → weight
napi_value makePackedWeight(const Arguments& arguments) {
  const Span<double> table = arguments.doubles(0);
  const Index inputs = arguments.integer(1);
  const auto storage = storageOf(arguments.integer(2));
  require(inputs > 0 && storage.has_value(), "a packed weight needs inputs and a storage");
  std::vector<PackedPart> parts(partsIn(table, 6));
  const double* row = table.data;
  for (PackedPart& part : parts) {
    part = {static_cast<int>(row[0]),   static_cast<std::uint64_t>(row[1]), static_cast<std::uint64_t>(row[2]),
            static_cast<Index>(row[3]), static_cast<std::uint32_t>(row[4]), static_cast<std::uint32_t>(row[5])};
    row += 6;
  }
  return Handle<Weight>::wrap(arguments.env(), std::make_unique<Weight>(parts, inputs, *storage));
}

/// (weight) → [values, scales]: its bytes as packed files have them
napi_value packedWeight(const Arguments& arguments) {
  const auto& weight = arguments.object<Weight>(0);
  napi_env env = arguments.env();
  napi_value list = nullptr;
  check(napi_create_array_with_length(env, 2, &list), "no room for a list");
  const auto add = [&](std::uint32_t index, const void* data, std::size_t size) {
    void* target = nullptr;
    napi_value buffer = nullptr;
    napi_value array = nullptr;
    check(napi_create_arraybuffer(env, size, &target, &buffer), "no room for the bytes of a weight");
    if (size > 0) std::memcpy(target, data, size);
    check(napi_create_typedarray(env, napi_uint8_array, size, buffer, 0, &array), "no room for the bytes of a weight");
    check(napi_set_element(env, list, index, array), "no room for a list");
  };
  add(0, weight.view().values, weight.valueBytes());
  add(1, weight.scales(), weight.scaleBytes());
  weight.requireIntact();
  return list;
}

/// (weight) → whether it lies in a file
napi_value weightIsMapped(const Arguments& arguments) {
  napi_value result = nullptr;
  check(napi_get_boolean(arguments.env(), arguments.object<Weight>(0).mapped(), &result), "no room for a boolean");
  return result;
}

/// (bytes) → their checksum
napi_value checksum(const Arguments& arguments) {
  const Span<std::uint8_t> bytes = arguments.bytes(0);
  napi_value result = nullptr;
  check(napi_create_uint32(arguments.env(), xxh32(bytes.data, static_cast<std::size_t>(bytes.size)), &result),
        "no room for a number");
  return result;
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
  weight.requireIntact();
  return nullptr;
}

/// (weight)
napi_value releaseWeight(const Arguments& arguments) {
  Handle<Weight>::unwrap(arguments.env(), arguments.value(0)).release();
  return nullptr;
}

/// (weight, x, rows, bias | null, residual | null, activation, precision, y)
napi_value linearLayer(const Arguments& arguments) {
  const Weight& weight = arguments.object<Weight>(0);
  const WeightView& weights = weight.view();
  const Index rows = arguments.integer(2);
  require(rows >= 0, "a negative number of rows");
  const float* x = arguments.floats(1, rows * weights.inputs);
  Epilogue epilogue;
  epilogue.bias = arguments.optionalFloats(3, weights.outputs);
  epilogue.residual = arguments.optionalFloats(4, rows * weights.outputs);
  epilogue.activation = activationOf(arguments.integer(5));
  const Precision precision = precisionOf(arguments.integer(6));
  float* y = arguments.floats(7, rows * weights.outputs);
  require(y != epilogue.residual && y != x, "an output must not be an input too");
  linear(weights, x, rows, epilogue, precision, y);
  weight.requireIntact();
  return nullptr;
}

/// (recurrent weight, gates [batch, steps, 4·units], batch, steps, first hidden [batch, units], cell [batch, units], which
/// holds the last cell state afterwards, hidden [batch, steps, units])
napi_value lstmLayer(const Arguments& arguments) {
  const Weight& weight = arguments.object<Weight>(0);
  const WeightView& recurrent = weight.view();
  const Index units = recurrent.inputs;
  const Index batch = arguments.integer(2);
  const Index steps = arguments.integer(3);
  require(recurrent.outputs == 4 * units && batch >= 0 && steps >= 0, "a recurrent weight must be [4 · units, units]");
  lstm(recurrent, arguments.floats(1, batch * steps * 4 * units), batch, steps, units,
       arguments.floats(4, batch * units), arguments.floats(5, batch * units),
       arguments.floats(6, batch * steps * units));
  weight.requireIntact();
  return nullptr;
}

}  // namespace

const Binding kWeightBindings[] = {
    {"makeWeight", makeWeight},
    {"makeFileWeight", makeFileWeight},
    {"makePackedWeight", makePackedWeight},
    {"packedWeight", packedWeight},
    {"weightStorage", weightStorage},
    {"weightBytes", weightBytes},
    {"weightIsMapped", weightIsMapped},
    {"readWeight", readWeight},
    {"releaseWeight", releaseWeight},
    {"checksum", checksum},
    {"linear", linearLayer},
    {"lstm", lstmLayer},
    {nullptr, nullptr},
};

}  // namespace tonearm
