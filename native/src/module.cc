// The entry of the Node-API module: registers every binding, and turns C++ exceptions into JavaScript ones.
#include <exception>
#include <new>

#include "bindings.h"
#include "mapped_file.h"

namespace tonearm {
namespace {

napi_value call(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  const auto& binding = *static_cast<const Binding*>(data);
  const auto fail = [&](const char* reason, const char* code = nullptr) {
    const std::string message = std::string("native ") + binding.name + ": " + reason;
    napi_throw_error(env, code, message.c_str());
    return static_cast<napi_value>(nullptr);
  };
  try {
    return binding.function(Arguments(env, info));
  } catch (const FileError& error) {
    return fail(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return fail("the system has no memory left for this", "NO_MEMORY");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}

void registerAll(napi_env env, napi_value exports, const Binding* bindings) {
  for (const Binding* binding = bindings; binding->name != nullptr; ++binding) {
    napi_value function = nullptr;
    void* data = const_cast<Binding*>(binding);
    if (napi_create_function(env, binding->name, NAPI_AUTO_LENGTH, call, data, &function) != napi_ok ||
        napi_set_named_property(env, exports, binding->name, function) != napi_ok) {
      napi_throw_error(env, nullptr, "native: a function could not be registered");
      return;
    }
  }
}

}  // namespace
}  // namespace tonearm

NAPI_MODULE_INIT() {
  using namespace tonearm;
  for (const Binding* bindings :
       {kRuntimeBindings, kWeightBindings, kArithmeticBindings, kLayoutBindings, kAttentionBindings,
        kSteeringBindings, kSolvingBindings})
    registerAll(env, exports, bindings);
  return exports;
}
