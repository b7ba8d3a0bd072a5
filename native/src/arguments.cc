#include "arguments.h"

namespace tonearm {
namespace {

struct TypedArray {
  napi_typedarray_type type = napi_int8_array;
  std::size_t length = 0;
  void* data = nullptr;
};

TypedArray typedArrayOf(napi_env env, napi_value value) {
  TypedArray array;
  if (napi_get_typedarray_info(env, value, &array.type, &array.length, &array.data, nullptr, nullptr) != napi_ok)
    throw std::invalid_argument("a typed array was expected");
  return array;
}

// An empty typed array may have no memory; kernels still want a pointer that is not null.
template <class Element>
Element* pointerOf(const TypedArray& array) {
  alignas(64) static Element nothing[1];
  return array.length == 0 ? nothing : static_cast<Element*>(array.data);
}

}  // namespace

Arguments::Arguments(napi_env env, napi_callback_info info) : env_(env) {
  check(napi_get_cb_info(env, info, &count_, values_, nullptr, nullptr), "the arguments could not be read");
}

napi_value Arguments::value(std::size_t index) const {
  require(index < count_, "an argument is missing");
  return values_[index];
}

Index Arguments::integer(std::size_t index) const {
  std::int64_t result = 0;
  require(napi_get_value_int64(env_, value(index), &result) == napi_ok, "an integer was expected");
  return result;
}

double Arguments::number(std::size_t index) const {
  double result = 0;
  require(napi_get_value_double(env_, value(index), &result) == napi_ok, "a number was expected");
  return result;
}

bool Arguments::boolean(std::size_t index) const {
  bool result = false;
  require(napi_get_value_bool(env_, value(index), &result) == napi_ok, "a boolean was expected");
  return result;
}

std::string Arguments::text(std::size_t index) const {
  char buffer[64];
  std::size_t length = 0;
  require(napi_get_value_string_utf8(env_, value(index), buffer, sizeof buffer, &length) == napi_ok,
          "a string was expected");
  return {buffer, length};
}

bool Arguments::absent(std::size_t index) const {
  napi_valuetype type = napi_undefined;
  check(napi_typeof(env_, value(index), &type), "an argument could not be read");
  return type == napi_null || type == napi_undefined;
}

float* Arguments::floats(std::size_t index, Index size) const {
  const Span<float> span = floatsOf(env_, value(index));
  require(span.size == size, "a Float32Array has another length than its shape says");
  return span.data;
}

float* Arguments::optionalFloats(std::size_t index, Index size) const {
  return absent(index) ? nullptr : floats(index, size);
}

Span<std::int32_t> Arguments::integers(std::size_t index, Index size) const {
  const TypedArray array = typedArrayOf(env_, value(index));
  require(array.type == napi_int32_array, "an Int32Array was expected");
  require(size < 0 || static_cast<Index>(array.length) == size, "an Int32Array has another length than its shape says");
  return {pointerOf<std::int32_t>(array), static_cast<Index>(array.length)};
}

Span<double> Arguments::doubles(std::size_t index) const {
  const TypedArray array = typedArrayOf(env_, value(index));
  require(array.type == napi_float64_array, "a Float64Array was expected");
  return {pointerOf<double>(array), static_cast<Index>(array.length)};
}

Span<std::uint8_t> Arguments::bytes(std::size_t index, Index size) const {
  const TypedArray array = typedArrayOf(env_, value(index));
  require(array.type == napi_uint8_array, "a Uint8Array was expected");
  require(size < 0 || static_cast<Index>(array.length) == size, "a Uint8Array has another length than it should");
  return {pointerOf<std::uint8_t>(array), static_cast<Index>(array.length)};
}

Span<std::uint32_t> Arguments::words(std::size_t index) const {
  const TypedArray array = typedArrayOf(env_, value(index));
  require(array.type == napi_float32_array || array.type == napi_int32_array || array.type == napi_uint32_array,
          "a typed array of 4-byte elements was expected");
  return {pointerOf<std::uint32_t>(array), static_cast<Index>(array.length)};
}

Span<float> floatsOf(napi_env env, napi_value value) {
  const TypedArray array = typedArrayOf(env, value);
  require(array.type == napi_float32_array, "a Float32Array was expected");
  return {pointerOf<float>(array), static_cast<Index>(array.length)};
}

}  // namespace tonearm
