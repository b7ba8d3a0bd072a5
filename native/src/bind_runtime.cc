#include "bindings.h"
#include "cpu_features.h"
#include "dispatch.h"
#include "thread_pool.h"

namespace tonearm {
namespace {

napi_value textValue(napi_env env, const std::string& text) {
  napi_value result = nullptr;
  check(napi_create_string_utf8(env, text.data(), text.size(), &result), "no room for a string");
  return result;
}

napi_value integerValue(napi_env env, int number) {
  napi_value result = nullptr;
  check(napi_create_int32(env, number, &result), "no room for a number");
  return result;
}

/// () → names of the kernel sets that can run here, best first
napi_value kernelSets(const Arguments& arguments) {
  napi_value list = nullptr;
  check(napi_create_array(arguments.env(), &list), "no room for a list");
  std::uint32_t index = 0;
  for (const auto& name : availableKernels())
    check(napi_set_element(arguments.env(), list, index++, textValue(arguments.env(), name)), "no room for a list");
  return list;
}

/// () → name of the kernel set in use
napi_value kernelSet(const Arguments& arguments) { return textValue(arguments.env(), kernels().name); }

/// (name) → whether there is such a set; it is then in use
napi_value useKernelSet(const Arguments& arguments) {
  napi_value result = nullptr;
  check(napi_get_boolean(arguments.env(), chooseKernels(arguments.text(0)), &result), "no room for a boolean");
  return result;
}

/// () → threads that kernels run on
napi_value threads(const Arguments& arguments) { return integerValue(arguments.env(), threadPool().threads()); }

/// () → threads that this process may run at once
napi_value usableThreadCount(const Arguments& arguments) { return integerValue(arguments.env(), usableThreads()); }

/// (count)
napi_value useThreads(const Arguments& arguments) {
  const Index count = arguments.integer(0);
  require(count >= 1 && count <= 256, "the number of threads must be 1 to 256");
  setThreads(static_cast<int>(count));
  return nullptr;
}

}  // namespace

const Binding kRuntimeBindings[] = {
    {"kernelSets", kernelSets}, {"kernelSet", kernelSet},       {"useKernelSet", useKernelSet},
    {"threads", threads},       {"usableThreads", usableThreadCount}, {"useThreads", useThreads},
    {nullptr, nullptr},
};

}  // namespace tonearm
