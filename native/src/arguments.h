// Reading the arguments of a call from JavaScript, every one checked: what isn't as it should be becomes a JavaScript
// exception.
#pragma once

#include <node_api.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernel_table.h"

namespace tonearm {

/// A typed array of the caller's, valid during the call. An absent one has data null.
template <class Element>
struct Span {
  Element* data = nullptr;
  Index size = 0;
};

class Arguments {
 public:
  static constexpr std::size_t kMax = 16;

  Arguments(napi_env env, napi_callback_info info);

  [[nodiscard]] napi_env env() const { return env_; }
  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] napi_value value(std::size_t index) const;

  [[nodiscard]] Index integer(std::size_t index) const;
  [[nodiscard]] double number(std::size_t index) const;
  [[nodiscard]] bool boolean(std::size_t index) const;
  [[nodiscard]] std::string text(std::size_t index) const;
  [[nodiscard]] bool absent(std::size_t index) const;  // null or undefined

  /// A Float32Array of exactly `size` elements.
  [[nodiscard]] float* floats(std::size_t index, Index size) const;
  /// The same, or null where null or undefined was given.
  [[nodiscard]] float* optionalFloats(std::size_t index, Index size) const;
  /// An Int32Array of exactly `size` elements, or of any size where `size` is negative.
  [[nodiscard]] Span<std::int32_t> integers(std::size_t index, Index size = -1) const;
  /// A Float64Array of any size.
  [[nodiscard]] Span<double> doubles(std::size_t index) const;
  /// A Uint8Array of exactly `size` elements, or of any size where `size` is negative.
  [[nodiscard]] Span<std::uint8_t> bytes(std::size_t index, Index size = -1) const;
  /// A Float32Array, Int32Array or Uint32Array, as 4-byte elements.
  [[nodiscard]] Span<std::uint32_t> words(std::size_t index) const;

  /// The native object that argument holds.
  template <class Object>
  [[nodiscard]] Object& object(std::size_t index) const;

 private:
  napi_env env_;
  std::size_t count_ = kMax;
  napi_value values_[kMax] = {};
};

/// Throws std::invalid_argument with that message unless `condition` holds.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

/// Throws std::runtime_error if a Node-API call failed.
inline void check(napi_status status, const char* what) {
  if (status != napi_ok) throw std::runtime_error(what);
}

/// A Float32Array value that needn't be an argument of its own, such as an element of a list.
Span<float> floatsOf(napi_env env, napi_value value);

/// What a JavaScript value of type External points to: a native object that is freed when the value is collected, or
/// before that by `release`.
template <class Object>
class Handle {
 public:
  /// Makes the JavaScript value.
  static napi_value wrap(napi_env env, std::unique_ptr<Object> object) {
    auto handle = std::make_unique<Handle>(std::move(object));
    napi_value result = nullptr;
    const auto destroy = [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); };
    check(napi_create_external(env, handle.get(), destroy, nullptr, &result), "no room for a native object");
    handle.release();  // the JavaScript value owns it now
    return result;
  }

  static Handle& unwrap(napi_env env, napi_value value) {
    void* data = nullptr;
    require(napi_get_value_external(env, value, &data) == napi_ok, "a native object was expected");
    auto& handle = *static_cast<Handle*>(data);
    require(handle.kind_ == Object::kKind, "a native object of another kind was expected");
    return handle;
  }

  [[nodiscard]] Object& object() const {
    require(object_ != nullptr, "a native object was used after its release");
    return *object_;
  }
  void release() { object_.reset(); }

  explicit Handle(std::unique_ptr<Object> object) : object_(std::move(object)) {}

 private:
  std::uint32_t kind_ = Object::kKind;
  std::unique_ptr<Object> object_;
};

template <class Object>
Object& Arguments::object(std::size_t index) const {
  return Handle<Object>::unwrap(env_, value(index)).object();
}

}  // namespace tonearm
